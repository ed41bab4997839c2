"""Scripts as forks of one process that has imported their packages.

Importing xarray and matplotlib takes longer than drawing most figures, importing torch longer
than a small sweep, and Snakemake starts a Python for every script. In place of that Python, this
file asks a server to run the script in a fork, and ends as the script ends. The server imports a
package when a script first needs it. Each fork imports the code of this repository itself, so
that an edit counts at once. Without a server, and for scripts of another repository, the command
runs as it is.

    python -I -S forks.py SOCKET python SCRIPT     (the client, which starts fast without packages)
    python forks.py --serve DESCRIPTOR             (the server; of a listening socket)
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from subprocess import Popen

ROOT = Path(__file__).resolve().parents[2]
#: Bytes of a message, at most: the system's limit on one is lower.
MESSAGE = 1 << 20


class Order(NamedTuple):
    """A script to run, in which folder and environment."""

    script: str
    folder: str
    environment: dict[str, str]


#: Defines Python's own path as a function: for Snakemake's scripts the client, else Python.
ROUTE = """\
test -o posix && return
{python}() {{
    case "$1" in
        */.snakemake/scripts/*) exec {client} {python} "$@" ;;
        *) command {python} "$@" ;;
    esac
}}
"""


def start_server() -> "tuple[Popen[bytes], str] | None":
    """Start a server, which ends with this process.

    Returns:
        The server, and a shell command after which bash sends Snakemake's scripts to it. None on
        a system without such sockets, or where the path of TMPDIR is too long for one.
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
            [sys.executable, __file__, "--serve", str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    client = shlex.join([sys.executable, "-I", "-S", __file__, str(folder / "socket")])
    route = folder / "route.bash"
    route.write_text(ROUTE.format(python=sys.executable, client=client), encoding="utf-8")
    quoted = shlex.quote(str(route))
    return server, f'test -z "$BASH_VERSION" || test ! -r {quoted} || . {quoted}; '


def ask(server: str, command: list[str]) -> NoReturn:
    """Have a server run the command `python SCRIPT`, and end as it ends.

    Args:
        server: the path of the server's socket.
        command: is run here where no server answers, or the script is not one of ours.
    """
    if not _is_ours(command[-1]):
        os.execv(command[0], command)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(server)
            order = json.dumps(Order(command[-1], os.getcwd(), dict(os.environ)))
            socket.send_fds(connection, [order.encode()], [0, 1, 2])
            status = connection.recv(MESSAGE)
    except OSError:
        os.execv(command[0], command)
    if not status:
        sys.exit("microtome: the process that scripts are forks of has ended")
    if int(status) < 0:
        os.kill(os.getpid(), -int(status))
    sys.exit(int(status))


def _is_ours(script: str) -> bool:
    """Whether Snakemake wrote a script from one of this repository.

    It notes the original at the head of the copy that it runs. Should it no longer do so, our
    scripts run as they are, only slower.
    """
    try:
        with open(script, encoding="utf-8") as copy:
            head = copy.read(MESSAGE).partition("preamble end")[0]
    except (OSError, ValueError):
        return False
    return f"__file__ = {str(ROOT / 'scripts' / '_')!r}"[:-2] in head


def serve(listener: socket.socket) -> Order | None:
    """Fork for every order until standard input ends, which the main process holds open.

    A client that goes away takes its fork with it; forks outlive the server.

    Returns:
        In a fork, what it has to run; in the server, None.
    """
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                _let_go(selector)
                return None
            if key.fileobj is listener:
                order = _begin(listener, selector)
                if order:
                    return order
            else:
                ended, job, connection = key.data
                if key.fileobj is connection:
                    selector.unregister(connection)
                    os.kill(job, signal.SIGTERM)
                else:
                    _, status = os.waitpid(job, 0)
                    selector.unregister(ended)
                    os.close(ended)
                    with suppress(KeyError):
                        selector.unregister(connection)
                    with connection, suppress(OSError):
                        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _begin(listener: socket.socket, selector: selectors.BaseSelector) -> Order | None:
    """Take an order and fork; returns it in the fork."""
    connection, _ = listener.accept()
    message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 3)
    if not message:  # a client that went away before it asked
        connection.close()
        return None
    order = Order(*json.loads(message))
    _import_for(Path(order.script))
    gc.freeze()  # what is imported stays, and no fork's collector need look at it
    job = os.fork()
    if job == 0:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        _let_go(selector)
        connection.close()
    for descriptor in descriptors:
        os.close(descriptor)
    if job == 0:
        return order
    ended = os.pidfd_open(job)
    selector.register(ended, selectors.EVENT_READ, (ended, job, connection))
    selector.register(connection, selectors.EVENT_READ, (ended, job, connection))
    return None


def _let_go(selector: selectors.BaseSelector) -> None:
    """Close in a fork what is the server's alone."""
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
        elif key.fd:
            os.close(key.fd)
    selector.close()


def _import_for(script: Path) -> None:
    """Import the packages that a script and what it imports of this repository import."""
    from microtome.workflow.digest import imported

    try:
        names = imported(script, ROOT)
    except (OSError, ValueError, SyntaxError):  # no script, or no Python: the fork will say so
        return
    for name in names:
        # As `from a import b` does: b may be a module, or something that a makes when asked.
        with suppress(Exception, SystemExit):  # the fork will meet it too
            __import__(".".join(name[:-1]) or name[0], fromlist=[name[-1]])


def run(order: Order) -> None:
    """Become the process that `python SCRIPT` would have started.

    A script that ends well skips the interpreter's own end, which takes apart all that was
    imported for it: 0.3 s.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    os.environ["MICROTOME_SHARED_MIB"] = str(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))
    for name in [name for name in sys.modules if name.partition(".")[0] == "microtome"]:
        del sys.modules[name]
    sys.argv = [order.script]
    sys.path[0] = str(Path(order.script).parent)
    runpy.run_path(order.script, run_name="__main__")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.path[0] = str(ROOT)
        listening = socket.socket(fileno=int(sys.argv[2]))
        place = Path(listening.getsockname())
        ordered = serve(listening)
        if ordered:
            run(ordered)
        else:
            for file in place.parent.iterdir():
                file.unlink()
            place.parent.rmdir()
    else:
        ask(sys.argv[1], sys.argv[2:])
