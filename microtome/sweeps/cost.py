"""What a job costs: memory, bytes on disk and time, from shapes alone.

The same numbers answer a user who asks before anything runs (`snakemake plan`) and a scheduler
that wants to know what a job needs. A sweep holds at once: the weights of two blocks (one runs, the
next is read into the page cache), the hidden states of all tokens, one batch inside a block, the
section that comes of it, and the section that is being written.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from microtome.sites import KEYED_SITES, shape
from microtome.texts.lengths import largest_batch

#: Bytes per number, by the names that configs use and by those of safetensors.
BYTES = {
    **{"float32": 4, "float16": 2, "bfloat16": 2},
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1},
}
#: Resident before any weight is read: Python with torch and transformers. Measured: 410 MiB.
IMPORTS = 420 << 20
#: The same of a statistic that reads no checkpoint: xarray, SciPy, scikit-learn. Measured: 198 MiB.
ANALYSIS = 250 << 20
#: Beside the script in a cluster job: the two Snakemake processes that start it, 177 MiB each, and
#: Slurm's own.
SNAKEMAKE = 400 << 20
#: What allocators, thread pools and the kernel's reading ahead add to what the shapes say.
MARGIN = 1.25
#: How often a statistic holds its inputs: as read, as float64 or sorted, and in between.
COPIES = 3
#: Rows of scores per token beside one for each head: the masks of eager attention, one for layers
#: that look at all tokens and one for those with a sliding window.
EAGER_MASKS = 2
#: The same where scores or pattern are read: both, and what they are made from, in float32.
ATTENDED = 5
#: Architectures that keep a causal mask of (n_context, n_context) bytes in every block.
MASKS = ("codegen", "gpt_neo", "gptj")
#: The kernel maps this much around each row that is looked up in an embedding table.
AROUND = 64 << 10
#: Sections at once: in the making, being written.
SECTIONS = 2
#: Of streamed statistics: what they hold, as it is kept and as it is written; and copies of a
#: section in float64.
STATES, MEASURED = 2, 2
#: Of an intervention's changed texts: bytes that may be held in any case, and tokens whose next one
#: is predicted at once.
ROWS, PREDICTED = 256 << 20, 256
#: Of their tokens, those that a block computes at once (more make no matrix product faster, and
#: leave the cache), and those that are in it with what they share with the clean run.
INSIDE, WITH_SHARED = 512, 2048
#: Speeds, chosen below what two cores and one local disk were seen to do: floating-point
#: operations per second and thread, bytes per second read and bytes per second written.
COMPUTE, READ, WRITE = 15e9, 500e6, 200e6
#: The same of compression: bytes of values per second and thread.
COMPRESS = 200e6
#: How a store's numbers are kept, unless something else is said.
PLAIN = {"dtype": "float32", "compression": "none"}
#: Seconds until a job's first block runs.
START = 15
#: A scheduler is asked for so many times the expected duration, and for so many minutes at least.
PATIENCE, SHORTEST = 3, 10


@dataclass(frozen=True)
class Model:
    """A model's shape.

    Attributes:
        sizes: its dimensions, as `microtome.models.checkpoint.sizes` names them.
        block: how many numbers the largest block has.
        stored: bytes per number of that block in the checkpoint.
        outside: bytes per number outside of the blocks.
        joined: how many of the block's numbers are joined of several tensors as they are read.
        masks: bytes of the causal masks that the architecture keeps, one per block.
        has_head: whether it predicts tokens.
    """

    sizes: Mapping[str, int]
    block: int
    stored: float
    outside: float
    joined: int
    masks: int
    has_head: bool = True

    @property
    def head(self) -> int:
        """How many numbers the head has, (d_vocab, d_model), whether or not it is tied."""
        return self.sizes["d_vocab"] * self.sizes["d_model"] if self.has_head else 0


@dataclass(frozen=True)
class Cost:
    """What a job needs.

    Attributes:
        memory: bytes resident at the peak.
        disk: bytes of its files; a sweep's are activations, and hidden states for the next job.
        seconds: expected duration.
        read: of a sweep, bytes of weights and of hidden states that it reads.
        operations: of a sweep, how many it computes.
    """

    memory: float
    disk: int
    seconds: float
    read: float = 0
    operations: float = 0

    def mem_mb(self, attempt: int = 1) -> int:
        """Memory to ask a scheduler for, in MiB, which Slurm calls megabytes."""
        return attempt * math.ceil((self.memory + SNAKEMAKE) / (1 << 20))

    def runtime(self, attempt: int = 1) -> int:
        """Time to ask a scheduler for, in minutes."""
        return attempt * max(SHORTEST, math.ceil(PATIENCE * self.seconds / 60))


def model(manifest: Mapping[str, Any]) -> Model:
    """Read a model's shape off the manifest that `microtome.models.fetch.manifest` makes."""
    numbers: Counter[int | None] = Counter()
    stored: Counter[int | None] = Counter()
    joined: Counter[int | None] = Counter()
    for name, tensor in manifest["tensors"].items():
        n = math.prod(tensor["shape"])
        # The first number in a tensor's name is its block's; experts are numbered after it.
        found = re.search(r"(?:^|\.)(\d+)\.", name)
        layer = int(found[1]) if found else None
        numbers[layer] += n
        stored[layer] += n * BYTES.get(tensor["dtype"], 1)
        joined[layer] += n * ("converted" in tensor)
    dimensions = [key for key, value in manifest.items() if isinstance(value, int)]
    sizes = {key: manifest[key] for key in dimensions}
    masks = sizes["n_layers"] * sizes["n_context"] ** 2 if manifest["architecture"] in MASKS else 0
    largest = max(numbers.keys() - {None}, key=numbers.__getitem__)
    return Model(
        sizes,
        block=numbers[largest],
        stored=stored[largest] / numbers[largest],
        outside=stored[None] / max(numbers[None], 1),
        joined=joined[largest],
        masks=masks,
        has_head=manifest.get("head") != "none",
    )


def bytes_per_token(sizes: Mapping[str, int], site: str, dtype: str = "float32") -> int:
    """Bytes on disk of one token of one layer at a site.

    Args:
        sizes: the model's dimensions; for scores and pattern also `key`, the longest text's tokens.
        site: its name.
        dtype: the numbers that are written.
    """
    return BYTES[dtype] * math.prod(shape(site, sizes))


def sweep(
    model: Model,
    lengths: Sequence[int],
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
    *,
    start: int = 0,
    stop: int | None = None,
    batch_tokens: int,
    threads: int,
    rows: int | None = None,
    predicted: int = 0,
    dtype: str = "float32",
    store: Mapping[str, str] = PLAIN,
) -> Cost:
    """Cost of a sweep, or of a part of one.

    Args:
        model: the model's shape.
        lengths: tokens of each text.
        sites: sites of blocks that are kept.
        layers: the layers they are kept from.
        final_sites: sites after the last block that are kept.
        start: the first block that runs; unless it is 0, what enters it is read from a file.
        stop: the block that the next part starts at; what enters it is written to a file.
        batch_tokens: tokens per batch, at most.
        threads: threads that compute.
        rows: rows of each activation array; None if every token is kept.
        predicted: hidden states of each layer that a lens predicts from.
        dtype: the numbers that are computed with.
        store: `dtype` and `compression` of what is kept. What compression saves depends on the
            values, and is not counted.
    """
    end = stop or (model.sizes["n_layers"] if final_sites else max(layers) + 1)
    n_tokens = sum(lengths)
    batch, longest = largest_batch(lengths, batch_tokens)
    sizes = {**model.sizes, "key": longest}
    kept = sum(bytes_per_token(sizes, site, store["dtype"]) for site in sites)
    kept_last = sum(bytes_per_token(sizes, site, store["dtype"]) for site in final_sites)
    widest = max(
        sum(bytes_per_token(sizes, site) for site in sites or ["resid_pre"]),
        sum(bytes_per_token(sizes, site) for site in final_sites),
    )
    attended = ATTENDED * 4 * batch * sizes["n_heads"] * longest
    rows = n_tokens if rows is None else rows
    hidden = n_tokens * bytes_per_token(model.sizes, "resid_pre", dtype)
    values = rows * (kept * len(layers) + kept_last)
    disk = values + (hidden if stop else 0)
    compressed = values if store["compression"] != "none" else 0
    # A lens keeps the head's weights while blocks run. Beside logits and log-probabilities stands
    # what comes between them: some models bound their logits step by step.
    lens = _head(model, 2 * min(predicted, PREDICTED), BYTES[dtype])
    logits = n_tokens * bool(final_sites) + predicted * len(layers)
    read, operations = _work(model, lengths, end - start, logits)
    read += hidden if start else 0
    return Cost(
        memory=_memory(model, n_tokens, batch, longest, batch if final_sites else 0, dtype)
        + MARGIN * (SECTIONS * batch * widest + lens)
        + MARGIN * attended * any(site in KEYED_SITES for site in sites),
        disk=disk,
        seconds=START
        + read / READ
        + operations / (COMPUTE * threads)
        + compressed / (COMPRESS * threads)
        + disk / WRITE,
        read=read,
        operations=operations,
    )


def streams(
    model: Model,
    lengths: Sequence[int],
    swept: Mapping[str, Any],
    statistics: Sequence[Mapping[str, Any]],
    *,
    rows: int,
    batch_tokens: int,
    threads: int,
    dtype: str = "float32",
) -> Cost:
    """Cost of a sweep whose sections go into streamed statistics.

    Args:
        model: the model's shape.
        lengths: tokens of each text.
        swept: sites and layers of all of them together, as `sweep` takes them.
        statistics: of each the `sites`, the number `n_layers` of its layers, what is `held` of a
            layer (`microtome.options.Held`), its `options`, and whether it has a `lens`.
        rows: rows that are added in each layer.
        batch_tokens: tokens per batch, at most.
        threads: threads that compute.
        dtype: the numbers that are computed with.
    """
    looked = sum(s["n_layers"] * len(s["sites"]) for s in statistics if s["lens"])
    predicted = math.ceil(rows * looked / len(swept["layers"]))
    cost = sweep(
        model,
        lengths,
        **swept,
        batch_tokens=batch_tokens,
        threads=threads,
        rows=0,
        predicted=predicted,
        dtype=dtype,
    )
    batch, longest = largest_batch(lengths, batch_tokens)
    different = min(model.sizes["d_vocab"], sum(lengths))
    sizes = {**model.sizes, "key": longest, "token_id": different}
    kept, measured = 0, 0.0
    for statistic in statistics:
        of_layers = held(statistic, sizes)
        kept += of_layers
        width = _width(statistic, sizes)
        own = MEASURED * 8 * batch * width + of_layers / statistic["n_layers"]
        measured = max(measured, own)
    memory = cost.memory + MARGIN * (STATES * kept + measured)
    return replace(cost, memory=memory, disk=kept, seconds=cost.seconds + kept / WRITE)


def held(statistic: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """Bytes that a streamed statistic keeps of all its layers.

    Args:
        statistic: as `streams` takes it.
        sizes: the model's dimensions, with `key`, the longest text's tokens, and `token_id`, how
            many different tokens there are at most.
    """
    known = {**sizes, **statistic["options"], "width": _width(statistic, sizes)}
    numbers: int = math.prod(known[name] for name in statistic["held"])
    return 8 * int(statistic["n_layers"]) * numbers


def _width(statistic: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """Numbers of a token at all sites of a statistic."""
    return sum(math.prod(shape(site, sizes)) for site in statistic["sites"])


def merge(states: Sequence[int], most: int, read: int = 0) -> Cost:
    """Cost of merging what a streamed statistic keeps of each shard, one after another.

    Args:
        states: bytes of what it keeps of each.
        most: bytes that it keeps of any texts. It may keep less: of the tokens of some shards as
            much as of each, of other tokens as much as of all together.
        read: bytes of its inputs.
    """
    largest = max(states)
    whole = max(largest, min(sum(states), most))
    cost = statistic(whole + largest + read)
    return replace(cost, seconds=START + (sum(states) + read) / READ + whole / WRITE)


def intervention(
    model: Model,
    lengths: Sequence[int],
    branches: Mapping[tuple[int, int], int],
    *,
    predicted: int,
    kept: int,
    beside: int,
    batch_tokens: int,
    threads: int,
    dtype: str = "float32",
) -> Cost:
    """Cost of an intervention.

    Args:
        model: the model's shape.
        lengths: tokens of each text.
        branches: how many changed texts join the sweep, by the block that they join it at and
            their number of tokens.
        predicted: tokens of each text whose predictions are computed, at most.
        kept: numbers that are kept of each changed text, at most.
        beside: numbers that are held of each text in the clean run, at most.
        batch_tokens: tokens per batch, at most.
        threads: threads that compute.
        dtype: the numbers that are computed with.
    """
    n_layers = model.sizes["n_layers"]
    longest, n_branches = max(lengths), sum(branches.values())
    rows = len(lengths) + n_branches
    held = min(n_branches, rows_at_once(model.sizes, longest))
    groups = math.ceil(n_branches / held)  # for each of which the weights are read again
    inside = max(
        largest_batch(lengths, batch_tokens)[0], min(n_branches * longest, WITH_SHARED), longest
    )
    operations = n_layers * sum(_operations(model, length) for length in lengths)
    operations += sum(
        count * (n_layers - first) * _operations(model, length)
        for (first, length), count in branches.items()
    )
    operations += 2 * model.head * predicted * rows
    read = groups * n_layers * model.stored * model.block
    read += groups * model.outside * (model.head if predicted else 0)
    disk = 4 * kept * rows
    return Cost(
        memory=_memory(
            *(model, sum(lengths) + held * longest, inside, longest),
            *(min(rows * predicted, PREDICTED + predicted), dtype),
        )
        + MARGIN * (SECTIONS * disk + 4 * beside * len(lengths)),
        disk=disk,
        seconds=START + read / READ + operations / (COMPUTE * threads) + disk / WRITE,
    )


def rows_at_once(sizes: Mapping[str, int], length: int) -> int:
    """How many changed texts ride a sweep together; the others ride the next one.

    Their hidden states take about as much as the weights of two blocks, or `ROWS` bytes if that is
    more: those of a small model cost next to nothing, and reading the weights anew costs time.

    Args:
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.
        length: tokens of the longest text.
    """
    heads = 2 * (sizes["n_heads"] + sizes["n_kv_heads"]) * sizes["d_head"]
    block = sizes["d_model"] * (heads + 2 * sizes["d_mlp"])
    return max(1, max(2 * block * 4, ROWS) // (length * sizes["d_model"] * 4))


def statistic(read: int, *, block: int = 0, matrices: int = 0, n_layers: int = 0) -> Cost:
    """Cost of a statistic that does not run the model.

    Args:
        read: bytes of its inputs that it holds at once.
        block: where it reads the checkpoint, how many numbers a block has.
        matrices: where it compares each two words, bytes of one layer's matrices.
        n_layers: the layers that it compares words in.
    """
    # Weights of one layer in float64; matrices of all layers, and twice those of the layer at work.
    held = COPIES * read + 8 * block + (n_layers + 2) * matrices
    disk = n_layers * matrices
    imports = IMPORTS if block else ANALYSIS
    return Cost(imports + MARGIN * held, disk, START + read / READ + disk / WRITE)


def word_matrices(n_words: int, n_sites: int) -> int:
    """Bytes of (`site`, `word`, `other`) in float64, such as the cosine similarities of words."""
    return 8 * n_sites * n_words**2


def _memory(
    model: Model, n_tokens: int, batch: int, longest: int, with_logits: int, dtype: str
) -> float:
    """Bytes resident at the peak, without the sections.

    Args:
        model: the model's shape.
        n_tokens: tokens whose hidden states are held between blocks.
        batch: tokens that are inside a block at once.
        longest: tokens of the longest text.
        with_logits: tokens whose logits are computed at once, where there is a head.
        dtype: the numbers that are computed with.
    """
    sizes, number = model.sizes, BYTES[dtype]
    blocks: float = 2 * model.block * number
    if model.stored != number:
        blocks += model.block * model.stored  # mapped while it is converted
    # Of what is joined: its pieces, mapped, and what they become on the way. Those with scales are
    # in the dtype of computation by then.
    piece = number if model.stored < 2 else model.stored
    blocks += model.joined * (model.stored + 2 * piece)
    # Inside a block: the residual stream, its norm and what is added to it; the heads' queries,
    # keys, values and results; three widths of an MLP; a row of scores per token for every head
    # and every mask.
    width = 4 * sizes["d_model"] + 6 * sizes["n_heads"] * sizes["d_head"] + 3 * sizes["d_mlp"]
    inside = batch * (width + (sizes["n_heads"] + EAGER_MASKS) * longest) * 4
    hidden = 2 * n_tokens * sizes["d_model"] * number
    looked_up = min(sizes["d_vocab"] * sizes["d_model"] * model.outside, n_tokens * AROUND)
    held = (
        max(blocks + inside, _head(model, with_logits, number)) + hidden + looked_up + model.masks
    )
    return IMPORTS + MARGIN * held


def _head(model: Model, with_logits: int, number: int) -> float:
    """Bytes of the head while it runs: its weights, and the logits with a copy of them."""
    if not with_logits or not model.has_head:
        return 0
    weights = model.head * (number if model.outside == number else number + model.outside)
    return weights + 2 * with_logits * model.sizes["d_vocab"] * 4


def _operations(model: Model, length: int) -> int:
    """Operations of a text in a block: two per weight and token, and those of attention."""
    heads = model.sizes["n_heads"] * model.sizes["d_head"]
    return 2 * model.block * length + 4 * heads * length**2


def _work(
    model: Model, lengths: Sequence[int], n_blocks: int, with_logits: int
) -> tuple[float, float]:
    """Bytes of weights that are read, and operations."""
    operations = n_blocks * sum(_operations(model, length) for length in lengths)
    operations += 2 * model.head * with_logits
    read = n_blocks * model.stored * model.block
    read += model.outside * (model.head if with_logits else 0)
    return read, operations
