"""What a course would refuse, `make submission` refuses first."""

import json
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from src import images
from tests.helpers import ROOT
from tools import submission


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generated_images").mkdir()
    pixels = torch.randint(0, 256, (12, 1, 28, 28), dtype=torch.uint8)
    images.write(tmp_path / "generated_images", 1, pixels)
    return tmp_path


def header(side: int) -> bytes:
    """A PNG that claims to have this side and ends after its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IEND", b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("../x")


def outcome(capsys) -> tuple[int, str]:
    code = submission.main(12)
    return code, capsys.readouterr().out


def test_what_holds_is_ticked_off_and_zipped(folder, capsys):
    code, output = outcome(capsys)
    assert code == 0 and output.count("[x]") == 6 and "[ ] FID below 30: not measured" in output
    with zipfile.ZipFile(folder / "submission/generated_images.zip") as archive:
        assert archive.namelist() == [f"{k:05d}.png" for k in range(1, 13)]
        for name in archive.namelist():
            assert archive.read(name) == (folder / "generated_images" / name).read_bytes()
    before = (folder / "submission/generated_images.zip").read_bytes()
    outcome(capsys)
    assert (folder / "submission/generated_images.zip").read_bytes() == before


def write_metrics(folder: Path, **changes: object) -> None:
    """The committed metrics/fid.json with some changes."""
    values = json.loads((ROOT / "metrics/fid.json").read_text()) | changes
    (folder / "metrics").mkdir()
    (folder / "metrics/fid.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "fid, expected_code, mark",
    [(12.3, 0, "[x] FID below 30: 12.30"), (31.0, 1, "[ ] FID below 30: 31.00")],
)
def test_a_measured_fid_decides(folder, capsys, fid, expected_code, mark):
    digest = images.PixelDigest(images.read(folder / "generated_images", 12))
    write_metrics(folder, fid=fid, pixels=digest.hex())
    code, output = outcome(capsys)
    assert code == expected_code and mark in output


def test_a_fid_of_other_images_decides_nothing(folder, capsys):
    write_metrics(folder, fid=1.0, pixels="0" * 12)
    code, output = outcome(capsys)
    assert code == 0 and "[ ] FID below 30: metrics/fid.json: measured on other images" in output


def test_links_to_images_in_the_cache_of_dvc_are_images(folder, capsys):
    path = folder / "generated_images/00003.png"
    content = path.read_bytes()
    path.rename(folder / "x")
    path.symlink_to("../x")
    assert outcome(capsys)[0] == 0
    with zipfile.ZipFile(folder / "submission/generated_images.zip") as archive:
        assert archive.read("00003.png") == content


@pytest.mark.parametrize("text", ["{", "[]", '{"fid": 1.0}'])
def test_damaged_metrics_decide_nothing(folder, capsys, text):
    (folder / "metrics").mkdir()
    (folder / "metrics/fid.json").write_text(text)
    code, output = outcome(capsys)
    assert code == 0 and "[ ] FID below 30: metrics/fid.json: " in output


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda f: (f / "00003.png").unlink(), "00003.png is missing"),
        (lambda f: (f / "00003.png").rename(f / "3.png"), "00003.png is missing"),
        (lambda f: (f / "notes.txt").write_text("x"), "notes.txt is unexpected"),
        (lambda f: (f / "more").mkdir(), "more is no file"),
        (lambda f: truncate(f / "00003.png"), "00003.png"),
        (lambda f: Image.new("L", (28, 28)).save(f / "00003.png"), "00003.png is not"),
        (
            lambda f: Image.new("RGB", (28, 28)).save(f / "00003.png", "JPEG"),
            "00003.png: cannot identify",
        ),
        (lambda f: link_to_nowhere(f / "00003.png"), "00003.png is no file"),
        (lambda f: (f / "00003.png").write_bytes(header(20_000)), "00003.png: Image size"),
        (lambda f: Image.new("RGB", (32, 32)).save(f / "00003.png"), "28x28, 32x32"),
        (lambda f: [path.unlink() for path in f.iterdir()], "found 0"),
    ],
)
def test_what_does_not_hold_is_named_and_nothing_is_zipped(folder, capsys, spoil, complaint):
    (folder / "submission").mkdir()
    (folder / "submission/generated_images.zip").write_bytes(b"of other images")
    spoil(folder / "generated_images")
    code, output = outcome(capsys)
    assert code == 1 and complaint in output and "zip of them: not made" in output
    assert not (folder / "submission/generated_images.zip").exists()
