# What the rules share: the checked config, and where products lie.
import fcntl
import json
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome import config as settings
from microtome import cost
from microtome.digest import code_digest
from microtome.errors import MicrotomeError
from microtome.sources import Folder, Package, Untrained, parse_source
from microtome.stimuli import read_stimuli

ROOT = Path(workflow.basedir)

try:
    overlays = workflow.overwrite_configfiles
    files = [file for file in workflow.configfiles if file not in overlays] + overlays
    settings.check(config, ROOT / "config.schema.yaml", list(map(Path, files)), ROOT)
except MicrotomeError as error:
    sys.exit(f"microtome: {error}")


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    stimuli="|".join(config["stimuli"]),


def code(script):
    """The digest of a script and of all it imports: a product's code, as a param."""
    return code_digest(ROOT / "scripts" / script, ROOT)


def product_file(kind, product, extension):
    """Where a study's product lies; one of no model lies in the study's own folder."""
    folder = "{model}/" if product.of_model else ""
    return f"results/{kind}/{product.study}/{folder}{product.name}.{extension}"


def activation_files(model, stimuli, layers, final):
    """The files of some layers, and of what follows the last block."""
    folder = f"results/activations/{model}/{stimuli}"
    files = [f"{folder}/layer-{layer:02d}.h5" for layer in layers]
    return [*files, f"{folder}/final.h5"] if final else files


def statistics_read(product):
    """The statistics a product reads, by name."""
    made = settings.statistics(config, product.study)
    return {read: product_file("statistics", made[read], "h5") for read in product.reads}


def all_products():
    """Every figure and table that the config asks for, once per model it depends on."""
    extensions = {"figures": ("svg", "png"), "tables": ("csv", "txt")}
    return [
        product_file(kind, product, extension).format(model=model)
        for study, entry in config["studies"].items()
        for model in entry["models"]
        for kind in extensions
        for product in settings.readers(config, study, kind).values()
        for extension in extensions[kind]
    ]


def all_statistics():
    """Every statistic that the config asks for, once per model it depends on."""
    return [
        product_file("statistics", product, "h5").format(model=model)
        for study, entry in config["studies"].items()
        for model in entry["models"]
        for product in settings.statistics(config, study).values()
    ]


def all_activations():
    """Every layer file that the config asks for."""
    return [
        file
        for (model, stimuli), wanted in settings.sweeps(config).items()
        for file in activation_files(model, stimuli, wanted.layers, wanted.final_sites)
    ]


def all_tokens():
    """The token table of every sweep; those of other statistics follow with them."""
    return [f"results/tokens/{model}/{stimuli}.h5" for model, stimuli in settings.sweeps(config)]


def work_alone():
    """Refuse to run beside another run in the same folder.

    Snakemake's own lock outlives a run that is killed and then wants to be unlocked by hand; this
    one the system lets go of with the process.
    """
    global folder_lock
    results = Path("results")
    if results.exists() and not os.access(results, os.W_OK):
        sys.exit(
            f"microtome: {results.resolve()}: the file system is read-only; choose another place "
            "with --directory"
        )
    folder_lock = open(".snakemake/microtome.lock", "w")
    try:
        fcntl.flock(folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"microtome: {Path.cwd()}: another run is at work here; wait for its end, or choose "
            "another folder with --directory"
        )


def say_what_the_cluster_ended(logs):
    """Say in a line each which jobs Slurm ended for good; a script's own errors have theirs.

    The executor plugin knows the job's state, but tells it in Snakemake's report alone.
    """
    failed = r"Error in \w+ (\w+):\s+message: SLURM-job '\d+' failed, SLURM status is: '(\w+)'.*?"
    failed += r"\n *log: ([^,\n]+), (\S+)"
    said = "".join(Path(log).read_text(encoding="utf-8") for log in logs)
    found = re.findall(failed, said, re.DOTALL)
    last = {name: files for name, *files in found}
    for name, (status, log_file, slurm_log) in last.items():
        if not Path(log_file).exists() or "error: " not in Path(log_file).read_text("utf-8"):
            print(f"microtome: {name}: ended by Slurm ({status}); see {slurm_log}", file=sys.stderr)


def model_origin(wildcards):
    """What a model is made from on this machine: a folder's weights, or another model."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return {"reference": f"results/models/{source.model}/manifest.json"}
    if isinstance(source, Folder):
        kinds = {".json", ".safetensors", ".txt", ".model", ".jinja"}
        return {"files": sorted(str(f) for f in source.path.iterdir() if f.suffix in kinds)}
    return {}


def package_version(wildcards):
    """The version of the package that a model comes out of, if it is one that is installed."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    try:
        return version(source.package) if isinstance(source, Package) else None
    except PackageNotFoundError:
        return None


def statistic_inputs(product):
    """An input function: what a statistic reads, under the name of what it is."""

    def inputs(wildcards):
        found = statistics_read(product)
        if product.tokens:
            found["tokens"] = f"results/tokens/{wildcards.model}/{product.stimuli}.h5"
        if product.checkpoint:
            found["manifest"] = f"results/models/{wildcards.model}/manifest.json"
            found["checkpoint"] = ancient(f"results/models/{wildcards.model}/checkpoint")
        if product.sites and not product.swept:
            layers = settings.product_layers(config, product, wildcards.model)
            found["layers"] = activation_files(wildcards.model, product.stimuli, layers, False)
        if product.final_sites and not product.swept:
            found["final"] = activation_files(wildcards.model, product.stimuli, [], True)
        return found

    return inputs


def caption(figure):
    """A figure's caption; figures that share a script share it, and one may have none."""
    path = ROOT / "report" / figure.study / f"{figure.script}.rst"
    return str(path) if path.exists() else None


def runs_model(product):
    """Whether a statistic runs the model itself: it reads the checkpoint, and tokens for it."""
    return product.checkpoint and product.tokens


def read_model(manifest):
    """A model's shape; while there is no manifest yet, Snakemake says <TBD> and asks again."""
    return cost.model(json.loads(Path(manifest).read_text(encoding="utf-8")))


def sweep_settings():
    """The part of the config that a sweep's cost follows."""
    return {key: value for key, value in config["sweep"].items() if key != "device"}


def planned_sweeps():
    """Every sweep that the config asks for, with the characters of each text."""
    return [
        {"model": model, "stimuli": stimuli, **vars(wanted)}
        | {
            "texts": [
                len(s.text) for s in read_stimuli(settings.stimulus_file(config, stimuli, ROOT))
            ]
        }
        for (model, stimuli), wanted in settings.sweeps(config).items()
    ]


def sweep_needs(resource, wanted_of):
    """A resource function: what a sweep asks a scheduler for.

    Args:
        resource: `mem_mb` or `runtime`.
        wanted_of: gives the job's `settings.Sweep` for its wildcards.
    """

    def needed(wildcards, input):
        wanted = wanted_of(wildcards)
        return cost.sweep(
            read_model(input.manifest),
            cost.lengths(input.tokens),
            wanted.sites,
            wanted.layers,
            wanted.final_sites,
            rows=cost.rows(input.tokens),
            **sweep_settings(),
        )

    return asked(resource, needed)


def branches_need(resource):
    """A resource function: what a statistic that runs the model with branches asks for."""

    def needed(wildcards, input):
        length = max(cost.lengths(input.tokens))
        model, threads = read_model(input.manifest), config["sweep"]["threads"]
        return cost.branches(model, length, threads=threads)

    return asked(resource, needed)


def asked(resource, needed):
    """A resource function from one that computes the cost of a job."""

    def ask(wildcards, input, attempt):
        try:
            return getattr(needed(wildcards, input), resource)(attempt)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError):  # damaged: the job itself says which and how
            return {"mem_mb": 1000, "runtime": 10}[resource]

    return ask


def statistic_needs(product, resource):
    """What a statistic asks for: as a sweep, if it is one, or as one that runs the model."""
    if product.swept:
        return sweep_needs(
            resource, lambda wildcards: settings.product_sweep(config, product, wildcards.model)
        )
    if runs_model(product):
        return branches_need(resource)
    return {"mem_mb": 1000, "runtime": 10}[resource]


def swept_params(product):
    """Of a statistic that is made in the sweep: what it wants of the model, and in which dtype."""
    if not product.swept:
        return {}
    return {
        "layers": lambda wildcards: settings.product_layers(config, product, wildcards.model),
        "dtype": config["sweep"]["dtype"],
    }
