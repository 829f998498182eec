"""The README says what is: its numbers are those of the committed metrics, its commands and files exist."""

import json
import re
import sys

import pandas as pd
import pytest

from benchmarks import peers
from stages.__main__ import NAMES
from tests.conftest import ROOT, clone_into, run

README = (ROOT / "README.md").read_text()
DOCS = (ROOT / "docs" / "metrics.md").read_text()
METRICS = {
    f"{path.stem}.{key}": value
    for path in (ROOT / "metrics").glob("*.json") for key, value in json.loads(path.read_text()).items()
}
ROWS = re.findall(r"^\| [^|]+ \| `(\w+\.\w+)` \|([^|]+)\|([^|]*)\|([^|]*)\|$", README, re.MULTILINE)
REAL = {"fid.accuracy": "classifier.heldout_accuracy", "quality.cas": "quality.cas_floor_train"}  # others: ..._floor_heldout


def test_there_is_a_table_of_results():
    assert {name for name, *_ in ROWS} >= {
        "fid.fd_digits", "fid.fd_digits_floor_train", "fid.accuracy", "quality.recall", "train.heldout_loss"
    }


@pytest.mark.parametrize("name, value, real, spread", ROWS)
def test_a_number_in_the_readme_is_the_one_in_the_metrics(name, value, real, spread):
    measured = METRICS[name], METRICS.get(REAL.get(name, f"{name}_floor_heldout")), METRICS.get(f"spread.{name.split('.')[1]}_sd")
    for cell, number in zip((value, real, spread), measured, strict=True):
        if number is None:
            assert cell.strip() == "" or cell.strip().startswith("not measured")
        else:
            plain = cell.replace(",", "").replace("%", "").strip()
            assert float(plain) == round(number * (100 if "%" in cell else 1), len(plain.partition(".")[2])), (name, cell)


def test_times_in_the_readme_are_those_of_the_committed_run():
    """benchmarks/results/stages.jsonl is what the stages noted in .scratch/ as they ran."""
    log = (ROOT / "benchmarks/results/stages.jsonl").read_text().splitlines()
    ran = {record["stage"]: record for record in map(json.loads, log)}
    told = {
        name: re.search(rf"^\| {name} \|(.+)\|$", README, re.MULTILINE)[1].split("|")
        for name in ("stage", "time", "peak memory, MiB")
    }
    stages = [stage.strip() for stage in told["stage"][:-1]]

    def lasting(seconds: float) -> str:
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

    seconds = [ran[stage]["seconds"] for stage in stages]
    assert stages == list(NAMES) and set(ran) == set(NAMES)
    assert [time.strip() for time in told["time"]] == [*map(lasting, seconds), lasting(sum(seconds))]
    assert [peak.strip() for peak in told["peak memory, MiB"][:-1]] == [str(ran[stage]["peak_mib"]) for stage in stages]


def test_numbers_in_the_table_of_metrics_are_those_in_the_metrics():
    rows = re.findall(r"^\| `(\w+\.\w+)` \| [^|]+ \| (.+) \|$", DOCS, re.MULTILINE)
    assert {name for name, _ in rows} >= {"fid.fd_digits", "quality.recall", "quality.memorised", "bound.bits_per_dim"}
    for name, cells in rows:
        value, *floors = cells.split("|")
        heldout, train = (METRICS.get(f"{name}_floor_{of}") for of in ("heldout", "train"))
        any_floor = [heldout, train, METRICS["classifier.heldout_accuracy"]]
        for cell, own in zip([value, *floors], ([METRICS[name]], [heldout], [train]), strict=False):
            expected = any_floor if "(" in cell else own  # a single column of floors has each say of what it is
            shown = re.match(r" *(-?[\d.]+)", cell)
            if shown:
                decimals = len(shown[1].partition(".")[2])
                assert float(shown[1]) in [round(number, decimals) for number in expected if number is not None], (name, cell)
            else:
                assert cell.strip() in ("", "not measured"), (name, cell)


def test_numbers_over_seeds_in_the_table_of_metrics_are_those_in_the_metrics():
    rows = re.findall(r"^\| `(\w+)` \| (-?[\d.]+) \| ([\d.]+) \|$", DOCS, re.MULTILINE)
    assert {f"spread.{name}_mean" for name, _, _ in rows} == {key for key in METRICS if re.match(r"spread\.\w+_mean$", key)}
    for name, *cells in rows:
        for kind, shown in zip(("mean", "sd"), cells, strict=True):
            assert float(shown) == round(METRICS[f"spread.{name}_{kind}"], len(shown.partition(".")[2])), (name, kind)


def test_the_readme_says_that_fid_was_not_measured_exactly_as_long_as_it_was_not():
    assert (METRICS["fid.fid"] is None) == ("`fid.fid` | not measured" in README)
    assert (METRICS["fid.fid"] is not None) == ("fid.fid" in {name for name, value, *_ in ROWS if "not" not in value})


def test_make_targets_in_readme_and_docs_exist():
    known = run("make", "help", cwd=ROOT).stdout
    for page in (README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))):
        for target in set(re.findall(r"[`$] ?make ([a-z]+)", page)):
            assert f"make {target} " in known, target


def test_the_default_sampler_is_one_that_the_sweep_speaks_for(params):
    """Not measurably farther from the real images than the best of the sweep: within the spread of sets of that size."""
    rows = pd.read_csv(ROOT / "plots/quality_over_steps.csv")
    name = f"{params.sample.method} {params.sample.spacing}" + (f" {params.sample.eta:g}" if params.sample.eta else "")
    (default,) = rows[(rows["sampler"] == name) & (rows["steps"] == params.sample.steps)]["fd_digits"]
    assert default <= rows["fd_digits"].min() + METRICS["sweep.fd_digits_floor_heldout_sd"]


def test_files_in_the_readme_exist():
    tracked = set(run("git", "ls-files", cwd=ROOT).stdout.splitlines())
    for link in re.findall(r"\]\(([^)#:]+)[)#]", README):
        assert link in tracked, link
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).resolve().relative_to(ROOT).as_posix() in tracked, (page.name, link)
    folder = ""
    for indent, *block in re.findall(r"^ {4}( {4})?(\S+)(?: (\S+/))* {2,}", README, re.MULTILINE):
        folder = folder if indent else block[0]
        for name in filter(None, block):
            listed = f"{folder}{name}" if indent else name
            assert any(path == listed or path.startswith(listed) for path in tracked), listed


def test_pictures_in_git_are_figures_and_generated_images_alone():
    tracked = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    suffixes = (".png", ".gz", ".zip", ".npy", ".jpg", ".gif")
    assert sorted(path for path in tracked if path.endswith(suffixes)) == [
        *(f"docs/pictures/{name}.png" for name in ("demo", "growth", "peers", "shapes")), *(f"figures/{name}" for name in (
            "learning_curve.png", "loss_by_noise_level.png", "quality_over_steps.png", "reverse_process.gif",
            "reverse_process.png", "samples_by_class.png", "schedules.png",
        ))
    ]


def test_tests_in_the_docs_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/design.md").read_text()))
    source = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named and {name for name in named if f"def {name}(" not in source} == set()


@pytest.mark.slow
def test_the_python_of_the_readme_draws_digits_in_a_fresh_clone(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    clone = clone_into(tmp_path / "clone")
    run("dvc", "pull", "models/model.safetensors", cwd=clone)
    check = "\nassert digits.shape == (10, 1, 28, 28) and digits.dtype == torch.uint8 and digits.float().std() > 20"
    run(sys.executable, "-c", code + check, cwd=clone)


def test_the_benchmark_in_the_readme_is_the_committed_one():
    result = json.loads((ROOT / "benchmarks/results/fid_2000.json").read_text())
    told = r"2,000 images, .* medians of three rounds: (\d+) s\s+against (\d+), (\d+) and (\d+) s, so (\d\.\d+) times"
    *seconds, times = re.search(told, README).groups()
    tools = ("ours", "pytorch-fid", "clean-fid", "torch-fidelity")
    assert seconds == [f"{result['tools'][tool]['seconds']:.0f}" for tool in tools]
    assert times == f"{result['fastest_peer_over_ours']:.2f}" and result["rounds"] == 3 and result["images"] == 2000


def test_the_table_of_peers_in_the_readme_is_the_committed_one():
    assert peers.markdown(json.loads((ROOT / "benchmarks/results/peers.json").read_text())) in README
