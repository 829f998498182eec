"""README and docs are true: numbers are the committed metrics, commands and files exist."""

import itertools
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks import arithmetic, peers, pipeline, processors, quick_start, scale, spoilt
from benchmarks.tables import duration
from src import params
from stages.__main__ import NAMES
from tests.helpers import ROOT, clone_into, run

README = (ROOT / "README.md").read_text()
DOCS = (ROOT / "docs" / "metrics.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()
METRICS = {
    f"{path.stem}.{key}": value
    for path in (ROOT / "metrics").glob("*.json")
    for key, value in json.loads(path.read_text()).items()
}
ROWS = re.findall(r"^\| [^|]+ \| `(\w+\.\w+)` \|([^|]+)\|([^|]*)\|([^|]*)\|$", README, re.MULTILINE)
# Of real images; others are called ..._floor_heldout.
REAL = {"fid.accuracy": "classifier.heldout_accuracy", "quality.cas": "quality.cas_floor_train"}


def test_there_is_a_table_of_results():
    assert {name for name, *_ in ROWS} >= {
        "fid.fd_digits",
        "fid.fd_imagenet",
        "fid.accuracy",
        "quality.recall",
        "bound.bits_per_dim",
    }


def test_the_first_page_stays_short():
    assert len(README.splitlines()) <= 160 and len(README.split()) <= 1300


def test_the_code_on_the_first_page_is_that_of_the_library():
    (excerpt,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    core = "".join(path.read_text() for path in (ROOT / "src/diffusion").glob("*.py"))
    unindented = "\n".join(line.strip() for line in core.splitlines())
    parts = excerpt.strip().split("\n\n")
    assert len(parts) == 2 and all(part in unindented for part in parts)


def test_the_graph_of_stages_has_edges_of_dvc_yaml():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

    def paths(stage: str, *keys: str) -> list[str]:
        entries = [entry for key in keys for entry in stages[stage].get(key, [])]
        return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]

    (graph,) = re.findall(r"```mermaid\n(.*?)```", README, re.DOTALL)
    chains = [line.split(" --> ") for line in map(str.strip, graph.splitlines()[1:])]
    assert {stage for chain in chains for stage in chain} == set(NAMES)
    for chain in chains:
        for before, after in itertools.pairwise(chain):
            outs = paths(before, "outs", "metrics", "plots")
            deps = [Path(path) for path in paths(after, "deps")]
            assert any(path.is_relative_to(out) for path in deps for out in outs), (before, after)


@pytest.mark.parametrize("name, value, real, spread", ROWS)
def test_a_number_in_the_readme_is_the_one_in_the_metrics(name, value, real, spread):
    floor = METRICS.get(REAL.get(name, f"{name}_floor_heldout"))
    deviation = METRICS.get(f"spread.{name.split('.')[1]}_sd")
    for cell, number in ((value, METRICS[name]), (real, floor), (spread, deviation)):
        if number is None:
            assert cell.strip() == "" or cell.strip().startswith("not measured")
        else:
            plain = cell.replace(",", "").replace("%", "").strip()
            decimals = len(plain.partition(".")[2])
            expected = round(number * (100 if "%" in cell else 1), decimals)
            assert float(plain) == expected, (name, cell)


def test_times_of_stages_are_those_of_the_committed_run():
    """benchmarks/results/stages.jsonl is what the stages noted in .scratch/ as they ran."""
    log = (ROOT / "benchmarks/results/stages.jsonl").read_text().splitlines()
    records = {record["stage"]: record for record in map(json.loads, log)}
    rows = {
        name: re.search(rf"^\| {name} \|(.+)\|$", RESULTS, re.MULTILINE)[1].split("|")
        for name in ("stage", "time", "peak memory, MiB")
    }
    stages = [stage.strip() for stage in rows["stage"][:-1]]

    def lasting(seconds: float) -> str:
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

    seconds = [records[stage]["seconds"] for stage in stages]
    assert stages == list(NAMES) and set(records) == set(NAMES)
    times = [time.strip() for time in rows["time"]]
    assert times == [*map(lasting, seconds), lasting(sum(seconds))]
    peaks = [peak.strip() for peak in rows["peak memory, MiB"][:-1]]
    assert peaks == [str(records[stage]["peak_mib"]) for stage in stages]


def test_the_costs_of_the_quick_start_were_measured():
    result = json.loads((ROOT / quick_start.RESULT).read_text())
    costs = {(row["command"], row["precision"]): row for row in result["rows"]}
    for command in (quick_start.DEMO, quick_start.DIGITS, quick_start.QUICK):
        kinds = [costs.get((command, precision)) for precision in ("bfloat16", "float32")]
        measured = next(filter(None, kinds))
        (row,) = re.findall(rf"^\| `{command}` \| .+$", README, re.MULTILINE)
        assert [cell.strip() for cell in row.split("|")[3:-1]] == [
            *(duration(cost["seconds"]) if cost else "not measured" for cost in kinds),
            f"{measured['memory_mib'] * 2**20 / 1e9:.1f} GB",
            f"{measured['disk_mb']:.0f} MB",
        ]
    assert quick_start.markdown(result) in RESULTS


def test_the_shares_and_overheads_of_both_processors_were_measured():
    shares = rows_by_precision(arithmetic.RESULT)
    training, evaluation = (
        {name: f"{100 * row[work]['share_of_ceiling']:.0f} %" for name, row in shares.items()}
        for work in ("training", "evaluation")
    )
    fast = f"{training['bfloat16']} of a training step, {evaluation['bfloat16']} of an evaluation"
    assert training["float32"] == evaluation["float32"]
    assert f"| {fast}; with AVX2 alone {training['float32']} of both |" in RESULTS
    overheads = rows_by_precision(pipeline.RESULT)
    fast, slow = overheads["bfloat16"], overheads["float32"]
    for key, decimals in (("nothing_to_do_s", 1), ("experiment_adds_s", 0)):
        cell = f"| {fast[key]:.1f} s; with AVX2 alone {slow[key]:.{decimals}f} s |"
        assert cell in RESULTS


def rows_by_precision(path: Path) -> dict[str, dict]:
    return {row["precision"]: row for row in json.loads((ROOT / path).read_text())["rows"]}


def least_minutes(precision: str) -> float:
    """Minutes that training and drawing of `make run` take, without its other work."""
    p = params.load()
    row = rows_by_precision(processors.RESULT)[precision]
    drawing = p.spread.seeds * p.sample.count / 10_000 * row["drawing_10000_seconds"]
    return row["training_minutes"] + drawing / 60


def test_the_costs_of_the_committed_run_are_those_of_its_stages():
    log = (ROOT / "benchmarks/results/stages.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in log]
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].values()
    outs = [out for stage in stages for out in stage.get("outs", [])]
    outs += yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    (row,) = re.findall(r"^\| `make run` \| .+$", README, re.MULTILINE)
    time, slow, memory, disk = (cell.strip() for cell in row.split("|")[3:-1])
    assert time == duration(sum(record["seconds"] for record in records))
    assert slow == "over 2 h" and least_minutes("float32") > 120
    assert memory == f"{max(record['peak_mib'] for record in records) * 2**20 / 1e9:.1f} GB"
    assert disk == f"{sum(out['size'] for out in outs) / 1e6:.0f} MB"


def test_numbers_in_the_table_of_metrics_are_those_in_the_metrics():
    rows = re.findall(r"^\| `(\w+\.\w+)` \| [^|]+ \| (.+) \|$", DOCS, re.MULTILINE)
    shown = {"fid.fd_digits", "quality.recall", "quality.memorised", "bound.bits_per_dim"}
    assert {name for name, _ in rows} >= shown
    for name, cells in rows:
        value, *floors = cells.split("|")
        heldout, train = (METRICS.get(f"{name}_floor_{kind}") for kind in ("heldout", "train"))
        any_floor = [heldout, train, METRICS["classifier.heldout_accuracy"]]
        columns = zip([value, *floors], ([METRICS[name]], [heldout], [train]), strict=False)
        for cell, own in columns:
            # In a single column of floors each says which one it is.
            expected = any_floor if "(" in cell else own
            number = re.match(r" *(-?[\d.]+)", cell)
            if number:
                decimals = len(number[1].partition(".")[2])
                rounded = [round(value, decimals) for value in expected if value is not None]
                assert float(number[1]) in rounded, (name, cell)
            else:
                assert cell.strip() in ("", "not measured"), (name, cell)


def test_numbers_over_seeds_in_the_table_of_metrics_are_those_in_the_metrics():
    rows = re.findall(r"^\| `(\w+)` \| (-?[\d.]+) \| ([\d.]+) \|$", DOCS, re.MULTILINE)
    means = {key for key in METRICS if re.match(r"spread\.\w+_mean$", key)}
    assert {f"spread.{name}_mean" for name, _, _ in rows} == means
    for name, *cells in rows:
        for kind, cell in zip(("mean", "sd"), cells, strict=True):
            decimals = len(cell.partition(".")[2])
            assert float(cell) == round(METRICS[f"spread.{name}_{kind}"], decimals), (name, kind)


def test_the_table_of_the_model_without_classes_is_the_committed_one():
    result = json.loads((ROOT / "benchmarks/results/unlabelled.json").read_text())
    names = "fid.fd_imagenet", "fid.fd_digits", "quality.broken"
    without = [result[file][key] for file, key in (name.split(".") for name in names)]
    rows = {
        "with classes": [METRICS[name] for name in names],
        "without classes": without,
        "real test digits": [METRICS[f"{name}_floor_heldout"] for name in names],
    }
    for name, (first, second, broken) in rows.items():
        assert f"\n| {name} | {first:.2f} | {second:.2f} | {100 * broken:.1f} % |\n" in RESULTS


def test_the_table_of_students_is_the_committed_one():
    rows = re.findall(r"^\| (student|teacher) \| (.+) \|$", RESULTS, re.MULTILINE)
    table = pd.read_csv(ROOT / "plots/students.csv")
    columns = ["evaluations", "images_per_second", "fd_imagenet", "fd_digits", "accuracy", "broken"]
    assert [model for model, _ in rows] == table["model"].tolist()
    for (_, cells), values in zip(rows, table[columns].values.tolist(), strict=True):
        for cell, value in zip(cells.split(" | "), values, strict=True):
            plain = cell.replace(",", "").replace(" %", "")
            decimals = len(plain.partition(".")[2])
            assert float(plain) == round(value * (100 if "%" in cell else 1), decimals), cells


def test_the_table_of_fidelity_is_the_committed_one():
    rows = re.findall(r"^\| (-?[\d.]+) \| (\d+) \| ([\d.]+) \|$", DOCS, re.MULTILINE)
    table = pd.read_csv(ROOT / "plots/fidelity_by_noise_level.csv")
    assert [tuple(map(float, row)) for row in rows] == [
        (round(row.log_snr, 1), row.steps, round(row.fd_imagenet, 1)) for row in table.itertuples()
    ]
    real = METRICS["fidelity.fd_imagenet_real"]
    assert f"The same images score {real:.1f} without noise" in DOCS
    added = (table["fd_imagenet"] - real) / (table["fd_imagenet"].iloc[-1] - real)
    assert re.search(rf"The last {table['steps'][1]} steps,.* add {100 * added[1]:.0f} % of", DOCS)


def test_the_table_of_spoilt_digits_is_the_committed_one():
    assert (
        spoilt.markdown(json.loads((ROOT / "benchmarks/results/spoilt.json").read_text())) in DOCS
    )


def test_the_table_of_large_archives_is_the_committed_one():
    assert (
        scale.markdown(json.loads((ROOT / "benchmarks/results/scale.json").read_text())) in RESULTS
    )


def test_the_readme_says_that_fid_was_not_measured_exactly_as_long_as_it_was_not():
    assert (METRICS["fid.fid"] is None) == ("FID in Inception features was not measured" in README)
    assert (METRICS["fid.fid"] is None) == ("fid.fid" not in {name for name, *_ in ROWS})


def test_make_targets_in_readme_and_docs_exist():
    known = run("make", "help", cwd=ROOT).stdout
    for page in map(Path.read_text, [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]):
        for target in set(re.findall(r"[`$] ?make ([a-z]+(?:-[a-z]+)*)", page)):
            assert f"make {target} " in known, target


def test_the_default_sampler_is_one_that_the_sweep_speaks_for(params):
    """It is as near real images as the sweep's best, to the spread of sets of that size."""
    rows, sampler = pd.read_csv(ROOT / "plots/quality_over_steps.csv"), params.sample.sampler
    eta = f" {sampler.eta:g}" if sampler.eta else ""
    is_default = rows["sampler"] == f"{sampler.method} {sampler.spacing}{eta}"
    (default,) = rows[is_default & (rows["steps"] == sampler.steps)]["fd_digits"]
    assert default <= rows["fd_digits"].min() + METRICS["sweep.fd_digits_floor_heldout_sd"]


def test_files_that_pages_link_to_exist():
    tracked = set(run("git", "ls-files", cwd=ROOT).stdout.splitlines())
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            path = (page.parent / link).resolve().relative_to(ROOT).as_posix()
            named = path in tracked or any(name.startswith(f"{path}/") for name in tracked)
            assert named, (page.name, link)


def test_headings_that_pages_link_to_exist():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            target = page.parent / link if link else page
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, (page.name, link, heading)


def test_pictures_in_git_are_figures_and_generated_images_alone():
    tracked = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    suffixes = (".png", ".gz", ".zip", ".npy", ".jpg", ".gif")
    assert sorted(path for path in tracked if path.endswith(suffixes)) == [
        *(
            f"docs/pictures/{name}.png"
            for name in ("convergence", "demo", "minutes", "peers", "photographs")
        ),
        "figures/fidelity_by_noise_level.png",
        "figures/learning_curve.png",
        "figures/loss_by_noise_level.png",
        "figures/quality_over_steps.png",
        "figures/reverse_process.gif",
        "figures/reverse_process.png",
        "figures/samples_by_class.png",
        "figures/schedules.png",
        "figures/students.png",
    ]


def test_tests_in_the_docs_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/design.md").read_text()))
    source = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named and {name for name in named if f"def {name}(" not in source} == set()


@pytest.mark.slow
def test_the_python_of_the_guide_draws_digits_in_a_fresh_clone(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    clone = clone_into(tmp_path / "clone")
    run("dvc", "pull", "models/model.safetensors", cwd=clone)
    check = """
assert digits.shape == (10, 1, 28, 28) and digits.dtype == torch.uint8
assert digits.float().std() > 20
"""
    run(sys.executable, "-c", code + check, cwd=clone)


def test_the_benchmark_of_fid_is_the_committed_one():
    result = json.loads((ROOT / "benchmarks/results/fid_2000.json").read_text())
    tools = ("ours", "pytorch-fid", "clean-fid", "torch-fidelity")
    rows = {
        name: [cell.strip() for cell in cells.split("|")]
        for name, cells in re.findall(r"^\| (seconds|value) \| (.+) \|$", RESULTS, re.MULTILINE)
    }
    assert rows["seconds"] == [f"{result['tools'][tool]['seconds']:.0f}" for tool in tools]
    assert rows["value"] == [f"{result['tools'][tool]['value']:.3f}" for tool in tools]
    assert f"Ours is {result['fastest_peer_over_ours']:.2f} times as fast" in RESULTS
    assert result["rounds"] == 3 and result["images"] == 2000


def test_the_table_of_peers_is_the_committed_one():
    result = json.loads((ROOT / "benchmarks/results/peers.json").read_text())
    assert peers.markdown(result) in RESULTS


def test_make_help_lists_every_target():
    shown, makefile = run("make", "help", cwd=ROOT).stdout, (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert targets == re.findall(r"^\.PHONY: ([a-z-]+)$", makefile, re.MULTILINE)
    assert len(targets) > 10 and all(f"make {target} " in shown for target in targets)


def test_the_guide_says_what_make_samples_does():
    """`test_a_clone_samples_measures_and_draws_without_data_or_training` does just that."""
    recipe = run("make", "--dry-run", "samples", cwd=ROOT).stdout
    for command in (
        "dvc pull --quiet models/model.safetensors models/classifier.safetensors reference/",
        "dvc repro --single-item --force sample fid figures",
    ):
        assert command in recipe and command.replace(" --quiet", "") in GUIDE


def test_the_table_of_photographs_is_the_committed_one():
    metrics = json.loads((ROOT / "benchmarks/results/photographs.json").read_text())["metrics"]
    fid, quality = metrics["fid"], metrics["quality"]
    accuracy = metrics["classifier"]["heldout_accuracy"]
    for row in (
        f"{fid['fd_imagenet']:.1f} | {fid['fd_imagenet_floor_heldout']:.1f}",
        f"{fid['fd_digits']:.1f} | {fid['fd_digits_floor_heldout']:.1f}",
        f"{fid['accuracy']:.1%} | {accuracy:.1%}",
        f"{quality['precision']:.2f}, {quality['recall']:.2f} | "
        f"{quality['precision_floor_heldout']:.2f}, {quality['recall_floor_heldout']:.2f}",
        f"{quality['cas']:.1%} | {quality['cas_floor_train']:.1%}",
        f"{quality['memorised']:.1%} | {quality['memorised_floor_heldout']:.1%}",
    ):
        assert f"| {row.replace('%', ' %')} |" in (ROOT / "docs/guide.md").read_text(), row


def test_what_metrics_says_of_the_yardstick_was_measured():
    result = json.loads((ROOT / "benchmarks/results/yardstick.json").read_text())
    page = (ROOT / "docs/metrics.md").read_text()
    others = result["others"]
    accuracies, agreements, correlations = (
        sorted(other[name] for other in others) for name in ("accuracy", "agreement", "correlation")
    )
    for text in (
        f"recognises {result['accuracy']:.2%} of the test digits",
        f"reach {100 * accuracies[0]:.2f} to {accuracies[-1]:.2%}",
        f"agree with it on {100 * agreements[0]:.2f} to {agreements[-1]:.2%}",
        f"{correlations[0]:.2f} to {correlations[-1]:.2f}",
        f"that by `fd_imagenet` is {result['correlation_with_fd_imagenet']:.2f}",
    ):
        assert text.replace("%", " %") in " ".join(page.split()), text
