"""Ray, on two nodes that this machine pretends: what dies is taken up elsewhere."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.launch import Job, Terms, heartbeat, local
from mixbench.bench.launch import ray as place
from mixbench.bench.spec import BadInput

os.environ.update(place.QUIET)
pytest.importorskip("ray")

SETTING = "digits/small,epochs=20"
TASKS = ("classification",)
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}

BROKEN = """
from dataclasses import dataclass
from mixbench.methods import Method

@dataclass(frozen=True)
class Broken(Method):
    def loss(self, net, x, y):
        raise RuntimeError("it is broken")
"""

ENDLESS = f"""
import sys
from pathlib import Path
from mixbench.bench.cells import Run
from mixbench.bench.launch import Job, Terms
from mixbench.bench.launch.ray import launch

job = Job(Run("digits/small,epochs=100000", "baseline", 0), {TASKS})
launch([job], Terms(Path(sys.argv[1]), device="cpu"), None)
"""


def job(method: str, setting: str = SETTING) -> Job:
    return Job(Run(setting, method, 0), TASKS)


def until(true: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Nodes:
    """A head that takes no runs, and two nodes that hold one each and start in their own folders."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        self.each = {name: self.add(name) for name in ("127.0.0.2", "127.0.0.3")}

    def add(self, name: str, **resources: Any) -> Any:
        (home := self.folder / name).mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            options = {"num_cpus": 1, "node_ip_address": name, **SMALL, **resources}
            return self.cluster.add_node(**options)

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def launch(self, jobs: list[Job], terms: Terms) -> dict[Run, str]:
        return place.launch(jobs, terms, self.cluster.address)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return Terms(tmp_path / "results", device="cpu", retries=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Results that no cluster had a part in."""
    terms = Terms(tmp_path_factory.mktemp("undisturbed"), device="cpu")
    assert not local.launch([job("mixup"), job("cutmix")], terms, at_once=2)
    return terms.store


def metrics(store: Store, job: Job) -> Any:
    record = store.read(Cell(job.run, *job.tasks))
    assert record
    return record["metrics"]


def processes(store: Store, job: Job) -> int:
    """How many have worked on a run."""
    return (store.folder(job.run) / "log.txt").read_text().count("--- ")


def parent(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


def kill_in_the_middle(store: Store, jobs: list[Job], kill: Callable[[], None]) -> Thread:
    """A thread that kills when the jobs have all trained for an epoch."""

    def watch() -> None:
        for each in jobs:
            until((store.folder(each.run) / "checkpoint.pt").exists)
        kill()

    thread = Thread(target=watch)
    thread.start()
    return thread


def test_runs_are_filled_and_one_that_fails_is_told(
    nodes: Nodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    short = "digits/small,epochs=1"
    fine, broken = [job("mixup", short), job("cutmix", short)], job("ours.broken", short)
    terms = Terms(Path("results"))
    failed = nodes.launch([fine[0], broken, fine[1]], terms)
    assert list(failed) == [broken.run]
    assert failed[broken.run].startswith(f"RuntimeError: it is broken (see {tmp_path}")
    assert all(each.done(terms.store) for each in fine)
    out, err = capfd.readouterr()
    assert "[3/3]" in out and out.count(": done\n") == 2
    assert f"{broken.run}: failed: RuntimeError" in out
    assert err == ""
    assert {path.name for path in terms.results.iterdir()} == {"digits"}


def test_a_run_whose_worker_is_killed_is_taken_up_with_the_same_numbers(
    nodes: Nodes, terms: Terms, undisturbed: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    hit = job("mixup")

    def kill() -> None:
        beat = heartbeat.read(terms.store, hit.run)
        assert beat
        os.kill(parent(parent(beat.pid)), signal.SIGKILL)  # between them is one that forks

    killer = kill_in_the_middle(terms.store, [hit], kill)
    assert nodes.launch([hit], terms) == {}
    killer.join()
    assert processes(terms.store, hit) == 2
    assert metrics(terms.store, hit) == metrics(undisturbed, hit)
    assert f"{hit.run}: training, " in capfd.readouterr().out


def test_the_runs_of_a_node_that_is_killed_finish_on_the_other(
    nodes: Nodes, terms: Terms, undisturbed: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs, lost = [job("mixup"), job("cutmix")], nodes.each["127.0.0.3"]
    killer = kill_in_the_middle(terms.store, jobs, lambda: nodes.kill(lost))
    try:
        assert nodes.launch(jobs, terms) == {}
    finally:
        killer.join()
        nodes.each["127.0.0.3"] = nodes.add("127.0.0.3")
    assert sorted(processes(terms.store, each) for each in jobs) == [1, 2]
    for each in jobs:
        assert metrics(terms.store, each) == metrics(undisturbed, each)
    assert "raylet" not in capfd.readouterr().out


def test_a_run_whose_worker_dies_once_too_often_is_given_up(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = Terms(tmp_path / "results", device="cpu", retries=0)

    def die(*_: object) -> None:
        with (terms.results / "deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(place, "work", die)
    ((run, why),) = nodes.launch([job("mixup")], terms).items()
    assert run == job("mixup").run
    assert why.startswith("WorkerCrashedError: ") and "\n" not in why
    assert (terms.results / "deaths").read_text() == "x"


def test_a_node_that_does_not_see_the_results_is_named_before_anything_starts(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nodes.folder / "127.0.0.2")
    results = Path("/proc/self/cwd/results")  # as with a local disk, another one for each node
    why = r"^node 127\.0\.0\.3: \S+ does not see the results folder /proc.*; name one with"
    with pytest.raises(BadInput, match=why):
        nodes.launch([job("mixup")], Terms(results, device="cpu"))
    assert not list(results.iterdir())


def test_a_node_that_is_gone_is_not_waited_for(nodes: Nodes, tmp_path: Path) -> None:
    gone = {"NodeID": "a" * 56, "NodeManagerAddress": "127.0.0.9"}
    with place.connected(nodes.cluster.address), place.token(tmp_path) as shared:
        place.check_nodes([*place.alive(), gone], shared)


def test_a_run_is_not_worked_on_where_its_results_are_not_seen(tmp_path: Path) -> None:
    terms = Terms(tmp_path / "results", device="cpu")
    with pytest.raises(BadInput, match=f"{socket.gethostname()} does not see the results folder"):
        place.work(job("mixup"), terms, terms.results / "token", tmp_path)
    assert not terms.results.exists()


def test_runs_share_gpus_and_see_only_their_own(
    nodes: Nodes, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(job: Job, terms: Terms, *_: object) -> dict[Run, Any]:
        began = time.monotonic()
        (terms.results / str(job.run.seed)).touch()
        while len([*terms.results.glob("[0-9]")]) < 4 and time.monotonic() < began + 60:
            time.sleep(0.05)
        return {job.run: (os.environ["CUDA_VISIBLE_DEVICES"], began, time.monotonic())}

    monkeypatch.setattr(place, "work", pretend)
    node = nodes.add("127.0.0.4", num_cpus=8, num_gpus=2)
    try:
        jobs = [Job(Run(SETTING, "mixup", seed), TASKS) for seed in range(5)]
        shared = Terms(terms.results, device="cuda", gpus=0.5)
        told: dict[Run, Any] = nodes.launch(jobs, shared)
    finally:
        nodes.kill(node)
    at_once = [
        [gpu for gpu, began, ended in told.values() if began <= start < ended]
        for _, start, _ in told.values()
    ]
    assert max(at_once, key=len).count("0") == max(at_once, key=len).count("1") == 2
    assert len(max(at_once, key=len)) == 4


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            {"device": "cuda", "gpus": 4},
            r"^no node of Ray's has 4 GPUs and a core for a run; the most",
        ),
        ({"device": "cuda:1"}, "^device 'cuda:1': Ray chooses the GPUs; name cuda$"),
    ],
)
def test_gpus_that_are_not_there_are_refused(
    nodes: Nodes, tmp_path: Path, wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        nodes.launch([job("mixup")], Terms(tmp_path / "results", **wrong))


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        ({"CPU": 8.0, "GPU": 2.0}, 0.5, 4),
        ({"CPU": 3.0, "GPU": 2.0}, 0.5, 3),
        ({"CPU": 8.0, "GPU": 2.0}, 4, 0),
        ({"CPU": 8.0}, 1, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 0, 8),
        ({"memory": 1e9}, 0, 0),
    ],
)
def test_a_node_has_room_for_as_many_runs_as_its_gpus_and_cores(
    resources: dict[str, float], gpus: float, expected: int
) -> None:
    assert place.room({"Resources": resources}, gpus) == expected


@pytest.mark.parametrize("address", ["{closed}", "ray://{closed}", "nonsense", "127.0.0.1:x"])
def test_a_ray_that_is_not_there_is_named(terms: Terms, address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(closed=f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(BadInput, match=f"^no Ray can be reached at {address}: ") as error:
            place.launch([job("mixup")], terms, address)
    assert "\n" not in str(error.value)


def test_without_ray_what_to_install_is_told(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"^there is no Ray here: pip install 'mixbench\[ray\]'$"):
        place.launch([job("mixup")], terms, None)


def test_ctrl_c_ends_a_ray_of_our_own_and_keeps_what_is_there(terms: Terms, tmp_path: Path) -> None:
    (script := tmp_path / "endless.py").write_text(ENDLESS)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(terms.results)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        run = Run("digits/small,epochs=100000", "baseline", 0)
        until((terms.store.folder(run) / "checkpoint.pt").exists)
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert not terms.store.claimed(run)
    assert heartbeat.read(terms.store, run) is None
    assert {path.name for path in terms.results.iterdir()} == {"digits"}
