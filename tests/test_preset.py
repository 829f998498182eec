import shutil

import pytest

from src import params
from src.common.errors import UserError
from tests.helpers import ROOT
from tools import preset

NAMES = [path.stem for path in (ROOT / "presets").glob("*.yaml")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_changes_its_values_and_no_others(folder, name):
    before, text = params.load(), (folder / "params.yaml").read_text()
    preset.apply(name)
    after = params.load()
    changes = preset.YAML(typ="safe").load((folder / f"presets/{name}.yaml").read_text())
    expected = before.model_dump()
    preset.merge(expected, changes)
    assert after == params.Params.model_validate(expected) and after != before
    kept = (folder / "params.yaml").read_text()
    assert kept.count("#") == text.count("#") and kept.count(": null") == text.count(": null")


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("none", None, "PRESET: expected one of .*quick.*, got 'none'"),
        ("bad", "train:\n  stepz: 5\n", "train.stepz"),
        ("bad", "train:\n  steps: fast\n", "train.steps: .*found 'fast'"),
    ],
)
def test_a_preset_that_does_not_fit_leaves_params_as_they_are(folder, name, content, complaint):
    text = (folder / "params.yaml").read_text()
    if content:
        (folder / f"presets/{name}.yaml").write_text(content)
    with pytest.raises(UserError, match=complaint):
        preset.apply(name)
    assert (folder / "params.yaml").read_text() == text
