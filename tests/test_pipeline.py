"""The pipeline as users run it, on the embedded digits, in clones of this repository.

Needs no network and no MNIST. Where only a stage's result or message matters, the stage runs in
this process: `stage(name)`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import weakref
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from src import classifier, images, model_file, provenance
from src.common import dataset
from src.common.errors import UserError
from src.common.files import save_tensors
from src.measure import frechet
from src.measure.extractors import INCEPTION, LoadedExtractor
from stages.__main__ import NAMES
from tests.helpers import (
    ROOT,
    clone_into,
    commit,
    fetch_mnist,
    read_archive,
    run,
    wait_for_checkpoint,
)
from tests.test_archives import make_zip, pictures, png
from tests.test_extractors import Pixels
from tests.test_inception import pictures as inception_pictures
from tests.test_inception import pytorch_fid_value
from tools import examples, get_data, summary, yardstick
from tools.soak import SETTINGS, TIMED

pytestmark = pytest.mark.slow

SMALL = SETTINGS | {
    "train": SETTINGS["train"]
    | {"steps": 40, "evaluate_interval": 20, "sample_interval": 20, "checkpoint_interval": 10},
    "sample": {"count": 150, "batch_size": 10, "steps": 5},
}
MODEL_FILES = [
    "models/model.safetensors",
    "models/last.safetensors",
    "plots/learning_curve.csv",
    "metrics/train.json",
]
PREVIEWS = ["training_samples/step_000020.png", "training_samples/step_000040.png"]
SAMPLES = [
    "generated/manifest.json",
    "generated/trajectory.safetensors",
    "generated_images/00001.png",
    "generated_images/00005.png",
    "generated_images/00150.png",
]


def set_params(folder: Path, changes: dict) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def ran(process: subprocess.CompletedProcess) -> list[str]:
    """Stages that a `dvc repro` or `dvc exp run` ran."""
    lines = process.stdout.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


def stage(name: str) -> None:
    """Run a stage in this process and folder."""
    importlib.import_module(f"stages.{name}").main()


def metrics(folder: Path, name: str) -> dict:
    return json.loads((folder / "metrics" / f"{name}.json").read_text())


def contents(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> Path:
    """A clone after one small run of the whole pipeline on the embedded digits; committed.

    Not to be changed. The processes of a run of tests share it: the first one makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # of pytest-xdist: one folder for each process
        shared = shared.parent
    folder = shared / "pipeline" / "finished"
    with FileLock(shared / "pipeline.lock"):
        if not (shared / "pipeline-finished").exists():
            shutil.rmtree(folder.parent, ignore_errors=True)  # of a process that failed
            clone_into(folder)
            shutil.rmtree(folder / "dvc-remote", ignore_errors=True)
            run("python", "-m", "tools.get_data", "digits", cwd=folder)
            set_params(folder, SMALL)
            process = run("dvc", "repro", cwd=folder)
            assert set(ran(process)) == set(NAMES)
            (folder / ".scratch" / "stderr.txt").write_text(process.stderr)
            commit(folder)
            (shared / "pipeline-finished").touch()
    return folder


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, to be changed, and the current folder of this process."""
    folder = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


# --- what comes out ------------------------------------------------------------------------------


def test_images_are_in_the_strict_format(finished):
    names = sorted(path.name for path in (finished / "generated_images").iterdir())
    assert names == [f"{k:05d}.png" for k in range(1, 151)]
    with Image.open(finished / "generated_images" / "00150.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))


def test_every_metrics_file_names_its_data(finished):
    paths = set((finished / "metrics").glob("*.json"))
    for path in paths - {finished / "metrics/students.json"}:  # in git, from `make student`
        about = json.loads(path.read_text())
        assert about["dataset"] == "scikit-learn digits (8x8, not MNIST)"
        assert about["dataset_fingerprint"] == "f41e31dbdd31"


def test_metrics_say_how_they_were_obtained(finished):
    fid = metrics(finished, "fid")
    assert fid["images"] == 150 and fid["fd_digits"] > 0 and 0 <= fid["accuracy"] <= 1
    assert fid["fid"] is None and fid["fd_digits_floor_heldout_images"] == 179
    assert len(fid["classifier"]) == len(fid["classifier_reference"]) == 12
    assert sum(metrics(finished, "data")["train_per_class"].values()) == 1618


def test_all_figures_and_previews_are_there(finished):
    drawn = {path.name for path in (finished / "figures").iterdir()}
    assert drawn - {"students.png"} == {  # that is in git, from `make student`
        "reverse_process.png",
        "samples_by_class.png",
        "learning_curve.png",
        "loss_by_noise_level.png",
        "fidelity_by_noise_level.png",
        "schedules.png",
        "quality_over_steps.png",
        "reverse_process.gif",
    }
    with Image.open(finished / "figures/reverse_process.gif") as animation:
        assert animation.n_frames == 5 + 1
        assert animation.size == (8 * 8 * 10, 8 * 10)  # eight digits, each pixel 10 x 10
    previews = {
        f"training_samples/{path.name}" for path in (finished / "training_samples").iterdir()
    }
    assert previews == set(PREVIEWS)


def test_the_learning_curve_has_a_row_for_each_evaluation(finished):
    curve = pd.read_csv(finished / "plots/learning_curve.csv")
    levels = [f"heldout_level_{i}" for i in range(10)]
    assert list(curve.columns) == ["step", "train_loss", "heldout_loss", "lr", *levels]
    assert curve["step"].tolist() == [20, 40]
    assert curve[levels].mean(axis=1).tolist() == pytest.approx(
        curve["heldout_loss"].tolist(), rel=1e-5
    )


def test_the_model_file_says_what_it_is(finished):
    model, about = model_file.load(finished / "models/model.safetensors")
    assert model.config.unet.image_size == 8 and model.config.prediction == "v"
    assert about["dataset_fingerprint"] == "f41e31dbdd31" and sum(about["class_counts"]) == 1618


def test_scores_have_floors(finished):
    quality = metrics(finished, "quality")
    for name in (
        "precision",
        "recall",
        "density",
        "coverage",
        "kid_digits",
        "class_distance",
        "nearest_train_median",
        "memorised",
    ):
        assert quality[name] is not None and quality[f"{name}_floor_heldout"] is not None
    assert 0 <= quality["cas"] < quality["cas_floor_train"] <= 1
    assert quality["fd_digits_infinity"] is None  # 150 images are too few for a line
    shares = pd.read_csv(finished / "plots/class_shares.csv")
    totals = shares[["train", "generated", "heldout"]].sum().tolist()
    assert totals == pytest.approx([1, 1, 1], abs=1e-4)
    assert (finished / "memorisation/closest_pairs.png").exists()


def test_scores_of_few_images_come_with_a_caution(finished):
    lines = (finished / ".scratch" / "stderr.txt").read_text().splitlines()
    start = "sweep: 60 images are too few for 128 features"
    (caution,) = [line for line in lines if line.startswith(start)]
    assert "makes fd_digits far too high" in caution
    assert any(line.startswith("fid: ") and "floors of" in line for line in lines)


def test_the_spread_begins_with_the_images_that_were_measured(finished):
    rows, spread = pd.read_csv(finished / "plots/spread.csv"), metrics(finished, "spread")
    first, second = rows["fd_digits"]
    assert rows["seed"].tolist() == [0, 1]
    assert first == pytest.approx(metrics(finished, "fid")["fd_digits"], rel=1e-4)
    assert second == pytest.approx(first, rel=0.5) and second != first
    assert spread["fd_digits_mean"] == pytest.approx(rows["fd_digits"].mean(), rel=1e-4)
    assert spread["fd_digits_sd"] > 0
    for name in (
        "accuracy",
        "precision",
        "recall",
        "density",
        "coverage",
        "kid_digits",
        "cas",
        "broken",
    ):
        measured = metrics(finished, "fid" if name == "accuracy" else "quality")[name]
        assert rows[name][0] == pytest.approx(measured, rel=1e-4) and spread[f"{name}_sd"] >= 0


def test_the_sweep_scores_every_sampler_at_every_count_of_steps(finished):
    rows = pd.read_csv(finished / "plots/quality_over_steps.csv")
    samplers = ("ddim trailing", "dpmsolver++ logsnr")
    expected = [(sampler, steps) for sampler in samplers for steps in (2, 4)]
    assert rows[["sampler", "steps"]].to_records(index=False).tolist() == expected
    assert (rows["evaluations"] >= rows["steps"]).all() and (rows["images_per_second"] > 0).all()
    best = metrics(finished, "sweep")["best_fd_digits"]
    assert best == pytest.approx(rows["fd_digits"].min(), rel=1e-4)


def test_the_bound_adds_up(finished):
    bound = metrics(finished, "bound")
    parts = bound["prior"] + bound["diffusion"] + bound["reconstruction"]
    assert bound["bits_per_dim"] == pytest.approx(parts)
    assert 0 < bound["bits_per_dim"] < 20 and bound["images"] == 179


def test_the_report_shows_what_was_run_and_what_came_out_and_needs_no_network(finished):
    page = (finished / "report/report.html").read_text()
    assert "://" not in page and not re.search('(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert page.count('src="data:image/png;base64,') == 7
    fid, spread = metrics(finished, "fid"), metrics(finished, "spread")
    revision = run("git", "rev-parse", "--short=12", "HEAD~1", cwd=finished).stdout.strip()
    for text in (
        "scikit-learn digits (8x8, not MNIST) (f41e31dbdd31): ",
        "1,618 training and 179 held-out images",
        fid["model"],
        fid["pixels"],
        f"{fid['fd_digits']:,.2f}",
        f"{fid['fd_digits_floor_heldout']:,.2f}",
        f"± {spread['fd_digits_sd']:,.2f}",
        "over 2 seeds",
        "not measured",
        "<code>times</code>",
        "with changes in params.yaml",
        revision,
    ):
        assert text in page, text
    assert "<h2>Experiments</h2>" not in page


# --- the same bits -------------------------------------------------------------------------------

EVERY_STAGE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"stages.{name}").main()
"""


def outputs(folder: Path) -> dict[str, str]:
    """The sha256 of each file that stages write, except those that hold times or show them."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    files = {}
    for name, entry in stages.items():
        for out in [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]:
            path = folder / (next(iter(out)) if isinstance(out, dict) else out)
            parts = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in [part for part in parts if part.is_file() and name != "report"]:
                relative = file.relative_to(folder).as_posix()
                files[relative] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {name: digest for name, digest in files.items() if name not in TIMED}


def test_everything_from_scratch_gives_the_same_bits(copy):
    """In a single process, where every stage had one of its own."""
    before = outputs(copy)
    for name in before:
        (copy / name).unlink()
    run(sys.executable, "-c", EVERY_STAGE, *(name for name in NAMES if name != "report"), cwd=copy)
    assert len(before) > 150 + 20 and outputs(copy) == before


def test_what_did_not_change_does_not_rerun_and_going_back_comes_from_the_run_cache(copy):
    files = ["metrics/fid.json", *SAMPLES]
    before = contents(copy, *files)
    assert ran(run("dvc", "repro", cwd=copy)) == []
    set_params(copy, {"sample": {"steps": 3}})
    assert ran(run("dvc", "repro", "fid", cwd=copy)) == ["sample", "fid"]
    for name, old, new in zip(files, before, contents(copy, *files), strict=True):
        assert old != new, name
    set_params(copy, {"sample": {"steps": 5}})
    assert ran(run("dvc", "repro", cwd=copy)) == []
    assert contents(copy, *files) == before


# --- interruptions -------------------------------------------------------------------------------

SIGNALLED_IN_STEP = """
import os, signal, sys
# Ignored where a shell started the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from src.training import trainer
from stages.__main__ import main
number, step, take = int(sys.argv.pop()), int(sys.argv.pop()), trainer.Trainer._take
def signalled(self, batch):
    if self.step == step - 1:
        os.kill(os.getpid(), number)
    return take(self, batch)
trainer.Trainer._take = signalled
sys.argv.append("train")
sys.exit(main())
"""

SIGNALLED_IN_LAST_LOOK = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from src.training import session
from stages.__main__ import main
number, measure, looks = int(sys.argv.pop()), session.loss_by_noise_level, []
def signalled(*arguments):
    looks.append(1)
    if len(looks) == 2:
        os.kill(os.getpid(), number)
    return measure(*arguments)
session.loss_by_noise_level = signalled
sys.argv.append("train")
sys.exit(main())
"""

SIGNALLED_AT_IMAGE_71 = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from src import images
from stages.__main__ import main
number, write = int(sys.argv.pop()), images.write
def signalled(folder, first, batch):
    if first == 71:
        write(folder, first, batch[:4])
        os.kill(os.getpid(), number)
    write(folder, first, batch)
images.write = signalled
sys.argv.append("sample")
sys.exit(main())
"""

WITHOUT_SPACE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from stages.__main__ import main
sys.argv = ["stages", "train"]
sys.exit(main())
"""


def signalled(script: str, *arguments: int, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script that sends itself the signal that is its last argument."""
    command = [sys.executable, "-c", script, *(str(int(argument)) for argument in arguments)]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=3600)
    number = arguments[-1]
    code = -number if number == signal.SIGKILL else 128 + number
    assert process.returncode == code and "Traceback" not in process.stderr, process.stderr
    return process


@pytest.mark.parametrize(
    "number, step, resumed_after",
    [(signal.SIGKILL, 25, 20), (signal.SIGTERM, 20, 20), (signal.SIGINT, 40, 40)],
    ids=["KILL", "TERM", "INT"],
)
def test_training_that_was_stopped_goes_on_where_it_was(copy, capsys, number, step, resumed_after):
    """With a checkpoint every ten steps, an evaluation and a preview every twenty.

    After a signal that can be handled, training finishes the step and saves. Evaluation and
    preview, which may take seconds, come after the resume.
    """
    before = contents(copy, *MODEL_FILES, *PREVIEWS)
    for name in MODEL_FILES:
        (copy / name).unlink()
    shutil.rmtree(copy / "training_samples")
    signalled(SIGNALLED_IN_STEP, step, number, cwd=copy)
    assert len(list((copy / ".scratch/train").iterdir())) == 1
    # As DVC does with outputs before it starts a stage.
    shutil.rmtree(copy / "training_samples")
    (copy / "plots/learning_curve.csv").unlink(missing_ok=True)
    stage("train")
    assert f"resuming after step {resumed_after}" in capsys.readouterr().out
    assert contents(copy, *MODEL_FILES, *PREVIEWS) == before
    assert list((copy / ".scratch/train").iterdir()) == []


def test_a_signal_during_the_last_evaluation_is_not_lost(copy, capsys):
    before = contents(copy, *MODEL_FILES)
    process = signalled(SIGNALLED_IN_LAST_LOOK, signal.SIGTERM, cwd=copy)
    assert "saved after step 40" in process.stderr
    stage("train")
    assert "resuming after step 40" in capsys.readouterr().out
    assert contents(copy, *MODEL_FILES) == before


def test_a_checkpoint_that_finds_no_space_leaves_the_last_one(copy, capsys):
    """A limit on file sizes stands for the full disk: the write fails in the middle of the file."""
    before = contents(copy, *MODEL_FILES)
    signalled(SIGNALLED_IN_STEP, 25, signal.SIGTERM, cwd=copy)
    (saved,) = (copy / ".scratch/train").iterdir()
    state = saved.read_bytes()
    process = run(sys.executable, "-c", WITHOUT_SPACE, cwd=copy, check=False)
    assert process.returncode == 1 and "free some space" in process.stderr
    assert "Traceback" not in process.stderr
    assert [path.read_bytes() for path in (copy / ".scratch/train").iterdir()] == [state]
    stage("train")
    assert "resuming after step 25" in capsys.readouterr().out
    assert contents(copy, *MODEL_FILES) == before


def test_training_in_a_copy_that_dvc_deletes_goes_on_in_the_next_one(copy):
    """As with `dvc exp run --temp` and the queue. Killed with DVC, resumed in another copy."""
    changed = "train.steps=200"
    command = ["dvc", "exp", "run", "--temp", "--name", "disturbed", "-S", changed, "train"]
    process = subprocess.Popen(
        command,
        cwd=copy,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_checkpoint(copy, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = run(*command, cwd=copy).stdout
    assert re.search(r"resuming after step [1-9]\d*0\b", output)
    assert not list(copy.glob(".scratch/train/*.pt"))
    pattern = ("--format=%(refname)", "refs/exps/*/*/disturbed")
    experiment = run("git", "for-each-ref", *pattern, cwd=copy).stdout.strip()
    lock = yaml.safe_load(run("git", "show", f"{experiment}:dvc.lock", cwd=copy).stdout)
    set_params(copy, {"train": {"steps": 200}})
    stage("train")  # undisturbed
    md5s = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
    for name in MODEL_FILES:
        assert hashlib.md5((copy / name).read_bytes()).hexdigest() == md5s[name], name


def test_a_signal_to_the_whole_group_lets_loading_processes_serve_until_the_step_is_done(copy):
    """As Ctrl-C in a terminal is."""
    endless = {"steps": 5000, "max_epochs": 1e6, "lr": 2e-3}
    set_params(copy, {"train": endless | {"workers": 2, "checkpoint_interval": 5}})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "train"],
        cwd=copy,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_checkpoint(copy, process)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        output = process.communicate(timeout=900)[1]
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "saved after step" in output and "Traceback" not in output, output


def test_sampling_that_was_stopped_goes_on_where_it_was(copy, capsys):
    """A SIGKILL is in `test_damaged_parts_of_an_interrupted_sampling_are_drawn_anew`."""
    before = contents(copy, *SAMPLES)
    shutil.rmtree(copy / "generated")
    shutil.rmtree(copy / "generated_images")
    signalled(SIGNALLED_AT_IMAGE_71, signal.SIGTERM, cwd=copy)
    assert not (copy / "generated_images").exists()
    stage("sample")
    assert "resuming with 70 images" in capsys.readouterr().out
    assert contents(copy, *SAMPLES) == before
    assert len(list((copy / "generated_images").iterdir())) == 150
    leftovers = {path.suffix for path in (copy / ".scratch/sample").iterdir()}
    assert leftovers == {".lock"}  # empty files


def test_damaged_parts_of_an_interrupted_sampling_are_drawn_anew(copy, capsys):
    """Pillow reads most PNGs with a flipped bit, so it does not notice this damage."""
    before = contents(copy, *SAMPLES)
    signalled(SIGNALLED_AT_IMAGE_71, signal.SIGKILL, cwd=copy)
    (unfinished,) = (path for path in (copy / ".scratch/sample").iterdir() if path.is_dir())
    with Image.open(unfinished / "images/00025.png") as image:
        Image.eval(image, lambda pixel: pixel ^ 1).save(unfinished / "images/00025.png")
    (unfinished / "trajectories/00001.safetensors").write_bytes(b"no trajectory")
    # Of a kill in the middle of a write, and of macOS.
    (unfinished / "trajectories/.00002.safetensors.1.tmp").write_bytes(b"half a trajectory")
    (unfinished / "images/.DS_Store").write_bytes(b"")
    stage("sample")
    assert "resuming with 50 images" in capsys.readouterr().out
    assert contents(copy, *SAMPLES) == before


# --- experiments ---------------------------------------------------------------------------------


def go_back(folder: Path) -> None:
    """To the results of the last commit."""
    run("git", "checkout", "--quiet", "--", ".", cwd=folder)
    run("dvc", "checkout", cwd=folder)


def test_an_experiment_is_run_shown_compared_reported_and_applied(copy):
    changed = ["metrics/fid.json", "generated_images/00001.png", "params.yaml"]
    committed = contents(copy, *changed)
    process = run("dvc", "exp", "run", "--name", "coarse", "-S", "sample.steps=2", "fid", cwd=copy)
    assert ran(process) == ["sample", "fid"]
    coarse, score = contents(copy, *changed), metrics(copy, "fid")["fd_digits"]
    assert re.search(r"sample\.steps +5 +2", run("dvc", "params", "diff", cwd=copy).stdout)
    difference = json.loads(run("dvc", "metrics", "diff", "--json", cwd=copy).stdout)
    assert "fd_digits" in difference["metrics/fid.json"]
    assert "metrics/data.json" not in difference
    table = run("dvc", "exp", "show", "--csv", cwd=copy).stdout
    assert "coarse" in table and "fd_digits" in table
    output = run("dvc", "plots", "diff", "HEAD", "coarse", "--out", "plots_html", cwd=copy).stdout
    assert (copy / "plots_html" / "index.html").exists(), output

    go_back(copy)
    assert contents(copy, *changed) == committed
    run("dvc", "exp", "apply", "coarse", cwd=copy)
    assert contents(copy, *changed) == coarse

    go_back(copy)
    stage("report")
    page = (copy / "report/report.html").read_text()
    row = page[page.index("<td>coarse</td>") :].partition("</tr>")[0]
    assert "<td>2</td>" in row and f">{score:.4g}</td>" in row
    assert score != metrics(copy, "fid")["fd_digits"]
    header = page[page.index("<h2>Experiments</h2>") :].partition("</tr>")[0]
    # What the experiment did not run, it did not measure.
    assert "sample.steps" in header and "precision" not in header
    lines = run("python", "-m", "tools.experiments", cwd=copy).stdout.splitlines()
    assert lines[0].startswith("| experiment | sample.steps | fd_imagenet | fd_digits |")
    assert lines[2].startswith("| coarse | 2 | ") and lines[2].split(" | ")[3] == f"{score:.4g}"


def test_two_workers_give_the_results_of_one(copy):
    """Experiments of a queue, worked off at once, each in a folder of its own."""
    grid = ("-S", "sample.steps=2,3", "-S", "sample.eta=0.5")
    run("dvc", "exp", "run", "--queue", *grid, "fid", cwd=copy)
    run("python", "-m", "tools.queue", "--jobs", "2", cwd=copy)
    run("python", "-m", "tools.experiments", "--csv", "together.csv", cwd=copy)
    together = pd.read_csv(copy / "together.csv")
    assert together["sample.steps"].tolist() == [2, 3]
    for steps, score in zip(together["sample.steps"], together["fd_digits"], strict=True):
        set_params(copy, {"sample": {"steps": int(steps), "eta": 0.5}})
        stage("sample")
        stage("fid")
        assert f"{metrics(copy, 'fid')['fd_digits']:.6g}" == f"{score:.6g}"


# --- without training, and with other data -------------------------------------------------------


def test_a_clone_samples_measures_and_draws_without_data_or_training(copy, tmp_path):
    run("dvc", "push", cwd=copy)
    commit(copy)
    pushed = [path for path in (copy / "dvc-remote").rglob("*") if path.is_file()]
    # Model, classifier, reference/ (its list and five files): no data, no arrays, no samples.
    assert len(pushed) == 8
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(copy), str(clone), cwd=tmp_path)
    models = ("models/model.safetensors", "models/classifier.safetensors")
    run("dvc", "pull", *models, "reference/", cwd=clone)
    assert not (clone / "data").exists() and not (clone / "arrays").exists()
    command = ("dvc", "repro", "--single-item", "--force", "sample", "fid", "figures")
    assert ran(run(*command, cwd=clone)) == ["sample", "fid", "figures"]
    files = ("metrics/fid.json", "generated_images/00150.png")
    assert contents(clone, *files) == contents(copy, *files)
    set_params(clone, {"sample": {"steps": 3}})
    assert ran(run("dvc", "repro", "--allow-missing", "fid", cwd=clone)) == ["sample", "fid"]


def test_an_archive_of_ones_own_needs_no_change_of_code(tmp_path):
    """In colour and without labels, where the embedded digits are grey and labelled."""
    folder = clone_into(tmp_path / "clone")
    pixels = pictures(60, size=12, colour=True)
    members = {f"mnist/{i:02d}.png": png(image, "RGB") for i, image in enumerate(pixels)}
    make_zip(folder / "data", members)
    set_params(folder, SMALL | {"train": SMALL["train"] | {"steps": 6}})
    run(sys.executable, "-c", EVERY_STAGE, *NAMES, cwd=folder)
    data, fid = metrics(folder, "data"), metrics(folder, "fid")
    assert data["dataset"] == "own" and data["channels"] == 3
    assert fid["accuracy"] is None and fid["fd_digits"] > 0
    assert metrics(folder, "classifier")["learns"] == "rotations"
    manifest = json.loads((folder / "generated/manifest.json").read_text())
    assert manifest["guidance"] == 1.0  # there are no classes to guide by
    # Six held-out images, ten noise levels.
    assert 0 < metrics(folder, "train")["heldout_loss"] < 10
    assert images.read(folder / "generated_images", 150).shape == (150, 3, 12, 12)


@pytest.mark.mnist
def test_the_layout_of_a_homework_runs_through_all_stages(tmp_path):
    """MNIST as RGB PNGs in one folder, without labels."""
    folder = clone_into(tmp_path / "clone")
    mnist = fetch_mnist(tmp_path / "mnist")
    (folder / "data").mkdir()
    get_data.write_zip(folder / "data/mnist.zip", islice(examples.homework(mnist), 600))
    set_params(folder, SMALL | {"train": SMALL["train"] | {"steps": 6}})
    run(sys.executable, "-c", EVERY_STAGE, *NAMES, cwd=folder)
    unpacked = dataset.load(folder / "arrays/dataset.safetensors")
    assert unpacked.images.shape == (540, 1, 28, 28) and unpacked.labels is None
    heldout = set(map(bytes, unpacked.heldout_images.numpy()))
    first = read_archive(mnist).images[:600]
    kept = torch.stack([image for image in first if bytes(image.numpy()) not in heldout])
    assert torch.equal(unpacked.images, kept)
    assert metrics(folder, "fid")["fd_digits"] > 0
    assert images.read(folder / "generated_images", 150).shape == (150, 3, 28, 28)


def test_ready_made_statistics_take_the_place_of_the_real_images(copy):
    np.savez(copy / "statistics/mnist.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    set_params(copy, {"fid": {"statistics": "mnist.npz", "inception": "never"}})
    stage("reference")
    about = json.loads((copy / "reference/inception.json").read_text())
    assert about["from"] == "statistics/mnist.npz"
    np.savez(copy / "statistics/mnist.npz", mu=np.zeros(64), sigma=np.eye(64))
    said = r"statistics/mnist\.npz: cannot be read \(mu is float64 of shape \(64,\)"
    with pytest.raises(UserError, match=said):
        stage("reference")


@pytest.mark.parametrize("statistics", [None, "mnist.npz"])
def test_inception_sees_each_real_image_once_and_the_floors_are_measured(
    copy, monkeypatch, statistics
):
    network = Pixels()
    stand_in = dataclasses.replace(INCEPTION, dims=64, load=lambda: network, fetch=lambda: "0")
    monkeypatch.setattr(importlib.import_module("stages.reference"), "INCEPTION", stand_in)
    data = dataset.load(copy / "arrays/dataset.safetensors")

    def moments(pictures):
        return frechet.moments(pictures.flatten(1).float().numpy())

    real = moments(data.images)
    if statistics:
        real = frechet.Moments(real.mu + 1, real.sigma)
        frechet.save(real, copy / "statistics/mnist.npz")
    set_params(copy, {"fid": {"statistics": statistics, "inception": "always"}})
    stage("reference")
    drawn = provenance.tensors(copy / "arrays/features.safetensors")["drawn"]
    assert len(drawn) == 809
    assert network.seen == (809 if statistics else 1618) + 179
    floors = json.loads((copy / "reference/inception.json").read_text())["floors"]
    expected = {
        "heldout": frechet.distance(moments(data.heldout_images), real),
        "train": frechet.distance(moments(data.images[drawn]), real),
    }
    assert floors == pytest.approx(expected)


def test_fid_by_the_stages_equals_that_of_pytorch_fid(copy, weights):
    """With ready-made statistics and (stand-in) weights, `auto` computes it on a CPU, too."""
    path = copy / "generated/manifest.json"
    manifest = json.loads(path.read_text())
    for image in sorted((copy / "generated_images").iterdir())[12:]:
        image.unlink()
    pixels = images.PixelDigest(images.read(copy / "generated_images", 12))
    manifest |= {"count": 12, "labels": manifest["labels"][:12], "pixels": pixels.hex()}
    path.write_text(json.dumps(manifest))
    statistics = LoadedExtractor(INCEPTION).moments(inception_pictures(12, 2))
    frechet.save(statistics, copy / "statistics/mnist.npz")
    changes = {"statistics": "mnist.npz", "inception": "auto"}
    set_params(copy, {"fid": changes, "sample": {"count": 12}})
    stage("reference")
    stage("fid")
    expected = pytorch_fid_value(copy / "generated_images", copy / "statistics/mnist.npz")
    fid = metrics(copy, "fid")
    assert fid["fid"] == pytest.approx(expected, rel=1e-3, abs=0)
    assert fid["fid"] > 1e-3
    assert fid["inception"] == INCEPTION.weights_hash() and len(fid["inception_reference"]) == 12


def test_the_yardstick_of_the_data_set_is_taken_instead_of_a_training(copy, monkeypatch):
    assert metrics(copy, "classifier")["weights"] == "trained"
    assert metrics(copy, "fid")["yardstick"] is None
    before = metrics(copy, "fid")
    yardstick.make("digits-1", copy / "yardstick")
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "fit", lambda *_: pytest.fail("trained all the same"))
        stage("classifier")
        stage("reference")
    stage("fid")
    after = metrics(copy, "fid")
    assert metrics(copy, "classifier")["weights"] == after["yardstick"] == "digits-1"
    same = ("fd_digits", "fd_imagenet", "fd_imagenet_floor_heldout", "fd_imagenet_floor_train")
    assert [after[name] for name in same] == pytest.approx([before[name] for name in same])
    set_params(copy, {"classifier": {"weights": "trained", "epochs": 1}})
    stage("classifier")
    assert metrics(copy, "classifier")["weights"] == "trained"


def test_without_fd_imagenet_all_stages_go_on(copy):
    """Each says "not measured", and nothing is drawn for it."""
    set_params(copy, {"fid": {"imagenet": "never"}, "spread": {"seeds": 1}})
    (copy / "reference/imagenet.npz").unlink()
    for name in NAMES[NAMES.index("reference") :]:
        if name not in ("train", "sample", "bound"):
            stage(name)
    assert metrics(copy, "fid")["fd_imagenet"] is None
    assert metrics(copy, "spread")["fd_imagenet_mean"] is None
    assert metrics(copy, "sweep")["kid_imagenet_floor_heldout"] is None
    assert metrics(copy, "fidelity")["fd_imagenet_noise"] is None
    assert "not measured" in (copy / "report/report.html").read_text()


def test_where_the_other_schedule_would_leave_no_signal_there_are_figures_all_the_same(copy):
    set_params(copy, {"timesteps": 4000, "schedule": "cosine"})
    (copy / "figures/schedules.png").unlink()
    stage("figures")
    assert (copy / "figures/schedules.png").exists()


# --- what does not belong together ---------------------------------------------------------------


def test_mistakes_of_users_end_in_one_message_and_exit_code_1(copy):
    (copy / "models/model.safetensors").write_bytes(b"no model, no model, no model")
    process = run("python", "-m", "stages", "sample", cwd=copy, check=False)
    assert process.returncode == 1 and "models/model.safetensors: damaged" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda text: text[:50], "not whole JSON"),
        (lambda text: "{}", "missing"),
        (lambda text: text.replace('"seed"', '"sead"'), "seed: missing"),
        (lambda text: text.replace('"eta": ', '"eta": -'), r"sampler\.eta"),
        (None, "not found"),
    ],
    ids=["half", "empty", "key", "sampler", "none"],
)
def test_a_missing_or_damaged_manifest_is_named(copy, damage, said):
    path = copy / "generated/manifest.json"
    text = path.read_text()
    path.unlink()
    if damage:
        path.write_text(damage(text))
    with pytest.raises(UserError, match=rf"generated/manifest\.json: .*{said}.*dvc repro"):
        stage("fid")


def test_samples_of_another_data_set_are_not_measured(copy):
    path = copy / "generated/manifest.json"
    manifest = json.loads(path.read_text()) | {"dataset_fingerprint": "another"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="data set.*found another.*dvc repro"):
        stage("fid")


def test_images_that_are_not_the_ones_sampled_are_not_measured(copy):
    first, second = (copy / "generated_images" / f"0000{k}.png" for k in (1, 2))
    first.write_bytes(second.read_bytes())
    for name in ("fid", "quality", "figures"):
        said = "generated_images/: its pixels.*dvc repro --force sample"
        with pytest.raises(UserError, match=said):
            stage(name)


def test_images_of_another_size_are_not_measured(copy):
    for path in (copy / "generated_images").iterdir():
        Image.new("RGB", (12, 12)).save(path)
    said = r"00001\.png: expected RGB of \(8, 8\), found RGB of \(12, 12\)"
    with pytest.raises(UserError, match=said):
        stage("fid")


def test_images_drawn_with_other_settings_are_not_measured(copy):
    settings = yaml.safe_load((copy / "params.yaml").read_text())["sample"]
    for key, value in (("steps", 7), ("guidance", 3.0), ("seed", 1)):
        set_params(copy, {"sample": settings | {key: value}})
        with pytest.raises(UserError, match=rf"sample\.{key}: found .*, expected {value}; "):
            stage("fid")


def test_moments_of_other_images_are_not_measured_against(copy):
    (copy / "reference/digits.npz").unlink()
    frechet.save(frechet.Moments(np.zeros(128), np.eye(128)), copy / "reference/digits.npz")
    for name in ("floors", "fid", "quality", "spread", "sweep"):
        with pytest.raises(
            UserError, match=r"reference/digits\.npz, moments of the real images: found"
        ):
            stage(name)


MEASURING = ("floors", "quality", "spread", "sweep")


@pytest.mark.parametrize(
    "file, stages, said",
    [
        (
            "arrays/features.safetensors",
            MEASURING,
            "arrays/features.safetensors, features of the real images",
        ),
        ("arrays/dataset.safetensors", MEASURING[:3], "data set of the real images"),
        ("arrays/dataset.safetensors", ("bound",), "models/model.safetensors, its data set"),
        ("arrays/floors.json", ("quality",), "arrays/floors.json, how it was measured"),
        ("metrics/quality.json", ("spread",), "metrics/quality.json, its images"),
        ("metrics/quality.json", ("report",), "metrics/quality.json, its pixels"),
        ("metrics/sweep.json", ("figures", "report"), "metrics/sweep.json, its model"),
        ("metrics/bound.json", ("report",), "metrics/bound.json, its model"),
        ("metrics/train.json", ("report",), "metrics/train.json, its model"),
    ],
)
def test_what_belongs_to_other_images_is_not_measured_with(copy, file, stages, said):
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if file == "arrays/dataset.safetensors":
        (copy / "other.safetensors").write_bytes(content)
        data = dataset.load(copy / "other.safetensors")
        other = dataclasses.replace(data, fingerprint="0" * 12, images=data.images.clone())
        dataset.save(other, path)
    elif file == "arrays/features.safetensors":
        features = {"train": torch.zeros(9, 128), "heldout": torch.zeros(9, 128)}
        save_tensors(path, features | {"drawn": torch.arange(4)})
    else:
        replaced = dict.fromkeys(("features", "pixels", "model"), "0" * 12)
        values = json.loads(content)
        path.write_text(
            json.dumps({key: replaced.get(key, value) for key, value in values.items()})
        )
    for name in stages:
        with pytest.raises(UserError, match=rf"{re.escape(said)}: found .*, expected .*dvc repro"):
            stage(name)


@pytest.mark.parametrize(
    "name, module, stages, said",
    [
        ("model", model_file, ("fid", "quality", "spread"), "drew the images"),
        (
            "classifier",
            classifier,
            ("floors", "fid", "quality", "spread", "sweep"),
            "measured the real images",
        ),
    ],
)
def test_images_and_floors_of_another_model_are_not_measured(copy, name, module, stages, said):
    path = copy / f"models/{name}.safetensors"
    model, about = module.load(path)
    path.unlink()  # a link into DVC's cache, perhaps
    module.save(model, path, about | {"step": 12345})
    for measuring in stages:
        pattern = rf"models/{name}\.safetensors, which {said}: found \w+, expected \w+; `dvc repro`"
        with pytest.raises(UserError, match=pattern):
            stage(measuring)


def test_images_that_another_classifier_measured_have_no_spread(copy):
    """metrics/fid.json names it, too: it may be older than the reference."""
    path = copy / "metrics/fid.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classifier": "0" * 12}))
    with pytest.raises(UserError, match=r"models/classifier\.safetensors: found \w+, expected 0+;"):
        stage("spread")


def test_the_fid_stage_holds_no_more_images_than_a_batch(copy, monkeypatch):
    batches, most = [], []

    def stream(folder, count, side):
        for batch in read(folder, count, batch_size=10, side=side):
            batches.append(weakref.ref(batch))
            most.append(sum(reference() is not None for reference in batches))
            yield batch

    read = images.stream
    monkeypatch.setattr(images, "stream", stream)
    stage("fid")
    assert len(batches) == 15 and max(most) <= 2  # one that is measured, one that is read


def test_copies_of_training_images_are_found_out(copy):
    before = metrics(copy, "quality")["memorised"]
    data = dataset.load(copy / "arrays/dataset.safetensors")
    images.write(copy / "generated_images", 1, data.images[:30])
    path = copy / "generated/manifest.json"
    pixels = images.PixelDigest(images.read(copy / "generated_images", 150))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pixels": pixels.hex()}))
    stage("quality")
    after = metrics(copy, "quality")["memorised"]
    assert before < 0.1 and after == pytest.approx(before + 0.2, abs=0.02)


# --- the summary ---------------------------------------------------------------------------------


def test_the_summary_shows_metrics_stages_and_pictures(copy, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    summary.main()
    shown = capsys.readouterr().out
    assert "fd_digits" in shown and "not measured" in shown and "figures/" in shown
    for name in ("unpack", "train", "report"):
        assert re.search(rf"│ {name} +│ +\d+ min \d\d s +│ +\d+ MiB", shown), name
    assert "memorisation/" in shown and "schedule=linear" in shown and "other images" not in shown


def test_the_summary_tells_scores_of_other_images_and_names_only_pictures_that_exist(
    tmp_path, capsys, monkeypatch
):
    for name in ("metrics", "figures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    quality = tmp_path / "metrics/quality.json"
    quality.write_text(json.dumps(json.loads(quality.read_text()) | {"pixels": "0123456789ab"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    summary.main()
    shown = capsys.readouterr().out
    assert "quality and spread were measured on other images than fid" in shown
    assert shown.count("not run") == len(NAMES)
    assert "figures/" in shown and "memorisation/" not in shown and "--allow-missing" in shown
