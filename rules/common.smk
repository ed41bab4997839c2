# What several rules use: the checked config, and where products lie.
import re
import sys
from pathlib import Path

from microtome.workflow.captions import captions
from microtome.workflow.config import Studies
from microtome.workflow.digest import code_digest, script_digest
from microtome.errors import MicrotomeError
from microtome.workflow.faults import check
from microtome.workflow.pages import (
    PAGES,
    STYLE,
    caption,
    digest,
    file_digest,
    start_page,
    studies_profiled,
    studies_shown,
    study_page,
)

#: The folder of this repository, also where another workflow imports this one.
ROOT = Path(workflow.current_basedir).parent
#: Where studies and stimuli may lie; what a user has wins, by a path that holds wherever that lies.
BASES = (Path(), ROOT)


if workflow.modifier.path_modifier.replace_prefix("results/models", None) != "results/models":
    sys.exit(
        "microtome: `prefix:` and `replace_prefix:` of a module would move some files and not "
        "others; take them out, and choose the folder with --directory"
    )


def own_config():
    """The config, without other keys of a workflow that imports this one."""
    if Path(workflow.basedir) == ROOT:
        return config
    keys = ("models", "stimuli", "studies", "sweep", "store", "style", "plan")
    return {key: config[key] for key in keys if key in config}


try:
    # Files of --configfile override the others. If Snakemake drops this attribute, the message of
    # a fault may name the wrong file.
    overlays = getattr(workflow, "overwrite_configfiles", [])
    files = [file for file in workflow.configfiles if file not in overlays] + list(overlays)
    given = workflow.config_settings.config
    check(own_config(), ROOT / "config.schema.yaml", list(map(Path, files)), BASES, given)
except MicrotomeError as error:
    sys.exit(f"microtome: {error}")

studies = Studies(config, BASES)
SWEEPS = studies.sweeps()
#: How many sequences a job of a sweep runs; None for all.
SEQUENCES = config["sweep"].get("sequences_per_job")
#: The shard that such a job makes, a wildcard.
SHARD = "" if SEQUENCES is None else "{shard}"
#: The style sheet and the script of all pages.
PAGE_STYLE = [f"{PAGES}/{name}" for name in STYLE]
# The report's template finds a figure's caption here (report/figure.rst).
config["captions"] = {
    f"{name}.{figure}": caption
    for name in config["studies"]
    for figure, caption in captions(studies.study(name).folder / "README.md").items()
}


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    stimuli="[a-z0-9_]+",
    shard="[0-9]+",


def code(script, plumbing=()):
    """The digest of a script and of all it depends on but some plumbing, as a param."""
    return script_digest(ROOT / "scripts" / script, ROOT, plumbing)


def product_code(product):
    """The digest of a product's code: its function, and what makes its inputs and writes it.

    Of a streamed statistic, the rest is in the digest of the script that it shares with others.
    """
    if product.streamed:
        return code_digest([product.code], ROOT)
    inputs = ROOT / "microtome" / "workflow" / "inputs.py"
    roots = [product.code, (inputs, "arguments")]
    roots += [(inputs, provider) for provider in sorted(product.providers)]
    if product.kind == "figures":
        style = ROOT / "microtome" / "figures" / "style.py"
        roots += [(style, name) for name in ("token_texts", "style", "save")]
    return code_digest(roots, ROOT)


def rule_name(*parts):
    """A rule's name: the parts with two underscores between them.

    No other parts give the same name: within a part, `__` becomes `_._` and `_.` becomes `_..`.
    """
    return "__".join(re.sub(r"_(?=[_.])", "_.", part) for part in parts)


def product_rule(product):
    """The name of the rule that makes a product."""
    return rule_name(product.kind.removesuffix("s"), product.study, product.name)


def product_file(product, extension):
    """Where a product lies."""
    return f"{product.stem}.{extension}"


def in_shard(stem, shard):
    """The path of a shard's file or folder, from that of all texts without an extension."""
    return f"{stem}/{shard}" if shard else stem


def streamed_file(product, model, shard=""):
    """Where a streamed statistic of a model lies, or what it keeps of a shard."""
    return f"{in_shard(product.stem, shard)}.h5".replace("{model}", model)


def product_log(product):
    """The log of the job that makes a product."""
    return f"{product.stem.replace('results/', 'results/logs/', 1)}.log"


def function_name(product):
    """A product's own function, as `microtome.workflow.load` finds it; None if it has none."""
    if product.code is None:
        return None
    file, name = product.code
    return f"studies/{file.parent.name}/{file.name}:{name}"


def made(product, wildcards):
    """A product as a job makes it: with the layers of the job's model, if it is of one."""
    return studies.of_model(product, wildcards.model) if product.of_model else product


def options(product):
    """A param: the options that a product's function is given."""
    return lambda wildcards: made(product, wildcards).options


def activation_files(model, stimuli, layers, final, shard=""):
    """The activation files of some layers, and that of the final sites; of all texts or a shard."""
    folder = in_shard(f"results/activations/{model}/{stimuli}", shard)
    files = [f"{folder}/layer-{layer:02d}.h5" for layer in layers]
    return [*files, f"{folder}/final.h5"] if final else files


def resid_files(model, stimuli, block, shard=""):
    """The file of hidden states that a job of the sweep starts from; none for the first block."""
    folder = in_shard(f"results/activations/{model}/{stimuli}", shard)
    return [f"{folder}/resid-{block:02d}.h5"] if block else []


def sums_file(model, stimuli, start, shard):
    """The SHA-256 of the activation files that a job makes of a shard, from some block on."""
    folder = in_shard(f"results/activations/{model}/{stimuli}", shard)
    return f"{folder}/sums-{start:02d}.sha256"


def datasets_read(product):
    """The files of the datasets that a product reads, in the order of its parameters."""
    return [product_file(read, "h5") for read in product.reads.values()]


def all_products():
    """Every figure and table that the config asks for, once per model it depends on."""
    extensions = {"figures": ("svg", "png"), "tables": ("csv", "txt")}
    return [
        product_file(product, extension).format(model=model)
        for kind in extensions
        for product in studies.products(kind)
        for model in config["studies"][product.study]["models"]
        for extension in extensions[kind]
    ]


def all_pages():
    """The page of every study, and what stands beside it."""
    names = [*studies_shown(studies), "index"]
    return [f"{PAGES}/{name}.html" for name in names] + PAGE_STYLE


def all_datasets(*kinds):
    """Every dataset of some kinds that the config asks for, once per model it depends on."""
    return [
        product_file(product, "h5").format(model=model)
        for model, product in studies.asked()
        if product.kind in kinds
    ]


def all_activations():
    """Every layer file that the config asks for."""
    return [
        file
        for (model, stimuli), wanted in SWEEPS.items()
        for file in activation_files(model, stimuli, wanted.layers, wanted.final_sites)
    ]


def all_tokens():
    """The token table of every sweep, intervention and statistic that reads one."""
    asked = [(model, product.stimuli) for model, product in studies.asked() if product.reads_tokens]
    tables = dict.fromkeys([*SWEEPS, *asked])
    return [f"results/tokens/{model}/{stimuli}.h5" for model, stimuli in tables]
