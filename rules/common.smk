# What several rules use: the checked config, and where products lie.
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome.workflow import config as settings
from microtome.workflow.digest import code_digest
from microtome.errors import MicrotomeError
from microtome.workflow.faults import check
from microtome.store.checksums import size_and_time
from microtome.model.sources import Folder, Package, Untrained, parse_source

#: The folder of this repository, also where another workflow imports this one.
ROOT = Path(workflow.current_basedir).parent


def own_config():
    """The config, without other keys of a workflow that imports this one."""
    if Path(workflow.basedir) == ROOT:
        return config
    keys = ("models", "stimuli", "studies", "sweep", "style")
    return {key: config[key] for key in keys if key in config}


try:
    # Files of --configfile override the others. If Snakemake drops this attribute, the message of
    # a fault may name the wrong file.
    overlays = getattr(workflow, "overwrite_configfiles", [])
    files = [file for file in workflow.configfiles if file not in overlays] + list(overlays)
    check(own_config(), ROOT / "config.schema.yaml", list(map(Path, files)), ROOT)
except MicrotomeError as error:
    sys.exit(f"microtome: {error}")


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    stimuli="|".join(config["stimuli"]),


def code(script):
    """The digest of a script and of all it imports, as a param."""
    return code_digest(ROOT / "scripts" / script, ROOT)


def rule_name(*parts):
    """A rule's name: the parts with two underscores between them.

    No other parts give the same name: within a part, `__` becomes `_._` and `_.` becomes `_..`.
    """
    return "__".join(re.sub(r"_(?=[_.])", "_.", part) for part in parts)


def product_file(kind, product, extension):
    """Where a study's product lies; one of no model lies in the study's own folder."""
    folder = "{model}/" if product.of_model else ""
    return f"results/{kind}/{product.study}/{folder}{product.name}.{extension}"


def activation_files(model, stimuli, layers, final):
    """The activation files of some layers, and that of the final sites."""
    folder = f"results/activations/{model}/{stimuli}"
    files = [f"{folder}/layer-{layer:02d}.h5" for layer in layers]
    return [*files, f"{folder}/final.h5"] if final else files


def resid_files(model, stimuli, block):
    """The file of hidden states that a job of the sweep starts from; none for the first block."""
    return [f"results/activations/{model}/{stimuli}/resid-{block:02d}.h5"] if block else []


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
    """The token table of every sweep."""
    return [f"results/tokens/{model}/{stimuli}.h5" for model, stimuli in settings.sweeps(config)]


def reference_manifest(wildcards):
    """The manifest of the model whose shape an untrained model copies; none for other models."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    untrained = isinstance(source, Untrained)
    return {"reference": f"results/models/{source.model}/manifest.json"} if untrained else {}


def folder_files(wildcards):
    """Size and time of each file in a model's source folder; None for other sources.

    If the files were inputs, Snakemake would read all weights twice to compare them.
    """
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    if not isinstance(source, Folder):
        return None
    made = Path(f"results/models/{wildcards.model}/checkpoint")
    kinds = {".json", ".safetensors", ".txt", ".model", ".jinja"}
    files = sorted(file for file in source.path.iterdir() if file.suffix in kinds)
    return {file.name: size_and_time(file, made / file.name) for file in files}


def package_version(wildcards):
    """The version of the package that a model is in; None for other sources."""
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


def swept_params(product):
    """Of a statistic that is made in the sweep: what it wants of the model, and in which dtype."""
    if not product.swept:
        return {}
    return {
        "layers": lambda wildcards: settings.product_layers(config, product, wildcards.model),
        "dtype": config["sweep"]["dtype"],
    }
