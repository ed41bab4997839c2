"""What is asked of a cluster, against peaks that were measured or worked out by hand."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from microtome.models.anatomy import find_sites
from microtome.models.checkpoint import sizes
from microtome.models.fetch import manifest
from microtome.models.skeleton import skeleton
from microtome.statistics.grouped import TokenMeans
from microtome.store.datasets import read_dataset, write_dataset
from microtome.store.layers import Section
from microtome.sweeps import cost
from microtome.texts.lengths import read_lengths
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table

MIB = 1 << 20

SWEEP = """
import re, sys
from pathlib import Path
from microtome.store.layers import read_columns, write_layers_beside
from microtome.models.taps import Sites
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep
checkpoint, tokens, folder, sites, final, found = sys.argv[1:]
columns = read_columns(tokens)
batches = batched(columns, 1024)
taps = Sites.read(Path(found)).taps
asked = sites.split(), range(30), final.split()
sections = sweep(Path(checkpoint), batches, *asked, taps=taps)
paths = {layer: f"{folder}/layer-{layer:02d}.h5" for layer in range(30)}
write_layers_beside(sections, columns, paths | {None: f"{folder}/final.h5"}, {})
status = Path("/proc/self/status").read_text()  # getrusage's counts what this was forked from
print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
"""


LENS = """
import re, sys
from pathlib import Path
from microtome.statistics.lens import LensPredictions
from microtome.statistics.streamed import streamed
from microtome.store.datasets import read_dataset
from microtome.sweeps.batches import batched
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep
from microtome.texts.tokens import load_tokenizer
checkpoint, tokens = Path(sys.argv[1]), read_dataset(sys.argv[2])
batches = batched(tokens.coords, 1024)
lens = Lens(checkpoint, tokens.coords, batch_tokens=1024, dtype="float32", device="cpu")
tokenizer = load_tokenizer(checkpoint)
sections = sweep(checkpoint, batches, ["resid_post"], range(2), taps={})
asked = {"site": "resid_post", "targets": [" the"], "top": 3}
streamed(LensPredictions(lens, tokens, tokenizer, **asked), sections)
status = Path("/proc/self/status").read_text()
print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
"""


STREAMED = """
import re, sys
from pathlib import Path
from microtome.models.anatomy import find_sites
from microtome.statistics.covariances import Covariances
from microtome.store.datasets import read_dataset, write_dataset
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep
checkpoint, tokens = Path(sys.argv[1]), read_dataset(sys.argv[2])
statistic = Covariances(["post"])
taps = find_sites(checkpoint).taps
for section in sweep(checkpoint, batched(tokens.coords, 1024), ["post"], range(10), taps=taps):
    statistic.add(section)
    del section
write_dataset(statistic.state(), sys.argv[3])
status = Path("/proc/self/status").read_text()
print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
"""


STATISTIC = """
import re, sys
from pathlib import Path
from microtome.statistics.layers import stack_layers
from microtome.statistics.similarity import cosine_similarities
from microtome.store.datasets import open_layer, write_dataset
*layers, out = sys.argv[1:]
def results():
    for layer, path in enumerate(layers):
        with open_layer(path) as words:
            yield layer, cosine_similarities(words, ["q", "k"])
write_dataset(stack_layers(results(), len(layers)), out)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def shape(config, dtype: str) -> cost.Model:
    """The shape of a model of a transformers config, as a manifest would give it."""
    tensors = {
        name: {"dtype": dtype, "shape": list(tensor.shape)}
        for name, tensor in skeleton(config).named_parameters()
    }
    return cost.model({"architecture": config.model_type, **sizes(config), "tensors": tensors})


def fits(peak: float, needed: cost.Cost) -> bool:
    """Never under, at most twice over, in MiB; a cluster's job holds two Snakemakes besides."""
    job = peak + cost.SNAKEMAKE / MIB
    return peak <= needed.memory / MIB <= 2 * peak and job <= needed.mem_mb() <= 2 * job


@pytest.mark.parametrize(
    ("sites", "final", "texts"),
    [
        ("q k v", "", ["The next word is pear"] * 34),
        pytest.param(
            "resid_pre ln2_out pre post mlp_out",
            "",
            ["one two three four " * 30] * 40,
            marks=pytest.mark.torture,
        ),
        ("resid_pre", "ln_final logits", ["A beetle, that is, an insect, as it were."] * 4),
        pytest.param(
            "scores pattern", "", ["one two three four " * 30] * 32, marks=pytest.mark.torture
        ),
    ],
)
def test_smollm2_as_measured(smollm2, tmp_path, sites, final, texts):
    tokens = tmp_path / "tokens.h5"
    write_dataset(token_table([Stimulus(text) for text in texts], smollm2), tokens)
    found = tmp_path / "sites.json"
    find_sites(smollm2).write(found)
    paths = map(str, (smollm2, tokens, tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, *paths, sites, final, str(found)],
        capture_output=True,
        text=True,
        check=True,
    )
    described = manifest(smollm2, name="", source="", revision="")
    wanted = sites.split(), range(30), final.split()
    needed = cost.sweep(
        cost.model(described), read_lengths(tokens), *wanted, batch_tokens=1024, threads=2
    )
    assert fits(int(done.stdout) / 1024, needed), (int(done.stdout) // 1024, needed)
    stored = sum(file.stat().st_size for file in tmp_path.glob("[lf]*.h5"))
    headers = 31 * 60_000
    assert needed.disk <= stored <= 1.05 * needed.disk + headers


def test_a_lens_as_measured(smollm2, tmp_path):
    n_tokens, tokens = 400, tmp_path / "tokens.h5"
    write_dataset(token_table([Stimulus(" the" * n_tokens)], smollm2), tokens)
    done = subprocess.run(
        [sys.executable, "-c", LENS, str(smollm2), str(tokens)],
        capture_output=True,
        text=True,
        check=True,
    )
    model = cost.model(manifest(smollm2, name="", source="", revision=""))
    asked = [n_tokens], ["resid_post"], range(2)
    given = {"batch_tokens": 1024, "threads": 2, "rows": 0}
    needed = cost.sweep(model, *asked, **given, predicted=n_tokens)
    assert fits(int(done.stdout) / 1024, needed), (int(done.stdout) // 1024, needed)
    # Two operations per weight of the head, token and layer; its weights are read once.
    plain = cost.sweep(model, *asked, **given)
    head = 49152 * 576
    seconds = 2 * head * n_tokens * 2 / (2 * cost.COMPUTE) + 4 * head / cost.READ
    assert needed.seconds - plain.seconds == pytest.approx(seconds)
    assert needed.disk == plain.disk == 0


def test_a_streamed_statistic_as_measured(smollm2, tmp_path):
    n_tokens, tokens, state = 400, tmp_path / "tokens.h5", tmp_path / "state.h5"
    write_dataset(token_table([Stimulus(" the" * n_tokens)], smollm2), tokens)
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, str(smollm2), str(tokens), str(state)],
        capture_output=True,
        text=True,
        check=True,
    )
    model = cost.model(manifest(smollm2, name="", source="", revision=""))
    swept = {"sites": ["post"], "layers": range(10), "final_sites": []}
    held = {"sites": ["post"], "n_layers": 10, "held": ("width", "width"), "options": {}}
    given = {"rows": n_tokens, "batch_tokens": 1024, "threads": 2}
    needed = cost.streams(model, [n_tokens], swept, [held | {"lens": False}], **given)
    assert fits(int(done.stdout) / 1024, needed), (int(done.stdout) // 1024, needed)
    assert needed.disk <= state.stat().st_size <= 1.05 * needed.disk


def test_what_streamed_statistics_hold_is_counted_by_name(checkpoints):
    model = cost.model(manifest(checkpoints["llama"], name="", source="", revision=""))
    swept = {"sites": ["q", "resid_post"], "layers": [0, 2], "final_sites": []}
    width = 2 * model.sizes["d_model"]  # q has as many numbers as resid_post
    for held, options, numbers in (
        (("width", "width"), {}, width**2),
        (("width", "n"), {"n": 7}, 7 * width),
        (("token_id", "width"), {}, 9 * width),  # of nine tokens, no more can be different
        (("n_heads", "key"), {}, model.sizes["n_heads"] * 5),
        ((), {}, 1),
    ):
        one = {"sites": ["q", "resid_post"], "n_layers": 2, "held": held, "options": options}
        given = {"rows": 9, "batch_tokens": 32, "threads": 1}
        found = cost.streams(model, [5, 4], swept, [one | {"lens": False}], **given)
        assert found.disk == 8 * 2 * numbers


def test_the_merged_whole_is_larger_than_any_shard_but_no_larger_than_all():
    """Of ten shards of 40 MiB and one of 60: as much as the largest, all together, or something
    between, beside the largest; three times, with a quarter more."""
    states = [40 * MIB] * 10 + [60 * MIB]
    for most, whole in ((0, 60), (100 * MIB, 100), (sys.maxsize, 460)):
        found = cost.merge(states, most)
        assert found.memory == cost.ANALYSIS + 1.25 * 3 * (whole + 60) * MIB
        assert found.seconds == cost.START + 460 * MIB / cost.READ + whole * MIB / cost.WRITE


def test_merging_means_per_token_as_measured(tmp_path):
    """Twenty shards, of other tokens each."""
    sites, width, layers, each = ["resid_post"], 200, (0, 1, 2), 500
    files, random = [], np.random.default_rng(0)
    for number in range(20):
        ids = np.arange(number * each, (number + 1) * each)
        own = TokenMeans(sites, xr.Dataset(coords={"token_id": ("token", ids)}))
        for layer in layers:
            values = random.standard_normal((each, width)).astype(np.float32)
            own.add(Section(layer, np.arange(each), {"resid_post": values}))
        files.append(tmp_path / f"{number:05d}.h5")
        write_dataset(own.state(), files[-1])
    states = [file.stat().st_size for file in files]
    about = {"sites": sites, "n_layers": 3, "held": ("token_id", "width"), "options": {}}
    most = cost.held(about, {"d_model": width, "token_id": 50_000})
    tracemalloc.start()
    whole = TokenMeans(sites, xr.Dataset())
    for file in files:
        whole.merge(whole.from_state(read_dataset(file)))
    write_dataset(whole.finish(), tmp_path / "whole.h5")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    asked = cost.merge(states, most).memory - cost.ANALYSIS
    assert (tmp_path / "whole.h5").stat().st_size > 10 * max(states)
    assert peak < asked < 3 * peak


@pytest.mark.parametrize(("dtype", "peak"), [("F32", 663), ("BF16", 690)])
def test_gpt2_xl_as_measured(dtype, peak):
    """The peaks of docs/benchmarks.md."""
    from transformers import GPT2Config

    config = GPT2Config(n_layer=48, n_embd=1600, n_head=25)
    needed = cost.sweep(
        shape(config, dtype), [5] * 34, ["q", "k", "v"], range(48), batch_tokens=170, threads=2
    )
    assert fits(peak, needed), needed
    assert needed.disk == 48 * 3 * 170 * 1600 * 4


def test_patterns_cost_the_square_of_the_length():
    from transformers import GPT2Config

    model = shape(GPT2Config(), "F32")

    def needed(length, **more):
        settings = {"batch_tokens": 8 * length, "threads": 2} | more
        return cost.sweep(model, [length] * 8, ["pattern"], [0, 5], **settings)

    assert needed(64).disk == 2 * 8 * 64 * 12 * 64 * 4
    assert needed(128).disk == 4 * needed(64).disk
    assert needed(128, rows=8).disk == 2 * 8 * 12 * 128 * 4
    assert needed(128, store=cost.PLAIN | {"dtype": "float16"}).disk == needed(128).disk // 2
    compressed = needed(128, store={"dtype": "float32", "compression": "zstd"})
    assert (compressed.disk, compressed.memory) == (needed(128).disk, needed(128).memory)
    assert compressed.seconds > needed(128).seconds
    whole = 8 * 1024 * 12 * 1024 * 4  # of one batch
    assert needed(1024).memory > 6 * whole


def test_seven_billion_as_computed():
    """Llama-2-7B's shape in bfloat16, 64 texts of 128 tokens, 32 at a time."""
    from transformers import LlamaConfig

    model = shape(LlamaConfig(), "BF16")
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert model.block == block
    converted, mapped = 2 * block * 4, block * 2
    hidden = 64 * 128 * 4096 * 4
    inside = 32 * 128 * (3 * 11008 + 4096) * 4
    sections = 2 * 32 * 128 * 3 * 4096 * 4
    peak = (converted + mapped + hidden + inside + sections) / MIB + 410
    needed = cost.sweep(model, [128] * 64, ["q", "k", "v"], range(32), batch_tokens=4096, threads=8)
    assert fits(peak, needed), (peak, needed)
    shallow = cost.sweep(model, [128] * 64, ["q", "k", "v"], [0], batch_tokens=4096, threads=8)
    assert shallow.memory == needed.memory
    assert shallow.disk * 32 == needed.disk
    half = cost.sweep(
        model, [128] * 64, ["q"], [0], batch_tokens=4096, threads=8, dtype="bfloat16"
    ).memory
    assert half < shallow.memory - block * 4


def test_a_sweep_in_parts_costs_what_the_whole_does_and_what_is_handed_on():
    from transformers import GPT2Config

    model = shape(GPT2Config(n_layer=48, n_embd=1600, n_head=25), "F32")

    def needed(layers, final_sites=(), **part):
        settings = {"batch_tokens": 170, "threads": 2, "dtype": "bfloat16"} | part
        return cost.sweep(model, [5] * 34, ["q"] if layers else [], layers, final_sites, **settings)

    whole = needed(range(8), ["logits"])
    parts = [
        needed(range(8), stop=16),
        needed([], start=16, stop=32),
        needed([], ["logits"], start=32),
    ]
    handed_on = 170 * 1600 * 2
    assert [part.disk for part in parts[:2]] == [8 * 170 * 1600 * 4 + handed_on, handed_on]
    assert sum(part.disk for part in parts) == whole.disk + 2 * handed_on
    moved = 2 * handed_on * (1 / cost.WRITE + 1 / cost.READ)
    expected = whole.seconds + 2 * cost.START + moved
    assert sum(part.seconds for part in parts) == pytest.approx(expected)
    assert max(part.memory for part in parts) == whole.memory


SIZES = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 64}
SIZES |= {"d_vocab": 128, "n_context": 64}


def test_as_many_rows_are_held_as_two_blocks_have_weights():
    small = SIZES  # whose rows may take 256 MiB
    assert cost.rows_at_once(small, 10) == (256 * MIB) // (10 * 16 * 4)
    large = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "d_head": 128, "d_mlp": 11008}
    weights = 2 * (4 * 4096**2 + 2 * 4096 * 11008)
    assert cost.rows_at_once(large, 14) == weights // (14 * 4096)
    assert cost.rows_at_once(large, 10**9) == 1


def test_an_intervention_costs_its_changed_texts(monkeypatch):
    model = cost.Model(SIZES, block=10_000, stored=4, outside=4, joined=0, masks=0)
    settings = {"predicted": 1, "kept": 128, "beside": 0, "batch_tokens": 40, "threads": 1}

    def needed(branches, **more):
        return cost.intervention(model, [10], branches, **settings | more)

    first, last = needed({(0, 10): 1000}), needed({(2, 10): 1000})
    operations = 2 * 10_000 * 10 + 4 * 16 * 10**2
    assert first.seconds - last.seconds == pytest.approx(2 * 1000 * operations / cost.COMPUTE)
    assert first.disk == last.disk == 1001 * 128 * 4
    more = needed({(0, 10): 2000})
    assert more.memory > first.memory
    assert needed({(0, 10): 1000}, beside=10**9).memory > 4e9
    # Where not all are held at once, the weights are read again.
    monkeypatch.setattr(cost, "ROWS", 100 * 10 * 16 * 4)
    again = needed({(0, 10): 1000})
    weights = 4 * (3 * 10_000 + 128 * 16)
    n_groups = -(-1000 // cost.rows_at_once(SIZES, 10))
    assert n_groups > 1
    assert again.seconds - first.seconds == pytest.approx((n_groups - 1) * weights / cost.READ)
    assert again.memory < first.memory


@pytest.mark.parametrize("n_words", [40, 1500])
def test_a_statistic_of_pairs_of_words_as_measured(tmp_path, n_words):
    random = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(n_words)], dtype=object)
    layers = [tmp_path / f"layer-{layer:02d}.h5" for layer in (0, 1)]
    for number, layer in enumerate(layers):
        vectors = {
            site: (("sequence", "d_head"), random.normal(size=(n_words, 64)).astype(np.float32))
            for site in ("q", "k")
        }
        coordinates = dict.fromkeys(("word", "category"), ("sequence", words))
        write_dataset(xr.Dataset(vectors, coordinates, {"layer": number}), layer)
    out = tmp_path / "cosines.h5"
    command = [sys.executable, "-c", STATISTIC, *map(str, layers), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    matrices = cost.word_matrices(n_words, 2)
    assert matrices == 2 * n_words**2 * 8
    needed = cost.statistic(layers[0].stat().st_size, matrices=matrices, n_layers=2)
    peak = int(done.stdout) / 1024
    assert peak <= needed.memory / MIB <= peak + 300, (peak, needed)
    assert needed.disk <= out.stat().st_size <= needed.disk + 300_000
    assert cost.statistic(0).mem_mb() == 650


def test_inputs_and_weights_count_in_a_statistics_memory():
    assert cost.statistic(1000).memory - cost.statistic(0).memory == 3 * 1000 * 1.25
    assert cost.statistic(0, block=1000).memory == cost.IMPORTS + 8 * 1000 * 1.25


def test_requests_grow_with_the_attempt():
    needed = cost.Cost(memory=1000 * MIB, disk=0, seconds=1200)
    first, second = needed.mem_mb(1), needed.mem_mb(2)
    assert first == 1400
    assert second == 2 * first
    assert (needed.runtime(1), needed.runtime(3)) == (60, 180)
