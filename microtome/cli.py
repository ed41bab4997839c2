"""The command `microtome`.

Each command imports what it needs when it is called: `microtome show` answers in half a second.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from microtome.errors import MicrotomeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands; what it finds wrong ends the program with one line.

    Args:
        arguments: what stands on the command line behind `microtome`.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `microtome show … | head` ends without a word
    parser = _parser()
    given, more = parser.parse_known_args(arguments)
    if given.command is _run:
        given.options = more
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        given.command(given)
    except MicrotomeError as error:
        sys.exit(f"microtome: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="microtome", description="Thin sections through language models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="make everything that is stale, from models to the page",
        usage="microtome run [-v] [OPTIONS OF SNAKEMAKE]",
        description="Make everything that is stale, from models to the page.",
        epilog="All other options are Snakemake's: see snakemake --help.",
    )
    run.add_argument("-v", "--verbose", action="store_true", help="show all that Snakemake says")
    _add_place(run)
    run.set_defaults(command=_run)

    show = commands.add_parser("show", help="what is in a product, a folder or a model")
    show.add_argument("what", metavar="FILE|FOLDER|MODEL")
    show.set_defaults(command=_show)

    plan = commands.add_parser("plan", help="what a run will cost, before anything runs")
    _add_place(plan)
    plan.add_argument(
        "--configfile", nargs="+", default=[], metavar="FILE", help="laid over config.yaml"
    )
    plan.set_defaults(command=_plan)

    verify = commands.add_parser("verify", help="are all products as they were made?")
    _add_place(verify)
    verify.set_defaults(command=_verify)

    new_study = commands.add_parser("new-study", help="begin a study of your own")
    new_study.add_argument("name", metavar="NAME", help="such as residual_growth")
    new_study.set_defaults(command=_new_study)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", "--directory", type=Path, default=Path(), help="where results/ is; by default here"
    )


def _run(given: argparse.Namespace) -> None:
    from microtome.workflow.run import run
    from microtome.workflow.summary import PAGE, summary

    first = not (given.directory / PAGE).exists()
    if failed := run(given.directory, given.options, verbose=given.verbose):
        sys.exit(failed)
    with chdir(given.directory):
        print(summary(first=first))


def _show(given: argparse.Namespace) -> None:
    from microtome.show import show

    print(show(given.what))


def _plan(given: argparse.Namespace) -> None:
    from microtome.workflow.run import call

    config = ["--configfile", *given.configfile] if given.configfile else []
    place = ["--directory", str(given.directory)]
    sys.exit(call(["plan", "--quiet", "all", *place, *config]))


def _verify(given: argparse.Namespace) -> None:
    from microtome.workflow.verify import verify_products

    if not given.directory.is_dir():
        raise MicrotomeError(f"{given.directory}: no such folder; correct --directory")
    with chdir(given.directory):
        verify_products()


def _new_study(given: argparse.Namespace) -> None:
    from microtome.workflow.new_study import new_study

    print(new_study(given.name))


if __name__ == "__main__":
    main()
