"""A run of the whole workflow, as `microtome run` makes it: Snakemake, called stage by stage.

Within one call, Snakemake plans everything downstream of a job. With a call for each stage, a
product that is made again with the same bytes makes nothing downstream stale. All calls are forks
of this process, which imports Snakemake once, and their jobs are forks of two servers.
"""

import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from microtome.workflow import forks
from microtome.workflow.places import snakefile
from snakemake_logger_plugin_microtome.progress import OTHERS, by_kind

#: The targets of the stages before the last one, which is all, and the kinds of jobs of each.
STAGES = {
    "tokens": ("fetch_model", "fetch_text", "token_table"),
    "activations": ("activations",),
    "statistics": ("intervention", "streams", "merge", "statistic"),
}
#: The kinds of jobs that run a model, what these import, and what nearly all others do.
RUNNING = {"fetch_model", "activations", "intervention", "streams"}
MODEL = ("torch", "transformers", "transformers.modeling_utils", "xarray")
DRAWING = ("xarray", "matplotlib.figure", "matplotlib.backends.backend_svg")
#: A product that is there already, in the plan only because something upstream of it is.
_CARRIED = re.compile(
    r"rule (?!all:)\S+:$(\n    .*)*\n    reason: Input files updated by another job", re.MULTILINE
)


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
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        _say("looking for what is stale …")
        failed = call(["all", "--dry-run", *options], output=said.fileno())
        _say("")
        said.seek(0)
        plan = said.read()
    if failed:
        told = [line for line in plan.splitlines() if line.startswith("microtome: ")]
        print("\n".join(told) or plan.rstrip(), file=sys.stderr)
        return failed
    if "Nothing to be done" in plan:
        return 0
    left, done = _planned(plan), 0
    upstream = {kind for kinds in STAGES.values() for kind in kinds}
    in_stages = left.keys() & upstream and _CARRIED.search(plan)
    _start_servers(MODEL if left.keys() & RUNNING else (), DRAWING)
    for target in (*STAGES, "all") if in_stages else ("all",):
        own = STAGES.get(target, left)
        later = Counter({kind: number for kind, number in left.items() if kind not in own})
        os.environ[OTHERS] = json.dumps({"done": done, "later": later})
        failed = call([target, *options], verbose=verbose)
        if failed:
            return failed
        done, left = done + left.total() - later.total(), later
    return 0


def _start_servers(of_models: Sequence[str], of_others: Sequence[str]) -> None:
    """Start the servers, which import their modules while Snakemake reads its rules."""
    for name, modules in ((forks.MODEL_SERVER, of_models), (forks.SERVER, of_others)):
        server = forks.start_server(modules)
        if server:
            _, os.environ[name] = server


def _planned(plan: str) -> Counter[str]:
    """How many jobs of each kind a dry run has planned, by its last table."""
    table = plan.rpartition("\nJob stats:\n")[2].partition("\ntotal ")[0]
    return by_kind(
        {rule: int(number) for rule, number in re.findall(r"^(\S+) +(\d+)$", table, re.M)}
    )


def _say(text: str) -> None:
    """Write a line on a terminal, in the place of the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def call(arguments: Sequence[str], *, output: int | None = None, verbose: bool = False) -> int:
    """Call Snakemake in a fork, and wait for its end.

    Args:
        arguments: its arguments.
        output: a file for all that it prints; by default it prints where this process does.
        verbose: whether it prints all that it says, and not through Microtome's logger plugin.

    Returns:
        Its exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        more = [] if verbose or output is not None else ["--logger", "microtome"]
        _be_snakemake(["--snakefile", str(snakefile()), *arguments, *more], output, verbose)
    # Ctrl-C reaches Snakemake too, which ends its jobs; this process waits for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _be_snakemake(arguments: list[str], output: int | None, verbose: bool) -> None:
    """Run Snakemake's command line in this process, to its end."""
    import snakemake.cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] == "microtome"]:
        del sys.modules[name]  # the code is read anew by each call
    if not verbose:
        # Its command line prints which profile it uses, whatever logger there is.
        snakemake.cli.print = lambda text, **to: text.startswith("Using ") or print(text, **to)
    sys.argv = ["snakemake", *arguments]
    snakemake.cli.main(arguments)
