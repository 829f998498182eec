import os
from types import SimpleNamespace

import pytest

from tools import queue


class Fake:
    """A queue that gives, each time it is asked, the next states of tasks and number of workers."""

    def __init__(self, *answers):
        self.answers, self.started, self.stopped = list(answers), 0, False
        control = SimpleNamespace(shutdown=lambda: setattr(self, "stopped", True))
        self.celery = SimpleNamespace(control=control)
        self.proc: dict[str, SimpleNamespace] = {}  # by task

    def status(self):
        tasks, self.workers = self.answers.pop(0)
        return [
            {"rev": f"{name}000000", "name": name, "status": state} for name, state in tasks.items()
        ]

    def worker_status(self):
        return {f"worker-{number}": [] for number in range(self.workers)}

    def start_workers(self, jobs):
        self.started += 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(queue, "INTERVAL", 0)
    monkeypatch.setattr(queue, "PATIENCE", -1)


def test_every_change_of_state_is_told_until_all_have_ended():
    fake = Fake(
        ({"old": "Failed", "a": "Queued", "b": "Queued"}, 0),
        ({"old": "Failed", "a": "Running", "b": "Queued"}, 1),
        ({"old": "Failed", "a": "Success", "b": "Running", "late": "Queued"}, 1),
        ({"a": "Success", "b": "Failed", "late": "Success"}, 1),
    )
    assert list(queue.watch(fake, 1)) == [
        *[("a", "Queued"), ("b", "Queued"), ("a", "Running")],
        *[("late", "Queued"), ("a", "Success"), ("b", "Running")],
        *[("b", "Failed"), ("late", "Success")],
    ]
    assert fake.started == 1 and fake.stopped


def test_what_dvc_no_longer_knows_is_lost():
    fake = Fake(({"a": "Running"}, 1), ({}, 1))
    assert list(queue.watch(fake, 1))[-1] == ("a", queue.LOST)


def test_what_dvc_does_not_know_for_a_moment_is_not_lost(monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE", 60)
    fake = Fake(({"a": "Running"}, 1), ({}, 1), ({"a": "Success"}, 1))
    assert list(queue.watch(fake, 1)) == [("a", "Running"), ("a", "Success")]


def test_lost_workers_start_again_and_what_they_ran_is_lost():
    fake = Fake(
        ({"a": "Running", "b": "Queued"}, 1),
        ({"a": "Running", "b": "Queued"}, 0),
        ({"a": "Running", "b": "Success"}, 1),
    )
    assert list(queue.watch(fake, 1))[2:] == [("a", queue.LOST), ("b", "Success")]
    assert fake.started == 2


def test_an_experiment_whose_worker_does_not_answer_goes_on():
    fake = Fake(({"a": "Running"}, 1), ({}, 0), ({}, 0), ({"a": "Success"}, 1))
    fake.proc["a000000"] = SimpleNamespace(pid=os.getpid(), returncode=None)
    assert list(queue.watch(fake, 1)) == [("a", "Running"), ("a", "Success")]
    assert fake.started == 1


@pytest.mark.parametrize("returncode", [1, None])
def test_an_experiment_whose_process_has_ended_is_lost(returncode):
    fake = Fake(({"a": "Running"}, 1), ({}, 0))
    pid = 2**31 - 1 if returncode is None else os.getpid()  # no process has the highest number
    fake.proc["a000000"] = SimpleNamespace(pid=pid, returncode=returncode)
    assert list(queue.watch(fake, 1))[-1] == ("a", queue.LOST)
