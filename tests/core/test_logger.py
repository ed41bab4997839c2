"""Snakemake's logger plugin: one line while a run works, what failed at once and at the end."""

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import shared
from refusals import snakemake
from snakemake.logging import DefaultFilter

import snakemake_logger_plugin_microtome as plugin
from snakemake_logger_plugin_microtome.failures import job_name
from snakemake_logger_plugin_microtome.progress import OTHERS, Progress, by_kind, in_words

ROOT = Path(__file__).parents[2]
#: Three jobs that end well and three that fail: two for the same reason, and one without a log.
RULES = """
rule all:
    input: expand("{name}.txt", name=["a", "b", "c", "same", "other", "killed"])

rule figure__one__well:
    output: "{model,[abc]}.txt"
    shell: "echo product > {output}"

rule statistic__one__bad:
    output: "{model,same|other}.txt"
    log: "{model}.log"
    shell: "echo 'error: NaN in layer 3' > {log}; false"

rule table__one__killed:
    output: "killed.txt"
    shell: "kill -9 $$"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(RULES)
    return tmp_path


def run(folder, *arguments):
    options = ["--cores", "1", "--keep-going", "--logger", "microtome"]
    return shared().run(folder, [*arguments, *options])


def test_what_failed_is_told_at_once_and_at_the_end_with_its_log(folder):
    done = run(folder)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines.count("microtome: NaN in layer 3") == 2
    first, last = (n for n, line in enumerate(lines) if line == "microtome: NaN in layer 3")
    assert re.fullmatch(r"  statistic one\.bad of (same|other); log: \1\.log", lines[first + 1])
    assert re.fullmatch(r"  .* of (same|other) \(and 1 more\); log: \1\.log", lines[last + 1])
    killed = "microtome: its process died with <Signals.SIGKILL: 9>"
    assert lines.count(killed) == 2
    assert "  table one.killed; log: none" in lines
    log = re.fullmatch(
        r"microtome: 3 of 6 jobs done, 3 failed; all that Snakemake said: (\S+)",
        lines[-1],
    )
    said = (folder / log[1]).read_text()
    assert "Finished jobid" in said
    assert "Error in rule statistic__one__bad" in said
    assert "Error in rule" not in done.stderr


def test_a_run_that_ends_well_says_how_much_it_did(folder):
    done = run(folder, "a.txt", "b.txt")
    assert done.returncode == 0
    assert re.fullmatch(r"2 of 2 jobs left, about \d s\n2 jobs done in \d+ s\n", done.stderr)


def test_what_snakemake_finds_wrong_is_told_in_its_own_words(folder):
    done = run(folder, "nothing.txt")
    assert done.returncode == 1
    assert done.stderr.startswith("MissingRuleException:\nNo rule to produce nothing.txt")


@pytest.mark.parametrize("option", ["--dry-run", "--summary", "--lint", "--dag", "--verbose"])
def test_what_is_asked_of_snakemake_looks_as_ever(folder, option):
    without = shared().run(folder, ["a.txt", "--cores", "1", option])
    (folder / "a.txt").unlink(missing_ok=True)
    done = run(folder, "a.txt", option)
    assert done.returncode == without.returncode
    if option == "--verbose":
        assert "Finished jobid: 0" in done.stderr
    else:
        own = re.compile(
            r"^  (Date|Workflow ID|Command): .*|^\[.*\]$", re.M
        )  # differs from call to call
        assert own.sub("", done.stdout) == own.sub("", without.stdout)


def test_a_job_of_microtome_leaves_its_error_to_the_plugin(tmp_path):
    config = "models: {absent: {source: 'pypi://no-such-package/a.gguf', n_layers: 4}}"
    (tmp_path / "mine.yaml").write_text(config)
    done = snakemake(tmp_path, "--logger", "microtome", "--", "results/models/absent/manifest.json")
    assert done.returncode == 1, done.stderr
    (told,) = (line for line in done.stderr.splitlines() if "no-such-package" in line)
    assert told.startswith("microtome: pypi://no-such-package: the package is not installed;")
    assert "  fetch model of absent; log: results/logs/fetch_model/absent.log\n" in done.stderr


def test_on_a_terminal_there_is_one_line(folder):
    """It is written again below the cursor, and nothing is left of it at the end."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "snakemake", "a.txt", "b.txt", "--cores", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        [*command, "--logger", "microtome"], cwd=folder, env=environment, stderr=terminal
    ) as process:
        os.close(terminal)
        said = b""
        while True:
            try:
                said += os.read(main, 1024)
            except OSError:  # the other end is closed
                break
    assert process.returncode == 0
    *written, last = said.decode().replace("\r\n", "\n").split("\x1b[J")
    assert written[0] == ""
    for line in written[1:]:
        assert re.fullmatch(r"\n\d of 2 jobs left.*\x1b\[1A\r", line)
    assert "figure one.well of a" in said.decode()
    assert re.fullmatch(r"2 jobs done in \d+ s\n", last)


def test_names_of_jobs():
    assert job_name("figure__a_study__one_._two", {"model": "m"}) == "figure a_study.one__two of m"
    assert job_name("activations__gpt2__words-08", {}) == "activations words-08 of gpt2"
    assert job_name("token_table", {"model": "m", "stimuli": "s"}) == "token table s of m"
    assert job_name("intervention__study__all", {}) == "intervention study.all"


def test_jobs_of_other_calls_count(monkeypatch):
    monkeypatch.setenv(OTHERS, '{"done": 3, "later": {"figure": 5}}')
    progress = Progress()
    progress.begin({"statistic__a__b": 2, "all": 1, "total": 3})
    assert progress.line().startswith("7 of 10 jobs left, about ")
    progress.start(1, "statistic__a__b", "statistic a.b", local=False)
    progress.finish(1)
    assert progress.line().startswith("6 of 10 jobs left, about ")
    assert by_kind({"figure__a__b": 2, "figure__a__c": 1, "total": 3}) == {"figure": 3}


def test_jobs_that_are_planned_on_the_way_count(monkeypatch):
    """Those of shards: how many there are is known when their tokens are made."""
    monkeypatch.setenv(OTHERS, '{"done": 1, "later": {"figure": 2}}')
    progress = Progress()
    progress.begin({"token_table": 1, "join__m__s": 1, "all": 1, "total": 3})
    assert progress.line().startswith("4 of 5 jobs left, about ")
    progress.plan(3)
    progress.start(0, "token_table", "token table s of m", local=True)
    progress.finish(0)
    progress.plan(6)
    assert progress.line().startswith("6 of 8 jobs left, about ")
    for job in range(1, 4):
        progress.start(job, "activations__m__s", "activations s of m", local=True)
        progress.finish(job)
        progress.plan(6)
    assert progress.line().startswith("3 of 8 jobs left, about ")


def test_the_time_left_follows_what_jobs_have_taken(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress()
    progress.begin({"figure__a__b": 11})
    progress.start(0, "figure__a__b", "", local=True)
    now[0] = 30.0
    progress.finish(0)
    assert progress.line() == "10 of 11 jobs left, about 5 min"


def test_submitted_jobs_are_counted_and_no_time_is_promised():
    progress = Progress()
    progress.remote = True
    progress.begin({"activations__m__s": 2, "figure__a__b": 1})
    progress.start(0, "activations__m__s", "activations s of m", local=False)
    progress.start(1, "activations__m__s", "activations s of m", local=False)
    progress.start(2, "figure__a__b", "figure a.b of m", local=True)
    assert progress.line() == "3 of 3 jobs left, 2 submitted: figure a.b of m"


def test_a_retry_that_ends_well_mends_a_failure(capsys, monkeypatch):
    monkeypatch.setenv(plugin.LOGGER, "")  # what is set later is taken back at the end
    monkeypatch.delenv(plugin.LOGGER)
    handler = plugin.LogHandler(
        SimpleNamespace(
            **dict.fromkeys(("dryrun", "verbose", "debug_dag", "printshellcmds"), False),
            quiet=set(),
            nocolor=True,
            show_failed_logs=True,
        ),
        None,
    )
    assert os.environ[plugin.LOGGER]

    def say(event, message="", **more):
        record = logging.makeLogRecord(
            {"msg": message, "levelno": logging.INFO, "event": event} | more
        )
        assert DefaultFilter(set(), False, False, False, False).filter(record)
        handler.emit(record)

    say("resources_info", "Provided remote nodes: 100")
    say("run_info", stats={"activations__m__s": 1, "total": 1})
    about = {"rule_name": "activations__m__s", "jobid": 1, "wildcards": {}, "local": False}
    say("job_info", **about)
    error = "SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'"
    say("job_error", **about, log=["none.log"], rule_msg=error)
    say(None, "Trying to restart job 1.")
    say("job_info", **about)
    say("job_finished", job_id=1)
    handler.close()
    told = capsys.readouterr().err
    assert "microtome: activations__m__s: ended by Slurm (OUT_OF_MEMORY)\n" in told
    assert "  it is tried again\n" in told
    assert told.splitlines()[-1].startswith("1 jobs done in ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (7.4, "7 s"), (43, "45 s"), (130, "2 min"), (9000, "2.5 h")],
)
def test_times_are_told_as_roughly_as_they_are_known(seconds, words):
    assert in_words(seconds) == words
