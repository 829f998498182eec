"""`make compare` groups experiments by all but their seed, and its intervals are the textbook's."""

import hashlib
import json
import re
import subprocess

import numpy as np
import pytest
import yaml
from scipy import stats

from tools import compare

A, B = {1: 3.0, 2: 3.5, 3: 2.5, 4: 3.2}, {1: 2.0, 2: 2.7, 3: 1.6, 4: 1.9}


def test_equal_seeds_give_the_paired_interval():
    result = compare.difference(A, dict(reversed(B.items())))
    peer = stats.ttest_rel(list(B.values()), list(A.values())).confidence_interval(0.95)
    assert result.paired
    assert (result.mean - result.half, result.mean + result.half) == pytest.approx(tuple(peer))


def test_other_seeds_give_the_interval_of_welch():
    other = {seed + 1: value for seed, value in B.items()} | {9: 4.0}
    result = compare.difference(A, other)
    test = stats.ttest_ind(list(other.values()), list(A.values()), equal_var=False)
    assert not result.paired
    interval = result.mean - result.half, result.mean + result.half
    assert interval == pytest.approx(tuple(test.confidence_interval(0.95)))


@pytest.mark.parametrize("paired", [True, False])
def test_a_detectable_difference_is_detected_as_often_as_promised(paired):
    random = np.random.default_rng(0)
    first = dict(enumerate([-1.0, 1.0, -1.0, 1.0]))
    second = {seed + (0 if paired else 9): 0.5 * value for seed, value in first.items()}
    size = compare.difference(first, second).detectable
    deviations = [np.std(list(values.values()), ddof=1) for values in (first, second)]
    if paired:
        deviations = [0.0, np.std([second[seed] - first[seed] for seed in first], ddof=1)]
    detected = []
    for _ in range(2000):
        a, b = (dict(enumerate(random.normal(0, deviation, 8))) for deviation in deviations)
        b = {seed + (0 if paired else 9): value + size for seed, value in b.items()}
        again = compare.difference(a, b)
        detected.append(abs(again.mean) > again.half)
    assert np.mean(detected) == pytest.approx(compare.POWER, abs=0.05)


def test_equal_values_differ_by_nothing():
    result = compare.difference(A, A)
    assert (result.mean, result.half, result.detectable) == (0.0, 0.0, 0.0)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A function that adds an experiment with these parameters and results, as DVC keeps them."""
    monkeypatch.chdir(tmp_path)

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("config", "user.name", "Test")
    git("config", "user.email", "test@example.org")
    git("commit", "--quiet", "--allow-empty", "--message", "base")
    base = git("rev-parse", "HEAD")
    (tmp_path / "metrics").mkdir()
    names = iter(range(100))

    def add(seed: int, fd_digits: float, classifier: str = "c", **parameters) -> None:
        values = {"seed": seed, "schedule": "cosine", "train": {"lr": 1e-5}} | parameters
        metrics = {"fd_digits": fd_digits, "accuracy": 0.9, "classifier": classifier}
        (tmp_path / "metrics/fid.json").write_text(json.dumps(metrics))
        md5 = hashlib.md5((tmp_path / "metrics/fid.json").read_bytes()).hexdigest()
        stage = {
            "params": {"params.yaml": {"train": values["train"]}},
            "outs": [{"path": "metrics/fid.json", "md5": md5}],
        }
        # DVC writes 1e-05, and people 1.0e-5.
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        lock = yaml.safe_dump({"stages": {"fid": stage}}).replace("1.0e-05", "1e-05")
        (tmp_path / "dvc.lock").write_text(lock)
        git("add", "--all")
        git("commit", "--quiet", "--message", "experiment")
        git(
            "update-ref",
            f"refs/exps/{base[:2]}/{base[2:]}/e{next(names)}",
            git("rev-parse", "HEAD"),
        )
        git("reset", "--quiet", "--soft", base)

    return add


def run(monkeypatch, a: str, b: str, *more: str) -> int:
    monkeypatch.setattr("sys.argv", ["compare", "--a", a, "--b", b, *more])
    return compare.main()


def test_the_better_setting_is_named_with_its_interval(experiment, monkeypatch, capsys):
    experiment(1, 99.0)  # of two experiments with one seed, the newer counts
    for seed, value in A.items():
        experiment(seed, value)
    for seed, value in B.items():
        experiment(seed, value, schedule="linear")
    metrics = "--metrics", "fid.fd_digits", "fid.accuracy", "bound.bits_per_dim"
    assert run(monkeypatch, "schedule=cosine", "schedule=linear train.lr=1e-5", *metrics) == 0
    out = capsys.readouterr().out
    assert "A: schedule=cosine (seeds 1 2 3 4)" in out
    assert "| fid.fd_digits | 3.05 | 0.42 | 2.05 | 0.47 |" in out
    assert "fid.fd_digits: B is better than A by 1.00 +- 0.34 (4 seeds each, paired)" in out
    assert "fid.accuracy: A and B are equal" in out
    assert "bound.bits_per_dim" not in out  # its stage did not run


def test_noise_is_called_noise(experiment, monkeypatch, capsys):
    for seed, value in A.items():
        experiment(seed, value)
        experiment(seed + 1, value + 0.1, schedule="linear")
    assert run(monkeypatch, "schedule=cosine", "schedule=linear") == 0
    out = capsys.readouterr().out
    assert "fid.fd_digits: cannot be told apart: they differ by 0.10 +- 0.73" in out
    assert "(4 seeds each, Welch). 4 more seeds each would detect 0.63" in out


@pytest.mark.parametrize(
    "a, b, message",
    [
        ("", "schedule=linear", "give both, as in make compare A=schedule=linear"),
        ("schedule", "schedule=linear", "'schedule': expected KEY=VALUE"),
        ("schedule=cosine", "schedule=cosine", "A and B are the same settings"),
        ("schedule=cosine", "schedule=none", "schedule=none: no experiment has these values"),
        ("schedule=cosine", "schedule=linear", "also differ in timesteps .10, 20.. Name one"),
        ("schedule=cosine", "schedule=linear timesteps=20", "A and B also differ in timesteps"),
        ("schedule=cosine timesteps=10", "schedule=linear timesteps=30", "no experiment has"),
        ("schedule=cosine", "schedule=sigmoid", "not all have the same classifier"),
    ],
)
def test_groups_that_cannot_be_compared_say_why(experiment, monkeypatch, capsys, a, b, message):
    for seed in (1, 2):
        experiment(seed, 3.0, timesteps=10)
        experiment(seed, 4.0, schedule="linear", timesteps=10 * seed)
        experiment(seed, 5.0, schedule="sigmoid", timesteps=10, classifier="other")
    assert run(monkeypatch, a, b) == 1
    assert re.search(message, capsys.readouterr().err)


def test_values_with_spaces_and_null_can_be_named(experiment, monkeypatch, capsys):
    for seed in (1, 2):
        experiment(seed, 3.0, times="focus 0.6 0.3", ends=[0.5, 1])
        experiment(seed, 4.0, times="uniform", ends=None)
        experiment(seed, 5.0, times="uniform", ends=[0.5, 1])
    assert run(monkeypatch, 'times="focus 0.6 0.3"', "times=uniform") == 1
    message = capsys.readouterr().err
    assert "differ in ends (null, [0.5, 1])" in message and "ends=null" in message
    both = 'times="focus 0.6 0.3"', 'times=uniform "ends=[0.5, 1]"'
    assert run(monkeypatch, *both) == 0
    assert "A is better than B by 2.00" in capsys.readouterr().out


def test_a_metric_that_does_not_exist_is_named(experiment, monkeypatch, capsys):
    for seed in (1, 2):
        experiment(seed, 3.0)
        experiment(seed, 4.0, schedule="linear")
    metrics = "--metrics", "fid.fd_digits", "fid.fd_digit"
    assert run(monkeypatch, "schedule=cosine", "schedule=linear", *metrics) == 1
    assert "A and B have no fid.fd_digit." in capsys.readouterr().err
