"""Slurm: a real one, of nodes that are pretended; whatever becomes of a job, its runs get done."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slurm import Cluster, ask, until
from slurm import slurm as pretended

from mixbench.bench import paper
from mixbench.bench.cells import Cell, Run
from mixbench.bench.cli import main
from mixbench.bench.launch import Job, Terms, heartbeat, scheduler, slurm
from mixbench.bench.launch.local import STOPPED
from mixbench.bench.launch.progress import Progress
from mixbench.bench.launch.scheduler import Allocation, Submitted
from mixbench.bench.runs import fill
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Table

SETTING = "digits/small,epochs=2"
TASKS = ("classification",)
ANYWHERE = Allocation(None, 5)
LATER = Allocation(None, 5, options={"begin": "now+1hour"})

SLOW = """
import time
from pathlib import Path
from pydantic.dataclasses import dataclass
from mixbench.methods.mixup import Mixup

@dataclass(frozen=True)
class Slow(Mixup):
    def loss(self, net, x, y):
        with Path({folder!r}, "steps").open("a") as steps:
            steps.write(".")
        if not Path({folder!r}, "gate").exists():
            time.sleep(5)
        return super().loss(net, x, y)
"""
"""It takes 5 s for each of 16 steps, as long as there is no gate, and counts its steps."""

BROKEN = """
from pathlib import Path
from pydantic.dataclasses import dataclass
from mixbench.methods import Method

@dataclass(frozen=True)
class Broken(Method):
    def loss(self, net, x, y):
        if not Path({folder!r}, "gate").exists():
            raise RuntimeError("it is broken")
        return super().loss(net, x, y)
"""

FRAGILE = """
import os
from pathlib import Path
from pydantic.dataclasses import dataclass
from mixbench.methods import Method

@dataclass(frozen=True)
class Fragile(Method):
    def loss(self, net, x, y):
        if not (died := Path({folder!r}, "died")).exists():
            died.touch()
            os.kill(os.getpid(), 9)
        return super().loss(net, x, y)
"""


def job(method: str = "baseline", seed: int = 0) -> Job:
    return Job(Run(SETTING, method, seed), TASKS)


class Own:
    """A folder with methods of the user's own, which look for files there."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.gate, self.steps = folder, folder / "gate", folder / "steps"
        patch.setenv("PYTHONPATH", str(folder))
        patch.syspath_prepend(folder)

    def job(self, text: str) -> Job:
        name = f"lab{len(list(self.folder.glob('lab*')))}_{self.folder.name}"
        (self.folder / name).mkdir()
        (self.folder / name / "method.py").write_text(text.format(folder=str(self.folder)))
        return job(f"{name}.method")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pretended() as cluster:
        yield cluster


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return Terms(tmp_path / "results", device="cpu")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    return Own(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.5)


def finish(jobs: list[Job], terms: Terms) -> dict[Run, str]:
    return slurm.wait(jobs, terms, ANYWHERE, Progress(len(jobs)))


def noted(job: Job, terms: Terms) -> Submitted:
    submitted = scheduler.job_of(terms.store, job.run)
    assert submitted is not None
    return submitted


def log(job: Job, terms: Terms) -> str:
    return (terms.results / noted(job, terms).log).read_text()


def until_it_trains(job: Job, terms: Terms) -> None:
    def trains() -> bool:
        beat = heartbeat.read(terms.store, job.run)
        return beat is not None and beat.doing == "training" and beat.done > 0

    until(trains)


def waits_for() -> dict[str, str]:
    """What each job in the queue depends on."""
    lines = ask("squeue", "--noheader", "--array", "--format=%i|%E").splitlines()
    return {id: on for id, on in (line.split("|") for line in lines)}


def cancel_all() -> None:
    scheduler.cancel(scheduler.queue())
    until(lambda: not scheduler.queue())


def assert_as_if_undisturbed(job: Job, terms: Terms, folder: Path) -> None:
    """To the bit: all metrics, and all that was trained."""
    other = replace(terms, results=folder)
    assert fill(job.run, job.tasks, other.lab(torch.device("cpu"))) == [*TASKS]
    records = [each.store.read(Cell(job.run, TASKS[0])) for each in (terms, other)]
    metrics = [record["metrics"] for record in records if record]
    assert len(metrics) == 2
    assert metrics[0] == metrics[1]
    files = [each.store.folder(job.run) / "checkpoint.pt" for each in (terms, other)]
    one, two = (torch.load(file, weights_only=True)["objective"] for file in files)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_times_are_read_as_slurm_reads_them(days: int, hours: int, mins: int, secs: int) -> None:
    whole = (days * 24 + hours) * 60 + mins
    assert scheduler.minutes(f"{days}-{hours:02}:{mins:02}:{secs:02}") == whole + 1
    assert scheduler.minutes(f"{days}-{hours}:{mins + 1}") == whole + 1
    assert scheduler.minutes(f"{days}-{hours + 1}") == (days * 24 + hours + 1) * 60
    assert scheduler.minutes(f"{hours}:{mins:02}:{secs:02}") == hours * 60 + mins + 1
    assert scheduler.minutes(f"{mins}:{secs}") == mins + 1
    assert scheduler.minutes(str(whole + 1)) == whole + 1


@pytest.mark.parametrize("text", ["", "0", "soon", "1h", "-5", "1-", "1:2:3:4", "1-2:3:4:5", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="should be minutes"):
        scheduler.minutes(text)


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("(null)", 0),
        ("gpu", 1),
        ("gpu:2", 2),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(S:0,1),gpu:v100:3(S:0)", 5),
        ("mps:400,gpu:1g.5gb:7", 7),
        ("shard:8,craynetwork:4", 0),
    ],
)
def test_gpus_of_a_node_are_counted(gres: str, count: int) -> None:
    assert scheduler.gpus(gres) == count


def test_where_there_is_no_slurm_other_places_are_named(
    terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match=r"no Slurm here: .* --on local and --on ray"):
        scheduler.check(terms, ANYWHERE)
    with pytest.raises(BadInput, match="no Slurm here: there is no squeue"):
        scheduler.queue()


def test_what_slurm_has_not_is_said(cluster: Cluster, terms: Terms) -> None:
    on_gpus = replace(terms, device="auto", gpus=2)
    scheduler.check(on_gpus, ANYWHERE)
    scheduler.check(terms, Allocation("island", 5))
    with pytest.raises(BadInput, match="no partition 'hihg'; did you mean high"):
        scheduler.check(terms, Allocation("hihg", 5))
    scheduler.check(on_gpus, Allocation("island,high", 5))
    with pytest.raises(BadInput, match="device 'cuda:1': Slurm chooses the GPUs; name cuda"):
        scheduler.check(replace(terms, device="cuda:1"), ANYWHERE)
    with pytest.raises(BadInput, match="3 GPUs, and a node of partition low has 2 at most"):
        scheduler.check(replace(on_gpus, gpus=3), ANYWHERE)
    with pytest.raises(BadInput, match="1 GPU, and a node of partition island has none; there is"):
        scheduler.check(replace(on_gpus, gpus=0.5), Allocation("island", 5))
    with pytest.raises(BadInput, match=r"^Slurm refuses: .*configuration is not available$"):
        scheduler.check(terms, Allocation("low", 5, options={"cpus_per_task": "99"}))


@pytest.mark.parametrize("key", ["time", "array", "dependency", "open-mode", "signal", "requeue"])
def test_what_the_jobs_set_themselves_is_not_to_be_given(
    key: str, cluster: Cluster, terms: Terms
) -> None:
    with pytest.raises(BadInput, match=f"--slurm {key}: the jobs set this option of sbatch"):
        scheduler.check(terms, Allocation("low", 5, options={key: "1"}))


def test_an_option_without_a_value_is_handed_on(cluster: Cluster, terms: Terms) -> None:
    alone = Allocation(None, 5, options={**LATER.options, "exclusive": ""})
    scheduler.check(terms, alone)
    slurm.submit([job()], terms, alone)
    (id,) = scheduler.queue()
    assert "OverSubscribe=NO" in ask("scontrol", "-o", "show", "job", id)
    cancel_all()


def test_a_run_meant_for_a_gpu_is_not_trained_without_one(cluster: Cluster, terms: Terms) -> None:
    slurm.submit([job()], replace(terms, device="auto"), ANYWHERE)
    failed = finish([job()], terms)
    assert "device 'cuda' can't be used here" in failed[job().run]
    assert not terms.store.checkpoint(job().run).exists()


def test_a_table_is_run_followed_cancelled_and_run_again(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("tiny", "Small.", (SETTING,), ("baseline", "mixup"), TASKS, seeds=1)
    monkeypatch.setattr(paper, "TABLES", {"tiny": table})
    monkeypatch.chdir(tmp_path)

    def mixbench(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            monkeypatch.setattr(sys, "argv", ["mixbench", *arguments])
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    on_slurm = ["--on", "slurm", "--device", "cpu"]
    with monkeypatch.context() as hasty:
        hasty.setattr(slurm, "probe", partial(scheduler.probe, patience=0))
        code, out, err = mixbench("run", "tiny", *on_slurm, "--slurm", "begin=now+1hour")
    assert code == 0 and "2 runs submitted: job " in out
    assert "no node is free to look for the results folder: all jobs wait until job" in err
    assert "2 runs queued or at work already" in mixbench("run", "tiny", *on_slurm)[1]
    _, out, _ = mixbench("status", "tiny")
    assert "/mixup/0: queued: job " in out and "pending (Dependency)" in out
    assert out.endswith("2 queued\n")
    assert mixbench("cancel", "tiny")[:2] == (0, "2 jobs cancelled\n")
    assert mixbench("status", "tiny")[1].endswith("2 waiting\n")
    code, out, _ = mixbench("run", "tiny", *on_slurm, "--wait")
    assert code == 0 and "[2/2]" in out and "| mixup " in out
    assert mixbench("status", "tiny")[1].endswith("2 done\n")
    assert "[1/1]" in mixbench("logs", f"{SETTING}/mixup/0")[1]
    assert mixbench("run", "tiny", *on_slurm, "--partition", "low")[0] == 0
    cancel_all()


def test_a_folder_that_nodes_share_is_fine(
    cluster: Cluster, terms: Terms, recwarn: pytest.WarningsRecorder
) -> None:
    assert scheduler.probe(terms, ANYWHERE) is None
    assert not list(recwarn)
    assert not list((terms.results / ".slurm").iterdir())


def test_a_folder_that_a_node_does_not_see_is_found_out(cluster: Cluster, terms: Terms) -> None:
    if not cluster.island:
        pytest.skip("needs a mount namespace")
    there = replace(terms, results=cluster.hidden / "results")
    with pytest.raises(BadInput, match=r"node n3 does not see .*/hidden/results; .* --results"):
        scheduler.probe(there, Allocation("island", 5))


def test_locks_that_a_node_does_not_see_are_warned_of(cluster: Cluster, terms: Terms) -> None:
    if not cluster.island:
        pytest.skip("needs a mount namespace")
    there = replace(terms, results=cluster.lockless / "results")
    with pytest.warns(UserWarning, match="node n3 sees no locks .* from one place only"):
        assert scheduler.probe(there, Allocation("island", 5)) is None


def test_while_no_node_has_looked_no_run_starts(cluster: Cluster, terms: Terms) -> None:
    with pytest.warns(UserWarning, match="all jobs wait until job"):
        probe = scheduler.probe(terms, LATER, patience=0)
    assert probe is not None
    slurm.submit([job()], terms, LATER, probe)
    assert waits_for()[noted(job(), terms).id] == f"afterok:{probe}(unfulfilled)"
    cancel_all()


def test_runs_that_an_array_can_not_hold_come_in_another(cluster: Cluster, terms: Terms) -> None:
    jobs = [job(seed=seed) for seed in range(6)]
    first, second = slurm.submit(jobs, terms, replace(LATER, at_once=3))
    ids = [noted(each, terms).id for each in jobs]
    assert ids == [*(f"{first}_{i}" for i in range(4)), f"{second}_0", f"{second}_1"]
    assert {id: queued.state for id, queued in scheduler.queue().items()} == dict.fromkeys(
        ids, "PENDING"
    )
    assert cluster.about(first)["ArrayTaskThrottle"] == "3"
    assert f"afterany:{first}_*" in waits_for()[ids[-1]]
    cancel_all()


def test_a_run_waits_for_its_teacher_alone(cluster: Cluster, terms: Terms) -> None:
    jobs = [job("supermix"), job("mixup"), job("baseline", 1), job("baseline")]
    slurm.submit(jobs, terms, LATER)
    taught, teacher = noted(jobs[0], terms).id, noted(jobs[3], terms).id
    on = waits_for()
    assert on.pop(taught) == f"afterany:{teacher}(unfulfilled)"
    assert set(on.values()) == {"(null)"}
    cancel_all()


def test_small_runs_share_a_job_and_its_gpu(cluster: Cluster, terms: Terms) -> None:
    seeds = (0, 1)
    jobs = [job(method, seed) for method in ("supermix", "baseline", "mixup") for seed in seeds]
    slurm.submit(jobs, replace(terms, device="auto", gpus=0.34), LATER)
    assert len({noted(each, terms).id for each in jobs}) == 3
    assert "gpu:1" in cluster.about(noted(jobs[0], terms).id)["TresPerNode"]
    cancel_all()


def test_a_job_does_not_wait_for_itself(cluster: Cluster, terms: Terms) -> None:
    taught = [job("supermix", seed) for seed in (0, 1)]
    jobs = [*taught, job(seed=0), job("mixup"), job("cutmix"), job(seed=1)]
    slurm.submit(jobs, replace(terms, gpus=1 / 3), LATER)
    other, own = noted(jobs[2], terms).id, noted(jobs[5], terms).id
    assert {noted(each, terms).id for each in taught} == {own}
    assert waits_for() == {other: "(null)", own: f"afterany:{other}(unfulfilled)"}
    cancel_all()


def test_a_run_on_several_gpus_asks_for_them(cluster: Cluster, terms: Terms) -> None:
    several = replace(terms, device="auto", gpus=2)
    slurm.submit([job()], several, replace(LATER, apart=True))
    training, asking = noted(job(), terms).ids
    assert "gpu:2" in cluster.about(training)["TresPerNode"]
    assert "gpu:1" in cluster.about(asking)["TresPerNode"]
    scheduler.cancel([training])
    until(lambda: not scheduler.queue())


def test_an_array_on_two_nodes_fills_all_cells(cluster: Cluster, terms: Terms) -> None:
    jobs = [job("mixup"), job("baseline")]
    slurm.submit(jobs, terms, Allocation("low", 5, options={"gres": "gpu:2"}))
    ids = [noted(each, terms).id for each in jobs]
    assert finish(jobs, terms) == {}
    assert all(each.done(terms.store) for each in jobs)
    assert {cluster.about(id)["BatchHost"] for id in ids} == {"n1", "n2"}


def test_tasks_are_asked_in_jobs_of_their_own(cluster: Cluster, terms: Terms) -> None:
    slurm.submit([job()], terms, replace(ANYWHERE, apart=True))
    assert finish([job()], terms) == {}
    assert "training, 0 of 2 done" not in log(job(), terms)
    assert f"{job().run}: done" in log(job(), terms)


def test_what_fails_is_told_and_what_is_killed_is_tried_again(
    cluster: Cluster, terms: Terms, own: Own
) -> None:
    broken, fragile = own.job(BROKEN), own.job(FRAGILE)
    slurm.submit([broken, fragile], replace(terms, retries=1), ANYWHERE)
    error = terms.store.folder(broken.run) / "error.txt"
    assert finish([broken, fragile], terms) == {
        broken.run: f"RuntimeError: it is broken (see {error})"
    }
    assert "it is tried again" in log(fragile, terms)
    until(lambda: cluster.about(noted(broken, terms).id)["JobState"] == "FAILED")
    own.gate.touch()
    slurm.submit([broken], terms, ANYWHERE)
    assert not error.exists()
    assert finish([broken], terms) == {}


def test_a_run_that_left_the_queue_is_submitted_again(cluster: Cluster, terms: Terms) -> None:
    slurm.submit([job()], terms, LATER)
    before = noted(job(), terms)
    cancel_all()
    lost = f"it left the queue without a result (see {terms.results / before.log})"
    assert finish([job()], terms) == {job().run: lost}
    assert finish([job()], replace(terms, retries=1)) == {}
    assert noted(job(), terms) != before


def test_a_job_leaves_a_run_that_was_submitted_again(cluster: Cluster, terms: Terms) -> None:
    left, kept = job(), job("mixup")
    (array,) = slurm.submit([left, kept], terms, LATER)
    again = Submitted(f"{int(array) + 1}", "log")
    again.note(terms.store, left.run)
    before = noted(kept, terms)
    (terms.store.folder(kept.run) / ".job.json").unlink()
    ask("scontrol", "update", f"jobid={array}", "starttime=now")
    until(lambda: not scheduler.queue())
    assert (noted(left, terms), noted(kept, terms)) == (again, before)
    assert not (terms.store.folder(left.run) / "checkpoint.pt").exists()
    assert kept.done(terms.store)


def test_a_run_that_is_preempted_goes_on_where_it_was(
    cluster: Cluster, terms: Terms, own: Own, tmp_path: Path
) -> None:
    slow = own.job(SLOW)
    slurm.submit([slow], terms, Allocation("low", 5, options={"nodelist": "n2"}))
    until_it_trains(slow, terms)
    urgent = ["--partition=high", "--nodelist=n2", "--exclusive", "--output=/dev/null"]
    ask("sbatch", *urgent, "--wrap=true")
    cluster.start_held(noted(slow, terms).id)
    own.gate.touch()
    assert finish([slow], terms) == {}
    assert STOPPED in log(slow, terms)  # by SIGTERM, which submitit alone does not heed
    steps = own.steps.stat().st_size
    assert_as_if_undisturbed(slow, terms, tmp_path / "undisturbed")
    assert own.steps.stat().st_size == 2 * steps  # no step was made twice


def test_a_run_whose_time_is_up_goes_on_where_it_was(
    cluster: Cluster, terms: Terms, own: Own, tmp_path: Path
) -> None:
    slow = own.job(SLOW)
    slurm.submit([slow], terms, Allocation("low", 1))
    id = noted(slow, terms).id
    until(lambda: cluster.about(id)["Restarts"] == "1", patience=120)
    cluster.start_held(id)
    own.gate.touch()
    assert finish([slow], terms) == {}
    assert "timed-out" in log(slow, terms)
    steps = own.steps.stat().st_size
    assert_as_if_undisturbed(slow, terms, tmp_path / "undisturbed")
    assert own.steps.stat().st_size == 2 * steps


def test_a_run_whose_node_dies_goes_on_elsewhere(
    cluster: Cluster, terms: Terms, own: Own, tmp_path: Path
) -> None:
    slow = own.job(SLOW)
    slurm.submit([slow], terms, ANYWHERE)
    until_it_trains(slow, terms)
    id = noted(slow, terms).id
    node = cluster.about(id)["BatchHost"]
    cluster.kill(node)
    own.gate.touch()
    cluster.start_held(id)
    assert finish([slow], terms) == {}
    assert {node, cluster.about(id)["BatchHost"]} == {"n1", "n2"}
    assert_as_if_undisturbed(slow, terms, tmp_path / "undisturbed")
    cluster.revive(node)
