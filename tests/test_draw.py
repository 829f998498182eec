"""`make draw`: PNGs of any model file, and their classes."""

import pandas as pd
import pytest
import torch
import yaml

from src import drawing, images, model_file
from src.diffusion import Sampler
from src.distillation.students import student_of
from tests.helpers import ROOT, denoiser
from tools import draw

ABOUT = {
    "dataset": "noise",
    "dataset_fingerprint": "0" * 12,
    "class_counts": [5] * 10,
    "class_names": list("abcdefghij"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder whose params.yaml asks for 12 images."""
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["sample"] |= {"count": 12, "batch_size": 5, "seed": 3, "precision": "float32"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def digest(folder) -> str:
    return images.PixelDigest(torch.cat(list(images.stream(folder, 12)))).hex()


def test_a_student_draws_with_its_own_sampler(folder):
    student = student_of(denoiser())
    model_file.save(student, "student-2.safetensors", ABOUT | {"evaluations": 2, "eta": 1.0})
    (folder / "drawn/student-2").mkdir(parents=True)
    (folder / "drawn/student-2/00013.png").touch()  # of an earlier run with more images
    said = draw.draw(folder / "student-2.safetensors", draw.settings_with())
    assert said.startswith("drawn/student-2/: 12 images in ")

    labels = drawing.draw_classes([5] * 10, 3, range(1, 13))
    sampler = Sampler("ddim", 2, "trailing", eta=1.0)
    expected = drawing.draw(student, sampler, 3, 12, labels, batch_size=5)
    assert digest("drawn/student-2") == images.PixelDigest(expected).hex()
    table = pd.read_csv("drawn/student-2.csv")
    assert table["name"].tolist() == [images.file_name(k) for k in range(1, 13)]
    assert table["label"].tolist() == [ABOUT["class_names"][k] for k in labels]
    assert sorted(path.name for path in (folder / "drawn").iterdir()) == [
        "student-2",
        "student-2.csv",
    ]


def test_another_model_draws_as_params_say_and_without_classes_has_no_table(folder, params):
    model = denoiser(classes=0)
    model.guide = denoiser(classes=0, prediction="x0").unet
    about = ABOUT | {"class_counts": [], "class_names": None}
    model_file.save(model, "plain.safetensors", about)
    (folder / "drawn").mkdir()
    (folder / "drawn/plain.csv").touch()  # of an earlier model with classes
    said = draw.draw(folder / "plain.safetensors", draw.settings_with())
    sampler = drawing.fitted(params.sample.sampler, model)
    assert said.endswith(f" s; evaluations for each: {sampler.evaluations(model)}")
    assert not (folder / "drawn/plain.csv").exists()
    expected = drawing.draw(model, sampler, 3, 12, None, batch_size=5)
    assert digest("drawn/plain") == images.PixelDigest(expected).hex()


def test_failures_are_named_and_earlier_images_stay(folder, monkeypatch):
    path = folder / "model.safetensors"
    model_file.save(denoiser(), path, ABOUT | {"evaluations": 1})
    draw.draw(path, draw.settings_with())
    before, table = digest("drawn/model"), (folder / "drawn/model.csv").read_text()
    write = images.write

    def full(folder, first, batch):
        if first > 5:
            raise OSError("no space left")
        write(folder, first, batch)

    def fails(name: str, problem: str) -> None:
        monkeypatch.setattr("sys.argv", ["draw", name, "--seed", "9"])
        with pytest.raises(SystemExit, match=f"draw: {problem}"):
            draw.main()
        assert digest("drawn/model") == before
        assert (folder / "drawn/model.csv").read_text() == table

    fails("none.safetensors", "none.safetensors: not found")
    with monkeypatch.context() as patch:
        patch.setattr(images, "write", full)
        fails("model.safetensors", "no space left")
    path.write_bytes(b"no model")
    fails("model.safetensors", "model.safetensors")


def test_another_count_and_seed(folder, monkeypatch, capsys):
    student = student_of(denoiser())
    model_file.save(student, "student.v1.safetensors", ABOUT | {"evaluations": 1})
    command = ["draw", "student.v1.safetensors", "--count"]
    monkeypatch.setattr("sys.argv", [*command, "4", "--seed", "8"])
    draw.main()
    assert "drawn/student.v1/: 4 images in " in capsys.readouterr().out
    labels = drawing.draw_classes([5] * 10, 8, range(1, 5))
    expected = drawing.draw(student, Sampler("ddim", 1, "trailing"), 8, 4, labels)
    drawn = torch.cat(list(images.stream("drawn/student.v1", 4)))
    assert len(pd.read_csv("drawn/student.v1.csv")) == 4
    assert torch.equal(drawn[:, :1], expected)
    monkeypatch.setattr("sys.argv", [*command, "0"])
    with pytest.raises(SystemExit, match="draw: count: .* greater than or equal to 2; found 0"):
        draw.main()
