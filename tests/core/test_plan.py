"""What is said before anything runs: the plan, against arithmetic and a run; and a dry run."""

import fcntl
import math
import re
from base64 import b64decode
from collections import namedtuple
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from workflows import SCALED, Clone

from microtome.errors import MicrotomeError
from microtome.models.fetch import manifest
from microtome.sweeps import cost
from microtome.sweeps.schedule import schedule

FILES = re.compile(r"^([\d,]+) jobs write ([\d,]+) files, which take about ([\d,]+) inodes", re.M)

#: Whose files have checksums.
FOLDERS = ("activations", "statistics/corpus", "tokens/tiny/words")


def test_files_are_counted_as_a_run_makes_them(tmp_path, model):
    """Of a sweep in parts and of streamed statistics, in shards, with all that lies beside them."""
    clone = Clone(tmp_path, model)
    clone.save_study("corpus", {"statistics": {"moments": {"sites": ["q"]}, "entropies": {}}})
    studies = {"category_selectivity": {"models": ["tiny"]}}
    clone.change("studies", to=studies | {"corpus": {"models": ["tiny"], "stimuli": "words"}})
    clone.change("sweep", "sequences_per_job", to=2)
    clone.change("sweep", "layers_per_job", to=1)
    clone.change("plan", to={"nodes": 2})
    said = clone.snakemake("plan", "--quiet", "all").stdout
    jobs, files, inodes = (int(n.replace(",", "")) for n in FILES.search(said).groups())
    assert jobs == 3 * 2 + 3  # six words, two layers; and the streams
    assert re.search(r"^On 2 nodes 9 jobs take .* The nodes' time: .*% starting, ", said, re.M)
    clone.run("statistics")

    def below(*folders):
        found = (file for folder in folders for file in clone.product(folder).rglob("*"))
        return {str(file.relative_to(clone.folder)) for file in found if file.is_file()}

    made = below("activations", "statistics/corpus")
    assert len(made) == files, made
    beside = below("tokens/tiny/words", *(f"checksums/{folder}" for folder in FOLDERS))
    beside |= below("logs/activations", "logs/join", "logs/streams", "logs/merge")
    records = (clone.folder / ".snakemake" / "metadata").iterdir()
    recorded = {b64decode(file.name).decode() for file in records} & made
    assert len(made) + len(beside) + len(recorded) == inodes


def test_a_cluster_is_taken_as_it_is_described():
    """Two shards on one node, that reads 10 GB in 5 s, computes 12 TFLOP in 3 s and writes 2 GB in
    a second, each after a start; merging reads 4 GB. Submitting takes 0.1 s."""
    shard = [cost.Cost(memory=0, disk=2 * 10**9, seconds=0, read=10e9, operations=12e12)]
    plan = {"nodes": 1, "link": 2, "teraflops": 4}
    found = schedule([shard] * 2, 4 * 10**9, plan, threads=1)
    assert math.isclose(found.seconds, 0.1 + 2 * (cost.START + 5 + 3 + 1) + cost.START + 2)
    found = schedule([shard] * 2, 0, plan | {"own_disk": 10}, threads=1)
    assert math.isclose(found.seconds, 0.1 + 2 * (cost.START + 1 + 3 + 1))
    found = schedule([shard] * 2, 0, {"nodes": 2, "bandwidth": 0.5}, threads=4)
    # The first one begins at 0.1 s and reads alone for 0.1 s; so it ends reading, and begins to
    # write, 0.1 s before the second one. From then on the file system moves 4 GB.
    first_written = 0.1 + cost.START + 0.1 + 39.8 + 12e12 / (4 * cost.COMPUTE)
    assert math.isclose(found.seconds, first_written + 4 / 0.5)


def scale(clone: Clone) -> None:
    """Add an intervention, a statistic of it, and a figure."""
    clone.save_study("hidden_states", {"stimuli": "texts"} | SCALED)
    clone.change("studies", "hidden_states", to={"models": ["tiny"]})


def test_a_dry_run_says_what_it_cannot_know_yet(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["gpt2"])
    clone.change("models", "tiny", "n_layers", to=4)
    scale(clone)
    # Without a manifest: 2 sweeps, an intervention, 5 statistics. With it, the one that reads
    # weights is known.
    for n_unknown in (8, 7):
        done = clone.snakemake("--dry-run")
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).count(" mem_mb=<TBD>") == n_unknown
        clone.run("results/models/tiny/manifest.json")


def test_the_plan_is_printed_before_anything_runs(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["llama"])
    clone.change("models", "tiny", "n_layers", to=4)
    done = clone.snakemake("plan", "--quiet", "all")
    assert done.returncode == 0, done.stderr
    rows = {row[1]: row for row in map(str.split, done.stdout.splitlines()) if row[0] == "tiny"}
    assert rows.keys() == {"words", "texts"}
    # q of 4 heads, k and v of 2, each of 6 numbers, 4 bytes to a number.
    assert rows["words"][4:6] == [str((4 + 2 + 2) * 6 * 4), "B"]
    assert rows["texts"][2].startswith("≈")
    assert not clone.product("models").exists()


def planned(clone: Clone, *arguments: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the plan's lines, by model and label."""
    done = clone.snakemake("plan", "--quiet", "all", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {(line[0], line[1].rstrip(",")): line for line in lines if line[0] == "tiny"}


def test_the_plan_counts_the_tokens_that_are_kept(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["llama"])
    clone.change("models", "tiny", "n_layers", to=4)
    clone.save({"source": "x", "texts": ["word " * 320]}, "stimuli/texts.yaml")
    everything = planned(clone)["tiny", "texts"]
    assert everything[2:4] == ["≈400", "1"]
    # ln2_out and mlp_out of 24 numbers each, 4 bytes to a number.
    assert everything[6:8] == ["76.8", "kB"]
    clone.change("stimuli", "texts", to={"file": "stimuli/texts.yaml", "tokens": "last"})
    assert planned(clone)["tiny", "texts"][6:8] == ["192", "B"]
    clone.change("stimuli", "texts", to={"file": "stimuli/texts.yaml", "tokens": [0, 1, -1]})
    assert planned(clone)["tiny", "texts"][6:8] == ["576", "B"]


def test_the_plan_has_the_statistics_that_grow_with_pairs_of_words(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["llama"])
    clone.change("models", "tiny", "n_layers", to=4)
    scale(clone)
    assert planned(clone).keys() == {
        ("tiny", "words"),
        ("tiny", "texts"),
        ("tiny", "hidden_states.scaled_blocks"),
    }
    words = {"source": "x", "template": "{word}", "words": {"a": [f"w{i}" for i in range(2000)]}}
    clone.save(words, "stimuli/many.yaml")
    clone.change("studies", "category_selectivity", "stimuli", to="many")
    done = clone.snakemake("plan", "--quiet", "all")
    [line] = [line for line in done.stdout.splitlines() if "many, pairs of words" in line]
    # Two layers, three sites, 2,000 words squared, 8 bytes to a number.
    assert line.split()[6:9] == ["2", "192", "MB"]


def test_the_plan_may_be_made_while_a_run_is_at_work(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["llama"])
    clone.change("models", "tiny", "n_layers", to=4)
    (tmp_path / ".snakemake").mkdir()
    with (tmp_path / ".snakemake" / "microtome.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert len(planned(clone)) == 2
        done = clone.snakemake("results/statistics/mlp_distributions/gelu.h5")
        assert done.returncode == 1
        assert "another run is at work here" in done.stderr


@pytest.fixture
def plan():
    """scripts/plan.py as a module."""
    file = Path(__file__).parents[2] / "scripts" / "plan.py"
    spec = spec_from_file_location("plan", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_counts_what_a_lens_predicts_from(plan, tmp_path, checkpoints):
    stimuli = tmp_path / "texts.yaml"
    stimuli.write_text("{source: x, texts: [word word word, word]}", encoding="utf-8")
    model = cost.model(manifest(checkpoints["llama"], name="", source="", revision=""))
    settings = {"batch_tokens": 1024, "threads": 2, "dtype": "float32", "store": cost.PLAIN}
    sweep = {"sites": ["resid_post"], "layers": [0, 1, 2], "final_sites": []}
    about = {"model": "m", "stimuli": "s", "name": "a.b", "file": str(stimuli), "sweep": sweep}
    lengths = [4, 1]  # of four characters to a token
    for tokens, predicted in (("all", 5), ("last", 2)):
        stream = {"sites": ["resid_post"], "n_layers": 3, "held": (), "options": {}, "lens": True}
        entry = plan.of_dataset(about | {"tokens": tokens, "streams": [stream]}, model, settings)
        given = settings | {"rows": 0, "predicted": predicted}
        seconds = cost.sweep(model, lengths, **sweep, **given).seconds
        assert entry.cost.seconds == pytest.approx(seconds)
        assert entry.cost.seconds > cost.sweep(model, lengths, **sweep, **settings, rows=0).seconds


@pytest.mark.parametrize(
    ("said", "lengths"),
    [
        ("document: a cat and a dog\ncut: {starts: [0, middle], length: 3}", [3, 3]),
        ("document: a cat and a dog\ncut: {starts: [0], length: context}", [16]),
        ("document: a cat and a dog\ncut: {words: [' cat', ' a'], before: 2}", [3, 3, 3]),
        ("texts: [nine long]\nmasked: each", [3, 3, 3]),
        ("texts: [nine long, four]\nshuffled: [0, 1]", [3, 1, 3, 1]),
        ("texts: {good: [four], bad: [eight let]}", [1, 3]),
        ("url: https://example.org/a.txt\ncut: {starts: [0, 5], length: 2}", [2, 2]),
        ("url: https://example.org/a.txt\ncut: {words: [' a'], before: 2}", None),
        ("url: https://example.org/a.txt", None),
    ],
)
def test_the_plan_reckons_with_sequences(plan, tmp_path, monkeypatch, said, lengths):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(f"source: x\n{said}\n")
    about = {"model": "m", "stimuli": "a", "file": "a.yaml", "like": None}
    about["fetched"] = "results/texts/a.txt" if "url" in said else None
    plan.stimulus_set.cache_clear()
    model = SimpleNamespace(sizes={"n_context": 16})
    if lengths is None:
        with pytest.raises(MicrotomeError, match=r"unknown until .* as snakemake results/texts/a"):
            plan.lengths(about, model)
        (tmp_path / "results/texts").mkdir(parents=True)
        (tmp_path / "results/texts/a.txt").write_text("it is a cat")
        plan.stimulus_set.cache_clear()
        assert plan.lengths(about, model) == ([3], False)
    else:
        assert plan.lengths(about, model) == (lengths, False)


def test_the_plan_says_what_is_too_small(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "activations" / "m" / "s"
    folder.mkdir(parents=True)
    (folder / "layer-00.h5").write_bytes(b"x" * 2000)
    monkeypatch.setattr(plan, "available_memory", lambda: 5_000_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: usage(0, 0, 6000))

    def entry(label, memory, disk):
        return plan.Entry("m", label, "1", 1, "", cost.Cost(memory, disk, 1))

    # Of these 8,000 bytes 2,000 are there already.
    fits = [entry("s", 4e6, 3000), entry("t", 5e6, 5000)]
    assert list(plan.shortages(fits)) == []
    disk, memory = plan.shortages([*fits, entry("u", 6e6, 1000)])
    assert disk.startswith("The disk is too small: 7 kB more are wanted, 6 kB are free. Keep")
    assert memory.startswith(
        "This machine's memory is too small: u of m wants 6 MB, 5 MB are available. Make"
    )


def test_available_memory_is_what_the_system_says(plan):
    assert plan.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.5)
