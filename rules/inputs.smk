# Functions for the `input:` and `params:` of rules that make models, activations and statistics.
import ast
import json
import os
from importlib.metadata import PackageNotFoundError, version

from snakemake.io import IOFile

from microtome.models.sources import Folder, Package, Untrained, parse_source
from microtome.models.taps import plain_taps
from microtome.page.parts import of
from microtome.store.checksums import shards_of, size_and_time

#: The sites that the model's stored weights lie at.
MLP_SITES = ("pre", "pre_linear", "post")


def texts_and_like(wildcards):
    """What a token table is made from beside its stimulus file: texts, another file."""
    found = studies.stimulus_set(wildcards.stimuli)
    beside = {}
    if found.remote:
        beside["fetched"] = studies.fetched_file(wildcards.stimuli)
    if found.corpus:
        beside["corpus"] = [str(file) for file in found.corpus.files]
    if found.holder:
        beside["like"] = studies.stimulus_file(found.holder)
    return beside


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


def shards(model, stimuli):
    """The shards of a model and a stimulus set, as "00000"; known once its texts are tokens."""
    table = checkpoints.token_table.get(model=model, stimuli=stimuli).output[0]
    return [file.stem for file in shards_of(Path(table))]


def sharded_stimuli(wildcards):
    """A stimulus set's file; its tokens are made again from it where one of their shards is lost."""
    table = Path("results", "tokens", wildcards.model, f"{wildcards.stimuli}.h5")
    if table.exists():
        try:
            run_if_lost(table, shards_of(table))
        except MicrotomeError:  # it is damaged
            run_if_lost(table, [""])
    return studies.stimulus_file(wildcards.stimuli)


def sums(model, stimuli):
    """The SHA-256 of the activation files of all shards, shard after shard."""
    parts = studies.parts(model, SWEEPS[model, stimuli])
    found = []
    for shard in shards(model, stimuli):
        for part in parts:
            found.append(sums_file(model, stimuli, part.start, shard))
            made = activation_files(model, stimuli, part.layers, part.final_sites, shard)
            run_if_lost(found[-1], made)
    return found


def run_if_lost(made, beside):
    """Have a job run again if files that it made beside another one are gone.

    Snakemake looks only for files that other jobs ask for, and would read all of these to compare
    them.
    """
    if os.path.exists(made) and not all(map(os.path.exists, beside)):
        workflow.dag.forcefiles.add(str(made))


def judged(wildcards):
    """What studies ask of a model and a stimulus set, which its tokens can tell."""
    return json.dumps(studies.judged(wildcards.model, wildcards.stimuli))


def tokens_code():
    """The digest of what makes token tables; not of the script: what it judges changes nothing."""
    texts = ROOT / "microtome" / "texts"
    roots = [
        ("stimuli.py", "read_set"),
        ("fetched.py", "with_fetched"),
        ("tokens.py", "set_tables"),
    ]
    return code_digest([(texts / file, name) for file, name in roots], ROOT)


def dataset_inputs(product):
    """An input function: what a statistic's function, or an intervention, is given."""

    def inputs(wildcards):
        found = {"datasets": datasets_read(product)}
        if product.reads_tokens:
            found["tokens"] = f"results/tokens/{wildcards.model}/{product.stimuli}.h5"
        if product.reads_checkpoint:
            found["manifest"] = f"results/models/{wildcards.model}/manifest.json"
            found["checkpoint"] = ancient(f"results/models/{wildcards.model}/checkpoint")
        if product.sites:
            layers = studies.layers(product, wildcards.model)
            found["layers"] = activation_files(wildcards.model, product.stimuli, layers, False)
        if product.final_sites:
            found["final"] = activation_files(wildcards.model, product.stimuli, [], True)
        return found

    return inputs


def declaration(product):
    """A param: what an intervention declares."""
    return lambda wildcards: vars(made(product, wildcards).intervention)


def model_params(product):
    """Of a product made from a model: where its sites lie, and how it is run."""
    if product.intervention:
        sites = [product.intervention.site, *product.intervention.read.sites]
    else:
        sites = MLP_SITES

    def taps(wildcards):
        file = product_file(product, "h5").format(model=wildcards.model)
        return taps_param(wildcards.model, sites, product_rule(product), file)(wildcards)

    found = {"taps": taps} if product.runs_model or "stored" in product.inputs else {}
    if product.runs_model:
        keys = ("batch_tokens", "threads", "device", "dtype")
        found |= {key: config["sweep"][key] for key in keys}
    return found


def merge_inputs(product, model):
    """An input function: what a streamed statistic reads beside what it has kept of each shard."""

    def inputs(wildcards):
        found = {"datasets": list(streamed_reads(product, model).values())}
        if "tokens" in product.inputs:
            found["tokens"] = f"results/tokens/{model}/{product.stimuli}.h5"
        if "tokenizer" in product.inputs:
            found["checkpoint"] = ancient(f"results/models/{model}/checkpoint")
        return found

    return inputs


def states(product, model):
    """An input function: what a streamed statistic has kept of each shard."""
    return lambda wildcards: [
        streamed_file(product, model, shard) for shard in shards(model, product.stimuli)
    ]


def streamed_reads(product, model):
    """The datasets that a streamed statistic of a model reads, by parameter."""
    files = datasets_read(product)
    return {name: f.format(model=model) for name, f in zip(product.reads, files, strict=True)}


def streamed_param(product, model):
    """What the sweep that makes a streamed statistic of a model has to know of it."""
    return {
        "product": f"{product.study}.{product.name}",
        "function": function_name(product),
        "code": product_code(product),
        "sites": product.chosen_sites,
        "layers": studies.layers(product, model),
        "reads": streamed_reads(product, model),
        "options": product.options,
    }


class LaterTaps(dict):
    """The taps of a model that is not fetched yet.

    Snakemake records the text of a job's params when the job has ended, but for a job that it
    submits, those that it saw while it planned.
    """

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __repr__(self):
        try:
            return repr(self.make())
        except FileNotFoundError:
            return "<TBD>"


def taps_param(model, sites, name, file):
    """A param: where sites lie in a model's blocks.

    It takes wildcards alone, since Snakemake records no param that is made from input files.

    Args:
        model: the model's name.
        sites: what the job reads.
        name: the name of the job's rule.
        file: a file that it makes. If the model has been deleted since, the taps are those that
            Snakemake recorded of this file: a checkpoint that is gone makes nothing stale.
    """

    def known():
        return plain_taps(f"results/models/{model}/sites.json", sites)

    def taps(wildcards):
        try:
            return known()
        except FileNotFoundError:
            # Where this workflow is imported as a module, names have a prefix.
            making = next(other for other in workflow.rules if other.name.endswith(name))
            made = IOFile(file.format(**dict(wildcards.items())), rule=making)
            for param in workflow.persistence.params(made) or ():
                recorded = ast.literal_eval(param) if param.startswith("{") else {}
                if recorded and recorded.keys() <= set(sites):
                    return recorded
            return LaterTaps(known)

    return taps


#: Of the pages.
TEMPLATES = ROOT / "microtome" / "page" / "templates"
#: What makes a product again, before the product's name. A workflow that imports this one has a
#: command of its own.
OWN_OVERLAYS = overlays if Path(workflow.basedir) == ROOT else []
CONFIGFILES = ["--configfile", *map(os.path.relpath, OWN_OVERLAYS)] if OWN_OVERLAYS else []
PAGE_COMMAND = " ".join([".venv/bin/snakemake", *CONFIGFILES, "--force"])


def templates(name):
    """A digest of a page's template, and of those that it uses."""
    return file_digest(*(TEMPLATES / file for file in ("base.html", "parts.html", name)))


#: What is the same for the pages of all studies.
PAGE_CODE = [code("page.py"), templates("study.html")]
PROFILE_CODE = code("profile.py")


def page_code(name):
    """The digests of what writes a study's page, and says the numbers of its figures."""
    products = [studies.product(name, "figures", f) for f in studies.study(name).entries["figures"]]
    said = [found for found in map(caption, products) if found]
    captions = [(function.file, function.name) for function in said]
    return [*PAGE_CODE, code_digest(captions, ROOT)]


def page_inputs(name):
    """What a study's page is made from."""
    page = study_page(studies, name)

    def files(stem, models, extension):
        return [f"{of(stem, model)}{extension}" for model in models]

    return {
        "pictures": [f for p in page.pictures for f in files(p.stem, p.models, ".png")],
        "said": dict.fromkeys(
            f for p in page.pictures for h5 in p.reads.values() for f in files(h5, p.models, "")
        ),
        "tables": [file for t in page.tables for file in files(t.stem, t.models, ".csv")],
        "manifests": files("results/models/{model}/manifest.json", page.models, ""),
        "stimuli": list(page.stimuli.values()),
        "style": PAGE_STYLE,
    }


def start_page_inputs():
    """What the start page is made from."""
    page = start_page(studies)
    return {
        "pictures": [f"{of(e.picture, model)}.png" for e in page.entries for model in e.models],
        "profiles": [f"{entry.profile}.png" for entry in page.entries if entry.profile],
        "manifests": [f"results/models/{model}/manifest.json" for model in page.models],
        "style": PAGE_STYLE,
    }


def profile_inputs(name):
    """The statistic whose profiles the start page shows of a study, of each model."""
    study = studies.study(name)
    read = studies.product(*studies.dataset(study, study.page["profile"]["statistic"]))
    return [f"{of(read.stem, model)}.h5" for model in study.models]


def profile_params(name):
    """What is shown of it."""
    said = studies.study(name).page["profile"]
    found = {"key": f"studies/{name}/study.yaml: page.profile", "at": said.get("at", {})}
    return found | {key: said[key] for key in ("variable", "label")}
