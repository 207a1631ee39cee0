"""A Slurm of its own in a temporary folder: three pretended nodes, two pretended GPUs on each of two.

It needs no root, and leaves nothing behind.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from getpass import getuser
from pathlib import Path

import pytest

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol")
PATIENCE = 60.0

CONFIGURATION = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=0
MaxArraySize=4
GresTypes=gpu
NodeName=DEFAULT CPUs=8 RealMemory=4000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} Gres=gpu:2
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]}
PartitionName=low Nodes=n[1-2] Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=n[1-2] State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=island Nodes=n3 State=UP
"""

ISLAND = """
mount -t tmpfs none {folder}/hidden &&
mount -t overlay -o lowerdir={folder}/lockless,upperdir={folder}/upper,workdir={folder}/work \
    none {folder}/lockless &&
exec "$@"
"""
"""Node n3 sees a folder of its own in the place of one, and the files but no locks of another."""


class Cluster:
    """Nodes n1 and n2 in the partitions low, the default, and high; n3 in the partition island.

    island: whether n3 is up. It sees nothing of ``hidden``, and in ``lockless`` the files alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hidden, self.lockless = folder / "hidden", folder / "lockless"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.island = False

    def configure(self) -> None:
        for name in ("state", "hidden", "lockless", "upper", "work"):
            (self.folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(
            host=host, ports=free_ports(4), user=getuser(), folder=self.folder
        )
        (self.folder / "slurm.conf").write_text(text)
        for gpu in ("gpu0", "gpu1"):
            (self.folder / gpu).symlink_to(os.devnull)
        (self.folder / "gres.conf").write_text(
            f"NodeName=n[1-2] Name=gpu File={self.folder}/gpu[0-1] Flags=nvidia_gpu_env\n"
        )
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o400)

    def start(self) -> None:
        files = {
            "key-file": "key",
            "socket": "munge.sock",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        munge = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self.daemon("munged", ["munged", "--foreground", "--force", *munge])
        until((self.folder / "munge.sock").exists)
        conf = ["-D", "-f", str(self.folder / "slurm.conf")]
        self.daemon("slurmctld", ["slurmctld", *conf])
        until(lambda: succeeds(["sinfo"]))
        for node in ("n1", "n2"):
            self.start_node(node)
        namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        setup = ["sh", "-c", ISLAND.format(folder=self.folder), "island"]
        self.island = succeeds([*namespace, *setup, "true"])
        if self.island:
            self.daemon("n3", [*namespace, *setup, "slurmd", *conf, "-N", "n3"])
        nodes = ["n1", "n2", *(["n3"] if self.island else [])]
        until(lambda: all(self.state(node) == "idle" for node in nodes))

    def revive(self, node: str) -> None:
        self.start_node(node)
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        until(lambda: self.state(node) == "idle")

    def start_node(self, node: str) -> None:
        conf = ["-D", "-f", str(self.folder / "slurm.conf"), "-N", node]
        self.daemon(node, ["slurmd", *conf])

    def daemon(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PATH": PATH}
            )

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        for pid in self.processes():
            end(pid)

    def processes(self, *marks: str) -> list[int]:
        """What was started here, such as the processes of jobs; with all of these in its environment."""
        wanted = [mark.encode() for mark in (f"SLURM_CONF={self.folder}/", *marks)]
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if int(process.name) != os.getpid() and all(mark in environment for mark in wanted):
                found.append(int(process.name))
        return found

    def state(self, node: str) -> str:
        return ask("sinfo", "--noheader", f"--nodes={node}", "--format=%t").partition("\n")[0]

    def about(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, even if it has ended."""
        return dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "-o", "show", "job", job)))

    def kill(self, node: str) -> None:
        """The node loses its power, with all that runs there, and Slurm is told."""
        slurmd = self.daemons.pop(node)
        slurmd.kill()
        slurmd.wait()
        tasks = self.processes(f"SLURMD_NODENAME={node}\0")
        supervisors = {parent(pid) for pid in tasks} & {*self.processes()} - {*tasks}
        for pid in [*supervisors, *tasks]:  # first those who would report the others' end
            end(pid)
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def start_held(self, job: str) -> None:
        """Start at once what was requeued, which Slurm puts off by two minutes."""
        until(lambda: "PENDING" in ask("squeue", "-h", "-j", job, "-o", "%T"), patience=180)
        time.sleep(8)  # what the job was started with last is revoked until then
        ask("scontrol", "update", f"jobid={job}", "starttime=now")


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def until(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.2)


def parent(pid: int) -> int:
    """The process that started another; 0 if that is gone."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
    except OSError:
        return 0


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def slurm() -> Iterator[Cluster]:
    """A Slurm that commands find through the environment; without its programs, a skipped test."""
    if any(shutil.which(program, path=PATH) is None for program in PROGRAMS):
        pytest.skip("needs: apt-get install slurmctld slurmd slurm-client munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, since it holds a socket
    cluster = Cluster(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            cluster.configure()
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)
