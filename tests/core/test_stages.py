"""When a run goes by stages: if a product is planned only because something upstream of it is."""

import json
import os
import tempfile
from types import SimpleNamespace

import pytest

from microtome.workflow.run import PLAN, leave_to_stages


class Graph:
    """A graph of jobs: a rule each, whether its input is made before it, whether it is missing."""

    def __init__(self, jobs):
        self.jobs = jobs

    def needrun_jobs(self):
        return [SimpleNamespace(rule=SimpleNamespace(name=name)) for name in self.jobs]

    def reason(self, job):
        carried, missing = self.jobs[job.rule.name]
        return SimpleNamespace(updated_input_run=carried, missing_output=missing)


FIGURE, STATISTIC = "figure__study__drawn", "statistic__study__rsa"


@pytest.mark.parametrize(
    ("jobs", "by_stages"),
    [
        ({STATISTIC: (False, False), FIGURE: (True, False)}, True),
        ({STATISTIC: (False, False), FIGURE: (True, True)}, False),  # a new study
        ({FIGURE: (False, False), "page__study": (True, False)}, False),  # no stage before the last
        ({STATISTIC: (False, False)}, False),
    ],
)
def test_stages_are_for_what_they_may_spare(jobs, by_stages, monkeypatch):
    graph = Graph(jobs | {"all": (True, False)})
    leave_to_stages(graph)  # a call of Snakemake's own
    with tempfile.TemporaryFile() as file:
        monkeypatch.setenv(PLAN, str(file.fileno()))
        if by_stages:
            with pytest.raises(SystemExit) as end:
                leave_to_stages(graph)
            assert not end.value.code
        else:
            leave_to_stages(graph)
        assert PLAN not in os.environ
        file.seek(0)
        assert json.loads(file.read() or "null") == (
            {"statistic": 1, "figure": 1} if by_stages else None
        )
