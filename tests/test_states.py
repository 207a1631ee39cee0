"""How far runs are, from their files and from a queue."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mixbench.bench.cells import Cell, Run
from mixbench.bench.lab import Lab
from mixbench.bench.launch import Job, scheduler, slurm
from mixbench.bench.launch.heartbeat import Beat
from mixbench.bench.launch.scheduler import Queued
from mixbench.bench.launch.slurm import not_at_work
from mixbench.bench.spec import BadInput
from mixbench.bench.states import logs, run_of, states
from mixbench.bench.tables import Table

TABLE = Table("t", "", ("digits/small",), ("mixup",), ("classification", "calibration"), seeds=1)
RUN = Run("digits/small", "mixup", 0)
BEAT = Beat("training", 3.25, 15, "node7", 123, 812.4, 3725.4, 0)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Queued]:
    """What Slurm says."""
    jobs: dict[str, Queued] = {}
    for module in (scheduler, slurm):
        monkeypatch.setattr(module, "queue", lambda: jobs)
    return jobs


def told(lab: Lab) -> str:
    ((run, state),) = states(TABLE, lab.store)
    assert run == RUN
    return str(state)


def asked(lab: Lab, *tasks: str) -> None:
    metrics = {"classification": ("top1", "top1_best", "top1_median", "top5", "top5_best")}
    for task in tasks:
        names = metrics.get(task, ("ece", "aece", "nll", "brier"))
        record = {name: 1.0 for name in (*names, "top5_median", "ece", "aece", "nll", "brier")}
        lab.store.publish(Cell(RUN, task), Cell(RUN, task).identity() | {"metrics": record})


def note(lab: Lab, name: str, text: str) -> None:
    lab.store.folder(RUN).mkdir(parents=True, exist_ok=True)
    (lab.store.folder(RUN) / name).write_text(text)


def submitted(lab: Lab, **more: str) -> None:
    note(lab, ".job.json", json.dumps({"on": "slurm", "id": "17_3", "log": ".slurm/a.out"} | more))


def test_a_run_that_nobody_touched_waits(lab: Lab) -> None:
    assert told(lab) == "waiting: classification, calibration missing"


def test_a_run_that_was_stopped_in_good_order_has_begun(lab: Lab) -> None:
    note(lab, "checkpoint.pt", "")
    assert told(lab) == "begun: classification, calibration missing"
    asked(lab, "classification")
    assert told(lab) == "begun: calibration missing"
    asked(lab, "calibration")
    assert told(lab) == "done"


def test_a_run_at_work_tells_what_how_fast_how_long_and_where(lab: Lab) -> None:
    with lab.store.claim(RUN):
        assert told(lab) == "running: classification, calibration to come"
        note(lab, ".progress.json", json.dumps(asdict(BEAT)))
        assert told(lab) == (
            "running: training, 3.25 of 15 done, 812 images/s, 1:02:05 left, on node7, process 123"
        )


def test_a_run_whose_process_died_has_failed(lab: Lab) -> None:
    note(lab, ".progress.json", json.dumps(asdict(BEAT)))
    assert told(lab) == "failed: its process ended at training, 3.25 of 15 done, on node7"


def test_a_failure_tells_the_last_line_of_its_error(lab: Lab) -> None:
    note(lab, "error.txt", "Traceback\n  File ...\nRuntimeError: too hot\n")
    assert told(lab) == "failed: RuntimeError: too hot"


def test_a_job_that_left_the_queue_without_a_word_has_failed(
    lab: Lab, queue: dict[str, Queued]
) -> None:
    submitted(lab)
    assert told(lab) == "failed: it left the queue without a result (job 17_3)"


def test_the_queue_tells_of_runs_that_wait_in_it(lab: Lab, queue: dict[str, Queued]) -> None:
    submitted(lab)
    queue["17_3"] = Queued("PENDING", "Priority")
    assert told(lab) == "queued: job 17_3, pending (Priority)"
    note(lab, "error.txt", "of an earlier try")
    assert told(lab).startswith("queued: ")
    assert not_at_work([Job(RUN, ())], lab.store) == []
    del queue["17_3"]
    assert not_at_work([Job(RUN, ())], lab.store) == [Job(RUN, ())]


def test_a_job_that_trains_first_is_in_the_queue_too(lab: Lab, queue: dict[str, Queued]) -> None:
    submitted(lab, training="16_3")
    queue["17_3"] = Queued("PENDING", "Dependency")
    queue["16_3"] = Queued("RUNNING", "n1")
    assert told(lab) == "queued: job 16_3, running (n1)"
    with lab.store.claim(RUN):
        note(lab, ".progress.json", json.dumps(asdict(BEAT)))
        assert told(lab).endswith("process 123, job 16_3")
        assert not_at_work([Job(RUN, ())], lab.store) == []


def test_without_slurm_the_files_alone_tell(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    submitted(lab)
    assert told(lab) == "waiting: classification, calibration missing"


def test_slurm_is_not_asked_of_runs_that_it_never_had(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "queue", lambda: pytest.fail("asked"))
    assert told(lab).startswith("waiting")


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("digits/small/mixup/0", RUN),
        ("digits/small,epochs=15/mixup,alpha=1/12", Run("digits/small", "mixup", 12)),
        ("digits/small,epochs=2/mixup,alpha=0.20/1", Run("digits/small,epochs=2", "mixup,alpha=0.2", 1)),
        ("imagenet/timm/resnet34/cutmix/2", Run("imagenet/timm/resnet34", "cutmix", 2)),
    ],
)  # fmt: skip
def test_a_run_is_spelled_as_it_is_printed(text: str, run: Run) -> None:
    assert run_of(text) == run
    assert run_of(str(run)) == run


@pytest.mark.parametrize("text", ["", "digits/small/mixup", "digits/small/mixup/x", "a/b/c/0"])
def test_what_spells_no_run_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"no run .*; it should be as in status"):
        run_of(text)


@pytest.mark.parametrize("content", ["", "5", '"x"', '{"id": 5, "log": 3}', "\0"])
def test_a_damaged_note_is_no_job(content: str, lab: Lab, queue: dict[str, Queued]) -> None:
    note(lab, ".job.json", content)
    assert told(lab).startswith("waiting")
    assert logs(lab.store, RUN) == [lab.store.folder(RUN) / "log.txt"]


def test_an_error_that_is_no_text_is_told_all_the_same(lab: Lab) -> None:
    lab.store.error(RUN).parent.mkdir(parents=True)
    lab.store.error(RUN).write_bytes(b"RuntimeError: \xff\xfe")
    assert told(lab).startswith("failed: RuntimeError: ")


def test_logs_are_those_of_the_job_and_of_the_run(lab: Lab) -> None:
    assert [path.name for path in logs(lab.store, RUN)] == ["log.txt"]
    submitted(lab)
    root: Path = lab.store.root
    assert logs(lab.store, RUN) == [root / ".slurm/a.out", lab.store.folder(RUN) / "log.txt"]
