"""A Slurm of one node on loopback with two GPUs that are none, for as long as a test needs it."""

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
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=1000000
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory} Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


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
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir()
        for number in range(2):
            os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20) * 9 // 10
        self.write("slurm.conf", CONFIG.format(host=host, folder=folder, memory=memory))
        self.write("gres.conf", f"NodeName={host} Name=gpu File={folder}/gpu[0-1]\n")
        # setpriv: they end with this process too, however it ends.
        with (folder / "daemons.log").open("w", encoding="utf-8") as log:
            self.daemons = [
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *command],
                    stdout=log,
                    stderr=log,
                )
                for command in (self.munge(), ["slurmctld", "-D"], ["slurmd", "-D"])
            ]
        while "idle" not in self.ask("sinfo", "--noheader", "--format=%T"):
            if not self.runs():
                self.stop()
                raise RuntimeError(f"Slurm has ended; see the logs in {folder}")
            time.sleep(0.5)

    def write(self, name: str, text: str) -> None:
        """Write a file of Slurm's own configuration."""
        (ETC / name).write_text(text, encoding="utf-8")

    def munge(self) -> list[str]:
        """The command of a munged with a key, a socket and a log of its own."""
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
        return ["munged", "--foreground", "--force", *options]

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands says."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start, in order of submission, by scontrol's own names."""
        lines = self.ask("scontrol", "show", "jobs", "--oneliner").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "JobId=" in line]
        return sorted(found, key=lambda job: int(job["JobId"]))

    def runs(self) -> bool:
        """Whether all daemons run."""
        return all(daemon.poll() is None for daemon in self.daemons)

    def stop(self) -> None:
        """End all jobs, then the daemons, without which nothing would end them."""
        self.ask("scancel", "--user=root")
        while self.runs() and self.ask("squeue", "--noheader"):
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()
            daemon.wait()
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()
