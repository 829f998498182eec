"""The pipeline as users run it, on the embedded digits, in clones of this repository. Needs no network and no MNIST."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from src import classifier, frechet, images, inception
from src.common import dataset
from src.common.files import save_tensors
from src.diffusion import denoiser
from stages import fid as fid_stage
from stages import reference as reference_stage
from stages.__main__ import NAMES
from tests.conftest import ROOT, clone_into, commit, run
from tests.test_archives import make_zip, pictures, png
from tests.test_inception import COMMAND
from tests.test_inception import pictures as inception_pictures
from tools.soak import SETTINGS, disturb, hashes, heed_interrupts

pytestmark = pytest.mark.slow

SMALL = SETTINGS | {
    "train": SETTINGS["train"] | {"steps": 40, "evaluate_interval": 20, "sample_interval": 20, "checkpoint_interval": 10},
    "sample": {"count": 150, "batch_size": 100, "steps": 5},
}


def set_params(folder: Path, changes: dict) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def ran(done: subprocess.CompletedProcess) -> list[str]:
    """Stages that a `dvc repro` or `dvc exp run` ran."""
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def metrics(folder: Path, name: str) -> dict:
    return json.loads((folder / "metrics" / f"{name}.json").read_text())


def digest(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A clone in which the whole pipeline ran once, small, on the embedded digits; committed. Not to be changed."""
    folder = clone_into(tmp_path_factory.mktemp("pipeline") / "finished")
    shutil.rmtree(folder / "dvc-remote", ignore_errors=True)
    run("python", "-m", "tools.get_data", "digits", cwd=folder)
    set_params(folder, SMALL)
    done = run("dvc", "repro", cwd=folder)
    assert set(ran(done)) == set(NAMES)
    commit(folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "copy", symlinks=True)


def test_images_are_in_the_strict_format(finished):
    names = sorted(path.name for path in (finished / "generated_images").iterdir())
    assert names == [f"{k:05d}.png" for k in range(1, 151)]
    with Image.open(finished / "generated_images" / "00150.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))


def test_every_number_says_which_data_it_is_of(finished):
    for path in (finished / "metrics").glob("*.json"):
        about = json.loads(path.read_text())
        assert about["dataset"] == "scikit-learn digits (8x8, not MNIST)" and about["dataset_fingerprint"] == "f41e31dbdd31"


def test_metrics_say_how_they_were_obtained(finished):
    found = metrics(finished, "fid")
    assert found["images"] == 150 and found["fd_digits"] > 0 and 0 <= found["accuracy"] <= 1
    assert found["fid"] is None and found["fd_digits_floor_heldout_images"] == 179
    assert len(found["classifier"]) == len(found["classifier_reference"]) == 12
    assert sum(metrics(finished, "data")["train_per_class"].values()) == 1618


def test_all_figures_and_previews_are_there(finished):
    assert {path.name for path in (finished / "figures").iterdir()} == {
        "reverse_process.png", "samples_by_class.png", "learning_curve.png", "loss_by_noise_level.png", "schedules.png",
        "quality_over_steps.png", "reverse_process.gif",
    }
    with Image.open(finished / "figures/reverse_process.gif") as moving:
        assert moving.n_frames == 5 + 1 and moving.size == (8 * 8 * 10, 8 * 10)  # eight digits, each pixel 10 x 10
    assert {path.name for path in (finished / "training_samples").iterdir()} == {"step_000020.png", "step_000040.png"}
    curve = (finished / "plots/learning_curve.csv").read_text().splitlines()
    assert curve[0].startswith("step,train_loss,heldout_loss,lr,heldout_level_0,") and curve[0].endswith(",heldout_level_9")
    assert [line.split(",")[0] for line in curve[1:]] == ["20", "40"]
    for row in pd.read_csv(finished / "plots/learning_curve.csv").itertuples(index=False):
        assert sum(row[4:]) / 10 == pytest.approx(row.heldout_loss, rel=1e-5)


def test_the_model_file_says_what_it_is(finished):
    model, about = denoiser.load(finished / "models/model.safetensors")
    assert model.config.unet.image_size == 8 and model.config.prediction == "v"
    assert about["dataset_fingerprint"] == "f41e31dbdd31" and sum(about["class_counts"]) == 1618


def test_nothing_changed_reruns_nothing(copy):
    assert ran(run("dvc", "repro", cwd=copy)) == []


def test_other_sampling_does_not_retrain_and_going_back_comes_from_the_run_cache(copy):
    before = digest(copy, "metrics/fid.json", "generated_images/00001.png")
    set_params(copy, {"sample": {"steps": 3}})
    assert set(ran(run("dvc", "repro", cwd=copy))) == {"sample", "fid", "quality", "spread", "figures", "report"}
    assert digest(copy, "metrics/fid.json", "generated_images/00001.png") != before
    set_params(copy, {"sample": {"steps": 5}})
    assert ran(run("dvc", "repro", cwd=copy)) == []
    assert digest(copy, "metrics/fid.json", "generated_images/00001.png") == before


def test_other_training_and_back_comes_from_the_run_cache_too(copy):
    before = digest(copy, "models/model.safetensors", "plots/learning_curve.csv", "figures/samples_by_class.png")
    set_params(copy, {"seed": 1})
    assert set(ran(run("dvc", "repro", cwd=copy))) == set(NAMES) - {"unpack", "classifier", "reference", "floors"}
    set_params(copy, {"seed": 0})
    assert ran(run("dvc", "repro", cwd=copy)) == []
    assert digest(copy, "models/model.safetensors", "plots/learning_curve.csv", "figures/samples_by_class.png") == before


def test_everything_from_scratch_gives_the_same_bits(copy):
    stages = [stage for stage in NAMES if stage != "report"]  # which tells of commits, and shows times
    before = {stage: hashes(copy, stage) for stage in stages}
    done = run("dvc", "repro", "--force", "--no-run-cache", cwd=copy)
    assert len(ran(done)) == len(NAMES) and {stage: hashes(copy, stage) for stage in stages} == before


MODEL_FILES = ["models/model.safetensors", "models/last.safetensors", "plots/learning_curve.csv", "metrics/train.json"]


@pytest.mark.parametrize(
    "number, step, resumed_after", [
        (signal.SIGKILL, 25, 20), (signal.SIGTERM, 25, 25), (signal.SIGINT, 25, 25), (signal.SIGTERM, 20, 20),
        (signal.SIGTERM, 40, 40),
    ],
)
def test_training_that_was_stopped_goes_on_where_it_was(copy, number, step, resumed_after):
    """With a checkpoint every ten steps and a look at the model every twenty: a signal that can be handled lets it finish the
    step and save; the look, which may take seconds, comes after the resume."""
    pictures = ["training_samples/step_000020.png", "training_samples/step_000040.png"]
    before = digest(copy, *MODEL_FILES, *pictures)
    for name in MODEL_FILES:
        (copy / name).unlink()
    shutil.rmtree(copy / "training_samples")
    command = [sys.executable, "-c", SIGNALLED_IN_STEP, str(step), str(int(number))]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-number if number == signal.SIGKILL else 128 + number), done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((copy / ".scratch/train").iterdir())) == 1
    shutil.rmtree(copy / "training_samples")  # as DVC does with outputs before it starts a stage
    (copy / "plots/learning_curve.csv").unlink(missing_ok=True)
    done = run("python", "-m", "stages", "train", cwd=copy)
    assert f"resuming after step {resumed_after}" in done.stdout
    assert digest(copy, *MODEL_FILES, *pictures) == before
    assert list((copy / ".scratch/train").iterdir()) == []


SIGNALLED_IN_STEP = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
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


def test_training_in_a_copy_that_dvc_deletes_goes_on_in_the_next_one(copy):
    """As `dvc exp run --temp` and the queue have it; killed together with DVC, and resumed in another copy."""
    command = ["dvc", "exp", "run", "--temp", "--name", "disturbed", "-S", "train.steps=400", "train"]
    process = subprocess.Popen(
        command, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 120
    while not list(copy.glob(".scratch/train/*.pt")) and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(*command, cwd=copy)
    assert re.search(r"resuming after step [1-9]\d*0\b", done.stdout) and not list(copy.glob(".scratch/train/*.pt"))
    experiment = run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/disturbed", cwd=copy).stdout.strip()
    lock = yaml.safe_load(run("git", "show", f"{experiment}:dvc.lock", cwd=copy).stdout)
    set_params(copy, {"train": {"steps": 400}})
    run("python", "-m", "stages", "train", cwd=copy)  # undisturbed
    outs = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
    for name in MODEL_FILES:
        assert hashlib.md5((copy / name).read_bytes()).hexdigest() == outs[name], name


def test_a_signal_to_the_whole_group_lets_loading_processes_serve_until_the_step_is_done(copy):
    """As Ctrl-C in a terminal is."""
    set_params(copy, {"train": {"steps": 5000, "workers": 2, "max_epochs": 1e6, "checkpoint_interval": 5, "lr": 2e-3}})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "train"], cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not list(copy.glob(".scratch/train/*.pt")) and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and "saved after step" in said and "Traceback" not in said, said


def test_a_checkpoint_that_finds_no_space_leaves_the_last_one(copy):
    """The limit on file sizes stands in for the full disk: the kernel refuses the write in the middle of the file."""
    before = digest(copy, *MODEL_FILES)
    run(sys.executable, "-c", SIGNALLED_IN_STEP, "25", str(int(signal.SIGTERM)), cwd=copy, check=False)
    (saved,) = (copy / ".scratch/train").iterdir()
    state = saved.read_bytes()
    done = run(sys.executable, "-c", WITHOUT_SPACE, cwd=copy, check=False)
    assert done.returncode == 1 and "free some space" in done.stderr and "Traceback" not in done.stderr
    assert [path.read_bytes() for path in (copy / ".scratch/train").iterdir()] == [state]
    done = run("python", "-m", "stages", "train", cwd=copy)
    assert "resuming after step 25" in done.stdout and digest(copy, *MODEL_FILES) == before


WITHOUT_SPACE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from stages.__main__ import main
sys.argv = ["stages", "train"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
def test_sampling_that_was_stopped_goes_on_where_it_was(copy, number):
    set_params(copy, {"sample": SMALL["sample"] | {"batch_size": 10}})
    names = [
        "generated/manifest.json", "generated/trajectory.safetensors", "generated_images/00001.png", "generated_images/00150.png"
    ]
    run("python", "-m", "stages", "sample", cwd=copy)
    before = digest(copy, *names)
    shutil.rmtree(copy / "generated")
    shutil.rmtree(copy / "generated_images")
    command = [sys.executable, "-c", SIGNALLED_AT_IMAGE_71, str(int(number))]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-number if number == signal.SIGKILL else 128 + number), done.stderr
    assert "Traceback" not in done.stderr and not (copy / "generated_images").exists()
    done = run("python", "-m", "stages", "sample", cwd=copy)
    assert "resuming with 70 images" in done.stdout
    assert digest(copy, *names) == before and len(list((copy / "generated_images").iterdir())) == 150
    assert {path.suffix for path in (copy / ".scratch/sample").iterdir()} == {".lock"}  # empty files


def test_what_was_damaged_meanwhile_is_drawn_anew(copy):
    """Pillow reads most PNGs in which a bit was flipped."""
    set_params(copy, {"sample": SMALL["sample"] | {"batch_size": 10}})
    names = ["generated/manifest.json", "generated/trajectory.safetensors", "generated_images/00005.png"]
    run("python", "-m", "stages", "sample", cwd=copy)
    before = digest(copy, *names)
    command = [sys.executable, "-c", SIGNALLED_AT_IMAGE_71, str(int(signal.SIGKILL))]
    subprocess.run(command, cwd=copy, capture_output=True, timeout=300)
    (unfinished,) = (path for path in (copy / ".scratch/sample").iterdir() if path.is_dir())
    with Image.open(unfinished / "images/00025.png") as image:
        Image.eval(image, lambda pixel: pixel ^ 1).save(unfinished / "images/00025.png")
    (unfinished / "ways/00001.safetensors").write_bytes(b"no way")
    done = run("python", "-m", "stages", "sample", cwd=copy)
    assert "resuming with 50 images" in done.stdout and digest(copy, *names) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_during_the_last_look_is_not_lost(copy, number):
    before = digest(copy, *MODEL_FILES)
    command = [sys.executable, "-c", SIGNALLED_IN_LAST_LOOK, str(int(number))]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + number and "saved after step 40" in done.stderr
    assert "resuming after step 40" in run("python", "-m", "stages", "train", cwd=copy).stdout
    assert digest(copy, *MODEL_FILES) == before


SIGNALLED_IN_LAST_LOOK = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
from stages import train
from stages.__main__ import main
number, measure, looks = int(sys.argv.pop()), train.loss_by_noise_level, []
def signalled(*arguments):
    looks.append(1)
    if len(looks) == 2:
        os.kill(os.getpid(), number)
    return measure(*arguments)
train.loss_by_noise_level = signalled
sys.argv.append("train")
sys.exit(main())
"""

SIGNALLED_AT_IMAGE_71 = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
from src import images
from stages.__main__ import main
number, write = int(sys.argv.pop()), images.write
def signalled(folder, first, some):
    if first == 71:
        write(folder, first, some[:4])
        os.kill(os.getpid(), number)
    write(folder, first, some)
images.write = signalled
sys.argv.append("sample")
sys.exit(main())
"""


@pytest.mark.parametrize("stage", ["train", "sample", "quality"])
def test_a_stage_killed_at_random_moments_ends_in_the_same_bits(copy, stage):
    heed_interrupts()
    found = disturb(copy, stage, kills=2, chance=random.Random(stage))
    assert found["kills"] == 2 and found["mismatches"] == 0


def test_the_report_tells_what_was_run_and_what_came_out_and_needs_no_network(finished):
    page = (finished / "report/report.html").read_text()
    assert "://" not in page and not re.search('(src|href)="(?!data:)', page) and "<script" not in page
    assert page.count('src="data:image/png;base64,') == 6
    fid = metrics(finished, "fid")
    for told in (
        "scikit-learn digits (8x8, not MNIST) (f41e31dbdd31): 1,618 training and 179 held-out images", fid["model"],
        fid["pixels"],
        f"{fid['fd_digits']:,.2f}", f"{fid['fd_digits_floor_heldout']:,.2f}",
        f"± {metrics(finished, 'spread')['fd_digits_sd']:,.2f}",
        "over 2 seeds", "not measured", "<code>focus_at</code>", "but for params.yaml",
        run("git", "rev-parse", "--short=12", "HEAD~1", cwd=finished).stdout.strip(),
    ):
        assert told in page, told
    assert "<h2>Experiments</h2>" not in page


def test_the_report_compares_experiments_where_there_are_some(copy):
    run("dvc", "exp", "run", "--name", "coarse", "-S", "sample.steps=2", "fid", cwd=copy)
    mine = metrics(copy, "fid")["fd_digits"]
    run("git", "checkout", "--quiet", "--", ".", cwd=copy)
    run("dvc", "checkout", cwd=copy)
    run("dvc", "repro", "--single-item", "--force", "report", cwd=copy)
    page = (copy / "report/report.html").read_text()
    row = page[page.index("<td>coarse</td>") :].partition("</tr>")[0]
    assert "<td>2</td>" in row and f">{mine:.4g}</td>" in row and mine != metrics(copy, "fid")["fd_digits"]
    header = page[page.index("<h2>Experiments</h2>") :].partition("</tr>")[0]
    assert "sample.steps" in header and "precision" not in header  # what it did not run, it did not measure
    table = run("python", "-m", "tools.experiments", cwd=copy).stdout.splitlines()
    assert table[0].startswith("| experiment | sample.steps | fd_digits |")
    assert table[2].startswith(f"| coarse | 2 | {mine:.4g} |")


def test_experiments_are_run_shown_compared_and_applied(copy):
    done = run("dvc", "exp", "run", "--name", "straight", "-S", "schedule=linear", cwd=copy)
    assert set(ran(done)) == set(NAMES) - {"unpack", "classifier", "reference", "floors"}
    assert "linear" in run("dvc", "params", "diff", cwd=copy).stdout
    difference = json.loads(run("dvc", "metrics", "diff", "--json", cwd=copy).stdout)
    assert "fd_digits" in difference["metrics/fid.json"] and "metrics/data.json" not in difference
    table = run("dvc", "exp", "show", "--csv", cwd=copy).stdout
    assert "straight" in table and "fd_digits" in table
    report = run("dvc", "plots", "diff", "HEAD", "straight", "--out", "plots_html", cwd=copy).stdout
    assert (copy / "plots_html" / "index.html").exists(), report
    linear = digest(copy, "models/model.safetensors", "metrics/fid.json")
    run("git", "checkout", "--quiet", "--", ".", cwd=copy)
    run("dvc", "checkout", cwd=copy)
    assert digest(copy, "models/model.safetensors", "metrics/fid.json") != linear
    run("dvc", "exp", "apply", "straight", cwd=copy)
    assert digest(copy, "models/model.safetensors", "metrics/fid.json") == linear


def test_a_queue_of_experiments_runs_in_folders_of_their_own(copy):
    run("dvc", "exp", "run", "--queue", "-S", "sample.steps=2,3", "-S", "sample.method=ddim", cwd=copy)
    run("dvc", "exp", "run", "--run-all", cwd=copy)
    table = run("dvc", "exp", "show", "--json", cwd=copy).stdout
    steps = [e["revs"][0]["data"]["params"]["params.yaml"]["data"]["sample"]["steps"]
             for e in json.loads(table)[1]["experiments"] if e["revs"][0]["data"]["metrics"]["metrics/fid.json"]["data"]]
    assert sorted(steps) == [2, 3]


def test_two_workers_give_the_results_of_one(copy):
    """Experiments worked off at once, one core each, end as those that run one after the other."""
    grid = ("-S", "sample.steps=2,3", "-S", "sample.eta=0.5")
    run("dvc", "exp", "run", "--queue", *grid, "fid", cwd=copy)
    run("dvc", "queue", "start", "--jobs", "2", cwd=copy, OMP_NUM_THREADS="1")
    for _ in range(240):
        states = [line.split()[3:] for line in run("dvc", "queue", "status", cwd=copy).stdout.splitlines()]
        found = [word for words in states for word in words if word in ("Success", "Failed", "Running", "Queued")]
        if found and set(found) <= {"Success", "Failed"}:
            break
        time.sleep(0.5)
    assert found == ["Success"] * 2
    run("python", "-m", "tools.experiments", "--csv", "together.csv", cwd=copy)
    for row in pd.read_csv(copy / "together.csv").itertuples(index=False):
        run("git", "checkout", "--quiet", "--", ".", cwd=copy)
        done = run("dvc", "exp", "run", "--force", "-S", f"sample.steps={row[1]}", "-S", "sample.eta=0.5", "fid", cwd=copy)
        assert "sample" in ran(done)
        assert f"{metrics(copy, 'fid')['fd_digits']:.6g}" == f"{row.fd_digits:.6g}"


def test_a_clone_samples_measures_and_draws_without_data_or_training(copy, tmp_path):
    run("dvc", "push", cwd=copy)
    commit(copy)
    pushed = [path for path in (copy / "dvc-remote").rglob("*") if path.is_file()]
    assert len(pushed) == 6  # model, classifier, reference/ (its list and three files): no data, no arrays, no samples
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(copy), str(clone), cwd=tmp_path)
    run("dvc", "pull", "models/model.safetensors", "models/classifier.safetensors", "reference/", cwd=clone)
    assert not (clone / "data").exists() and not (clone / "arrays").exists()
    done = run("dvc", "repro", "--single-item", "--force", "sample", "fid", "figures", cwd=clone)
    assert ran(done) == ["sample", "fid", "figures"]
    assert digest(clone, "metrics/fid.json", "generated_images/00150.png") == digest(
        copy, "metrics/fid.json", "generated_images/00150.png"
    )
    set_params(clone, {"sample": {"steps": 3}})
    assert ran(run("dvc", "repro", "--allow-missing", "figures", cwd=clone)) == ["sample", "fid", "figures"]


@pytest.mark.parametrize("colour", [True, False])
def test_an_archive_of_ones_own_needs_no_change_of_code(tmp_path, colour):
    folder = clone_into(tmp_path / "clone")
    x = pictures(60, size=12, colour=colour)
    make_zip(folder / "data", {f"mnist/{i:02d}.png": png(pixels, "RGB") for i, pixels in enumerate(x)})
    set_params(folder, SMALL | {"train": SMALL["train"] | {"steps": 6}})
    run("dvc", "repro", cwd=folder)
    assert metrics(folder, "data")["dataset"] == "own" and metrics(folder, "data")["channels"] == (3 if colour else 1)
    assert metrics(folder, "fid")["accuracy"] is None and metrics(folder, "fid")["fd_digits"] > 0
    assert metrics(folder, "classifier")["learns"] == "rotations"
    assert json.loads((folder / "generated/manifest.json").read_text())["guidance"] == 1.0  # nothing to guide by
    assert 0 < metrics(folder, "train")["heldout_loss"] < 10  # six held-out images, ten noise levels
    assert images.read(folder / "generated_images", 150).shape == (150, 3, 12, 12)


def test_the_users_mistakes_end_in_one_message_and_exit_code_1(copy):
    (copy / "models/model.safetensors").write_bytes(b"no model, no model, no model")
    done = run("python", "-m", "stages", "sample", cwd=copy, check=False)
    assert done.returncode == 1 and "models/model.safetensors: damaged" in done.stderr and "Traceback" not in done.stderr
    set_params(copy, {"sample": {"method": "plms"}})
    done = run("dvc", "repro", cwd=copy, check=False)
    assert done.returncode != 0 and "sample.method" in done.stderr and "Traceback" not in done.stderr


def test_samples_of_another_data_set_are_not_measured(copy):
    manifest = json.loads((copy / "generated/manifest.json").read_text()) | {"dataset_fingerprint": "another"}
    (copy / "generated/manifest.json").write_text(json.dumps(manifest))
    done = run("python", "-m", "stages", "fid", cwd=copy, check=False)
    assert done.returncode == 1 and "data set" in done.stderr and "found another" in done.stderr and "dvc repro" in done.stderr


@pytest.mark.parametrize("stage", ["fid", "quality", "figures"])
def test_images_that_are_not_the_ones_sampled_are_not_measured(copy, stage):
    first, second = (copy / "generated_images" / f"0000{k}.png" for k in (1, 2))
    first.write_bytes(second.read_bytes())
    done = run("python", "-m", "stages", stage, cwd=copy, check=False)
    assert done.returncode == 1 and "generated_images/: its pixels" in done.stderr and "dvc repro --force sample" in done.stderr


def test_images_of_another_size_are_not_measured(copy):
    for path in (copy / "generated_images").iterdir():
        Image.new("RGB", (12, 12)).save(path)
    done = run("python", "-m", "stages", "fid", cwd=copy, check=False)
    assert done.returncode == 1 and "00001.png: expected RGB of (8, 8), found RGB of (12, 12)" in done.stderr


@pytest.mark.parametrize("key, value", [("steps", 7), ("guidance", 3.0), ("seed", 1)])
def test_images_drawn_with_other_settings_are_not_measured(copy, key, value):
    set_params(copy, {"sample": SMALL["sample"] | {key: value}})
    done = run("python", "-m", "stages", "fid", cwd=copy, check=False)
    assert done.returncode == 1 and f"sample.{key}: found" in done.stderr and f"expected {value}" in done.stderr


def test_other_moments_are_not_measured_against(copy):
    import numpy as np

    (copy / "reference/digits.npz").unlink()
    frechet.save(frechet.Moments(np.zeros(128), np.eye(128)), copy / "reference/digits.npz")
    for stage in ("floors", "fid", "quality", "spread", "sweep"):
        done = run("python", "-m", "stages", stage, cwd=copy, check=False)
        assert done.returncode == 1 and "reference/digits.npz, of the real images: found" in done.stderr


@pytest.mark.parametrize("stage, name, said", [
    *((stage, "arrays/features.safetensors", "arrays/features.safetensors, of the real images")
      for stage in ("floors", "quality", "spread", "sweep")),
    *((stage, "arrays/dataset.safetensors", "the data set that is measured against")
      for stage in ("floors", "quality", "spread")),
    ("bound", "arrays/dataset.safetensors", "models/model.safetensors, its data set"),
    ("quality", "arrays/floors.json", "arrays/floors.json, how it was measured"),
    ("spread", "metrics/quality.json", "metrics/quality.json, its images"),
    ("figures", "metrics/sweep.json", "metrics/sweep.json, its model"),
    *(("report", f"metrics/{name}.json", f"metrics/{name}.json, its model") for name in ("bound", "sweep", "train")),
    *(("report", f"metrics/{name}.json", f"metrics/{name}.json, its pixels") for name in ("quality",)),
])
def test_what_belongs_to_other_images_is_not_measured_with(copy, stage, name, said):
    path = copy / name
    content = path.read_bytes()
    path.unlink()
    if name == "arrays/dataset.safetensors":
        (copy / "other.safetensors").write_bytes(content)
        data = dataset.load(copy / "other.safetensors")
        dataset.save(dataclasses.replace(data, fingerprint="0" * 12, images=data.images.clone()), path)
    elif name == "arrays/features.safetensors":
        save_tensors(path, {"train": torch.zeros(9, 128), "heldout": torch.zeros(9, 128), "drawn": torch.arange(4)})
    else:
        found = json.loads(content)
        path.write_text(json.dumps({key: "0" * 12 if key in ("features", "pixels", "model") else found[key] for key in found}))
    done = run("python", "-m", "stages", stage, cwd=copy, check=False)
    assert done.returncode == 1 and f"{said}: found" in done.stderr and ", expected" in done.stderr
    assert "Traceback" not in done.stderr and "dvc repro" in done.stderr


def test_the_fid_stage_holds_no_more_images_than_a_batch(copy, monkeypatch):
    held, most = [], []

    def stream(folder, count, side):
        for batch in read(folder, count, batch_size=10, side=side):
            held.append(weakref.ref(batch))
            most.append(sum(reference() is not None for reference in held))
            yield batch

    read = images.stream
    monkeypatch.setattr(images, "stream", stream)
    monkeypatch.chdir(copy)
    fid_stage.main()
    assert len(held) == 15 and max(most) <= 2  # one that is measured, one that is read


def test_copies_of_training_images_are_found_out(copy):
    before = metrics(copy, "quality")["memorised"]
    data = dataset.load(copy / "arrays/dataset.safetensors")
    images.write(copy / "generated_images", 1, data.images[:30])
    manifest, pixels = json.loads((copy / "generated/manifest.json").read_text()), images.PixelDigest()
    pixels.add(images.read(copy / "generated_images", 150))
    (copy / "generated/manifest.json").write_text(json.dumps(manifest | {"pixels": pixels.hex()}))
    run("python", "-m", "stages", "quality", cwd=copy)
    assert before < 0.1 and metrics(copy, "quality")["memorised"] == pytest.approx(before + 0.2, abs=0.02)


@pytest.mark.parametrize("damage", [lambda text: text[:50], lambda text: "{}", lambda text: text.replace('"seed"', '"sead"')])
def test_a_damaged_manifest_is_named(copy, damage):
    path = copy / "generated/manifest.json"
    path.write_text(damage(path.read_text()))
    done = run("python", "-m", "stages", "fid", cwd=copy, check=False)
    assert done.returncode == 1 and "generated/manifest.json: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name, room, stage", [
    ("model", denoiser, "fid"), ("model", denoiser, "quality"), ("model", denoiser, "spread"),
    *(("classifier", classifier, stage) for stage in ("floors", "fid", "quality", "spread", "sweep")),
])
def test_images_or_floors_of_another_model_are_not_measured(copy, name, room, stage):
    path = copy / f"models/{name}.safetensors"
    model, about = room.load(path)
    path.unlink()  # a link into DVC's cache, perhaps
    room.save(model, path, about | {"step": 12345})
    done = run("python", "-m", "stages", stage, cwd=copy, check=False)
    said = rf"models/{name}\.safetensors(, which (drew the|measured the real) images)?: found \w+, expected \w+; `dvc repro`"
    assert done.returncode == 1 and re.search(said, done.stderr)


def test_every_score_stands_beside_its_floor(finished):
    found = metrics(finished, "quality")
    for name in (
        "precision", "recall", "density", "coverage", "kid_digits", "class_distance", "nearest_train_median", "memorised"
    ):
        assert found[name] is not None and found[f"{name}_floor_heldout"] is not None
    assert 0 <= found["cas"] < found["cas_floor_train"] <= 1
    assert found["fd_digits_infinity"] is None  # 150 images are too few for a line
    shares = pd.read_csv(finished / "plots/class_shares.csv")
    assert shares[["train", "generated", "heldout"]].sum().tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    assert (finished / "memorisation/closest_pairs.png").exists()


def test_with_so_many_timesteps_that_the_other_schedule_leaves_no_signal_there_still_are_figures(copy):
    set_params(copy, {"timesteps": 4000, "schedule": "cosine"})
    run("python", "-m", "stages", "figures", cwd=copy)


def test_scores_of_few_images_come_with_a_caution(copy):
    done = run("python", "-m", "stages", "sweep", cwd=copy)
    said = [line for line in done.stderr.splitlines() if line.startswith("sweep: 60 images are too few for 128 features")]
    assert len(said) == 1 and "fd_digits is far too high" in said[0]


def test_the_spread_begins_with_the_images_that_were_measured(finished):
    rows = pd.read_csv(finished / "plots/spread.csv")
    assert rows["seed"].tolist() == [0, 1]
    assert rows["fd_digits"][0] == pytest.approx(metrics(finished, "fid")["fd_digits"], rel=1e-4)
    assert rows["fd_digits"][1] == pytest.approx(rows["fd_digits"][0], rel=0.5) and rows["fd_digits"][1] != rows["fd_digits"][0]
    found = metrics(finished, "spread")
    assert found["fd_digits_mean"] == pytest.approx(rows["fd_digits"].mean(), rel=1e-4) and found["fd_digits_sd"] > 0
    for name in ("accuracy", "precision", "recall", "density", "coverage", "kid_digits", "cas", "broken"):
        first = metrics(finished, "fid" if name == "accuracy" else "quality")[name]
        assert rows[name][0] == pytest.approx(first, rel=1e-4) and found[f"{name}_sd"] >= 0


def test_the_sweep_scores_every_sampler_at_every_count_of_steps(finished):
    rows = pd.read_csv(finished / "plots/quality_over_steps.csv")
    assert rows[["sampler", "steps"]].to_records(index=False).tolist() == [
        (sampler, steps) for sampler in ("ddim trailing", "dpmsolver++ logsnr") for steps in (2, 4)
    ]
    assert (rows["evaluations"] >= rows["steps"]).all() and (rows["images_per_second"] > 0).all()
    assert metrics(finished, "sweep")["best_fd_digits"] == pytest.approx(rows["fd_digits"].min(), rel=1e-4)


def test_the_bound_adds_up(finished):
    found = metrics(finished, "bound")
    assert found["bits_per_dim"] == pytest.approx(found["prior"] + found["diffusion"] + found["reconstruction"])
    assert 0 < found["bits_per_dim"] < 20 and found["images"] == 179


def test_ready_made_statistics_take_the_place_of_the_real_images(copy):
    import numpy as np

    np.savez(copy / "statistics/mnist.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    set_params(copy, {"fid": {"statistics": "mnist.npz", "inception": "never"}})
    assert ran(run("dvc", "repro", cwd=copy)) == ["reference", "fid", "report"]  # nothing else measures by Inception
    assert json.loads((copy / "reference/inception.json").read_text())["from"] == "statistics/mnist.npz"
    np.savez(copy / "statistics/mnist.npz", mu=np.zeros(64), sigma=np.eye(64))
    done = run("dvc", "repro", cwd=copy, check=False)
    assert done.returncode != 0 and "statistics/mnist.npz: cannot be read (mu is float64 of shape (64,)" in done.stderr


@pytest.mark.parametrize("statistics", [None, "mnist.npz"])
def test_inception_sees_each_real_image_once_and_the_floors_are_measured(copy, monkeypatch, statistics):
    import numpy as np

    seen = []

    def moments(network, some, batch_size, sums=None, chosen=None):
        seen.append(len(some) if chosen is None else len(chosen))
        return frechet.Moments(np.full(2048, float(seen[-1])), np.eye(2048))

    np.savez(copy / "statistics/mnist.npz", mu=np.full(2048, 1618.0), sigma=np.eye(2048))
    set_params(copy, {"fid": {"statistics": statistics, "inception": "always"}})
    for name, value in (("fetch_weights", lambda: None), ("load", torch.nn.Identity), ("moments", moments)):
        monkeypatch.setattr(inception, name, value)
    monkeypatch.chdir(copy)
    reference_stage.main()
    assert seen == ([809, 179] if statistics else [809, 809, 179])  # half of the few training images, the others, held-out
    floors = json.loads((copy / "reference/inception.json").read_text())["floors"]
    expected = 1618 if statistics else 809  # what stands for the moments of the training images
    assert floors == pytest.approx({"heldout": 2048 * (expected - 179) ** 2, "train": 2048 * (expected - 809) ** 2})


def test_fid_by_the_stages_equals_what_pytorch_fid_prints(copy, weights, monkeypatch):
    """With ready-made statistics and (stand-in) weights, `auto` computes it on a CPU, too."""
    manifest = json.loads((copy / "generated/manifest.json").read_text())
    for path in sorted((copy / "generated_images").iterdir())[12:]:
        path.unlink()
    pixels = images.PixelDigest()
    pixels.add(images.read(copy / "generated_images", 12))
    manifest |= {"count": 12, "labels": manifest["labels"][:12], "pixels": pixels.hex()}
    (copy / "generated/manifest.json").write_text(json.dumps(manifest))
    statistics = inception.moments(inception.load(), inception_pictures(12, 2), 12)
    frechet.save(statistics, copy / "statistics/mnist.npz")
    set_params(copy, {"fid": {"statistics": "mnist.npz", "inception": "auto"}, "sample": {"count": 12}})
    monkeypatch.chdir(copy)
    reference_stage.main()
    fid_stage.main()
    printed = run(sys.executable, "-c", COMMAND, "generated_images", "statistics/mnist.npz", "--num-workers", "0", cwd=copy)
    found = metrics(copy, "fid")
    assert found["fid"] == pytest.approx(float(printed.stdout.split("FID:")[1]), rel=1e-3, abs=0) and found["fid"] > 1e-3
    assert found["inception"] == inception.weights_hash() and len(found["inception_reference"]) == 12


def test_what_is_missing_is_named_without_a_traceback(copy):
    (copy / "generated/manifest.json").unlink()
    done = run("python", "-m", "stages", "fid", cwd=copy, check=False)
    assert done.returncode == 1 and "generated/manifest.json" in done.stderr and "Traceback" not in done.stderr


def test_the_summary_shows_metrics_stages_and_pictures(copy):
    shown = run("python", "-m", "tools.summary", cwd=copy, COLUMNS="120").stdout
    assert "fd_digits" in shown and "not measured" in shown and "figures/" in shown
    assert all(re.search(rf"│ {stage} +│ +\d+ min \d\d s +│ +\d+ MiB", shown) for stage in ("unpack", "train", "report"))
    assert "memorisation/" in shown and "schedule=linear" in shown and "other images" not in shown


def test_the_summary_tells_scores_of_other_images_and_names_only_pictures_that_are_there(tmp_path):
    clone = clone_into(tmp_path / "clone")
    quality = clone / "metrics/quality.json"
    quality.write_text(json.dumps(json.loads(quality.read_text()) | {"pixels": "0123456789ab"}))
    shown = run("python", "-m", "tools.summary", cwd=clone, COLUMNS="120").stdout
    assert "quality and spread are of other images than fid" in shown and shown.count("not run") == len(NAMES)
    assert "figures/" in shown and "memorisation/" not in shown and "--allow-missing" in shown


def test_make_help_lists_every_target():
    shown, makefile = run("make", "help", cwd=ROOT).stdout, (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert targets == re.findall(r"^\.PHONY: (\w+)$", makefile, re.MULTILINE) and len(targets) > 10
    assert all(f"make {target} " in shown for target in targets)


def test_the_readme_says_what_make_samples_does():
    """`test_a_clone_samples_measures_and_draws_without_data_or_training` does just that."""
    recipe = run("make", "--dry-run", "samples", cwd=ROOT).stdout
    for command in (
        "dvc pull --quiet models/model.safetensors models/classifier.safetensors reference/",
        "dvc repro --single-item --force sample fid figures",
    ):
        assert command in recipe and command.replace(" --quiet", "") in (ROOT / "README.md").read_text()
