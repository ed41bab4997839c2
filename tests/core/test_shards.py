"""A sweep in shards, of some sequences each: the bytes and the products of one job."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from conftest import build
from hooked import columns, taps_at
from workflows import SCALED, Clone, wait_until

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.show import show
from microtome.show.lines import size
from microtome.store.checksums import sha256
from microtome.store.datasets import open_layer, read_dataset
from microtome.store.layers import read_section, write_layers
from microtome.store.virtual import join, shards_of
from microtome.sweeps import cost
from microtome.sweeps.sweep import sweep_table
from microtome.texts.lengths import read_lengths
from microtome.texts.rows import row_columns

RANDOM = np.random.default_rng(0)
LENGTHS = [1, 3, 3, 7, 2, 1, 9, 3, 12, 4, 4, 1, 5]
SEQUENCES = [RANDOM.integers(0, 101, length) for length in LENGTHS]
SITES = ["resid_pre", "q", "pattern", "post", "resid_post"]


def swept(checkpoint, folder, n_sequences, n_blocks=4, tokens="all"):
    """The layer files of a sweep in shards, and parts of so many blocks, joined; by file name."""
    made = {}
    for number, first in enumerate(range(0, len(SEQUENCES), n_sequences)):
        some = SEQUENCES[first : first + n_sequences]
        rows = [[*[-1] * (len(ids) - 1), i] for i, ids in enumerate(some)]
        table = columns(some, rows if tokens == "last" else None)
        table["sequence"] = table["sequence"] + first
        table["position"] = np.concatenate([np.arange(len(ids)) for ids in some])
        table["text"] = np.array([f"é{token}" for token in table["token_id"]], object)
        shard = folder / f"{number:05d}"
        for start in range(0, 4, n_blocks):
            stop = start + n_blocks if start + n_blocks < 4 else None
            resid = shard / f"resid-{start:02d}.h5"
            handed_on = {stop: shard / f"resid-{stop or 0:02d}.h5"}
            sections = sweep_table(
                checkpoint,
                table,
                SITES,
                range(start, stop or 4),
                () if stop else ["ln_final", "logits"],
                taps=taps_at(checkpoint),
                batch_tokens=14,
                dtype="float32",
                device="cpu",
                log=io.StringIO(),
                resid_in=read_section(resid) if start else None,
                stop=stop,
                resid_out=(
                    lambda out, of=table, files=handed_on: write_layers(
                        out, {k: v for k, v in of.items() if k != "row"}, files, {}
                    )
                )
                if stop
                else None,
                steady=True,
            )
            names = {layer: f"layer-{layer:02d}.h5" for layer in range(4)} | {None: "final.h5"}
            files = {layer: shard / name for layer, name in names.items()}
            write_layers(sections, row_columns(table), files, {"model": "m"})
            for file in files.values():
                if file.exists():
                    made.setdefault(file.name, {})[file] = sha256(file)
    for name, shards in made.items():
        join(folder / name, shards)
    return {name: folder / name for name in sorted(made)}


@pytest.mark.parametrize(("name", "sizes"), [("gpt2", {}), ("llama", {"intermediate_size": 64})])
@pytest.mark.parametrize("tokens", ["all", "last"])
def test_rows_do_not_depend_on_the_shard(tmp_path, name, sizes, tokens):
    """In few shards or many, and in one job for all layers or several.

    Where 32 does not divide the width of an MLP, the last digits of SiLU depend on where in a batch
    a token stands.
    """
    checkpoint = tmp_path / "checkpoint"
    fetch(Folder(build(tmp_path / "origin", name, **sizes)), checkpoint)
    layers = {f"layer-{n:02d}.h5": n for n in range(4)} | {"final.h5": "final"}
    whole = swept(checkpoint, tmp_path / "one", len(SEQUENCES), tokens=tokens)
    for label, n_sequences, n_blocks in (("some", 5, 4), ("each", 1, 4), ("parts", 5, 2)):
        found = swept(checkpoint, tmp_path / label, n_sequences, n_blocks, tokens)
        assert list(found) == list(whole)
        for file, joined in found.items():
            with open_layer(joined) as opened, open_layer(whole[file]) as expected:
                assert opened.sizes == expected.sizes
                assert opened.attrs == expected.attrs == {"model": "m", "layer": layers[file]}
                for variable in expected.variables:
                    values = opened[variable].values, expected[variable].values
                    assert values[0].tobytes() == values[1].tobytes(), (file, variable)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_real_shape_do_not_depend_on_the_shard(smollm2, dtype):
    """Of texts of 1 to 12 tokens, of which some lengths occur once."""

    def rows(n_sequences):
        arrays = {}
        for first in range(0, len(SEQUENCES), n_sequences):
            sections = sweep_table(
                *(smollm2, columns(SEQUENCES[first : first + n_sequences])),
                *(["q", "post", "resid_post"], [0, 1]),
                taps=taps_at(smollm2),
                batch_tokens=64,
                dtype=dtype,
                device="cpu",
                log=io.StringIO(),
                steady=True,
            )
            before = sum(LENGTHS[:first])
            for section in sections:
                for site, values in section.values.items():
                    for row, value in zip(section.rows, values, strict=True):
                        arrays[section.layer, site, before + row] = value.tobytes()
        return arrays

    whole = rows(len(SEQUENCES))
    assert len(whole) == 2 * 3 * sum(LENGTHS)
    assert rows(4) == whole


TEXTS = ["A thin section of a language model.", "One of many, and a longer one.", "Yes", "A no."]


def clone_for(folder, model, **sweep):
    """Two studies on last tokens and all of them, compressed, and an intervention."""
    clone = Clone(folder, model)
    clone.save({"source": "made up", "texts": TEXTS}, "stimuli/texts.yaml")
    clone.save({"source": "made up", "texts": TEXTS[:1]}, "stimuli/text.yaml")
    clone.save_study("hidden_states", {"stimuli": "text"} | SCALED)
    clone.config["studies"]["hidden_states"] = {"models": ["tiny"]}
    clone.change("stimuli", to={"words": {"tokens": "last"}})
    clone.config["studies"]["category_selectivity"]["statistics"] = {
        "cosine_similarities": {"layers": [0, 1, 2]}
    }
    clone.change("sweep", to=clone.config["sweep"] | sweep)
    clone.change("store", to={"dtype": "bfloat16", "compression": "zstd"})
    return clone


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """A run without shards."""
    clone = clone_for(tmp_path_factory.mktemp("whole"), model)
    clone.run()
    return clone


@pytest.fixture(scope="module")
def cut(tmp_path_factory, model):
    """A run with shards of two texts or words, and a job for each two layers."""
    clone = clone_for(tmp_path_factory.mktemp("cut"), model, sequences_per_job=2, layers_per_job=2)
    clone.run()
    return clone


def products(clone):
    """The bytes of all that is made from activations."""
    kinds = ("interventions", "statistics", "figures", "tables")
    return {p: b for p, b in clone.contents().items() if p.split("/")[1] in kinds}


def test_the_products_of_a_run_without_shards(whole, cut):
    assert products(cut) == products(whole)
    assert any("/interventions/" in path for path in products(cut))
    assert cut.planned() == set()
    assert cut.verify() == []
    shards = sorted(f.name for f in cut.product("activations/tiny/words").iterdir() if f.is_dir())
    assert shards == ["00000", "00001", "00002"]


def test_tables_and_layers_read_as_without_shards(whole, cut):
    for name in ("tokens/tiny/words.h5", "tokens/tiny/texts.h5"):
        assert read_dataset(cut.product(name)).identical(read_dataset(whole.product(name)))
    for name in ("activations/tiny/words", "activations/tiny/texts"):
        assert mt.open(cut.product(name)).identical(mt.open(whole.product(name)))
    with h5py.File(cut.product("activations/tiny/words/layer-02.h5")) as file:
        assert file["q"].id.get_type().get_size() == 2
    for name in ("activations/tiny/words/layer-02.h5", "tokens/tiny/words.h5"):
        file = cut.product(name)  # whose bytes change when those of a shard do
        with h5py.File(file) as opened:
            listed = [line.split() for line in opened.attrs["shards"].splitlines()]
        assert [sum_ for sum_, _, _ in listed] == [sha256(shard) for shard in shards_of(file)]


def test_a_job_asks_for_what_its_own_shard_takes(cut, tmp_path):
    clone = cut.copy(tmp_path / "asked")
    shutil.rmtree(clone.product("activations/tiny/texts"))
    said = clone.snakemake("--dry-run", "activations").stdout
    job = r"output: results/activations/tiny/texts/(\d+)/layer-01.*?mem_mb=(\d+)"
    asked = {shard: int(mem_mb) for shard, mem_mb in re.findall(job, said, re.S)}
    model = cost.model(json.loads(clone.product("models/tiny/manifest.json").read_text()))
    for shard, lengths in (("00000", [8, 9]), ("00001", [1, 3])):
        assert read_lengths(clone.product(f"tokens/tiny/texts/{shard}.h5")) == lengths
        needed = cost.sweep(model, lengths, ["ln2_out", "mlp_out"], [1], batch_tokens=32, threads=1)
        assert asked.pop(shard) == needed.mem_mb()
    assert asked == {}


def test_show_tells_shards(cut, tmp_path, monkeypatch):
    clone = cut.copy(tmp_path / "shown")
    monkeypatch.chdir(clone.folder)
    folder = "results/activations/tiny/words"
    shards = list(Path(folder).rglob("layer-02.h5"))
    joined, *others = show(f"{folder}/layer-02.h5").splitlines()
    told = size(sum(file.stat().st_size for file in shards))
    assert joined == f"{folder}/layer-02.h5: activations of layer 2 in 3 shards, {told}"
    assert others[1].split() == ["q", "(token", "6,", "n_heads", "4,", "d_head", "6)", "bfloat16"]
    assert others[-1] == "  as it was made"
    assert f"{folder}: activations in 3 shards, layer-00, layer-01, layer-02, " in show(folder)
    assert "token table of tiny in 3 shards, " in show("results/tokens/tiny/words.h5")
    shard = Path(folder, "00001", "layer-02.h5")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    last = show(f"{folder}/layer-02.h5").splitlines()[-1]
    assert last == f"  {shard}: changed or damaged since it was made"
    shard.unlink()
    for path in (folder, f"{folder}/layer-02.h5"):
        with pytest.raises(MicrotomeError, match=r"00001/layer-02\.h5: missing; make it: "):
            show(path)


#: What is made anew if the activations of words are, in one call of Snakemake.
JOINED = "activations/tiny/words"


@pytest.mark.parametrize("lost", ["layer-02.h5", "layer-00.h5"])
def test_a_lost_file_costs_the_jobs_of_its_shard(cut, tmp_path, lost):
    clone = cut.copy(tmp_path / "lost")
    clone.product(f"activations/tiny/words/00001/{lost}").unlink()
    assert {JOINED, f"{JOINED}/00001"} <= clone.planned()  # and what may come of it
    assert clone.run("activations") == {JOINED, f"{JOINED}/00001"}
    assert clone.planned() == set()
    assert clone.contents() == cut.contents()


def test_a_lost_shard_of_tokens_is_the_only_one_that_is_written(cut, tmp_path):
    clone = cut.copy(tmp_path / "lost")
    folder = clone.product("tokens/tiny/words")
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    (folder / "00001.h5").unlink()
    with pytest.raises(MicrotomeError, match=r"words/00001\.h5: missing; make it: snakemake "):
        mt.open(clone.product("tokens/tiny/words.h5"))
    assert clone.run("tokens") == {"tokens/tiny/words"}
    assert [f.name for f, t in times.items() if f.stat().st_mtime_ns != t] == ["00001.h5"]
    assert clone.planned() == set()
    assert clone.contents() == cut.contents()
    table = clone.product("tokens/tiny/words.h5")
    table.write_bytes(table.read_bytes()[:900])
    assert clone.run("tokens") == {"tokens/tiny/words"}
    assert clone.contents() == cut.contents()


def test_a_text_at_the_end_makes_a_new_shard_alone(cut, tmp_path):
    clone = cut.copy(tmp_path / "more")
    clone.save({"source": "made up", "texts": [*TEXTS, "A fifth."]}, "stimuli/texts.yaml")
    assert clone.run("tokens") == {"tokens/tiny/texts"}
    joined = "activations/tiny/texts"
    assert clone.planned("activations") == {joined, f"{joined}/00002"}
    assert clone.run("activations") == {joined, f"{joined}/00002"}
    with open_layer(clone.product(f"{joined}/layer-01.h5")) as layer:
        assert layer["sequence"].values[-1] == 4
    # And with fewer texts, nothing is left of it that the tables name.
    clone.save({"source": "made up", "texts": TEXTS[:2]}, "stimuli/texts.yaml")
    clone.run("activations")
    assert [file.name for file in clone.product("tokens/tiny/texts").iterdir()] == ["00000.h5"]
    assert sorted(f.name for f in clone.product(joined).iterdir() if f.is_dir()) == ["00000"]
    assert clone.verify() == []


#: A process that would flush what it has written of one shard says so, and never does.
STANDING = """
import os, time
flush = os.fsync

def stand(descriptor):
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if "/activations/tiny/words/00001/.layer-01.h5" in name:
        with open("writing", "w") as told:
            told.write(str(os.getpid()))
        os.rename("writing", "standing")
        while True:
            time.sleep(1)
    flush(descriptor)

os.fsync = stand
"""


def test_a_job_that_is_killed_while_it_writes_costs_the_jobs_of_its_shard(cut, tmp_path):
    """The second layer of the second shard is written and not flushed, the first one is there."""
    clone = cut.copy(tmp_path / "killed")
    for kind in ("activations", "checksums/activations"):
        shutil.rmtree(clone.product(f"{kind}/tiny/words"))
    (tmp_path / "standing").mkdir()
    (tmp_path / "standing" / "sitecustomize.py").write_text(STANDING)
    path = f"{clone.environment['PYTHONPATH']}{os.pathsep}{tmp_path / 'standing'}"
    main = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "activations", "--keep-going"],
        cwd=clone.folder,
        env=clone.environment | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    standing = clone.folder / "standing"
    wait_until(standing.exists, main)
    shard = clone.product("activations/tiny/words/00001")
    assert {".layer-01.h5.partial", "layer-00.h5"} <= {file.name for file in shard.iterdir()}
    os.kill(int(standing.read_text()), signal.SIGKILL)
    assert main.wait() != 0
    assert list(shard.glob("[!.]*")) == []
    assert clone.verify() == []
    assert clone.run("activations") == {JOINED, f"{JOINED}/00001"}
    assert clone.contents() == cut.contents()
    names = {file.name for file in shard.iterdir()}
    assert names == {file.name for file in cut.product("activations/tiny/words/00001").iterdir()}
    assert clone.verify() == []
    assert clone.planned() == set()


def test_of_shards_of_another_size_none_of_before_is_left(cut, tmp_path):
    clone = cut.copy(tmp_path / "larger")
    left = clone.product("tokens/tiny/words/.00007.h5")  # by a job that was killed
    left.touch()
    clone.change("sweep", "sequences_per_job", to=4)
    clone.run()
    assert products(clone) == products(cut)
    shards = {path.split("/")[4] for path in clone.contents() if f"{JOINED}/0" in path}
    assert shards == {"00000", "00001"}
    assert not left.exists()
    assert not clone.product("checksums/activations/tiny/words/00002").exists()
    assert clone.verify() == []
    assert clone.planned() == set()


def test_a_damaged_shard_is_named_by_the_job_that_reads_it_and_by_verify(cut, tmp_path):
    clone = cut.copy(tmp_path / "damaged")
    shard = clone.product("activations/tiny/words/00001/layer-02.h5")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    shutil.rmtree(clone.product("statistics/category_selectivity"))
    done = clone.snakemake("statistics")
    assert done.returncode != 0
    name = os.path.relpath(shard, clone.folder)
    fault = f"{name}: changed or damaged since it was made"
    assert f"{fault}; delete {name} and run again" in done.stderr
    tokens = clone.product("tokens/tiny/words/00001.h5")
    tokens.write_bytes(tokens.read_bytes()[:-1])
    found = clone.verify()
    assert f"{fault}; make it again: snakemake --force {name}" in found
    assert (
        "results/tokens/tiny/words/00001.h5: changed or damaged since it was made; make it again: "
        "snakemake --force results/tokens/tiny/words.h5"
    ) in found
    for product in ("results/tokens/tiny/words.h5", name):
        clone.run("--force", product)
    clone.run("statistics")
    assert clone.contents() == cut.contents()
    assert clone.verify() == []


def test_models_that_are_deleted_make_nothing_stale(cut, tmp_path):
    clone = cut.copy(tmp_path / "deleted")
    shutil.rmtree(clone.product("models"))
    assert clone.planned() == set()


def test_without_the_key_the_sweep_is_one_job_again(cut, whole, tmp_path):
    clone = cut.copy(tmp_path / "without")
    for key in ("sequences_per_job", "layers_per_job"):
        del clone.config["sweep"][key]
    clone.save(clone.config)
    clone.run()
    assert products(clone) == products(whole)
    for name in ("tokens/tiny/words.h5", "activations/tiny/words/layer-02.h5"):
        assert clone.product(name).read_bytes() == whole.product(name).read_bytes()
    assert clone.planned() == set()


def test_jobs_write_the_same_rows_in_any_shards(tmp_path, model):
    """Texts of few tokens, which are alone or in a batch; in float32, since bfloat16 has fewer
    digits. Streamed statistics, of the same rows, are the same but for their own rounding."""
    texts = {"source": "made up", "texts": ["Yes", "No", *TEXTS, "Never", "A yes.", "Yes"]}
    rows, moments = [], []
    for n_sequences in (1, 9):
        clone = clone_for(tmp_path / str(n_sequences), model, sequences_per_job=n_sequences)
        clone.save(texts, "stimuli/texts.yaml")
        clone.save_study("corpus", {"statistics": {"moments": {"sites": ["resid_post"]}}})
        clone.config["studies"]["corpus"] = {"models": ["tiny"], "stimuli": "texts"}
        clone.change("store", to={"dtype": "float32", "compression": "none"})
        streamed = "statistics/corpus/tiny/moments.h5"
        clone.run("activations", f"results/{streamed}")
        opened = [mt.open(clone.product(f"activations/tiny/{name}")) for name in ("words", "texts")]
        rows.append([(name, v.values.tobytes()) for o in opened for name, v in o.items()])
        moments.append(read_dataset(clone.product(streamed)))
    assert rows[0] == rows[1]
    xr.testing.assert_allclose(*moments, rtol=1e-12, atol=1e-15)
