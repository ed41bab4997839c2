"""What reading Q, K and V of every block costs: Microtome's sweep beside a hooked model.

    python benchmarks/extraction.py [--folder SCRATCH] [--pairs 3] [--write FILE]

Both ways read the same 34 prompts of 5 tokens from checkpoints of GPT-2 XL's true shape with
random weights, kept in the scratch folder (9.4 GB, built on the first run). Every measurement is
a fresh process, in interleaved pairs; every array of both ways has to be equal to the last bit.
"""

import argparse
import hashlib
import json
import os
import platform
import runpy
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a measured process imports only what its own way of extraction needs
    import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
N_PROMPTS, N_TOKENS = 34, 5
SHAPE = {"n_layer": 48, "n_embd": 1600, "n_head": 25, "vocab_size": 50257, "n_positions": 1024}
SITES = ("q", "k", "v")
CHECKPOINTS = ("float32", "bfloat16")

#: Of each measurement: its heading, unit, decimals, and the most that sweep/hooks may be.
MEASURES: dict[str, tuple[str, str, int, dict[str, float]]] = {
    "resident": ("peak resident", "MiB", 0, {"float32": 0.15, "bfloat16": 0.15}),
    "anonymous": ("peak unreclaimable", "MiB", 0, {"bfloat16": 0.25}),
    "wall": ("wall, whole process", "s", 1, {"float32": 1.0, "bfloat16": 1.0}),
    "work": ("wall, after imports", "s", 1, {}),
}

TEXT = f"""# What extraction costs

Made by `python benchmarks/extraction.py --write docs/benchmarks.md`.

Q, K and V of all {SHAPE["n_layer"]} blocks for {N_PROMPTS} prompts of {N_TOKENS} tokens, computed
in float32 on the CPU, from checkpoints of GPT-2 XL's shape with random weights (time and memory do
not depend on the weights' values):

- **sweep**: `scripts/activations.py`, from the checkpoint to one HDF5 file per layer, flushed to
  disk. Snakemake's own start is not part of it.
- **hooks**: `AutoModelForCausalLM.from_pretrained`, a forward hook on every `attn.c_attn`, one
  forward of the batch without gradients; the arrays stay in memory and nothing is written. One
  `tanh` of a single number goes ahead of it: without, a race in MKL 2024.2 makes half of the first
  GELU inaccurate in a few processes of a hundred.

Each figure is the median over fresh processes, run in interleaved pairs with the checkpoint in
the page cache. In every pair, all {SHAPE["n_layer"] * len(SITES)} arrays were equal bit for bit.

How to read the memory:

- *Peak resident* is the kernel's high-water mark (`VmHWM`). It counts pages of mapped files.
- *Peak unreclaimable* is anonymous memory (`RssAnon`), sampled from outside about every 10 ms: what
  the kernel cannot drop under pressure, and so what decides whether a job with a memory limit
  survives.
- transformers maps float32 weights instead of copying them. For a float32 checkpoint, most of what
  the hooked model holds is therefore page cache, which the kernel may take back: the two ways
  differ much in resident and little in unreclaimable memory.
- A bfloat16 checkpoint, as nearly all recent models ship, has to be converted. The hooked model
  then holds all of its weights in float32; the sweep holds one block's.

*Wall* is the life of the process, its end included, less what the comparison of the arrays
took; *after imports* is from the end of the imports until the last array is there (the sweep: on
disk). The sweep stops after the last array that is asked for; the hooked model, as its users run
it, goes on through the last block and the head.
"""


def prepare() -> None:
    """Build what the scratch folder lacks: checkpoints, manifests, token tables, checksums."""
    import torch
    import xarray as xr
    from transformers import GPT2Config, GPT2LMHeadModel

    from microtome.products import record
    from microtome.store import write_dataset
    from microtome.tokens import column

    ids = prompts()
    columns = {
        "sequence": [prompt for prompt in range(N_PROMPTS) for _ in range(N_TOKENS)],
        "position": list(range(N_TOKENS)) * N_PROMPTS,
        "token_id": ids.ravel().tolist(),
        "text": [f" token {token}" for token in ids.ravel()],
        "word": [f"word {prompt}" for prompt in range(N_PROMPTS) for _ in range(N_TOKENS)],
        "category": [f"half {2 * row // ids.size}" for row in range(ids.size)],
        "in_word": [position == N_TOKENS - 1 for position in range(N_TOKENS)] * N_PROMPTS,
    }
    table = xr.Dataset(coords={name: ("token", column(v)) for name, v in columns.items()})
    missing = [name for name in CHECKPOINTS if not manifest_file(name).exists()]
    if missing:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**SHAPE))
        for name in CHECKPOINTS:  # in this order: the rounded model takes the exact one's place
            model.to(getattr(torch, name))
            if name in missing:
                model.save_pretrained(manifest_file(name).with_name("checkpoint"))
                manifest = {"model": name, "source": "random weights", "revision": "seed 0"}
                manifest_file(name).write_text(json.dumps(manifest))
                record(manifest_file(name))
                record(manifest_file(name).with_name("checkpoint"))
    for name in CHECKPOINTS:
        write_dataset(table, tokens_file(name))
        record(tokens_file(name))
    os.sync()  # what was just written would slow the first sweep's flushes down


def manifest_file(name: str) -> Path:
    """A model's manifest, where the workflow has it."""
    return Path("results", "models", name, "manifest.json")


def tokens_file(name: str) -> Path:
    """A model's token table, where the workflow has it."""
    return Path("results", "tokens", name, "prompts.h5")


def warm(folder: Path, name: str) -> None:
    """Read a checkpoint into the page cache, so that the disk's speed decides nothing."""
    buffer = bytearray(1 << 24)
    for file in (folder / manifest_file(name)).parent.glob("checkpoint/*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def prompts() -> "np.ndarray":
    """The token ids, (prompt, position)."""
    import numpy as np

    return np.random.default_rng(0).integers(SHAPE["vocab_size"], size=(N_PROMPTS, N_TOKENS))


class Named(list):
    """Files as a Snakemake job knows them: by number and by name."""

    def __init__(self, **files: str) -> None:
        """List the files, and name them."""
        super().__init__(files.values())
        self.__dict__.update(files)


def sweep(name: str) -> None:
    """Run the workflow's own script as Snakemake would."""
    import torch

    script = str(REPOSITORY / "scripts" / "activations.py")
    runpy.run_path(script)  # its imports alone: the rest runs as __main__ only
    # What either way would import on first use.
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    imported = time.perf_counter()
    store = Path("results", "activations", name, "prompts")
    paths = [store / f"layer-{layer:02}.h5" for layer in range(SHAPE["n_layer"])]
    job = SimpleNamespace(
        input=Named(
            manifest=str(manifest_file(name)),
            checkpoint=str(manifest_file(name).with_name("checkpoint")),
            tokens=str(tokens_file(name)),
        ),
        output=[str(path) for path in paths],
        log=[f"results/logs/activations/{name}/prompts.log"],
        params=SimpleNamespace(
            sites=list(SITES), final_sites=[], dtype="float32", store_dtype="float32"
        ),
        resources=SimpleNamespace(batch_size=N_PROMPTS, device="cpu"),
        threads=torch.get_num_threads(),
    )
    runpy.run_path(script, init_globals={"snakemake": job}, run_name="__main__")
    report_measures(imported)
    from microtome.sections import read_columns

    report_digests(
        ((layer, site), columns[site])
        for layer, columns in enumerate(map(read_columns, paths))
        for site in SITES
    )


def hooks(name: str) -> None:
    """Load the model, hook it, run it: what a notebook does. Nothing is stored."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import AutoModelForCausalLM

    imported = time.perf_counter()
    # When the first call of one of MKL's vector functions comes from two threads, one of them now
    # and then gets low accuracy: here, half of the first GELU. The sweep is safe from it, because
    # its own first call is with a single token.
    torch.tanh(torch.zeros(1))
    activations = {}
    checkpoint = manifest_file(name).with_name("checkpoint")

    def keep(layer):
        def hook(module, args, output):
            parts = output.split(SHAPE["n_embd"], dim=-1)
            for site, part in zip(SITES, parts, strict=True):
                activations[layer, site] = part.numpy()

        return hook

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for layer, block in enumerate(model.transformer.h):
        block.attn.c_attn.register_forward_hook(keep(layer))
    with torch.no_grad():
        model(torch.from_numpy(prompts()))
    report_measures(imported)
    report_digests(activations.items())


def report_measures(imported: float) -> None:
    """Tell the parent the time since the imports and the memory's peak, on the first line."""
    work = time.perf_counter() - imported
    print(json.dumps({"work": work, "resident": _mebibytes("self", "VmHWM")}), flush=True)


def report_digests(arrays: "Iterable[tuple[tuple[int, str], np.ndarray]]") -> None:
    """Tell the parent what every array holds, on the second line."""
    digests = {f"{layer} {site}": _sha256(array) for (layer, site), array in arrays}
    print(json.dumps(digests), flush=True)


def _sha256(array: "np.ndarray") -> str:
    # One way keeps (prompt, position, width), the other (token, heads, width of a head): the
    # same numbers in the same order.
    return hashlib.sha256(array.astype("<f4", copy=False).tobytes()).hexdigest()


def _mebibytes(process: str | int, field: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0  # a process that is about to end has no memory any more


def measure(way: str, folder: Path, name: str) -> tuple[dict[str, float], dict[str, str]]:
    """Run one way in a fresh process.

    Returns:
        The measurements, by the keys of `MEASURES`, and the digest of every array.
    """
    with tempfile.TemporaryFile() as errors:
        shutil.rmtree(folder / "results" / "activations", ignore_errors=True)
        command = [sys.executable, __file__, "--child", way, name]
        start = time.perf_counter()
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            anonymous = 0.0
            while not select.select([process.stdout], [], [], 0.01)[0]:
                with suppress(ProcessLookupError):
                    anonymous = max(anonymous, _mebibytes(process.pid, "RssAnon"))
            first_line = process.stdout.readline()
            extracted = time.perf_counter()
            second_line = process.stdout.readline()
            digested = time.perf_counter()
        wall = time.perf_counter() - start - (digested - extracted)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{way}, {name}: failed\n{errors.read().decode()}")
    measured = json.loads(first_line) | {"anonymous": anonymous, "wall": wall}
    return measured, json.loads(second_line)


def compare(folder: Path, name: str, n_pairs: int) -> dict[str, list[dict[str, float]]]:
    """Measure both ways alternately, each in turn going first, and check that they agree."""
    measured: dict[str, list[dict[str, float]]] = {"sweep": [], "hooks": []}
    for pair in range(n_pairs):
        digests = {}
        for way in sorted(measured, reverse=pair % 2 == 0):
            warm(folder, name)
            result, digests[way] = measure(way, folder, name)
            measured[way].append(result)
            figures = (
                f"{heading} {result[m]:.{d}f} {u}" for m, (heading, u, d, _) in MEASURES.items()
            )
            print(f"{name} {way}: {', '.join(figures)}", file=sys.stderr, flush=True)
        if len(digests["sweep"]) != SHAPE["n_layer"] * len(SITES):
            sys.exit(f"{name}: {len(digests['sweep'])} arrays")
        differing = [
            key for key, digest in digests["sweep"].items() if digests["hooks"][key] != digest
        ]
        if differing:
            sys.exit(f"{name}: {len(differing)} arrays differ, first {differing[0]!r}")
    return measured


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """The results as a Markdown table, under a line that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    n_pairs = len(next(iter(results.values()))["sweep"])
    lines = [
        f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"{versions}; {n_pairs} pairs per checkpoint.",
        "",
        "| checkpoint | median of | sweep | hooks | sweep/hooks | in single pairs | required |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for checkpoint, measured in results.items():
        for key, (heading, unit, decimals, bars) in MEASURES.items():
            values = {way: [run[key] for run in runs] for way, runs in measured.items()}
            medians = {way: statistics.median(runs) for way, runs in values.items()}
            ratio = medians["sweep"] / medians["hooks"]
            pairs = [s / h for s, h in zip(values["sweep"], values["hooks"], strict=True)]
            bar = f"≤ {bars[checkpoint]:.2f}" if checkpoint in bars else ""
            if bar and ratio > bars[checkpoint]:
                bar += ", missed"
            lines.append(
                f"| {checkpoint} | {heading}, {unit} | {medians['sweep']:,.{decimals}f} "
                f"| {medians['hooks']:,.{decimals}f} | {ratio:.2f} "
                f"| {min(pairs):.2f}–{max(pairs):.2f} | {bar} |"
            )
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Build, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks/extraction"))
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each way")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown file to write")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, __file__, "--child", "prepare"], cwd=folder, check=True)
    results = {name: compare(folder, name, options.pairs) for name in CHECKPOINTS}
    print(table(results))
    if options.write:
        options.write.write_text(f"{TEXT}\n{table(results)}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        {"prepare": prepare, "sweep": sweep, "hooks": hooks}[sys.argv[2]](*sys.argv[3:])
    else:
        main()
