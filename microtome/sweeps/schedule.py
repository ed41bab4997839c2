"""A simulation of many jobs on many nodes: what they take together, and what they wait for.

Jobs queue for nodes, and read and write through a file system that all nodes share. Nodes fail at
random; their jobs begin again elsewhere. One process submits all jobs and looks now and then which
have ended, as Snakemake does. A last job merges what the others have written.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from microtome.errors import MicrotomeError
from microtome.sweeps import cost

#: What nodes spend their time with.
PHASES = ("start", "read", "compute", "write", "lost", "idle")
#: Seconds to submit a job; measured on a Slurm with nothing else to do.
SUBMISSION = 0.1
#: Seconds from one look at the jobs to the next: at first, how many more each time that none has
#: ended, and at most. The Slurm plugin's, with `slurm-init-seconds-before-status-checks: 10`.
LOOK, LATER, LONGEST = 10.0, 10.0, 180.0
#: Attempts that are lost, for each job and in any case, before a schedule counts as hopeless.
LOST, LOST_ANYWAY = 50, 1000


@dataclass(frozen=True)
class Job:
    """What a job does, one after another.

    Attributes:
        start: seconds until its first block runs.
        read: bytes that it reads, of weights and what other jobs have left.
        compute: seconds that it computes.
        write: bytes that it writes to the shared file system.
    """

    start: float
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Where jobs run, one on a node at a time.

    Attributes:
        nodes: how many there are.
        link: bytes per second that a node reads or writes by itself.
        bandwidth: bytes per second of the file system, all nodes together.
        own_disk: bytes per second of each node's own disk, where what jobs read lies; None if it
            lies in the file system.
        failures: failures per node and second, on average.
        repair: seconds until a node that failed takes jobs again.
        requeue: seconds until the job of a node that failed is queued again.
        submission: seconds that it takes to submit a job.
        submitted: jobs that are in the queue or running at once, at most.
    """

    nodes: int
    link: float = math.inf
    bandwidth: float = math.inf
    own_disk: float | None = None
    failures: float = 0.0
    repair: float = 3600.0
    requeue: float = 120.0
    submission: float = 0.0
    submitted: int = 100


@dataclass
class Schedule:
    """What came of it.

    Attributes:
        seconds: from the first submission to the end of the merging.
        merging: the last job's share of them.
        spent: seconds of all nodes together, until the merging begins: in `start`, `read`,
            `compute` and `write` of attempts that ended well, `lost` in others, and `idle`, a node
            that is repaired included.
        failed: attempts that were lost with a node.
    """

    seconds: float = 0.0
    merging: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    failed: int = 0


def schedule(
    costs: Sequence[Sequence[cost.Cost]],
    merged: int,
    plan: Mapping[str, Any],
    threads: int,
    seed: int = 0,
) -> Schedule:
    """Simulate what a config wants on the cluster that it describes.

    Args:
        costs: of each shard, what its jobs cost, which run one after another.
        merged: bytes of what statistics keep of all shards.
        plan: the config's `plan:`.
        threads: of a job, if the plan does not say how fast a node computes.
        seed: of the nodes' failures.

    Raises:
        MicrotomeError: nodes fail so often that jobs hardly ever end.
    """
    days = plan.get("days_between_failures", math.inf)
    cluster = Cluster(
        plan["nodes"],
        link=plan["link"] * 1e9 if "link" in plan else cost.READ,
        bandwidth=plan.get("bandwidth", math.inf) * 1e9,
        own_disk=plan["own_disk"] * 1e9 if "own_disk" in plan else None,
        failures=1 / (days * 86400),
        submission=SUBMISSION,
    )
    speed = plan["teraflops"] * 1e12 if "teraflops" in plan else cost.COMPUTE * threads
    chains = [
        [Job(cost.START, job.read, job.operations / speed, job.disk) for job in shard]
        for shard in costs
    ]
    return simulate(chains, cluster, Job(cost.START, read=merged) if merged else None, seed=seed)


def simulate(
    chains: Sequence[Sequence[Job]], cluster: Cluster, merge: Job | None = None, *, seed: int = 0
) -> Schedule:
    """Run jobs on a cluster.

    Args:
        chains: of each shard its jobs, each of which begins when the one before it has ended.
        cluster: where they run.
        merge: a last job, which begins when all have ended.
        seed: of the nodes' failures.

    Raises:
        MicrotomeError: nodes fail so often that jobs hardly ever end.
    """
    return _Run(chains, cluster, seed).schedule(merge)


@dataclass
class _Attempt:
    """A job on a node.

    Attributes:
        place: the job: its chain, and its number there.
        node: the node's number.
        began: when it began, and when the phase it is in did.
        phases: seconds of the phases that have ended, by name.
    """

    place: tuple[int, int]
    node: int
    began: float
    phase_began: float
    phases: dict[str, float] = field(default_factory=dict)


class _Run:
    """Events, in order of time: a phase ends, a node fails or is back, a job is queued, a look."""

    def __init__(self, chains: Sequence[Sequence[Job]], cluster: Cluster, seed: int) -> None:
        self.chains, self.cluster, self.random = chains, cluster, random.Random(seed)
        self.now, self.left = 0.0, sum(map(len, chains))
        self.events: list[tuple[float, int, str, Any]] = []
        self.n_events = 0
        self.ready = deque((chain, 0) for chain, jobs in enumerate(chains) if jobs)
        self.queue: list[tuple[int, int]] = []  # the first submitted comes first
        self.in_flight, self.ended = 0, list[tuple[int, int]]()
        self.free = list(range(cluster.nodes))
        self.on: dict[int, _Attempt] = {}  # by node
        self.transfers = _Transfers(cluster.link, cluster.bandwidth)
        self.found = Schedule()
        self.at("look", 0.0, 0.0)
        for node in range(cluster.nodes):
            self.expect_failure(node)

    def at(self, kind: str, time: float, about: Any) -> None:
        """Have something happen at a time; what is first told happens first."""
        heapq.heappush(self.events, (time, self.n_events, kind, about))
        self.n_events += 1

    def expect_failure(self, node: int) -> None:
        if self.cluster.failures:
            self.at("fail", self.now + self.random.expovariate(self.cluster.failures), node)

    def schedule(self, merge: Job | None) -> Schedule:
        """Let happen what happens, until all jobs have ended and the merging too."""
        while self.left:
            moved = self.transfers.next_end(self.now)
            if self.events and self.events[0][0] <= moved:
                self.now, _, kind, about = heapq.heappop(self.events)
                getattr(self, f"on_{kind}")(about)
            else:
                self.now = moved
                self.end_phase(self.transfers.pop(moved))
        spent, cluster = self.found.spent, self.cluster
        spent["idle"] = cluster.nodes * self.now - sum(spent.values())
        if merge is not None:
            alone = min(cluster.link, cluster.bandwidth)
            moving = (merge.read + merge.write) / alone
            self.found.merging = merge.start + merge.compute + moving
        self.found.seconds = self.now + self.found.merging
        return self.found

    def on_look(self, wait: float) -> None:
        """The submitting process looks which jobs have ended, and submits others."""
        wait = LOOK if self.ended else min(wait + LATER, LONGEST)
        self.in_flight -= len(self.ended)
        for chain, number in self.ended:
            if number + 1 < len(self.chains[chain]):
                self.ready.append((chain, number + 1))
        self.ended.clear()
        submitted = self.now
        while self.ready and self.in_flight < self.cluster.submitted:
            submitted += self.cluster.submission
            self.at("queue", submitted, self.ready.popleft())
            self.in_flight += 1
        # While nothing happens, one look is as good as many.
        happens = min(self.transfers.next_end(self.now), self.events[0][0] if self.events else 0.0)
        looks = max(1, (happens - self.now) // wait) if wait == LONGEST else 1
        self.at("look", max(submitted, self.now + looks * wait), wait)

    def on_queue(self, place: tuple[int, int]) -> None:
        heapq.heappush(self.queue, place)
        self.start_jobs()

    def start_jobs(self) -> None:
        while self.queue and self.free:
            node, place = heapq.heappop(self.free), heapq.heappop(self.queue)
            attempt = self.on[node] = _Attempt(place, node, self.now, self.now)
            self.at("end", self.now + self.job(attempt).start, attempt)

    def job(self, attempt: _Attempt) -> Job:
        chain, number = attempt.place
        return self.chains[chain][number]

    def on_end(self, attempt: _Attempt) -> None:
        if self.on.get(attempt.node) is attempt:  # otherwise its node has failed
            self.end_phase(attempt)

    def end_phase(self, attempt: _Attempt) -> None:
        """Begin the attempt's next phase, or end it."""
        job = self.job(attempt)
        attempt.phases[PHASES[len(attempt.phases)]] = self.now - attempt.phase_began
        attempt.phase_began = self.now
        match len(attempt.phases):
            case 1 if self.cluster.own_disk:
                self.at("end", self.now + job.read / self.cluster.own_disk, attempt)
            case 1:
                self.transfers.begin(attempt, job.read, self.now)
            case 2:
                self.at("end", self.now + job.compute, attempt)
            case 3:
                self.transfers.begin(attempt, job.write, self.now)
            case _:
                del self.on[attempt.node]
                for name, seconds in attempt.phases.items():
                    self.found.spent[name] += seconds
                self.left -= 1
                self.ended.append(attempt.place)
                heapq.heappush(self.free, attempt.node)
                self.start_jobs()

    def on_fail(self, node: int) -> None:
        """A node fails. Its job is lost, and queued again a while later."""
        attempt = self.on.pop(node, None)
        if attempt is None:
            self.free.remove(node)
            heapq.heapify(self.free)
        else:
            self.transfers.cancel(attempt, self.now)
            self.found.spent["lost"] += self.now - attempt.began
            self.found.failed += 1
            if self.found.failed > LOST * sum(map(len, self.chains)) + LOST_ANYWAY:
                raise MicrotomeError(
                    "plan: days_between_failures: nodes fail before their jobs have ended, again "
                    "and again; make `sequences_per_job` or `layers_per_job` smaller"
                )
            self.at("queue", self.now + self.cluster.requeue, attempt.place)
        self.at("back", self.now + self.cluster.repair, node)

    def on_back(self, node: int) -> None:
        heapq.heappush(self.free, node)
        self.expect_failure(node)
        self.start_jobs()


class _Transfers:
    """What moves through the file system; all share it evenly, each no faster than its link.

    At any time all move equally fast, so that they end in the order of what was `moved` for each
    when it began, and its own bytes.
    """

    def __init__(self, link: float, bandwidth: float) -> None:
        self.link, self.bandwidth = link, bandwidth
        self.moved, self.since = 0.0, 0.0  # bytes of one that has always been there, and until when
        self.ends: list[tuple[float, int, _Attempt]] = []
        self.active: set[int] = set()  # of attempts, by id

    def rate(self) -> float:
        return min(self.link, self.bandwidth / max(1, len(self.active)))

    def _advance(self, now: float) -> None:
        if self.active and now > self.since:
            self.moved += self.rate() * (now - self.since)
        self.since = now

    def begin(self, attempt: _Attempt, n_bytes: float, now: float) -> None:
        self._advance(now)
        self.active.add(id(attempt))
        heapq.heappush(self.ends, (self.moved + n_bytes, id(attempt), attempt))

    def cancel(self, attempt: _Attempt, now: float) -> None:
        self._advance(now)
        self.active.discard(id(attempt))

    def next_end(self, now: float) -> float:
        """When the next one ends; infinite if none does."""
        while self.ends and self.ends[0][1] not in self.active:
            heapq.heappop(self.ends)
        if not self.ends:
            return math.inf
        left = self.ends[0][0] - self.moved
        return max(now, self.since + left / self.rate()) if left > 0 else now

    def pop(self, now: float) -> _Attempt:
        self._advance(now)
        end, key, attempt = heapq.heappop(self.ends)
        self.active.discard(key)
        self.moved = max(self.moved, end)
        return attempt
