"""A SLURM cluster of one node on this machine: the real daemons, and GPUs that are character devices nobody reads.

    python -m tests.slurm.cluster snakemake --workflow-profile config/profiles/slurm ...    run a command with a cluster around it

Needs root and Debian's packages: apt-get install --no-install-recommends slurm-wlm slurm-client munge
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol")
# The step that runs in a job drops SLURM_CONF, so the files must lie where SLURM looks for them.
FOLDER = Path("/etc/slurm")
MARK = "# Written by tests/slurm of nsr, removed when its cluster stops."
MUNGE = Path("/run/munge")

SLURM_CONF = """{mark}
ClusterName=nsr
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_min_interval=1000000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
MinJobAge=3600
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=20
# The node may claim more cores and memory than the machine has: what counts is who may run beside whom.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = "{mark}\nNodeName={host} Name=gpu File={state}/gpu[0-{last}]\n"
CGROUP_CONF = "{mark}\nCgroupPlugin=cgroup/v1\n"


def why_not() -> str:
    """Why there can be no cluster here, or nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    configured = FOLDER / "slurm.conf"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "SLURM's daemons need Linux and root"
    if missing:
        return f"no {', '.join(missing)} here (Debian: apt-get install --no-install-recommends slurm-wlm slurm-client munge)"
    if configured.exists() and not configured.read_text().startswith(MARK):
        return f"{configured} is not ours: there is a cluster already"
    if configured.exists() and "is UP" in said("scontrol", "ping"):
        return "a cluster of these tests is running already"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return f"the host's name {socket.gethostname()} has no address; add it to /etc/hosts"
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_device(Path(folder) / "gpu")
        except OSError as error:
            return f"no device can be made here to stand for a GPU ({error.strerror})"
    return ""


class Cluster:
    """One node with GPUs, started at the block's begin and stopped, without traces in the system, at its end."""

    def __init__(self, state: Path, gpus: int = 3, cpus: int = 16, memory: int = 200_000) -> None:
        self.state, self.gpus, self.cpus, self.memory = state, gpus, cpus, memory
        self.host = socket.gethostname()
        self.starts_munge = False

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def start_node(self) -> None:
        """Start slurmd and wait until the node takes jobs."""
        subprocess.run(["slurmd", "-N", self.host], check=True, timeout=30)
        wait_for(lambda: self.node_state() in ("idle", "mixed", "allocated"), 60, "the node takes jobs", self.logs)

    def node_state(self) -> str:
        """The node's state as `sinfo` prints it; empty while the controller does not answer."""
        return said("sinfo", "-h", "-N", "-o", "%T").strip()

    def kill_node(self) -> None:
        """SIGKILL to slurmd and to all that runs on the node, as when its power fails."""
        os.kill(self._pid("slurmd"), signal.SIGKILL)
        for root in self._steps():
            for pid in [root, *descendants(root)]:
                kill(pid)

    def kill_slurmd(self) -> None:
        """SIGKILL to slurmd alone."""
        os.kill(self._pid("slurmd"), signal.SIGKILL)

    def jobs(self) -> list[dict[str, str]]:
        """Jobs that the controller remembers, oldest first: id, state, name (of snakemake's run), comment (rule and wildcards)."""
        lines = said("squeue", "-h", "-t", "all", "-o", "%i|%T|%j|%k").splitlines()
        rows = [dict(zip(("id", "state", "name", "comment"), line.split("|"), strict=True)) for line in lines]
        return sorted(rows, key=lambda row: int(row["id"]))

    def details(self, job: str) -> dict[str, str]:
        """What `scontrol` knows of a job."""
        return dict(part.split("=", 1) for part in said("scontrol", "-d", "-o", "show", "job", job).split() if "=" in part)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        files = sorted(self.state.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def _start(self) -> None:
        for name in ("state", "spool"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        for index in range(self.gpus):
            make_device(self.state / f"gpu{index}")
        values = {
            "mark": MARK,
            "host": self.host,
            "state": self.state,
            "ports": free_ports(2),
            "cpus": self.cpus,
            "memory": self.memory,
            "gpus": self.gpus,
            "last": self.gpus - 1,
        }
        FOLDER.mkdir(exist_ok=True)
        for name, text in (("slurm.conf", SLURM_CONF), ("gres.conf", GRES_CONF), ("cgroup.conf", CGROUP_CONF)):
            (FOLDER / name).write_text(text.format(**values))
        self._start_munge()
        subprocess.run(["slurmctld", "-c"], check=True, timeout=30)
        self.start_node()

    def _start_munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return  # one runs already and stays
        MUNGE.mkdir(exist_ok=True)
        shutil.chown(MUNGE, "munge", "munge")
        MUNGE.chmod(0o755)
        subprocess.run(["runuser", "-u", "munge", "--", shutil.which("munged") or "munged"], check=True, timeout=30)
        self.starts_munge = True

    def _stop(self) -> None:
        subprocess.run(["scancel", "--user", "root", "--full"], capture_output=True, timeout=30)
        for name in ("slurmd", "slurmctld"):
            self._end(self.state / f"{name}.pid")
        for root in self._steps():
            for pid in [*descendants(root), root]:
                kill(pid)
        if self.starts_munge:
            self._end(MUNGE / "munged.pid")
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            path = FOLDER / name
            if path.exists() and path.read_text().startswith(MARK):
                path.unlink()

    def _end(self, pid_file: Path) -> None:
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30, f"{pid_file.stem} ends", self.logs)

    def _pid(self, name: str) -> int:
        return int((self.state / f"{name}.pid").read_text())

    def _steps(self) -> list[int]:
        """Processes that manage a step of a job. There is no other cluster here (`why_not`), so they are ours."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may have ended meanwhile
                if (folder / "comm").read_text().strip() == "slurmstepd":
                    found.append(int(folder.name))
        return found


def make_device(path: Path) -> None:
    """A character device like /dev/null."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def said(*command: str) -> str:
    """What one of SLURM's programs answers; empty while the controller does not."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def descendants(pid: int) -> list[int]:
    """Processes below a process, nearest first."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop(0)
        try:
            children = [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except OSError:
            children = []
        found += children
        waiting += children
    return found


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def wait_for(holds: Callable[[], bool], seconds: float, what: str, more: Callable[[], str] = str) -> float:
    """Wait until something holds; the seconds it took.

    Raises:
        TimeoutError: it did not within `seconds`; the message ends with what `more` returns.
    """
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"waited {seconds} s until {what}\n{more()}")
        time.sleep(0.2)
    return time.monotonic() - start


def main(arguments: list[str]) -> int:
    """Run a command with a cluster around it; its exit code."""
    if reason := why_not():
        sys.stderr.write(f"{reason}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="nsr-slurm-") as folder, Cluster(Path(folder)):
        return subprocess.run(arguments or ["sinfo"]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
