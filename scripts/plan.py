"""Print what the sweeps, interventions and large statistics of a config cost, before anything runs.

Where the config names a cluster (`plan:`), their schedule there is simulated.

Of a model that is not fetched yet, only the config is read: a folder's or a GGUF's own, or the
config.json of a hub repository. The length of texts is then guessed: four characters to a token.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError
from microtome.interventions.extent import extent
from microtome.models.sources import Untrained, parse_source
from microtome.options import layer_numbers
from microtome.show.lines import count, duration, size
from microtome.store.checksums import RESULTS
from microtome.sweeps import cost
from microtome.sweeps.schedule import schedule
from microtome.sweeps.shapes import of_config
from microtome.texts.corpora import characters, documents
from microtome.texts.encoded import length_of
from microtome.texts.fetched import with_fetched
from microtome.texts.forms import CONTEXT, Lengths, Starts
from microtome.texts.lengths import n_kept, read_lengths
from microtome.texts.stimuli import StimulusSet, read_set

CHARACTERS_PER_TOKEN = 4
#: Statistics that compare words are left out if their files have fewer bytes than this.
LARGE = 100e6
#: Files of a product, with its checksum and Snakemake's record; of a token table's shard; of a job.
FILES_EACH, SHARD_EACH, JOB_EACH = 3, 2, 2
#: What nodes spend their time with, in words.
SPENT = {
    "start": "starting",
    "read": "reading",
    "compute": "computing",
    "write": "writing",
    "lost": "lost with nodes that failed",
    "idle": "idle",
}
ABOVE = ("", "", "", "", "a token", "", "", "")
HEADINGS = ("model", "stimuli", "tokens", "layers", "and layer", "disk", "memory", "time")


def shape(models: dict[str, Any], name: str) -> cost.Model:
    """A model's shape, from its manifest, or else from its config.

    Raises:
        MicrotomeError: there is neither.
    """
    manifest = RESULTS / "models" / name / "manifest.json"
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found["source"] == models[name]["source"]:
            return cost.model(found)
    source = parse_source(models[name]["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return shape(models, source.model)
    return of_config(source)


@cache
def stimulus_set(file: str, like: str | None, fetched: str | None) -> StimulusSet:
    """A stimulus set, with its texts if they are here."""
    found = read_set(Path(file), lambda name: Path(like or name))
    return with_fetched(found, Path(fetched)) if fetched and Path(fetched).exists() else found


def texts(about: Mapping[str, Any]) -> StimulusSet:
    """The stimulus set that a line of the plan is about."""
    return stimulus_set(about["file"], about.get("like"), about.get("fetched"))


def lengths(about: Mapping[str, Any], model: cost.Model) -> tuple[list[int], bool]:
    """The tokens of each sequence, and whether they were counted or guessed.

    Raises:
        MicrotomeError: they depend on a text that is not fetched yet.
    """
    table = RESULTS / "tokens" / about["model"] / f"{about['stimuli']}.h5"
    if table.exists():
        return read_lengths(table), True
    found = texts(about)
    if isinstance(found.cut, Starts):
        context = model.sizes.get("n_context", 0)
        length = context if found.cut.length == CONTEXT else int(found.cut.length)
        guessed = [length] * len(found.cut.starts)
    elif isinstance(found.cut, Lengths) and found.sample and found.sample.n:
        guessed = [length_of(found.cut, model.sizes, about["file"])] * found.sample.n
    elif found.remote and not found.fetched:
        raise MicrotomeError(
            f"unknown until its text is fetched, as snakemake {about['fetched']} does"
        )
    elif isinstance(found.cut, Lengths):
        length = length_of(found.cut, model.sizes, about["file"])
        n_tokens = characters(found) / CHARACTERS_PER_TOKEN
        guessed = [length] * math.ceil(n_tokens / (length - found.cut.overlap))
    elif found.cut is not None:
        counts = (s.text.count(word) for s in documents(found) for word in found.cut.words)
        guessed = [found.cut.before + 1] * max(1, sum(counts))
    else:
        guessed = [math.ceil(len(s.text) / CHARACTERS_PER_TOKEN) for s in documents(found)]
    if found.sample is not None:
        n = found.sample.n or math.ceil(found.sample.share * len(guessed))
        guessed = guessed[:n]
    guessed *= max(1, len(found.shuffled))
    if found.masked:
        guessed = [length for length in guessed for _ in range(length)]
    return guessed, False


@dataclass(frozen=True)
class Entry:
    """One line of the plan.

    Attributes:
        model: the model's name.
        label: the stimulus set of a sweep, or the name of an intervention.
        tokens: how many tokens there are, marked if they are guessed.
        layers: the layers that are kept, changed or compared.
        per_token: what a token takes in one layer, in words.
        cost: what it costs.
        jobs: of each shard, what its jobs cost, which run one after another.
        merged: bytes of what statistics keep of all shards, which a last job reads.
        files: products.
        last: jobs that join or merge shards.
    """

    model: str
    label: str
    tokens: str
    layers: int
    per_token: str
    cost: cost.Cost
    jobs: list[list[cost.Cost]] = field(default_factory=list)
    merged: int = 0
    files: int = 0
    last: int = 0

    @property
    def cells(self) -> list[str]:
        """The line's cells, in the order of `HEADINGS`."""
        needed = self.cost
        sizes = [size(needed.disk), size(needed.memory), f"{math.ceil(needed.seconds)} s"]
        return [self.model, self.label, self.tokens, str(self.layers), self.per_token, *sizes]


def shards(tokens: list[int], n: int | None) -> list[tuple[int, ...]]:
    """The tokens of the sequences of each shard, of `n` sequences; of one shard if n is None."""
    size = n or len(tokens)
    return [tuple(tokens[first : first + size]) for first in range(0, len(tokens), size)]


def together(jobs: list[list[cost.Cost]]) -> cost.Cost:
    """What all jobs of all shards cost, one after another."""
    costs = [job for shard in jobs for job in shard]
    return cost.Cost(
        memory=max(job.memory for job in costs),
        disk=sum(job.disk for job in costs),
        seconds=sum(job.seconds for job in costs),
    )


def of_sweep(
    sweep: Mapping[str, Any],
    model: cost.Model,
    settings: Mapping[str, Any],
    sequences: int | None = None,
) -> Entry:
    """A sweep's line."""
    tokens, counted = lengths(sweep, model)

    @cache
    def needed(shard: tuple[int, ...]) -> list[cost.Cost]:
        rows = n_kept(shard, sweep["tokens"])
        return [cost.sweep(model, shard, **job, **settings, rows=rows) for job in sweep["jobs"]]

    jobs = [needed(shard) for shard in shards(tokens, sequences)]
    # Of a shard, layer files, hidden states between jobs, and a list of checksums of each job.
    n_files = sum(len(j["layers"]) + bool(j["final_sites"]) for j in sweep["jobs"])
    files = n_files + len(sweep["jobs"]) - 1
    if sequences:
        files = n_files + len(jobs) * (files + len(sweep["jobs"]))
    sites = max((job["sites"] for job in sweep["jobs"]), key=len)
    dtype, widths = settings["store"]["dtype"], {**model.sizes, "key": max(tokens)}
    return Entry(
        sweep["model"],
        sweep["stimuli"],
        number(tokens, counted),
        sum(len(job["layers"]) for job in sweep["jobs"]),
        size(sum(cost.bytes_per_token(widths, site, dtype) for site in sites)),
        together(jobs),
        jobs,
        files=files,
        last=bool(sequences),
    )


def of_dataset(
    dataset: Mapping[str, Any],
    model: cost.Model,
    settings: Mapping[str, Any],
    sequences: int | None = None,
) -> Entry:
    """The line of an intervention, or of streamed statistics."""
    tokens, counted = lengths(dataset, model)
    merged, files, last = 0, 1, 0
    own = {key: settings[key] for key in ("batch_tokens", "threads", "dtype")}
    if "sweep" in dataset:
        sweep = dataset["sweep"]
        n_layers, streams = len(sweep["layers"]), dataset["streams"]

        @cache
        def needed(shard: tuple[int, ...]) -> list[cost.Cost]:
            rows = n_kept(shard, dataset["tokens"])
            return [cost.streams(model, shard, sweep, streams, rows=rows, **own)]

        jobs = [needed(shard) for shard in shards(tokens, sequences)]
        files = len(streams)
        if sequences:
            merged, last = sum(job.disk for [job] in jobs), files
            files *= 1 + len(jobs)
    else:
        intervention = dataset["intervention"]
        n_layers = len(layer_numbers(intervention.layers, model.sizes["n_layers"]))
        found = extent(intervention, model.sizes, tokens)
        jobs = [[cost.intervention(model, tokens, **found, **own)]]
    name, n_tokens = dataset["name"], number(tokens, counted)
    whole = together(jobs)
    return Entry(dataset["model"], name, n_tokens, n_layers, "", whole, jobs, merged, files, last)


def of_pairs(statistics: list[dict[str, Any]], shapes: Mapping[str, cost.Model]) -> list[Entry]:
    """For each model and stimulus set, the largest statistic that may compare words, if large."""
    found: dict[tuple[str, str], Entry] = {}
    for statistic in statistics:
        if not texts(statistic).words:
            continue
        tokens, counted = lengths(statistic, shapes[statistic["model"]])
        matrices = cost.word_matrices(len(tokens), statistic["sites"])
        needed = cost.statistic(0, matrices=matrices, n_layers=statistic["layers"])
        key = statistic["model"], statistic["stimuli"]
        if needed.disk > max(LARGE, found[key].cost.disk if key in found else 0):
            label = f"{statistic['stimuli']}, pairs of words"
            layers, n_tokens = statistic["layers"], number(tokens, counted)
            found[key] = Entry(statistic["model"], label, n_tokens, layers, "", needed)
    return list(found.values())


def number(tokens: list[int], counted: bool) -> str:
    """How many tokens there are, marked if they are guessed."""
    return f"{'' if counted else '≈'}{sum(tokens)}"


def table(entries: list[Entry]) -> str:
    """The plan's lines, in columns as wide as they have to be."""
    rows = [ABOVE, HEADINGS, *(entry.cells for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<>>>>>>"
    lines = (zip(row, sides, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{c:{s}{w}}" for c, s, w in line).rstrip() for line in lines)


def shortages(entries: list[Entry]) -> Iterator[str]:
    """Say which of disk and memory is too small, and what helps."""
    folders = [RESULTS / "activations" / entry.model / entry.label for entry in entries]
    there = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.h5"))
    more = sum(entry.cost.disk for entry in entries) - there  # which will be written over
    free = shutil.disk_usage(RESULTS if RESULTS.exists() else Path()).free
    if more > free:
        yield (
            f"The disk is too small: {size(more)} more are wanted, {size(free)} are free. Keep "
            "fewer tokens of a stimulus set (`tokens`), fewer sites or layers, or smaller numbers "
            "(`store: {dtype: bfloat16}`), or choose another place with --directory."
        )
    largest = max(entries, key=lambda entry: entry.cost.memory)
    wanted, available = largest.cost.memory, available_memory()
    if available is not None and wanted > available:
        yield (
            f"This machine's memory is too small: {largest.label} of {largest.model} wants "
            f"{size(wanted)}, {size(available)} are available. Make `batch_tokens` smaller, take "
            "fewer texts or words, or run on a larger machine or a cluster."
        )


def scheduled(
    chains: list[list[cost.Cost]], merged: int, plan: Mapping[str, Any], threads: int
) -> str:
    """The schedule of jobs in a sentence; the arguments are those of `schedule`."""
    try:
        found = schedule(chains, merged, plan, threads)
    except MicrotomeError as error:
        return str(error)
    n_jobs, nodes = sum(map(len, chains)), plan["nodes"]
    whole = sum(found.spent.values())
    shares = {name: found.spent[name] / whole for name in SPENT}
    said = ", ".join(f"{share:.1%} {SPENT[name]}" for name, share in shares.items())
    merging = f" Merging takes {duration(found.merging)} of it." if found.merging else ""
    return (
        f"On {count(nodes, 'node')} {count(n_jobs, 'job')} take {duration(found.seconds)}. The "
        f"nodes' time: {said} ({count(found.failed, 'failure')}).{merging}"
    )


def available_memory() -> int | None:
    """Bytes that the system can give without swapping, where it tells (on Linux)."""
    try:
        found = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    available = re.search(r"MemAvailable:\s+(\d+) kB", found)
    return int(available[1]) * 1024 if available else None


def main(
    models: dict[str, Any],
    sweeps: list[dict[str, Any]],
    datasets: list[dict[str, Any]],
    settings: dict[str, Any],
    sequences: int | None,
    plan: Mapping[str, Any] | None,
) -> None:
    """Print a line for each sweep and each costly dataset, their sum, and what is too small.

    Args:
        models: the config's.
        sweeps: what the plan has to know of each sweep.
        datasets: the same of interventions, streamed statistics and statistics of pairs of words.
        settings: how sweeps run.
        sequences: how many each shard has, or None.
        plan: the cluster to plan for, or None.
    """
    shapes, unknown = {}, {}
    for name in {about["model"]: None for about in sweeps + datasets}:
        try:
            shapes[name] = shape(models, name)
        except MicrotomeError as error:
            unknown[name] = str(error)
    known: list[dict[str, Any]] = []
    for about in sweeps + datasets:
        if about["model"] in shapes:
            try:
                lengths(about, shapes[about["model"]])
                known.append(about)
            except MicrotomeError as error:
                unknown[about["stimuli"]] = str(error)
    running = [about for about in known if "layers" not in about]
    entries = [
        (of_sweep if "jobs" in about else of_dataset)(
            about, shapes[about["model"]], settings, sequences
        )
        for about in running
    ]
    longest = sorted(zip(running, entries, strict=True), key=lambda pair: len(pair[1].jobs))
    shards_of = {(a["model"], a["stimuli"]): len(e.jobs) for a, e in longest if sequences}
    entries += of_pairs([about for about in known if "layers" in about], shapes)
    print(table(entries))
    for name, fault in unknown.items():
        print(f"{name}: {fault}")
    if not entries:
        return
    costs = [entry.cost for entry in entries]
    print(
        f"In all {size(sum(c.disk for c in costs))} on disk, "
        f"{size(max(c.memory for c in costs))} of memory at most, and "
        f"{math.ceil(sum(c.seconds for c in costs) / 60)} min for one job after another with "
        f"{count(settings['threads'], 'thread')}."
    )
    jobs = sum(len(shard) for entry in entries for shard in entry.jobs)
    files = sum(entry.files for entry in entries)
    logs = JOB_EACH * (jobs + sum(entry.last for entry in entries))
    inodes = FILES_EACH * files + SHARD_EACH * sum(shards_of.values()) + logs
    print(
        f"{count(jobs, 'job')} write {count(files, 'file')}, which take about {inodes:,} inodes "
        "with token tables, checksums, records and logs."
    )
    if plan:
        chains = [shard for entry in entries for shard in entry.jobs]
        print(scheduled(chains, sum(e.merged for e in entries), plan, settings["threads"]))
    for shortage in shortages(entries):
        print(shortage)


if __name__ == "__main__":
    given = snakemake.params
    main(
        given.models,
        given.sweeps,
        given.datasets,
        given.settings,
        given.sequences,
        given.plan,
    )
