"""When a run goes by stages: if a product is planned only because something upstream of it is."""

import json
import os
import tempfile
from collections import Counter
from types import SimpleNamespace

import pytest

from microtome.workflow import run as stages_of_a_run
from microtome.workflow.run import PLAN, leave_to_stages
from snakemake_logger_plugin_microtome.progress import OTHERS, Progress


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


def test_jobs_of_shards_that_a_stage_has_made_stay_counted(tmp_path, monkeypatch):
    """They were not planned at first: how many there are is known when their tokens are made."""
    (tmp_path / ".snakemake" / "metadata").mkdir(parents=True)
    planned = {"token_table": 1, "join": 1, "statistic": 1, "figure": 2}
    stages = {
        "tokens": {"token_table": 1},
        "activations": {"activations__m__s": 20, "join__m__s": 1},
        "statistics": {},  # with the same bytes as before, nothing is stale
        "all": {FIGURE: 2},
    }
    counted = []

    def call(arguments, **options):
        if file := os.environ.get(PLAN):
            os.write(int(file), json.dumps(planned).encode())
            return 0
        progress, jobs = Progress(), stages[arguments[0]]
        if jobs:
            progress.begin(jobs)
        for number, rule in enumerate(Counter(jobs).elements()):
            progress.start(number, rule, rule, local=True)
            progress.finish(number)
        progress.hand_on()
        counted.append((arguments[0], progress.done, progress.total))
        return 0

    monkeypatch.setattr(os, "getppid", os.getpid)  # each call is a fork
    monkeypatch.setenv(OTHERS, "")  # what is set later is taken back at the end
    monkeypatch.setattr(stages_of_a_run, "call", call)
    monkeypatch.setattr(stages_of_a_run, "_start_servers", lambda *modules: None)
    assert stages_of_a_run.run(tmp_path, []) == 0
    assert counted == [
        ("tokens", 1, 5),
        ("activations", 22, 25),
        ("statistics", 0, 0),
        ("all", 24, 24),
    ]
