"""Jobs that have failed, and what their logs say about it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: How many failed jobs are listed at the end.
_MOST = 20


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job in words, such as `figure category_selectivity.rsa_profile of smollm2-135m`."""
    kind, *parts = rule.split("__")
    parts = [part.replace("_.", "_") for part in parts]  # as rule_name in rules/common.smk has it
    values = dict(wildcards)
    if kind in ("activations", "streams", "join", "merge") and len(parts) > 1:
        values["model"], parts[:] = parts[0], parts[1:]
    model = values.pop("model", None)
    words = [kind.replace("_", " "), ".".join(parts), *values.values()]
    return " ".join(filter(None, [*words, f"of {model}" if model else ""]))


class Failure(NamedTuple):
    """A job that has failed: what it was, why, and its logs."""

    job: str
    why: str
    logs: list[str]


class Failures:
    """The jobs that have failed for good, and those that may be tried again.

    Attributes:
        how: how the last job's process has ended, as Snakemake tells it before it names the job.
        interrupted: whether a job has ended by Ctrl-C.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.how = ""
        self.interrupted = False
        self._failed: dict[int, Failure] = {}
        self._told: set[str] = set()

    def add(self, record: Any, name: str) -> list[str]:
        """Note a job that has failed.

        Returns:
            The lines that tell it. Where another job has failed for the same reason, there are
            none.
        """
        if "SIGINT" in self.how:
            self.interrupted = True
            return []
        logs = [str(log) for log in record.log or ()]
        why = _error(logs) or _slurm(record) or self.how or "failed"
        self.how = ""
        self._failed[record.jobid] = Failure(name, why, logs)
        if why in self._told:
            return []
        self._told.add(why)
        return _lines(self._failed[record.jobid])

    def mend(self, job: int) -> None:
        """Note that a job that had failed has ended well."""
        self._failed.pop(job, None)

    def summary(self) -> list[str]:
        """What is told at the end of a run: which jobs have failed for good, reason by reason."""
        reasons: dict[str, list[Failure]] = {}
        for failure in self._failed.values():
            reasons.setdefault(failure.why, []).append(failure)
        lines = []
        for same in list(reasons.values())[:_MOST]:
            lines += _lines(*same)
        if len(reasons) > _MOST:
            lines.append(f"  and {len(reasons) - _MOST} more reasons")
        return lines

    def __len__(self) -> int:
        """How many jobs have failed for good."""
        return len(self._failed)


def _lines(failure: Failure, *others: Failure) -> list[str]:
    """A failure, and how many others have the same reason."""
    more = f" (and {len(others)} more)" if others else ""
    return [
        f"microtome: {failure.why}",
        f"  {failure.job}{more}; log: {', '.join(failure.logs) or 'none'}",
    ]


def _error(logs: list[str]) -> str | None:
    """What a job of Microtome says in its log's last line, if it is an error."""
    for log in logs:
        try:
            text = Path(log).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.findall(r"^error: (.*)", text, flags=re.M)
        if found:
            return found[-1]
    return None


def _slurm(record: Any) -> str | None:
    """How Slurm has ended a job, which its executor plugin says in a message only."""
    found = re.search(r"SLURM status is: '(\w+)'", str(record.rule_msg))
    return f"{record.rule_name}: ended by Slurm ({found[1]})" if found else None
