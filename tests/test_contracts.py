"""What the pipeline promises of itself: what reruns when, and that dvc.yaml matches the code."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.repo import Repo

from src.params import Params, Section
from stages.__main__ import NAMES, STUDENT_NAMES
from tests.helpers import ROOT, clone_into, run

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
STUDENT_STAGES = yaml.safe_load((ROOT / "student/dvc.yaml").read_text())["stages"]
EVERY_STAGE = STAGES | STUDENT_STAGES


def leaves(section: type[Section], prefix: str = "") -> list[str]:
    """All keys of params.yaml, nested ones joined by dots."""
    keys = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        keys += leaves(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return keys


def paths(entries: list) -> set[str]:
    """The paths of a list in dvc.yaml, whose entries may have options."""
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def declared_files(stage: str) -> set[str]:
    """All that a stage reads or writes, by dvc.yaml."""
    return set().union(
        *(paths(EVERY_STAGE[stage].get(key, [])) for key in ("deps", "outs", "metrics", "plots"))
    )


# --- imports -------------------------------------------------------------------------------------

# A folder of src/ imports from itself and those before it; "" are the files of src/ itself.
LAYERS = (
    *("common", "diffusion", "", "archives", "training", "distillation"),
    *("measure", "score", "show", "demo"),
)
MAY_IMPORT = {
    "src": {"src"},
    "stages": {"src", "stages"},
    "tools": {"src", "stages", "tools"},
    "app.py": {"src", "stages", "tools"},
    "benchmarks": {"src", "stages", "tools", "app.py", "benchmarks"},
    "tests": {"src", "stages", "tools", "app.py", "benchmarks", "tests"},
}


def code(*folders: str) -> list[str]:
    """Our Python files in these folders, or app.py, as paths from the root."""
    files = [path for name in folders for path in [*(ROOT / name).rglob("*.py"), ROOT / name]]
    return sorted(path.relative_to(ROOT).as_posix() for path in files if path.is_file())


def file_of(module: str) -> str | None:
    """The file of a module, as a path from the root; None if it is not ours."""
    path = module.replace(".", "/")
    names = (f"{path}.py", f"{path}/__init__.py")
    return next((name for name in names if (ROOT / name).is_file()), None)


def imported_modules(source: str) -> Iterator[tuple[str, bool]]:
    """(module, whether the import is relative) of every import in a file, inside functions too."""
    package = source.split("/")[:-1]
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if file_of(name) else base, node.level > 0


@functools.cache
def imports(source: str) -> frozenset[str]:
    """Our files that a file imports itself."""
    files = (file_of(module) for module, _ in imported_modules(source))
    return frozenset(file for file in files if file)


def layer(path: str) -> int:
    """The position of a file of src/ in LAYERS."""
    _, *folders, _ = path.split("/")
    return LAYERS.index("/".join(folders))


def test_src_imports_downwards_only():
    """`tests/test_core.py` says that src/diffusion/ imports nothing else of ours at all."""
    for source in code("src"):
        for target in imports(source):
            assert target.startswith("src/"), f"{source} imports {target}"
            assert layer(target) <= layer(source), f"{source} imports {target}"


def test_imports_inside_src_are_relative():
    for source in code("src"):
        for module, relative in imported_modules(source):
            assert relative == (module.split(".")[0] == "src"), f"{source} imports {module}"


def test_nothing_imports_what_is_above_it():
    for source in code(*MAY_IMPORT):
        for target in imports(source):
            top, allowed = target.split("/")[0], MAY_IMPORT[source.split("/")[0]]
            assert top in allowed, f"{source} imports {target}"


def test_no_imports_go_in_a_circle():
    sources = code(*MAY_IMPORT)
    graph = networkx.DiGraph((source, target) for source in sources for target in imports(source))
    assert networkx.is_directed_acyclic_graph(graph), networkx.find_cycle(graph)


# --- declared against read -----------------------------------------------------------------------


def sections_read(source: Path) -> set[str]:
    """The sections of params.yaml that a stage script reads.

    They are the first names of all chains of attributes of `p`. A key of no section counts as one.
    """
    tree = ast.parse(source.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    sections = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "p" and isinstance(node.ctx, ast.Load):
            chain = parents[node]
            assert isinstance(chain, ast.Attribute), f"{source}: passes all parameters on"
            assert chain.attr in Params.model_fields, f"{source}: p.{chain.attr} is no section"
            sections.add(chain.attr)
    return sections


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_stage_declares_the_very_sections_it_reads(stage):
    declared = EVERY_STAGE[stage].get("params", [])
    assert len(declared) == len(set(declared))
    assert sections_read(ROOT / f"stages/{stage}.py") == set(declared)


def test_nothing_but_the_stages_reads_params_yaml():
    assert "p = " not in (ROOT / "stages/inputs.py").read_text()
    for source in [*code("src"), "stages/inputs.py"]:
        text = (ROOT / source).read_text()
        assert "params.load" not in text, source


def test_every_section_is_read_by_some_stage():
    """Except the launcher, which is part of the stages' commands."""
    declared = {key for stage in EVERY_STAGE.values() for key in stage.get("params", [])}
    assert set(Params.model_fields) - {"launcher"} == declared


def unit(path: str) -> str:
    """What a file of code counts with: itself, or all of its folder in src/."""
    return "/".join(path.split("/")[:2])


def used_code(stage: str) -> set[str]:
    """The code that a stage imports, directly or not, without the check of parameters."""
    used: set[str] = set()
    waiting = [f"stages/{stage}.py"]
    while waiting:
        source = waiting.pop()
        if source not in used and source != "src/params.py":  # it checks values, computes none
            used.add(source)
            waiting += imports(source)
    return {unit(path) for path in used if not path.endswith("/__init__.py")}


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_stage_declares_the_very_code_it_uses(stage):
    dependencies = paths(EVERY_STAGE[stage]["deps"])
    folders = ("src/", "stages/", "tools/", "benchmarks/", "tests/")
    assert {path for path in dependencies if path.startswith(folders)} == used_code(stage)


def strings(tree: ast.AST) -> set[str]:
    """All string constants of some code."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def attributes(tree: ast.AST, name: str) -> set[str]:
    """What some code takes from the module of this name, such as `inputs.measuring`."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {n.attr for n in nodes if isinstance(n.value, ast.Name) and n.value.id == name}


def strings_of_inputs(functions: set[str]) -> set[str]:
    """The string constants of these functions of stages/inputs.py and of those they call."""
    tree = ast.parse((ROOT / "stages/inputs.py").read_text())
    by_name = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    called, waiting = set(), set(functions)
    while waiting:
        name = waiting.pop()
        called.add(name)
        names = {node.id for node in ast.walk(by_name[name]) if isinstance(node, ast.Name)}
        waiting |= names & by_name.keys() - called
    return set().union(*(strings(by_name[name]) for name in called))


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_stage_declares_the_files_it_names(stage):
    declared = declared_files(stage)
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    constants = strings(tree) | strings_of_inputs(attributes(tree, "inputs"))
    folders = {path.split("/")[0] for path in set().union(*map(declared_files, EVERY_STAGE))}
    named = {
        text
        for text in constants
        if "/" in text and "." in text and " " not in text and text.split("/")[0] in folders
    }
    assert named, "a stage names at least one file"
    for path in named:
        inside = any(path == entry or path.startswith(f"{entry}/") for entry in declared)
        assert inside, f"{path} is neither a dependency nor an output"


def test_every_stage_is_described_and_runs_by_its_name():
    assert set(STAGES) == set(NAMES) and set(STUDENT_STAGES) == set(STUDENT_NAMES)
    for name, stage in EVERY_STAGE.items():
        launcher = "${launcher}" if name in ("train", "sample") else "python"
        assert len(stage["desc"]) > 40 and stage["cmd"] == f"{launcher} -m stages {name}"


def test_every_stage_has_its_run_cache():
    """DVC turns it off for stages with uncached outputs other than metrics and plots.

    `distill` has none: its models are in git.
    """
    for stage in STAGES.values():
        options = [
            next(iter(out.values())) for out in stage.get("outs", []) if isinstance(out, dict)
        ]
        assert not any("cache" in option for option in options)


def test_every_parameter_has_a_comment():
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if ":" in line.split("#")[0] and not line.rstrip().endswith(":"):
            assert len(line.partition("#")[2]) > 10, line


def test_stages_fit_on_a_screen_and_the_pipeline_on_a_few():
    for source in code("stages"):
        if source != "stages/__main__.py":
            assert len((ROOT / source).read_text().splitlines()) <= 60, source
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 350


def test_nothing_but_make_test_and_make_test_fast_runs_tests():
    makefile = (ROOT / "Makefile").read_text()
    recipes = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    running = {target for target, recipe in recipes if re.search(r"\b(pytest|tests)\b", recipe)}
    assert len(recipes) > 10 and running == {"test", "test-fast"}


# --- what reruns when ----------------------------------------------------------------------------

ALL = set(NAMES)


def table_of_reruns() -> dict[str, set[str]]:
    """The table of docs/design.md: by pattern of keys and folders, the stages that rerun."""
    design = (ROOT / "docs/design.md").read_text()
    table = re.search(r"^\| change \|.*?\n\n", design, re.MULTILINE | re.DOTALL)[0]
    head, _, *rows = table.split("\n")
    # A column may have several stages.
    columns = [re.findall(r"\w+", cell) for cell in head.split("|")[2:-1]]
    reruns = {}
    for row in filter(None, rows):
        change, *cells = row.split("|")[1:-1]
        marked = {
            stage
            for stages, cell in zip(columns, cells, strict=True)
            for stage in (stages if cell.strip() == "x" else cell.split())
        }
        reruns |= dict.fromkeys(re.findall(r"`([^`]+)`", change), marked)
    return reruns


TABLE = table_of_reruns()
# Of the stages in the table.
KEYS = [key for key in leaves(Params) if not key.startswith("distill.")]


def expected(key: str) -> set[str]:
    """The stages that rerun by the one row of the table that speaks of a key or a file."""
    patterns = {f"{name}*" if name.endswith("/") else name: row for name, row in TABLE.items()}
    (stages,) = [row for pattern, row in patterns.items() if fnmatch(key, pattern)]
    return stages


def test_the_table_names_all_stages_and_no_others():
    assert set().union(*TABLE.values()) == ALL and TABLE["data/"] == ALL and len(TABLE) > 15


def test_measuring_in_another_way_draws_no_other_images():
    assert not expected("src/measure/") & {"unpack", "classifier", "train", "sample"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return clone_into(tmp_path_factory.mktemp("contracts") / "clone")


def reruns_by_cause(folder: Path) -> dict[str, set[str]]:
    """By dependency or section of params.yaml that has changed, the stages that DVC would run.

    Stages that depend on the results of others are among them. Missing files do not count. The
    stages of student/dvc.yaml do not count either.
    """
    with Repo(str(folder)) as repo:
        changed_by: dict[str, set[str]] = defaultdict(set)
        for address, changes in repo.status().items():
            stage = address.split(":")[-1]  # DVC names them by their path from here
            if stage in STUDENT_NAMES:
                continue
            for change in changes:
                if change == "changed command":
                    changed_by["launcher"].add(stage)
                    continue
                entries = change.get("changed deps", {}) if isinstance(change, dict) else {}
                for dependency, state in entries.items():
                    states = state if isinstance(state, dict) else {dependency: state}
                    for cause in [name for name, what in states.items() if what != "deleted"]:
                        changed_by[cause].add(stage)
        graph = repo.index.graph
        graph = networkx.relabel_nodes(graph, lambda stage: stage.addressing.split(":")[-1])
        return {
            cause: stages.union(*(networkx.ancestors(graph, stage) for stage in stages)) & ALL
            for cause, stages in changed_by.items()
        }


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    if isinstance(value, str):
        return f"{value}x"
    return [1, 2, 3] if value is None else [*value, 1]


@pytest.fixture
def edited(fresh):
    """Write other bytes to files of the clone; afterwards they are as before."""
    before: dict[Path, bytes | None] = {}

    def edit(path: str, content: bytes | None = None) -> None:
        file = fresh / path
        before[file] = file.read_bytes() if file.exists() else None
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((before[file] or b"") + b"\n# changed\n" if content is None else content)

    yield edit
    for file, content in before.items():
        file.unlink() if content is None else file.write_bytes(content)
        if file.parent.name in ("data", "__pycache__"):  # neither is there in a clone
            file.parent.rmdir()


def with_changed(text: str, *keys: str) -> bytes:
    """params.yaml with other values of these keys."""
    values = yaml.safe_load(text)
    for key in keys:
        *sections, name = key.split(".")
        section = functools.reduce(dict.__getitem__, sections, values)
        section[name] = changed(section[name])
    return yaml.safe_dump(values).encode()


@pytest.mark.slow
def test_a_changed_parameter_reruns_what_the_table_says(fresh, edited):
    """DVC says which section has changed, so that one look at a key of each suffices."""
    key_of = {key.split(".")[0]: key for key in KEYS}
    edited("params.yaml", with_changed((fresh / "params.yaml").read_text(), *key_of.values()))
    reruns = reruns_by_cause(fresh)
    assert reruns.pop("params.yaml") == {"report"}  # which shows the whole file
    assert reruns == {section: expected(key) for section, key in key_of.items()}


def test_the_keys_of_a_section_rerun_the_same_stages():
    """dvc.yaml declares sections as a whole, and the table treats all keys of one alike."""
    declared = {key for stage in STAGES.values() for key in stage.get("params", [])}
    assert declared <= set(Params.model_fields)
    stages_of: dict[str, set[str]] = {}
    for key in KEYS:
        section = key.split(".")[0]
        assert expected(key) == stages_of.setdefault(section, expected(key)), key


@pytest.mark.slow
def test_dvc_names_the_very_key_that_was_changed(fresh, edited):
    text = (fresh / "params.yaml").read_text()
    before = yaml.safe_load(text)["sample"]["steps"]
    edited("params.yaml", with_changed(text, "sample.steps"))
    difference = json.loads(run("dvc", "params", "diff", "--json", cwd=fresh).stdout)
    assert {file: list(keys) for file, keys in difference.items()} == {
        "params.yaml": ["sample.steps"]
    }
    change = difference["params.yaml"]["sample.steps"]
    assert (change["old"], change["new"]) == (before, changed(before))


RERUNS = {
    "data/other.zip": ALL,
    "statistics/mnist.npz": expected("statistics/"),
    "yardstick/about.json": expected("yardstick/"),
    "src/archives/layout.py": ALL,
    "src/common/errors.py": expected("src/common/"),
    "src/diffusion/samplers.py": expected("src/diffusion/"),
    "src/images.py": {"sample", "fid", "quality", "spread", "figures", "report"},
    "src/measure/strokes.py": expected("src/measure/"),
    "src/pictures.py": expected("src/training/"),
    "src/plotting.py": {"quality", "spread", "figures", "report"},
    "src/show/experiments.py": {"figures", "report"},
    "src/show/figures.py": {"figures", "report"},
    "src/show/page.html": {"figures", "report"},
    "src/training/trainer.py": expected("src/training/"),
}
RERUN_NOTHING = (
    "app.py",
    "src/demo/trajectory.py",
    "src/params.py",
    "stages/__main__.py",
    "tools/experiments.py",
    # No code.
    "src/common/.errors.py.swp",
    "src/common/errors.py~",
    "src/common/errors.py.orig",
    "src/common/__pycache__/errors.pyc",
)


def dependency_of(path: str) -> str:
    """The dependency in dvc.yaml that a file is, or lies in."""
    declared = set().union(*(paths(stage["deps"]) for stage in STAGES.values()))
    (dependency,) = [name for name in declared if path == name or path.startswith(f"{name}/")]
    return dependency


def batches(files: list[str]) -> list[list[str]]:
    """The files in batches. No two files of a batch belong to the same dependency."""
    parted: list[list[str]] = []
    for path in files:
        taken = [{dependency_of(other) for other in batch} for batch in parted]
        free = [i for i, names in enumerate(taken) if dependency_of(path) not in names]
        if free:
            parted[free[0]].append(path)
        else:
            parted.append([path])
    return parted


@pytest.mark.slow
@pytest.mark.parametrize("files", batches(list(RERUNS)), ids=lambda files: files[0])
def test_changed_code_and_data_rerun_what_uses_them(fresh, edited, files):
    """Several files at a time: DVC says which dependency has changed."""
    for path in files:
        assert not path.startswith("src/") or (fresh / path).exists(), path
        edited(path)
    assert reruns_by_cause(fresh) == {dependency_of(path): RERUNS[path] for path in files}


@pytest.mark.slow
def test_what_no_result_depends_on_reruns_nothing(fresh, edited):
    for path in RERUN_NOTHING:
        edited(path)
    lock = fresh / "src/common/.#errors.py"  # of an editor: a link to nowhere
    lock.symlink_to("nowhere")
    try:
        assert reruns_by_cause(fresh) == {}
    finally:
        lock.unlink()


# --- the committed state -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_committed_results_are_of_the_committed_pipeline(fresh):
    """dvc.lock is current: in a clone without any data there is nothing to run."""
    assert not (fresh / "data").exists()
    process = run("dvc", "repro", "--dry", "--allow-missing", cwd=fresh)
    assert "Data and pipelines are up to date." in process.stdout
    assert "Running stage" not in process.stdout


def test_data_dvc_pins_canonical_mnist():
    pin = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]
    assert pin["md5"] == "b6c29e96813679dd8c451c9b5ca86e2c.dir"
    assert pin["nfiles"] == 4 and pin["size"] == 11_594_722


def hashes() -> str:
    return (ROOT / "hashes.txt").read_text()


def test_every_pin_but_those_of_torch_has_hashes():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = pairwise(hashes().splitlines())
    hashed = [
        line.removesuffix(" \\")
        for line, after in pairs
        if line[:1].isalpha() and after.strip().startswith("--hash=sha256:")
    ]
    builds = [pin for pin in pins if pin.startswith(("torch==", "torchvision=="))]
    assert sorted(hashed + builds) == sorted(pins) and len(builds) == 2


def test_no_file_of_the_repository_names_an_index_or_a_path_of_some_machine():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "--" not in text and "@" not in text
    assert all("==" in line for line in text.splitlines() if line.strip())
    assert not re.search("://|@|--(?!hash=sha256:)", re.sub("(?m)^#.*", "", hashes()))
