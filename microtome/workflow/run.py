"""A run of the whole workflow, as `microtome run` makes it: Snakemake, called stage by stage.

Within one call, Snakemake plans everything downstream of a job. With a call for each stage, a
product that is made again with the same bytes makes nothing downstream stale. All calls are forks
of this process, which imports Snakemake once, and their jobs are forks of one server.
"""

import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence

from microtome.workflow import forks
from microtome.workflow.places import snakefile

#: The targets of the stages before the last one, which is all.
STAGES = ("tokens", "activations", "statistics")
#: Jobs of these stages, in a plan.
_UPSTREAM = re.compile(r"rule (fetch_model|token_table|activations_|intervention_|statistic_)")
#: Why a product that is there already is planned again in a call that remakes something upstream.
_CARRIED = "reason: Input files updated by another job"


def run(options: Sequence[str], *, verbose: bool = False) -> int:
    """Make everything that the config asks for and that is stale.

    Args:
        options: options of Snakemake, for each of its calls.
        verbose: whether Snakemake says all that it does.

    Returns:
        The exit status of the first call that failed, or 0.
    """
    server = forks.start_server()
    if server:
        _, os.environ[forks.ROUTE] = server
    import snakemake.cli

    snakemake.cli.get_argument_parser()  # imports all plugins

    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        failed = _call(["all", "--dry-run", *options], said.fileno())
        said.seek(0)
        plan = said.read()
    if failed:
        print(plan, end="", file=sys.stderr)
        return failed
    if "Nothing to be done" in plan:
        return 0
    # In a first run there is nothing downstream yet that a call for each stage would spare.
    in_stages = _UPSTREAM.search(plan) and _CARRIED in plan
    for target in (*STAGES, "all") if in_stages else ("all",):
        failed = _call([target, *options])
        if failed:
            return failed
    return 0


def _call(arguments: Sequence[str], output: int | None = None) -> int:
    """Call Snakemake in a fork, and wait for its end.

    Args:
        arguments: its arguments.
        output: a file for all that it prints; by default it prints where this process does.

    Returns:
        Its exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_snakemake(["--snakefile", str(snakefile()), *arguments], output)
    # Ctrl-C reaches Snakemake too, which ends its jobs; this process waits for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _be_snakemake(arguments: list[str], output: int | None) -> None:
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
    sys.argv = ["snakemake", *arguments]
    snakemake.cli.main(arguments)
