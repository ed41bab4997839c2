"""Never a broken product: runs that are killed, disks that refuse, files that were damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from workflows import Clone, held, wait_until

from microtome.store.checksums import record
from microtome.store.datasets import read_dataset
from microtome.store.files import replacing
from microtome.workflow.jobs import job

#: Moments of a kill, as parts of all that the run leaves, and what is killed. The test run takes
#: three of them, `make torture` all.
MOMENTS = [((number + 0.5) / 20, ("main", "job")[number % 2]) for number in range(20)]
FEW = {3, 10, 15}

STATISTIC = ("studies", "category_selectivity", "statistics", "cosine_similarities")


def small_clone(folder: Path, model: Path, name: str = "twin") -> Clone:
    """One study on the model, or on an untrained twin, whose weights lie in results/."""
    clone = Clone(folder, model)
    del clone.config["studies"]["mlp_distributions"]
    clone.config["models"]["twin"] = {"source": "untrained://tiny?seed=1", "n_layers": 3}
    clone.change("studies", "category_selectivity", "models", to=[name])
    return clone


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """A run that nothing disturbed."""
    clone = small_clone(tmp_path_factory.mktemp("whole"), model)
    clone.run()
    return clone


def test_the_untrained_twin_has_weights_of_its_own(whole):
    manifests = [
        json.loads(whole.product(f"models/{name}/manifest.json").read_text())
        for name in ("tiny", "twin")
    ]
    assert manifests[0]["tensors"] == manifests[1]["tensors"]
    assert manifests[0]["weights"] != manifests[1]["weights"]
    assert manifests[1]["revision"] == "seed 1"


def n_files(clone: Clone) -> int:
    """How far a run is: the files in results/, logs and checksums among them."""
    return sum(len(files) for _, _, files in os.walk(clone.product("")))


def job_processes(parent: int) -> list[int]:
    """The processes of running scripts below a main process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = ancestors(int(process.name))
            own = (process.name, *line[:1])  # a fork, and the server
            if str(parent) in line and all("forks.py" in command_of(number) for number in own):
                found.append(int(process.name))
    return found


def command_of(process: str) -> str:
    return (Path("/proc") / process / "cmdline").read_text()


def ancestors(process: int) -> list[str]:
    line = []
    while process > 1:
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        process = int(next(row for row in status if row.startswith("PPid")).split()[1])
        line.append(str(process))
    return line


@pytest.mark.parametrize(
    ("moment", "victim"),
    [
        pytest.param(
            *case,
            id=f"{case[1]} at {case[0]:.3f}",
            marks=[] if number in FEW else pytest.mark.torture,
        )
        for number, case in enumerate(MOMENTS)
    ],
)
def test_a_killed_run_goes_on_where_it_was(whole, model, tmp_path, moment, victim):
    clone = small_clone(tmp_path, model)
    main = subprocess.Popen(
        [sys.executable, "-m", "snakemake"],
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wanted = moment * n_files(whole)
    while n_files(clone) < wanted and main.poll() is None:
        time.sleep(0.02)
    victims = []
    while victim == "job" and main.poll() is None:
        victims = job_processes(main.pid)
        if victims:
            break
        time.sleep(0.02)
    for process in victims:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    if victim == "main":
        main.kill()
    main.wait()
    clone.run()
    assert clone.contents() == whole.contents()
    assert clone.verify() == []
    assert clone.planned() == set()


def test_two_runs_in_one_folder(whole, model, tmp_path):
    clone = small_clone(tmp_path, model)
    with held(clone.product("logs/fetch_model/tiny.log")) as waits:
        first = subprocess.Popen(
            [sys.executable, "-m", "snakemake"],
            cwd=clone.folder,
            env=clone.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(waits, first)
        second = clone.snakemake()
    assert second.returncode != 0
    assert "another run is at work here; wait for its end" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.wait() == 0
    assert clone.contents() == whole.contents()


def in_a_small_room(clone: Clone, script: str) -> subprocess.CompletedProcess:
    """Run shell commands where results/ is a tmpfs of its own; $PYTHON -m snakemake works there."""
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=clone.folder,
        env=clone.environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("size", "place"),
    [
        # The log may be the first to fail.
        pytest.param("16k", "results/(models|logs/fetch_model)/tiny", marks=pytest.mark.torture),
        pytest.param("40k", "results/tokens/tiny", marks=pytest.mark.torture),
        ("1600k", "results/activations/tiny"),
    ],
)
def test_a_full_disk(whole, model, tmp_path, size, place):
    clone = small_clone(tmp_path, model, "tiny")
    clone.change(*STATISTIC, "layers", to="all")
    clone.product("").mkdir()
    words = [f"w{number}" for number in range(400)]
    stimuli = {"source": "made up", "template": "The next word is {word}"}
    clone.save(stimuli | {"words": {"a": words[:200], "b": words[200:]}}, "stimuli/words.yaml")
    done = in_a_small_room(
        clone,
        f"mount -t tmpfs -o size={size} tmpfs results && $PYTHON -m snakemake; echo $? > code; "
        "$PYTHON -m microtome.cli verify > verified; "
        "find results -name '.*.partial' > partial; "
        "mount -o remount,size=1G results && $PYTHON -m snakemake 1>&2",
    )
    assert (clone.folder / "code").read_text() != "0\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("microtome:")]
    assert lines
    assert all("the disk is full; free some space and run again" in line for line in lines)
    assert re.search(place, lines[0])
    assert "Traceback" not in done.stderr
    assert "all as they were made" in (clone.folder / "verified").read_text()
    assert (clone.folder / "partial").read_text() == ""
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["results", ".snakemake", "run"])
def test_a_read_only_folder(whole, model, tmp_path, folder):
    """Where products go, where Snakemake keeps its notes, or all of it, as `--directory run`."""
    clone = small_clone(tmp_path, model)
    (clone.folder / folder).mkdir()
    where = "--directory run" if folder == "run" else ""
    done = in_a_small_room(
        clone, f"mount -t tmpfs -o ro tmpfs {folder} && $PYTHON -m snakemake {where}; exit $?"
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("microtome:")]
    assert len(lines) == 1
    remedy = "the file system is read-only; choose another place with --directory"
    assert f"/{folder}: {remedy}" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_file_where_snakemake_wants_a_folder(whole, model, tmp_path):
    clone = small_clone(tmp_path, model)
    (clone.folder / ".snakemake").touch()
    done = clone.snakemake()
    assert done.returncode != 0
    assert "/.snakemake: Not a directory; choose another place" in done.stderr
    assert "Traceback" not in done.stderr


def run_job(source: Path, target: Path) -> None:
    """A job that reads an activation file and writes what it found."""
    snakemake = type("Job", (), {})()
    snakemake.input, snakemake.output = [str(source)], [str(target)]
    snakemake.log, snakemake.threads = ["results/logs/flipped.log"], 1
    with job(snakemake), replacing(target) as unfinished:
        unfinished.write_bytes(read_dataset(source)["q"].values.tobytes())


def test_a_flipped_bit_is_noticed_wherever_it_is(whole, tmp_path, monkeypatch, capsys):
    """One flip at each of 500 random places of an activation file."""
    monkeypatch.chdir(tmp_path)
    source, target = Path("results/activations/layer-01.h5"), Path("results/statistics/x.bin")
    source.parent.mkdir(parents=True)
    shutil.copy(whole.product("activations/twin/words/layer-01.h5"), source)
    record(source)
    bytes_, times = bytearray(source.read_bytes()), source.stat()
    run_job(source, target)
    expected = target.read_bytes()
    assert expected == read_dataset(source)["q"].values.tobytes()
    random = np.random.default_rng(0)
    for place in random.integers(len(bytes_), size=500):
        target.unlink(missing_ok=True)
        flipped = bytes_.copy()
        flipped[place] ^= 1 << random.integers(8)
        source.write_bytes(flipped)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk leaves it
        with pytest.raises(SystemExit, match=r"layer-01\.h5: changed or damaged since it was made"):
            run_job(source, target)
        assert not target.exists()
    source.unlink()
    with pytest.raises(SystemExit, match=r"layer-01\.h5: missing; delete .* and run again"):
        run_job(source, target)


def weights(clone: Clone, model: str) -> Path:
    return clone.product(f"models/{model}/checkpoint/model.safetensors")


def copied(whole: Clone, folder: Path) -> Clone:
    """The undisturbed run once more, without what was derived from the weights."""
    clone = whole.copy(folder / "again")
    for kind in ("activations", "statistics", "figures"):
        shutil.rmtree(clone.product(kind))
        shutil.rmtree(clone.product(f"checksums/{kind}"))
    return clone


@pytest.mark.parametrize(
    "damage", ["truncated", pytest.param("replaced", marks=pytest.mark.torture)]
)
def test_weights_that_changed_are_not_computed_with(whole, tmp_path, damage):
    clone = copied(whole, tmp_path)
    file = weights(clone, "twin")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content[:-100] if damage == "truncated" else content)
    done = clone.snakemake()
    assert done.returncode != 0
    message = f"{file.relative_to(clone.folder)}: changed or damaged since it was made; delete "
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not [file for file in clone.product("activations").rglob("*") if file.is_file()]
    assert [line.partition(":")[0] for line in clone.verify()] == [
        str(file.relative_to(clone.folder))
    ]
    shutil.rmtree(file.parent)
    clone.run()
    assert clone.contents() == whole.contents()


def test_a_local_model_that_changed_is_fetched_again(whole, model):
    """Weights of the same size under the same name: the fetch is stale, and all that follows."""
    clone = whole
    file = model / "model.safetensors"
    original = file.read_bytes()
    tensors = load_file(file)
    tensors["transformer.h.0.attn.c_attn.weight"] += 1
    try:
        save_file(tensors, file, {"format": "pt"})
        assert file.stat().st_size == len(original)
        assert clone.planned() == {
            *("models/tiny", "models/twin", "tokens/twin/words", "activations/twin/words"),
            "statistics/category_selectivity/twin/cosine_similarities",
            "statistics/category_selectivity/twin/rsa",
            "figures/category_selectivity/twin/cosine_matrices",
            "figures/category_selectivity/twin/rsa_profile",
            *("page/category_selectivity", "page/index"),
        }
    finally:
        file.write_bytes(original)
    assert clone.planned() == set()
