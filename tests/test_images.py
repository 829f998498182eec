import struct
import zlib

import pytest
import torch
from PIL import Image

from src import images
from src.common.errors import UserError


@pytest.fixture
def folder(tmp_path):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=random)
    images.write(tmp_path, 1, pixels)
    return tmp_path


def test_images_are_rgb_pngs_numbered_from_one(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["00001.png", "00002.png", "00003.png"]
    with Image.open(folder / "00001.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))
    assert images.file_name(10_000) == "10000.png"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_read_back_as_written(tmp_path, channels):
    pixels = torch.randint(0, 256, (3, channels, 8, 8), dtype=torch.uint8)
    images.write(tmp_path, 1, pixels)
    assert torch.equal(images.read(tmp_path, 3), pixels.expand(-1, 3, -1, -1))


def test_hidden_files_are_passed_over(folder):
    (folder / ".DS_Store").write_bytes(b"junk")
    assert len(images.read(folder, 3)) == 3


def break_missing(folder):
    (folder / "00002.png").unlink()


def break_extra(folder):
    (folder / "notes.txt").write_text("")


def break_subfolder(folder):
    (folder / "more").mkdir()


def break_truncated(folder):
    (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:60])


def break_mode(folder):
    Image.new("L", (8, 8)).save(folder / "00002.png")


def break_size(folder):
    Image.new("RGB", (9, 9)).save(folder / "00002.png")


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def break_checksum(folder):
    raw = bytearray((folder / "00002.png").read_bytes())
    raw[-14] ^= 1  # in the CRC of the last IDAT, before the 12 bytes of IEND
    (folder / "00002.png").write_bytes(raw)


def break_end(folder):
    (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:-12])


def break_profile(folder):
    raw = (folder / "00002.png").read_bytes()
    (folder / "00002.png").write_bytes(raw[:-12] + chunk(b"iCCP", b"") + raw[-12:])


def break_bits(folder):
    """16 bits, which Pillow reads as 8."""
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes(8 * (1 + 8 * 6)))
    raw = images.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (folder / "00002.png").write_bytes(raw)


def break_transparency(folder):
    Image.new("RGB", (8, 8)).save(folder / "00002.png", transparency=(0, 0, 0))


def break_large(folder):
    Image.new("RGB", (1025, 1025)).save(folder / "00001.png")


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (break_checksum, r"00002.png: not a whole PNG \(its chunk b'IDAT' is damaged"),
        (break_end, r"00002.png: not a whole PNG \(it does not go from IHDR to IEND"),
        (break_profile, "00002.png: not a whole PNG"),
        (break_bits, "00002.png: expected RGB .* found RGB with 16 bits"),
        (break_transparency, "00002.png: expected RGB .* found RGB with transparency"),
        (break_large, "00001.png: expected RGB .* more than 1024 pixels a side"),
        (break_missing, "found 2 entries; first missing: 00002.png"),
        (break_extra, "unexpected: notes.txt"),
        (break_subfolder, "unexpected: more"),
        (break_truncated, "00002.png: not a whole PNG"),
        (break_mode, "00002.png: expected RGB"),
        (break_size, "00002.png: expected RGB"),
    ],
)
def test_a_folder_that_is_not_exactly_as_promised_is_refused(folder, damage, complaint):
    damage(folder)
    with pytest.raises(UserError, match=complaint):
        images.read(folder, 3)


@pytest.mark.parametrize("batch_size, sizes", [(2, [2, 1]), (3, [3]), (1, [1, 1, 1]), (500, [3])])
def test_a_stream_is_the_folder_in_batches(folder, batch_size, sizes):
    batches = list(images.stream(folder, 3, batch_size))
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), images.read(folder, 3))


@pytest.mark.parametrize("damage", [None, break_missing, break_truncated, break_size, break_extra])
def test_only_whole_batches_of_an_interrupted_write_are_salvaged(folder, damage):
    pixels = images.read(folder, 3)
    if damage:
        damage(folder)
    batch = images.salvage(folder, range(1, 4))
    whole = damage in (None, break_extra)
    assert torch.equal(batch, pixels) if whole else batch is None
    assert torch.equal(images.salvage(folder, range(3, 4)), pixels[2:])


def test_the_digest_names_pixels_in_their_order_whatever_the_batches():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=random)
    whole, parts = images.PixelDigest(pixels), images.PixelDigest()
    for batch in pixels.expand(-1, 3, -1, -1).split(2):
        parts.add(batch)
    assert whole.hex() == parts.hex() != images.PixelDigest(pixels.flip(0)).hex()
