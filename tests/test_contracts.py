"""What the pipeline promises of itself: what reruns when, and that dvc.yaml says what the code does."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.repo import Repo

from src.params import Params, Section
from stages.__main__ import NAMES
from tests.conftest import ROOT, clone_into, run

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]


def leaves(section: type[Section], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        found += leaves(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found


def paths(entries: list) -> set[str]:
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


# --- declared against read -------------------------------------------------------------------------------------------


def keys_read(source: Path) -> set[str]:
    """The leaf keys of params.yaml that a stage script reads: every chain of attributes of `p`, a section as all its keys."""
    tree = ast.parse(source.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "p" and isinstance(node.ctx, ast.Load):
            chain, here = [], parents[node]
            while isinstance(here, ast.Attribute):
                chain.append(here.attr)
                here = parents[here]
            section: type[Section] = Params
            key: list[str] = []
            for name in chain:
                if name not in getattr(section, "model_fields", {}):
                    break  # a method of the section or of the value
                key.append(name)
                section = section.model_fields[name].annotation
            assert key, f"{source}: the parameters are passed on whole, so nobody can tell what is read"
            whole = isinstance(section, type) and issubclass(section, Section)
            found |= set(leaves(section, ".".join(key) + ".")) if whole else {".".join(key)}
    return found


def imports(source: Path, seen: set[str]) -> set[str]:
    """Files of src/ and tools/ that `source` imports, directly or not."""
    for node in ast.walk(ast.parse(source.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = name.replace(".", "/") + ".py"
            if name.startswith(("src.", "tools.")) and (ROOT / path).exists() and path not in seen:
                seen.add(path)
                imports(ROOT / path, seen)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_very_keys_it_reads(stage):
    assert keys_read(ROOT / f"stages/{stage}.py") == set(STAGES[stage].get("params", []))


def test_nothing_but_the_stages_reads_params_yaml():
    readers = [p.name for p in (ROOT / "src").rglob("*.py") if "params.load" in p.read_text() or "load_params" in p.read_text()]
    assert readers == []


def test_every_key_is_read_by_some_stage():
    """But for the launcher, which is part of the stages' commands."""
    assert set(leaves(Params)) - {"launcher"} == {key for stage in STAGES.values() for key in stage.get("params", [])}


def unit(path: str) -> str:
    """What a file of code counts with: itself, or all of its folder in src/."""
    return "/".join(path.split("/")[:2])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_very_code_it_uses(stage):
    declared = {path for path in paths(STAGES[stage]["deps"]) if path.startswith(("src/", "stages/", "tools/"))}
    used = {unit(path) for path in imports(ROOT / f"stages/{stage}.py", set()) - {"src/params.py"}}  # which checks values
    page = {"src/page.html"} if stage == "report" else set()
    assert declared == used | {f"stages/{stage}.py"} | page


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_files_it_names(stage):
    declared = set().union(*(paths(STAGES[stage].get(key, [])) for key in ("deps", "outs", "metrics", "plots")))
    constants = {
        node.value for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    folders = {path.split("/")[0] for path in declared} | {"arrays", "models", "reference", "generated", "metrics", "plots"}
    named = {text for text in constants if "/" in text and " " not in text and text.split("/")[0] in folders and "." in text}
    assert named, "a stage names at least one file"
    for path in named:
        assert any(path == d or path.startswith(f"{d}/") for d in declared), f"{path} is neither a dependency nor an output"


def test_every_stage_is_described_and_runs_by_its_name():
    assert tuple(STAGES) and set(STAGES) == set(NAMES)
    for name, stage in STAGES.items():
        launcher = "${launcher}" if name in ("train", "sample") else "python"
        assert len(stage["desc"]) > 40 and stage["cmd"] == f"{launcher} -m stages {name}"


def test_every_stage_has_its_run_cache():
    """DVC turns it off for stages with uncached outputs other than metrics and plots."""
    for stage in STAGES.values():
        assert all(isinstance(out, str) or "cache" not in next(iter(out.values())) for out in stage.get("outs", []))


def test_every_parameter_has_a_comment():
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if ":" in line.split("#")[0] and not line.rstrip().endswith(":"):
            assert len(line.partition("#")[2]) > 10, line


# --- what reruns when ------------------------------------------------------------------------------------------------

ALL = set(NAMES)
MEASURING = {"fid", "quality", "spread", "sweep", "figures", "report"}


def told() -> dict[str, set[str]]:
    """The table of the README: by pattern of keys and folders, the stages that rerun."""
    head, _, *rows = re.search(r"^\| change \|.*?\n\n", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0].split("\n")
    columns = [re.findall(r"\w+", cell) for cell in head.split("|")[2:-1]]  # a column may have several stages
    found = {}
    for row in filter(None, rows):
        change, *cells = row.split("|")[1:-1]
        pairs = zip(columns, cells, strict=True)
        marked = {stage for stages, cell in pairs for stage in (stages if cell.strip() == "x" else cell.split())}
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", change), marked)
    return found


TABLE = told()


def expected(key: str) -> set[str]:
    (stages,) = [stages for pattern, stages in TABLE.items() if fnmatch(key, f"{pattern}*" if pattern.endswith("/") else pattern)]
    return stages


def test_the_table_speaks_of_stages_that_there_are():
    assert set().union(*TABLE.values()) == ALL and TABLE["data/"] == ALL and len(TABLE) > 15


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return clone_into(tmp_path_factory.mktemp("contracts") / "clone")


def would_rerun(folder: Path, cause: str) -> set[str]:
    """Stages that DVC finds changed because of `cause`, and all that depend on them."""
    with Repo(str(folder)) as repo:
        directly = set()
        for stage, changes in repo.status().items():
            for change in changes:
                command = change == "changed command" and cause == "params.yaml"
                if command or (isinstance(change, dict) and change.get("changed deps", {}).get(cause, "deleted") != "deleted"):
                    directly.add(stage.split(":")[-1])  # DVC names them by their path from here
        graph = networkx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing.split(":")[-1])
        found = set(directly)
        for stage in directly:
            found |= networkx.ancestors(graph, stage)
        return found


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    return f"{value}x" if isinstance(value, str) else [1, 2, 3] if value is None else [*value, 1]


@pytest.mark.parametrize("key", leaves(Params))
def test_a_changed_parameter_reruns_what_the_table_says(fresh, key):
    path, (*sections, last) = fresh / "params.yaml", key.split(".")
    original = path.read_text()
    values = yaml.safe_load(original)
    section = values
    for name in sections:
        section = section[name]
    section[last] = changed(section[last])
    try:
        path.write_text(yaml.safe_dump(values))
        assert would_rerun(fresh, "params.yaml") == expected(key)
    finally:
        path.write_text(original)


def test_other_bytes_in_data_rerun_everything(fresh):
    (fresh / "data").mkdir()
    (fresh / "data" / "other.zip").write_bytes(b"other")
    assert would_rerun(fresh, "data") == ALL


@pytest.mark.parametrize(
    "path, reruns",
    [
        *((path, expected(path)) for path in (
            "src/common/errors.py", "src/diffusion/samplers.py", "src/training/trainer.py", "src/quality/kernel.py",
        )),
        ("src/figures.py", {"quality", "spread", "figures", "report"}), ("src/archives.py", ALL),
        ("src/images.py", {"sample", "fid", "quality", "spread", "figures", "report"}),
        ("src/inception.py", {"reference", "floors"} | MEASURING),
        ("src/bound.py", {"bound", "report"}), ("src/page.html", {"report"}), ("tools/experiments.py", {"report"}),
        ("app.py", set()), ("src/trajectory.py", set()), ("statistics/mnist.npz", expected("statistics/")),
        ("stages/__main__.py", set()), ("src/params.py", set()),
    ],
)
def test_changed_code_reruns_what_uses_it(fresh, path, reruns):
    original = (fresh / path).read_bytes() if (fresh / path).exists() else None
    try:
        (fresh / path).write_bytes((original or b"") + b"\n# changed\n")
        assert would_rerun(fresh, "statistics" if path.startswith("statistics") else unit(path)) == reruns
    finally:
        (fresh / path).unlink() if original is None else (fresh / path).write_bytes(original)


@pytest.mark.parametrize("name", [".errors.py.swp", "errors.py~", "errors.py.orig", "__pycache__/errors.pyc", ".#errors.py"])
def test_what_is_no_code_reruns_nothing(fresh, name):
    path = fresh / "src/common" / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("nowhere") if "#" in name else path.write_bytes(b"other")
    try:
        assert would_rerun(fresh, "src/common") == set()
    finally:
        path.unlink()


# --- the committed state ---------------------------------------------------------------------------------------------


def test_the_committed_results_are_of_the_committed_pipeline(fresh):
    """dvc.lock is current: in a clone without any data there is nothing to run."""
    (fresh / "data" / "other.zip").unlink(missing_ok=True)
    (fresh / "data").rmdir() if (fresh / "data").exists() else None
    done = run("dvc", "repro", "--dry", "--allow-missing", cwd=fresh)
    assert "Data and pipelines are up to date." in done.stdout and "Running stage" not in done.stdout


def test_data_dvc_pins_canonical_mnist():
    pin = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]
    assert pin["md5"] == "b6c29e96813679dd8c451c9b5ca86e2c.dir" and pin["nfiles"] == 4 and pin["size"] == 11_594_722


def test_no_file_of_the_repository_names_an_index_or_a_path_of_some_machine():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "--" not in text and "@" not in text
    assert all("==" in line for line in text.splitlines() if line.strip())
