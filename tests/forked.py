"""The snakemake command, and its scripts, in forks of processes that have imported everything.

A command takes two seconds less, one that runs a model and draws figures four more.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen

from microtome.workflow import forks


class Snakemake:
    """A process with everything imported, which forks for every command, one after another.

    The commands share the servers that fork their scripts. These have imported packages only, in
    the present environment; each fork imports Microtome itself, from the command's PYTHONPATH.
    """

    def __init__(self):
        self._environment = dict(os.environ)
        self._started = {n: forks.start_server() for n in (forks.MODEL_SERVER, forks.SERVER)}

    @cached_property
    def _process(self) -> Popen:
        return Popen([sys.executable, __file__], stdin=PIPE, stdout=PIPE, text=True)

    def run(
        self,
        folder: Path,
        arguments: list[str],
        environment: Mapping[str, str] = os.environ,
        *,
        sharing: bool = True,
    ) -> CompletedProcess:
        """Run `snakemake` with these arguments in a folder; what it prints stays there too.

        A command that does not share, or in whose environment packages might be others, starts
        servers of its own.
        """
        changed = {name for name, _ in environment.items() ^ self._environment.items()}
        if environment.get("PYTHONPATH") == str(folder):  # a copy of the repository
            changed -= {"PYTHONPATH"}
        started = self._started if sharing and changed <= {"PYTEST_CURRENT_TEST"} else {}
        servers = {name: server[1] for name, server in started.items() if server}
        order = [str(folder), arguments, servers | dict(environment)]
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        said = [(folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return CompletedProcess(arguments, code, *said)


@cache
def shared() -> Snakemake:
    """One for all tests of a process; it ends with its standard input."""
    return Snakemake()


def serve():
    """Run the commands that come as lines of JSON, and answer each with its exit status."""
    import h5py  # noqa: F401
    import jsonschema  # noqa: F401
    import nbformat  # noqa: F401
    import smart_open  # noqa: F401
    import snakemake.cli
    import yte  # noqa: F401

    import microtome.workflow.faults  # noqa: F401

    snakemake.cli.get_argument_parser()  # imports all plugins
    for name in [name for name in sys.modules if name.partition(".")[0] == "microtome"]:
        del sys.modules[name]  # only what it imports: a folder may have a Microtome of its own
    for line in sys.stdin:
        folder, arguments, environment = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
            for name, descriptor in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            signal.alarm(900)
            sys.argv = ["snakemake", *arguments]
            sys.exit(snakemake.cli.main(arguments))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
