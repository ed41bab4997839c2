"""What a run has done, is doing and has still to do, and about how long that takes."""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from statistics import mean

#: Environment variable, where a run is several calls of Snakemake: what others than this one do, as
#: JSON, {"done": number of jobs before it, "later": {kind: number of jobs behind it}}, and where it
#: tells how many jobs are done in the end: "run", the process that makes the calls, and "told", the
#: descriptor of its file.
OTHERS = "MICROTOME_OTHER_JOBS"
#: Seconds that a job of a kind takes with the default config, until one has been seen.
_USUAL = {
    "fetch_model": 5.0,
    "fetch_text": 2.0,
    "fetch_texts": 10.0,
    "token_table": 1.0,
    "activations": 1.0,
    "join": 0.5,
    "intervention": 6.0,
    "streams": 2.0,
    "merge": 0.7,
    "statistic": 0.7,
    "figure": 0.8,
    "table": 0.2,
}
#: The kind of jobs that are planned when a run is at work: those of shards, once their number is
#: known.
_LATER = "activations"
#: Rules that make nothing themselves.
_TARGETS = ("all", "tokens", "activations", "interventions", "statistics", "page", "total")


def kind(rule: str) -> str:
    """The kind of a rule: the first part of its name."""
    return rule.partition("__")[0]


def by_kind(stats: Mapping[str, int]) -> Counter[str]:
    """How many jobs of each kind there are.

    Args:
        stats: how many jobs of each rule Snakemake has planned.
    """
    found: Counter[str] = Counter()
    for rule, number in stats.items():
        if rule not in _TARGETS:
            found[kind(rule)] += number
    return found


class Progress:
    """A run's jobs.

    Attributes:
        remote: whether jobs are submitted to a cluster.
        total: how many there are, of this call of Snakemake and of others of the same run.
        done: how many of them have ended well.
    """

    def __init__(self) -> None:
        """Begin without any job."""
        self.remote = False
        self._begun = time.monotonic()
        self._left: Counter[str] = Counter()  # of this call of Snakemake and later ones
        self._running: dict[int, tuple[str, str, bool, float]] = {}
        self._names: dict[int, str] = {}
        self._took: dict[str, list[float]] = {}
        self._planned = 0
        self.done = self.total = 0

    def begin(self, stats: Mapping[str, int]) -> None:
        """Note what Snakemake has planned, by rule."""
        own = by_kind(stats)
        self._planned = stats.get("total", 0)
        others = json.loads(os.environ.get(OTHERS, '{"done": 0, "later": {}}'))
        self._left = own + Counter(others["later"])
        self.done, self.total = others["done"], others["done"] + self._left.total()
        self._begun = time.monotonic()

    def plan(self, total: int) -> None:
        """Note how many jobs Snakemake has planned until now, those that are done among them."""
        more = total - self._planned if self._planned else 0
        self._planned += more
        self._left[_LATER] += more
        self.total += more

    def start(self, job: int, rule: str, name: str, *, local: bool) -> None:
        """Note that a job has been started, or submitted."""
        if rule not in _TARGETS:
            submitted = self.remote and not local
            self._running.pop(job, None)
            self._running[job] = (kind(rule), name, submitted, time.monotonic())
            self._names[job] = name

    def finish(self, job: int) -> None:
        """Note that a job has ended well."""
        if job in self._running:
            of, _, _, begun = self._running.pop(job)
            self._took.setdefault(of, []).append(time.monotonic() - begun)
            self._left[of if self._left[of] > 0 else _LATER] -= 1
            self.done += 1

    def stop(self, job: int) -> None:
        """Note that a job has failed. It may be tried again."""
        self._running.pop(job, None)

    def hand_on(self) -> None:
        """Tell the next call of Snakemake how many jobs are done."""
        others = json.loads(os.environ.get(OTHERS) or "{}")
        if self.total and others.get("run") == os.getppid():  # whose files this process has
            os.pwrite(others["told"], str(self.done).encode(), 0)

    def name(self, job: int) -> str:
        """A job that was started, in words."""
        return self._names.get(job, f"job {job}")

    @property
    def tenths(self) -> int:
        """How many tenths of the jobs are done."""
        return 10 * self.done // self.total if self.total else 0

    def line(self) -> str:
        """What is done, being done and left, in a line."""
        here = [name for _, name, submitted, _ in self._running.values() if not submitted]
        submitted = len(self._running) - len(here)
        parts = [f"{self.total - self.done} of {self.total} jobs left"]
        if submitted:
            parts.append(f"{submitted} submitted")
        if (
            self.done < self.total and not self.remote
        ):  # how long a cluster's queue is, nobody knows
            parts.append(f"about {in_words(self._seconds())}")
        return ", ".join(parts) + (f": {here[-1]}" if here else "")

    @property
    def spent(self) -> str:
        """How long the run has taken until now, in words."""
        return in_words(time.monotonic() - self._begun)

    def _seconds(self) -> float:
        """About how long the jobs that are left will take.

        Jobs of a kind take as long as those that have ended. Of other kinds, it is supposed that
        they take longer than usual by the same factor as those.
        """
        now = time.monotonic()
        seen = [(of, seconds) for of, took in self._took.items() for seconds in took]
        late = [(of, now - begun) for of, _, _, begun in self._running.values()]
        seen += [(of, spent) for of, spent in late if spent > _USUAL.get(of, 1)]
        usual = sum(_USUAL.get(of, 1) for of, _ in seen)
        factor = sum(seconds for _, seconds in seen) / usual if seen else 1.0
        each = {
            of: mean(self._took[of]) if of in self._took else factor * _USUAL.get(of, 1)
            for of in self._left
        }
        work = sum(number * each[of] for of, number in self._left.items())
        work -= sum(min(spent, each.get(of, 0)) for of, spent in late)
        busy = sum(seconds for _, seconds in seen) / max(now - self._begun, 1e-9)
        return work / max(1, busy) if seen else work / (os.cpu_count() or 1)


def in_words(seconds: float) -> str:
    """A time, as roughly as it is known."""
    if seconds < 95:
        step = 1 if seconds < 10 else 5
        return f"{max(step, step * round(seconds / step))} s"
    if seconds < 5700:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
