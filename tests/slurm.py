"""A Slurm of three nodes on loopback, for as long as a test needs it.

Each node is a slurmd with a port of its own. It has one CPU, so that jobs that run at once run on
different nodes, and two GPUs that are none. The nodes share the machine's folders.
"""

import os
import re
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

CONFIG = """\
ClusterName=microtome
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=1
MinJobAge=1000000
GresTypes=gpu
NodeName=DEFAULT CPUs=1 RealMemory={memory} Gres=gpu:2
NodeName=node[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17003]
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
#: A node with a slow disk: all Python there flushes files late, and as long as there is a file
#: named stalled, not at all.
SLOW = """\
import os
import time
flush = os.fsync
def flush_late(file):
    time.sleep(0.2)
    while os.path.exists({stalled!r}):
        time.sleep(0.2)
    flush(file)
os.fsync = flush_late
"""
PROLOG = """\
#!/bin/sh
test "$SLURMD_NODENAME" = node3 && echo "export PYTHONPATH={folder}/slow:$PYTHONPATH"
exit 0
"""
NODES = ("node1", "node2", "node3")
#: Where Slurm looks by itself: the executor plugin keeps SLURM_CONF from its job steps.
ETC = Path("/etc/slurm")


class Slurm:
    """The daemons, and what they know of jobs.

    Slurm enforces memory limits by looking at processes now and then (OverMemoryKill). Most
    clusters use cgroups, but not every container has those.
    """

    def __init__(self, folder: Path) -> None:
        """Start munged, slurmctld and slurmd, and wait until the node takes jobs."""
        self.folder = folder
        place = ETC / "slurm.conf"  # one of a test run that was killed is written over
        if place.exists() and "ClusterName=microtome\n" not in place.read_text(encoding="utf-8"):
            raise FileExistsError(f"{place}: this machine has a Slurm of its own")
        for name in ("state", "munge", *NODES):
            (folder / name).mkdir()
        for number in range(2):
            os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20) * 9 // 10
        self.write("slurm.conf", CONFIG.format(host=host, folder=folder, memory=memory))
        self.write("gres.conf", f"NodeName=node[1-3] Name=gpu File={folder}/gpu[0-1]\n")
        self.stalled = folder / "stalled"
        (folder / "slow").mkdir()
        (folder / "slow" / "sitecustomize.py").write_text(SLOW.format(stalled=str(self.stalled)))
        prolog = folder / "prolog"
        prolog.write_text(PROLOG.format(folder=folder))
        prolog.chmod(0o755)
        self.daemons: dict[str, subprocess.Popen] = {}
        self.start("munged", *self.munge())
        self.start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes(*NODES)

    def start(self, name: str, *arguments: str, node: str | None = None) -> None:
        """Start a daemon. It ends with this process too, however it ends."""
        command = ["setpriv", "--pdeathsig", "TERM", name, *arguments]
        with (self.folder / "daemons.log").open("a", encoding="utf-8") as log:
            self.daemons[node or name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self.start("slurmd", "-D", "-N", node, node=node)

    def wait_for_nodes(self, *nodes: str) -> None:
        """Wait until nodes take jobs."""
        while set(nodes) - set(self.ask("sinfo", "-N", "-h", "-t", "idle", "-o", "%N").split()):
            if not self.runs():
                self.stop()
                raise RuntimeError(f"Slurm has ended; see the logs in {self.folder}")
            time.sleep(0.5)

    def write(self, name: str, text: str) -> None:
        """Write a file of Slurm's own configuration."""
        (ETC / name).write_text(text, encoding="utf-8")

    def munge(self) -> list[str]:
        """The options of a munged with a key, a socket and a log of its own."""
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        places = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "log-file": self.folder / "munge" / "log",
            "pid-file": self.folder / "munge" / "pid",
            "seed-file": self.folder / "munge" / "seed",
        }
        options = [f"--{name}={place}" for name, place in places.items()]
        return ["--foreground", "--force", *options]

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands says."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start, in order of submission, by scontrol's own names."""
        lines = self.ask("scontrol", "show", "jobs", "--oneliner").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "JobId=" in line]
        return sorted(found, key=lambda job: int(job["JobId"]))

    def cut_off(self, job: dict[str, str]) -> None:
        """Let a job's node vanish from the network: its processes go on, and nobody hears of them.

        That is, end the node's daemons: slurmd, and the parents of the job's tasks.
        """
        node = job["NodeList"]
        listed = self.ask("scontrol", "listpids", job["JobId"], node).splitlines()[1:]
        tasks = [line.split()[0] for line in listed if line.split()[3] != "-"]
        daemons = {int(Path("/proc", task, "stat").read_text().split()[3]) for task in tasks}
        for daemon in (self.daemons[node].pid, *daemons):
            os.kill(daemon, signal.SIGKILL)
        self.daemons.pop(node).wait()

    def set_node(self, node: str, state: str) -> None:
        """Set a node down, or take it back."""
        self.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    def set_job(self, job: dict[str, str], setting: str) -> None:
        """Change a job."""
        self.ask("scontrol", "update", f"jobid={job['JobId']}", setting)

    def runs(self) -> bool:
        """Whether all daemons run."""
        return all(daemon.poll() is None for daemon in self.daemons.values())

    def stop(self) -> None:
        """End all jobs, then the daemons, without which nothing would end them."""
        self.ask("scancel", "--user=root")
        while self.runs() and self.ask("squeue", "--noheader"):
            time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()
            daemon.wait()
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()
