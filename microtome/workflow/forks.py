"""Scripts as forks of a process that has imported their packages.

Importing xarray and matplotlib takes longer than drawing most figures, importing torch longer
than a small sweep, and Snakemake starts a Python for every script. In place of that,
`rules/run.smk` asks a server to run the script in a fork. The server imports a package when a
script first needs it, and what a package imports later, in the middle of a job, when that job has
ended. Each fork imports this repository's code itself, so that an edit takes effect at once.
There are two servers, since to fork a process with torch and to end it takes three times as long.

    python forks.py DESCRIPTOR MODULE ...  (the server: on a listening socket)
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from subprocess import Popen
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
#: Environment variables, the sockets of servers that run already: of scripts that read or write a
#: checkpoint, and may need torch, and of all others.
MODEL_SERVER, SERVER = "MICROTOME_MODEL_FORKS", "MICROTOME_FORKS"
#: The most bytes of a message that are read; the system's own limit is lower.
MESSAGE = 1 << 20


class Request(NamedTuple):
    """A script to run, and the folder and environment to run it in."""

    script: str
    folder: str
    environment: dict[str, str]


class Job(NamedTuple):
    """A fork at work."""

    process: int
    #: Becomes readable when the fork ends.
    ended: int
    #: To what asked for it.
    connection: socket.socket
    #: A file in memory, in which the fork leaves the names of the modules that it imported.
    imported: int


def start_server(modules: Iterable[str] = ()) -> "tuple[Popen[bytes], str] | None":
    """Start a server, which ends with this process.

    Args:
        modules: what it imports before it is asked to, in the time until it is.

    Returns:
        The server, and the path of its socket. None where the system has no such sockets or the
        path of TMPDIR is too long for one.
    """
    import subprocess
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="microtome-"))
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(folder / "socket"))
    except OSError:
        folder.rmdir()
        return None
    with listener:
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return server, str(folder / "socket")


def run_by_server(server: str, request: Request) -> int | None:
    """Have a server run a script, with the standard streams of this process, and wait for its end.

    Args:
        server: the path of the server's socket.
        request: the script.

    Returns:
        The script's status, negative after a signal; None if no server answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(server)
            socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
            status = connection.recv(MESSAGE)
    except OSError:
        return None
    if status:
        return int(status)
    print("microtome: the server that runs scripts has ended; run again", file=sys.stderr)
    return 1


def serve(listener: socket.socket) -> tuple[Request, int] | None:
    """Fork for every request until standard input closes, which happens when Snakemake ends.

    A fork is ended when what asked for it ends. It outlives the server.

    Returns:
        In a fork, the request, and the file for the names of the modules that it imports; in the
        server, None at the end.
    """
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                _close_all(selector)
                return None
            if key.fileobj is listener:
                request = _accept(listener, selector)
                if request:
                    return request
            else:
                job: Job = key.data
                if key.fileobj is job.connection:
                    selector.unregister(job.connection)
                    os.kill(job.process, signal.SIGTERM)
                else:
                    _, status = os.waitpid(job.process, 0)
                    selector.unregister(job.ended)
                    os.close(job.ended)
                    with suppress(KeyError):
                        selector.unregister(job.connection)
                    with job.connection, suppress(OSError):
                        job.connection.send(str(os.waitstatus_to_exitcode(status)).encode())
                    with os.fdopen(job.imported) as imported:
                        imported.seek(0)
                        _import_all(imported.read().split())


def _accept(
    listener: socket.socket, selector: selectors.BaseSelector
) -> tuple[Request, int] | None:
    """Accept a request and fork; returns what `serve` does in the fork, None in the server."""
    connection, _ = listener.accept()
    message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 3)
    if not message:  # what asked has ended already
        connection.close()
        return None
    request = Request(*json.loads(message))
    _import_for(Path(request.script), Path(request.folder))
    gc.freeze()  # keeps the forks' garbage collectors away from what is imported
    imported = os.memfd_create("imported")
    process = os.fork()
    if process == 0:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        _close_all(selector)
        connection.close()
    for descriptor in descriptors:
        os.close(descriptor)
    if process == 0:
        return request, imported
    job = Job(process, os.pidfd_open(process), connection, imported)
    selector.register(job.ended, selectors.EVENT_READ, job)
    selector.register(connection, selectors.EVENT_READ, job)
    return None


def _close_all(selector: selectors.BaseSelector) -> None:
    """Close the server's sockets and files, which a fork does not need."""
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        elif key.fd:
            os.close(key.fd)
    selector.close()


def _import_for(script: Path, folder: Path) -> None:
    """Import the packages that a script needs, itself or through modules of this repository.

    Args:
        script: the script, which may call a function of a study.
        folder: the folder that it runs in.
    """
    from microtome.errors import MicrotomeError
    from microtome.workflow.digest import imported
    from microtome.workflow.load import named

    try:
        called = named(script.read_text(encoding="utf-8"), folder)
        names = imported(script, ROOT, called and _with_inputs(*called))
    except (OSError, MicrotomeError):  # the fork meets the same error and tells it
        return
    for name in names:
        # Like `from a import b`: b may be a module, or an attribute that a makes when asked.
        with suppress(Exception, SystemExit):  # the fork meets the same error and tells it
            __import__(".".join(name[:-1]) or name[0], fromlist=[name[-1]])


def _import_all(names: Iterable[str]) -> None:
    """Import modules, in this order."""
    for name in names:
        with suppress(Exception, SystemExit):  # one that only a script's own doings make possible
            importlib.import_module(name)


def _note_imports(before: set[str], file: int) -> None:
    """Leave the names of the modules of packages that were imported since, for the server."""
    import sysconfig

    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    for name in [name for name in sys.modules if name not in before]:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(installed):
            os.write(file, f"{name}\n".encode())


def _with_inputs(file: Path, function: str) -> list[tuple[Path, str]]:
    """A study's function and the functions that make its inputs, or that call it."""
    from microtome.workflow.functions import functions, read_function
    from microtome.workflow.products import CHANGES, INPUTS

    if file.name == CHANGES:
        return [(file, function), (ROOT / "microtome" / "interventions" / "run.py", "intervene")]
    providers = ROOT / "microtome" / "workflow" / "inputs.py"
    inputs = read_function(file, function).inputs if function in functions(file) else {}
    return [
        (file, function),
        *((providers, name) for name in inputs if name in INPUTS and name != "lens"),
    ]


def run(request: Request, imported: int) -> None:
    """Run a script in this process as `python SCRIPT` would.

    If it ends well, the process exits without the interpreter's own clean-up, which would take
    0.3 s to free all that is imported.

    Args:
        request: the script.
        imported: the file for the names of the modules that it imports.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    os.environ["MICROTOME_SHARED_MIB"] = str(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))
    for name in [name for name in sys.modules if name.partition(".")[0] == "microtome"]:
        del sys.modules[name]
    sys.argv = [request.script]
    path = request.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(request.script).parent), *filter(None, path)]
    before = set(sys.modules)
    runpy.run_path(request.script, run_name="__main__")
    _note_imports(before, imported)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _tell_unless_interrupted(
    kind: type[BaseException], error: BaseException, trace: "TracebackType | None"
) -> None:
    """Print a traceback, but not for Ctrl-C, by which every process of a run ends."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _tell_unless_interrupted
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[0] = str(ROOT)
    listening = socket.socket(fileno=int(sys.argv[1]))
    place = Path(listening.getsockname())
    _import_all(sys.argv[2:])
    request = serve(listening)
    if request:
        run(*request)
    else:
        for file in place.parent.iterdir():
            file.unlink()
        place.parent.rmdir()
