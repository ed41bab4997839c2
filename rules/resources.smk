# The memory and time that jobs request, from the model's shape and the texts' lengths.
import json
import sys
from functools import lru_cache

from microtome.interventions.extent import extent
from microtome.sweeps import cost
from microtome.texts.lengths import count_words, read_lengths_and_rows


def read_once(read, n=8):
    """A function of a file that reads it again only when it has changed.

    As long as the file is missing, Snakemake says <TBD> and asks later.

    Args:
        read: what reads it.
        n: of how many files what was read is kept; None for all.
    """
    kept = lru_cache(n)(lambda file, n_bytes, time: read(file))

    def found(file):
        status = os.stat(file)
        return kept(file, status.st_size, status.st_mtime_ns)

    return found


#: A model's shape, from its manifest.
read_model = read_once(lambda file: cost.model(json.loads(Path(file).read_text(encoding="utf-8"))))
#: The tokens of each text of a token table, and the rows of its activation arrays. Each resource of
#: each shard's job asks for them.
read_tokens = read_once(read_lengths_and_rows)


def tokens_threads(wildcards):
    """All cores, for texts that may be many."""
    return 64 if studies.stimulus_set(wildcards.stimuli).many else 1


def run_settings():
    """The settings that the cost of running a model depends on."""
    return {key: config["sweep"][key] for key in ("batch_tokens", "threads", "dtype")}


def sweep_settings():
    """The settings that a sweep's cost depends on."""
    return run_settings() | {"store": config["store"]}


def sweep_needs(resource, wanted_of):
    """A function for a sweep's `resources:`.

    Args:
        resource: `mem_mb` or `runtime`.
        wanted_of: function from a job's wildcards to its `config.Sweep`.
    """

    def needed(wildcards, input):
        lengths, rows = read_tokens(input.tokens)
        return cost.sweep(
            read_model(input.manifest),
            lengths,
            **vars(wanted_of(wildcards)),
            rows=rows,
            **sweep_settings(),
        )

    return asked(resource, needed)


def streams_need(resource, model, products, wanted):
    """A resource function: what the sweep of some streamed statistics of a model asks for."""
    streams = [streamed_about(product, model) for product in products]

    def needed(wildcards, input):
        shape, (lengths, rows) = read_model(input.manifest), read_tokens(input.tokens)
        return cost.streams(shape, lengths, vars(wanted), streams, rows=rows, **run_settings())

    return asked(resource, needed)


def merge_needs(resource, product, model):
    """A resource function: what merging what a streamed statistic keeps of each shard asks for."""

    def needed(wildcards, input):
        manifest = Path(f"results/models/{model}/manifest.json")
        most = sys.maxsize
        if manifest.exists():  # it may have been deleted since
            shape = read_model(manifest).sizes
            any_texts = {"key": shape.get("n_context", most), "token_id": shape["d_vocab"]}
            most = cost.held(streamed_about(product, model), shape | any_texts)
        states = list(map(os.path.getsize, listed(input.states)))
        return cost.merge(states, most, sum(sizes(input.datasets)))

    return asked(resource, needed)


def streamed_about(product, model):
    """What the cost of a streamed statistic of a model depends on, for `cost.streams`."""
    return {
        "sites": product.chosen_sites,
        "n_layers": len(studies.layers(product, model)),
        "held": product.function.held,
        "options": {name: product.option(name) for name in product.function.options},
        "lens": "lens" in product.inputs,
    }


def intervention_needs(product, resource):
    """A resource function: what an intervention asks for."""

    def needed(wildcards, input):
        model, (lengths, _) = read_model(input.manifest), read_tokens(input.tokens)
        found = extent(made(product, wildcards).intervention, model.sizes, lengths)
        return cost.intervention(model, lengths, **found, **run_settings())

    return asked(resource, needed)


def asked(resource, needed):
    """A function for `resources:` from one that computes a job's cost."""

    def ask(wildcards, input, attempt):
        try:
            return getattr(needed(wildcards, input), resource)(attempt)
        except FileNotFoundError:
            raise
        # A damaged file, which the job itself will name.
        except (MicrotomeError, OSError, ValueError, KeyError):
            return {"mem_mb": 1000, "runtime": 10}[resource]

    return ask


def statistic_needs(product, resource):
    """A resource function: what a statistic asks for that does not run the model."""

    def needed(wildcards, input):
        sections = sizes(input.get("layers", []))
        stacked = not product.chosen_sites  # all layers at once
        held = sum(sections) if stacked else max(sections, default=0)
        held += sum(sum(sizes(input.get(name, []))) for name in ("final", "tokens", "datasets"))
        n_words = count_words(input.layers[0]) if sections and not stacked else 0
        return cost.statistic(
            held,
            block=read_model(input.manifest).block if "stored" in product.inputs else 0,
            matrices=cost.word_matrices(n_words, len(product.sites)),
            n_layers=len(sections),
        )

    return asked(resource, needed)


def sizes(files):
    """The bytes of one file or of several, with their shards."""
    return list(map(os.path.getsize if SEQUENCES is None else read_bytes, listed(files)))


def listed(files):
    """One file or several, as a list."""
    return [files] if isinstance(files, str) else files


def bytes_with_shards(file):
    """The bytes of a file, with those of its shards if it is virtual."""
    from microtome.store.virtual import bytes_of  # here, because a run without shards needs no HDF5

    return bytes_of(file)


read_bytes = read_once(bytes_with_shards, n=None)


def planned(model, stimuli):
    """What the plan has to know of a model and a stimulus set."""
    holder, fetched = studies.stimulus_set(stimuli).holder, studies.fetched_file(stimuli)
    return {
        "model": model,
        "stimuli": stimuli,
        "file": str(studies.stimulus_file(stimuli)),
        "like": holder and str(studies.stimulus_file(holder)),
        "fetched": fetched and str(fetched),
        "tokens": studies.tokens_kept(stimuli),
    }


def planned_sweeps():
    """Every sweep that the config asks for, with its jobs."""
    return [
        planned(model, stimuli) | {"jobs": [vars(part) for part in studies.parts(model, wanted)]}
        for (model, stimuli), wanted in SWEEPS.items()
    ]


def planned_datasets():
    """Interventions, sweeps of streamed statistics, and statistics of pairs of words.

    Which statistics keep a value for each two words is not known before they are made, so that all
    with sites are given; the plan counts one for each model and stimulus set.
    """
    found = []
    for model, product in studies.asked():
        about = {"name": f"{product.study}.{product.name}"}
        if product.streamed:
            continue
        if product.intervention:
            about |= {"intervention": product.intervention}
        elif product.sites:
            layers = studies.layers(product, model)
            about |= {"layers": len(layers), "sites": len(product.sites)}
        else:
            continue
        found.append(planned(model, product.stimuli) | about)
    for (model, stimuli, _), products in studies.streams().items():
        wanted = studies.stream(products, model)
        streams = [streamed_about(product, model) for product in products]
        about = {"name": f"{stimuli}, streamed", "sweep": vars(wanted), "streams": streams}
        found.append(planned(model, stimuli) | about)
    return found
