"""A sweep in several jobs, ranges of layers one after another: the bytes of one job."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from workflows import Clone, held, wait_until

from microtome.store.datasets import open_layer, read_dataset

KEY = ("sweep", "layers_per_job")


CODE = """
import xarray as xr

from microtome.options import Layer, Site


def squares(section: xr.Dataset, ln_final: xr.DataArray, *, site: Site, layer: Layer) -> xr.Dataset:
    values = {"entering": section[site] ** 2, "leaving": ln_final**2}
    return xr.Dataset({name: value.mean("d_model") for name, value in values.items()})
"""


def clone_for(folder: Path, model: Path) -> Clone:
    """Layer 1 and the final norm of each text's last token, in half precision.

    Of three jobs of a layer each, the first only hands on and the last has no layer to keep.
    """
    clone = Clone(folder, model)
    clone.config["sweep"]["dtype"] = clone.config["store"]["dtype"] = "bfloat16"
    clone.config["stimuli"] = {"words": {"tokens": "last"}}
    (folder / "studies" / "ends").mkdir()
    (folder / "studies" / "ends" / "statistics.py").write_text(CODE, encoding="utf-8")
    squares = {"squares": {"site": "resid_pre", "layer": 1}}
    clone.save_study("ends", {"stimuli": "words", "statistics": squares})
    clone.config["studies"] = {
        name: {"models": ["tiny"]} for name in ("category_selectivity", "ends")
    }
    clone.change("studies", "category_selectivity", "statistics", to={"cosine_similarities": ONLY})
    return clone


ONLY = {"layers": [1]}


def rules(clone: Clone, *arguments: str) -> list[str]:
    """The sweep's jobs in a run of all activations, by their rules and in order."""
    done = clone.snakemake("activations", *arguments)
    assert done.returncode == 0, done.stderr
    return re.findall(r"rule (activations__\S+):", done.stdout + done.stderr, re.MULTILINE)


def kept(clone: Clone) -> dict[str, bytes]:
    """Every product's bytes but those of the files between jobs."""
    return {path: b for path, b in clone.contents().items() if "/resid-" not in path}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """A run with one job for all layers."""
    clone = clone_for(tmp_path_factory.mktemp("whole"), model)
    clone.run()
    return clone


@pytest.fixture(scope="module")
def cut(tmp_path_factory, model):
    """A run with a job for each layer."""
    clone = clone_for(tmp_path_factory.mktemp("cut"), model)
    clone.change(*KEY, to=1)
    assert len(rules(clone)) == 3
    return clone


def activations(clone: Clone) -> dict[str, bytes]:
    """The bytes of every layer file."""
    return {path: content for path, content in kept(clone).items() if "/activations/" in path}


def test_the_same_bytes(whole, cut):
    assert activations(cut) == activations(whole)
    assert cut.verify() == []
    assert rules(cut, "--dry-run") == []


def test_what_lies_between_jobs_is_what_enters_the_next(cut):
    folder = cut.product("activations/tiny/words")
    names = sorted(file.name for file in folder.glob("*.h5"))
    assert names == ["final.h5", "layer-01.h5", "resid-01.h5", "resid-02.h5"]
    tokens = read_dataset(cut.product("tokens/tiny/words.h5"))
    with open_layer(folder / "resid-01.h5") as resid, open_layer(folder / "layer-01.h5") as layer:
        assert set(resid.data_vars) == {"resid_pre"}
        assert list(resid["text"].values) == list(tokens["text"].values)
        last = np.flatnonzero(tokens["row"].values >= 0)
        np.testing.assert_array_equal(resid["resid_pre"][last], layer["resid_pre"])


def test_a_killed_run_goes_on_at_the_last_finished_job(cut, tmp_path):
    clone = cut.copy(tmp_path / "killed")
    for kind in ("activations", "logs"):
        shutil.rmtree(clone.product(kind))
    with held(clone.product("logs/activations/tiny/words-01.log")) as waits:
        main = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "activations"],
            cwd=clone.folder,
            env=clone.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(waits, main)
        os.killpg(main.pid, signal.SIGKILL)  # Snakemake and the second job, which has just begun
    main.wait()
    first = clone.product("activations/tiny/words/resid-01.h5")
    made = first.stat().st_mtime_ns
    assert not clone.product("activations/tiny/words/final.h5").exists()
    again = rules(clone)
    assert again[-1] == "activations__tiny__words-02"
    assert "activations__tiny__words-00" not in again
    assert first.stat().st_mtime_ns == made
    assert clone.contents() == cut.contents()
    assert clone.verify() == []


def test_a_job_for_more_layers_than_there_are_is_the_only_one(whole, tmp_path):
    clone = whole.copy(tmp_path / "edited")
    clone.change(*KEY, to=3)
    assert clone.planned() == set()


def test_other_jobs_make_the_layers_anew_and_nothing_behind_them(whole, cut, tmp_path):
    """Who changes the key has the sweep once more, with the same bytes, by stages no more."""
    clone = whole.copy(tmp_path / "many")
    clone.change(*KEY, to=2)
    both = ["activations__tiny__words-00", "activations__tiny__words-02"]
    assert rules(clone, "--dry-run") == both
    assert rules(clone) == both
    assert clone.planned() == set()
    assert kept(clone) == whole.contents()
    clone = cut.copy(tmp_path / "one")
    clone.change(*KEY, to=3)
    assert rules(clone, "--dry-run") == ["activations__tiny__words"]


def test_files_between_jobs_that_an_earlier_run_left_are_not_taken_for_new(cut, tmp_path):
    """A text is changed while all layers are one job's; then each is a job of its own again."""
    clone = cut.copy(tmp_path / "edited")
    clone.change(*KEY, to=3)
    clone.replace("stimuli/words.yaml", "asteroid", "galaxy")
    assert rules(clone) == ["activations__tiny__words"]
    clone.change(*KEY, to=1)
    assert len(rules(clone, "--dry-run")) == 3


def test_files_between_jobs_may_be_deleted_when_all_is_made(cut, tmp_path):
    clone = cut.copy(tmp_path / "edited")
    for file in clone.product("activations/tiny/words").glob("resid-*"):
        file.unlink()
    assert rules(clone, "--dry-run") == []
    clone.product("activations/tiny/words/final.h5").unlink()
    assert len(rules(clone, "--dry-run")) == 3


def test_the_last_job_alone_is_run_from_the_file_before_it(cut, tmp_path):
    """Which is compared with its checksum as every product is."""
    clone = cut.copy(tmp_path / "edited")
    final = clone.product("activations/tiny/words/final.h5")
    final.unlink()
    assert rules(clone) == ["activations__tiny__words-02"]
    assert clone.contents() == cut.contents()
    resid = clone.product("activations/tiny/words/resid-02.h5")
    resid.write_bytes(resid.read_bytes()[:-1])
    final.unlink()
    done = clone.snakemake("activations")
    assert done.returncode != 0
    assert "words/resid-02.h5: changed or damaged since it was made; delete " in done.stderr
    assert clone.verify() == [
        "results/activations/tiny/words/resid-02.h5: changed or damaged since it was made; "
        "make it again: snakemake --force results/activations/tiny/words/resid-02.h5"
    ]


def test_the_plan_counts_what_is_handed_on(whole, tmp_path):
    clone = whole.copy(tmp_path / "edited")
    rows = []
    for size in (3, 1):
        clone.change(*KEY, to=size)
        done = clone.snakemake("plan", "--quiet", "all")
        assert done.returncode == 0, done.stderr
        rows += [line.split() for line in done.stdout.splitlines() if line.startswith("tiny")]
    assert len(rows) == 2
    # 24 numbers of 2 bytes each, of the last token of six texts: resid_pre, q, k, v and the final
    # norm. What is handed on, twice, is of all tokens.
    assert rows[0][:6] == rows[1][:6] == ["tiny", "words", rows[0][2], "1", str(4 * 48), "B"]
    n_tokens = int(rows[0][2])
    for row, handed_on in zip(rows, (0, 2), strict=True):
        n_bytes = 48 * (6 * 5 + n_tokens * handed_on)
        assert float(row[6]) == pytest.approx(n_bytes / 1000, rel=5e-3)


def test_a_job_computes_with_the_configs_threads_on_fewer_cores(tmp_path, model):
    """Otherwise the number of cores would show in last digits, and nothing would be stale."""
    clone = Clone(tmp_path / "clone", model)
    clone.change("sweep", "threads", to=2)
    count = "        print(torch.get_num_threads(), snakemake.threads)\n"
    clone.replace("scripts/activations.py", "        manifest =", f"{count}        manifest =")
    clone.run("activations", "--cores", "1")
    log = clone.product("logs/activations/tiny/words.log").read_text(encoding="utf-8")
    assert log.splitlines()[0] == "2 1"
