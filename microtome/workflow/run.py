"""A run of the whole workflow, as `microtome run` makes it: Snakemake, called stage by stage.

Within one call, Snakemake plans everything downstream of a job. With a call for each stage, a
product that is made again with the same bytes makes nothing downstream stale. The first call makes
everything, unless it finds that stages may spare something. All calls are forks of this process,
which imports Snakemake once, and their jobs are forks of two servers.
"""

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.workflow import forks
from microtome.workflow.places import snakefile
from snakemake_logger_plugin_microtome.progress import OTHERS, by_kind

#: The targets of the stages before the last one, which is all, and the kinds of jobs of each.
STAGES = {
    "tokens": ("fetch_model", "fetch_text", "fetch_texts", "token_table"),
    "activations": ("activations", "join"),
    "statistics": ("intervention", "streams", "merge", "statistic"),
}
#: The kinds of jobs that run a model, or wait for those of shards, whose number is not known yet;
#: what these import, and what nearly all others do.
RUNNING = {"fetch_model", "activations", "join", "intervention", "streams", "merge"}
MODEL = ("torch", "transformers", "transformers.modeling_utils", "xarray")
DRAWING = ("xarray", "matplotlib.figure", "matplotlib.backends.backend_svg")
#: Environment variable: the file in which a call leaves its plan, by its descriptor.
PLAN = "MICROTOME_PLAN"


def run(directory: Path, options: Sequence[str], *, verbose: bool = False) -> int:
    """Make everything that the config asks for and that is stale.

    Args:
        directory: the folder that has `results/`, or will.
        options: other options of Snakemake, for each of its calls.
        verbose: whether Snakemake says all that it does.

    Returns:
        The exit status of the first call that failed, or 0.
    """
    import snakemake.cli

    snakemake.cli.get_argument_parser()  # imports all plugins

    options = ["--directory", str(directory), *options]
    if not (directory / ".snakemake" / "metadata").exists():
        # In a first run there is nothing yet that a call for each stage would spare.
        _start_servers(MODEL, DRAWING)
        return call(["all", *options], verbose=verbose)
    with tempfile.TemporaryFile() as plan, tempfile.TemporaryFile() as told:
        others: dict[str, Any] = {"done": 0, "later": {}}
        others |= {"run": os.getpid(), "told": told.fileno()}
        os.environ |= {PLAN: str(plan.fileno()), OTHERS: json.dumps(others)}
        if not verbose:
            _say("looking for what is stale …\r")
        failed = call(["all", *options], verbose=verbose)
        del os.environ[PLAN]
        plan.seek(0)
        planned = plan.read()
        if failed or not planned:
            return failed
        left = Counter[str](json.loads(planned))
        _start_servers(MODEL if left.keys() & RUNNING else (), DRAWING)
        for target in (*STAGES, "all"):
            own = STAGES.get(target, left)
            left = Counter({kind: number for kind, number in left.items() if kind not in own})
            told.seek(0)
            others |= {"done": int(told.read() or 0), "later": left}
            os.environ[OTHERS] = json.dumps(others)
            failed = call([target, *options], verbose=verbose)
            if failed:
                return failed
    return 0


def leave_to_stages(dag: Any) -> None:
    """End this process before its first job, and leave its plan, if stages may spare something.

    That is so if a product is there already, and planned only because something upstream of it is.

    Args:
        dag: Snakemake's graph of jobs.
    """
    file = os.environ.pop(PLAN, None)
    if file is None:
        return
    jobs = [job for job in dag.needrun_jobs() if job.rule.name != "all"]
    kinds = by_kind(Counter(job.rule.name for job in jobs))
    upstream = kinds.keys() & {kind for stage in STAGES.values() for kind in stage}
    reasons = map(dag.reason, jobs)
    if upstream and any(why.updated_input_run and not why.missing_output for why in reasons):
        os.write(int(file), json.dumps(kinds).encode())
        sys.exit()


def _start_servers(of_models: Sequence[str], of_others: Sequence[str]) -> None:
    """Start the servers, which import their modules while Snakemake reads its rules."""
    for name, modules in ((forks.MODEL_SERVER, of_models), (forks.SERVER, of_others)):
        server = forks.start_server(modules)
        if server:
            _, os.environ[name] = server


def _say(text: str) -> None:
    """Write a line on a terminal, in the place of the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def call(arguments: Sequence[str], *, verbose: bool = False) -> int:
    """Call Snakemake in a fork, and wait for its end.

    Args:
        arguments: its arguments.
        verbose: whether it prints all that it says, and not through Microtome's logger plugin.

    Returns:
        Its exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        more = [] if verbose else ["--logger", "microtome"]
        _be_snakemake(["--snakefile", str(snakefile()), *arguments, *more], verbose)
    # Ctrl-C reaches Snakemake too, which ends its jobs; this process waits for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _be_snakemake(arguments: list[str], verbose: bool) -> None:
    """Run Snakemake's command line in this process, to its end."""
    import snakemake.cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for name in [name for name in sys.modules if name.partition(".")[0] == "microtome"]:
        del sys.modules[name]  # the code is read anew by each call
    if not verbose:
        # Its command line prints which profile it uses, whatever logger there is.
        snakemake.cli.print = lambda text, **to: text.startswith("Using ") or print(text, **to)
    sys.argv = ["snakemake", *arguments]
    try:
        snakemake.cli.main(arguments)
    finally:
        _say("")
