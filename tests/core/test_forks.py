"""Scripts as forks of one process: each is on its own as if Python had been started for it."""

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import shared
from workflows import Clone

from microtome.workflow import forks

#: Has a script run, and ends as it does.
ASKS = f"""
import os, sys
sys.path.insert(0, {str(forks.ROOT)!r})
from microtome.workflow.forks import Request, run_by_server
server, script = sys.argv[1:]
status = run_by_server(server, Request(script, os.getcwd(), dict(os.environ)))
if status is None:
    sys.exit("no server answers")
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
#: Seconds that nothing here takes, unless it hangs.
HANGS = 900


class Server:
    """A server and a folder with scripts for it."""

    def __init__(self, folder: Path, *path: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "server" / "socket")
        (folder / "server").mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self.socket)
            listener.listen()
            number = listener.fileno()
            self.process = subprocess.Popen(
                [sys.executable, forks.__file__, str(number)],
                stdin=subprocess.PIPE,
                pass_fds=[number],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, forks.ROOT]))},
            )

    def start(self, script: str, **environment: str) -> subprocess.Popen:
        """Have a script run."""
        file = self.folder / f"{len(list(self.folder.iterdir()))}.py"
        file.write_text(script)
        return subprocess.Popen(
            [sys.executable, "-c", ASKS, self.socket, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(forks.ROOT)} | environment,
        )

    def run(self, script: str, **environment: str) -> tuple[int, str, str]:
        """What a script ended with, and said."""
        client = self.start(script, **environment)
        said = client.communicate(timeout=HANGS)
        return client.returncode, *said

    def stop(self) -> None:
        self.process.communicate(timeout=HANGS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def wait_for(file: Path) -> str:
    while not (file.exists() and file.read_text()):
        time.sleep(0.01)
    return file.read_text()


def is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_fork_has_the_process_environment_and_folder_of_its_own(server):
    said = "import os; print(os.getpid(), os.getppid(), os.environ['COLOUR'], os.getcwd())"
    _, first, _ = server.run(said, COLOUR="red")
    code, second, errors = server.run(said, COLOUR="blue")
    assert (code, errors) == (0, "")
    assert first.split()[1:] == [str(server.process.pid), "red", str(server.folder)]
    assert second.split()[1:] == [str(server.process.pid), "blue", str(server.folder)]
    assert first.split()[0] != second.split()[0]


def test_it_ends_as_the_script_ends(server):
    assert server.run("print('done')") == (0, "done\n", "")
    assert server.run("import sys; sys.exit(3)")[0] == 3
    assert server.run("import sys; sys.exit('a line')") == (1, "", "a line\n")
    code, _, errors = server.run("open('nowhere')")
    assert code == 1
    assert errors.endswith("No such file or directory: 'nowhere'\n")
    code, _, errors = server.run("def broken(")
    assert code == 1
    assert "SyntaxError" in errors
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert server.run(killed)[0] == -signal.SIGKILL


def test_packages_are_imported_once_and_what_one_script_does_another_does_not_see(server):
    where = "import xml.dom.minidom as m; print(m.__dict__.get('mark'), id(m)); m.mark = 1"
    first, second = server.run(where), server.run(where)
    assert first == second
    assert first[1].startswith("None ")


def test_microtome_is_imported_anew_from_where_the_environment_says(server, tmp_path):
    word = "from microtome.idea import word; print(word)"
    script = f"import sys; sys.dont_write_bytecode = True; {word}"
    for copy in ("one", "other"):
        package = tmp_path / copy / "microtome"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        for word in (f"old in {copy}", f"new in {copy}"):
            (package / "idea.py").write_text(f"word = {word!r}")
            said = server.run(script, PYTHONPATH=f"nowhere{os.pathsep}{package.parent}")
            assert said == (0, f"{word}\n", "")


def test_copies_of_the_repository_that_share_servers_run_their_own_code(model, tmp_path):
    for word in ("resident", "occupied"):
        clone = Clone(tmp_path / word, model)
        clone.replace("microtome/workflow/jobs.py", "MiB resident", f"MiB {word}")
        clone.run("results/models/tiny/manifest.json")
        log = clone.product("logs/fetch_model/tiny.log").read_text()
        assert f" MiB {word}, besides " in log  # and shared, so that a server has forked it


def test_scripts_run_side_by_side(server):
    meet = """
import time
from pathlib import Path
Path({mine!r}).touch()
while not Path({other!r}).exists():
    time.sleep(0.01)
"""
    first = server.start(meet.format(mine="a", other="b"))
    second = server.start(meet.format(mine="b", other="a"))
    assert first.wait(timeout=HANGS) == second.wait(timeout=HANGS) == 0


def test_a_client_that_is_killed_takes_its_fork_with_it(server):
    client = server.start(
        "import os, time; print(os.getpid(), file=open('pid', 'w'), flush=True); time.sleep(600)"
    )
    fork = int(wait_for(server.folder / "pid"))
    client.kill()
    client.communicate()
    while is_running(fork):
        time.sleep(0.01)
    assert server.run("print('still there')") == (0, "still there\n", "")


def test_no_server_answers(server):
    server.stop()
    assert not Path(server.socket).parent.exists()
    assert server.run("print('never')") == (1, "", "no server answers\n")


#: A script that says whether a server forked it, and its environment.
SAYS = """
import json, os
from pathlib import Path
parent = Path("/proc", str(os.getppid()), "cmdline").read_text()
print(json.dumps(["forks.py" in parent, dict(os.environ)]))
"""
#: What differs: what a shell or the server adds, and what is another one in every run.
OWN = {"_", "SHLVL", "PWD", "OLDPWD"} | {
    f"MICROTOME_{name}" for name in ("SHARED_MIB", "MODEL_FORKS", "FORKS", "RUN")
}


def test_scripts_of_a_run_are_forked_and_have_the_environment_that_a_shell_has(model, tmp_path):
    clone = Clone(tmp_path, model)
    clone.replace("scripts/token_table.py", "if __name__", f"{SAYS}\nif __name__")
    environments = []
    for forked in (True, False):
        if not forked:
            clone.environment["MICROTOME_MODEL_FORKS"] = str(tmp_path / "nowhere")
        again = ("--forcerun", "token_table", "--default-resources", f"tmpdir='{tmp_path}'")
        said = shared().run(clone.folder, ["tokens", *again], clone.environment, sharing=False)
        assert said.returncode == 0, said.stderr
        lines = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("[")]
        assert [line[0] for line in lines] == [forked] * 2
        environments.append({n: v for n, v in lines[0][1].items() if n not in OWN})
    assert environments[0] == environments[1]
    assert environments[0]["TMPDIR"] == str(tmp_path)
    assert environments[0]["OMP_NUM_THREADS"] == "1"


#: A job that takes 64 MiB; in its log it says how much it took.
JOB = """
from types import SimpleNamespace
from microtome.workflow.jobs import job
with job(SimpleNamespace(input=[], output=["x"], log=["job.log"], threads=1)):
    taken = b"1" * (64 << 20)
"""


def memory_said(folder: Path) -> float:
    """The MiB that the job's log says."""
    return float(re.search(r"at most (\d+) MiB resident", (folder / "job.log").read_text())[1])


def test_a_fork_s_memory_is_its_own(tmp_path):
    """Another script has had the server import 512 MiB."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "ballast.py").write_text("ballast = b'1' * (512 << 20)")
    server = Server(tmp_path, packages)
    assert server.run("import ballast") == (0, "", "")
    assert server.run(JOB) == (0, "", "")
    assert 64 <= memory_said(tmp_path) < 256
    shared = re.search(r"besides (\d+) MiB shared", (tmp_path / "job.log").read_text())
    assert int(shared[1]) >= 512
    server.stop()


def test_a_job_s_memory_is_not_that_of_the_process_that_started_it(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    starts = (
        "import subprocess, sys; b'1' * (512 << 20); subprocess.run([sys.executable, 'job.py'])"
    )
    environment = os.environ | {"PYTHONPATH": str(forks.ROOT)}
    subprocess.run([sys.executable, "-c", starts], cwd=tmp_path, env=environment, check=True)
    assert 64 <= memory_said(tmp_path) < 256


def test_a_server_that_has_imported_everything_has_one_thread(server):
    """Fork copies one thread only: what another held at that moment nobody would let go of."""
    folders = (forks.ROOT / "scripts", forks.ROOT / "studies")
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    statements = [line for file in files for line in ast.parse(file.read_text()).body]
    imports = [ast.unparse(s) for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
    assert server.run("\n".join(imports)) == (0, "", "")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert "Threads:\t1\n" in status
    code, said, _ = server.run(
        "import sys; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    )
    assert (code, said) == (0, "True True\n")
