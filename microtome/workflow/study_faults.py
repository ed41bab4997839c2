"""Whether what a config asks of its studies can be done: functions, options, inputs and layers.

What only a model's sizes or the texts' tokens can tell is left to
`microtome.workflow.requirements`.
"""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, nearest
from microtome.interventions.declaration import DeclarationError
from microtome.interventions.declared import declared
from microtome.interventions.fit import fit_layers
from microtome.options import SEVERAL_SITES, layer_numbers
from microtome.sites import DIMENSIONS, FINAL_SITES, KEYED_SITES, SITES
from microtome.texts.documents import read_yaml
from microtome.workflow.config import Studies, Study
from microtome.workflow.functions import REQUIRED, Function, Option, functions
from microtome.workflow.page_faults import page_faults
from microtome.workflow.places import Config, known_studies, study_folder
from microtome.workflow.products import (
    CHANGES,
    DATASETS,
    INPUTS,
    KEYS,
    KINDS,
    Product,
    declaration,
    is_input,
)
from microtome.workflow.schema import Fault, schema_faults
from microtome.workflow.text_faults import TextFaults
from microtome.workflow.values import fits, shown


def study_faults(studies: Studies, definitions: Config) -> Iterator[Fault]:
    """Find the faults of the studies that a config names, in an order in which each can be judged.

    Args:
        studies: the studies, by a config that fits the schema.
        definitions: the `$defs` of the schema, with that of a study.yaml.

    Raises:
        MicrotomeError: a file of a study is missing, cannot be read or does not fit the schema.
    """
    names = list(studies.config["studies"])
    for name in names:  # grows by those that these refer to
        folder = study_folder(name, studies.bases)
        if folder is None:
            known = nearest(name, known_studies(studies.bases))
            yield ("studies", name), f"no folder studies/{name} with a study.yaml; {known}"
            return
        _refuse_misfit(folder / "study.yaml", definitions)
        for path, other in _referred(studies.study(name)):
            if study_folder(other, studies.bases) is None:
                yield path, f"no study {other!r}; {nearest(other, known_studies(studies.bases))}"
            if other not in names:
                names.append(other)
    for name in names:
        study = studies.study(name)
        for kind in KINDS:
            for entry in study.entries[kind]:
                for keys, message in _product_faults(studies, study, kind, entry):
                    yield ("studies", name, kind, entry, *keys), message
    yield from _circles(studies, names)
    for name in studies.config["studies"]:
        yield from page_faults(studies, studies.study(name))
    texts = TextFaults(studies)
    models: dict[tuple[str, ...], list[str]] = {}
    for model, statistic in studies.asked():
        models.setdefault(statistic.path, []).append(model)
    for product in (
        *studies.datasets(*DATASETS),
        *studies.products("figures"),
        *studies.products("tables"),
    ):
        on = models.get(product.path) or studies.config["studies"][product.study]["models"]
        yield from _layer_faults(studies, product, on)
        yield from _site_faults(product)
        if on:
            yield from texts.of(product)


def _refuse_misfit(file: Path, definitions: Config) -> None:
    """Refuse a study.yaml that does not fit the schema."""
    schema = {"$defs": definitions, **definitions["study"]}
    for path, message in schema_faults(read_yaml(file, typed=True), schema):
        raise MicrotomeError(
            ": ".join(filter(None, [str(file), ".".join(map(str, path)), message]))
        )


def _referred(study: Study) -> Iterator[tuple[tuple[str, ...], str]]:
    """The other studies that a study refers to, each with the keys that name it."""
    references: dict[tuple[str, ...], str]
    for kind in KINDS:
        for product, entry in study.entries[kind].items():
            references = {("use",): entry.get("use", "")}
            references |= {("reads", key): value for key, value in entry.get("reads", {}).items()}
            if kind == "interventions":
                with suppress(DeclarationError):  # which is told when the product is judged
                    references = {
                        key: reference.statistic
                        for key, reference in declared(declaration(entry)).references.items()
                    }
            for key, reference in references.items():
                if "." in reference:
                    path = ("studies", study.name, kind, product, *key)
                    yield path, reference.rpartition(".")[0]


def _product_faults(studies: Studies, study: Study, kind: str, name: str) -> Iterator[Fault]:
    """What is wrong with one product on its own, in its study's keys."""
    entry = study.entries[kind][name]
    if kind in DATASETS and is_input(name):
        yield (), "means something else to a statistic that reads it; choose another name"
    if kind == "interventions":
        yield from _intervention_faults(studies, study, name)
        return
    try:
        function = studies.function(study, kind, name)
    except KeyError as error:
        file = studies.source(study, kind, name)[0]
        known = sorted(functions(file))
        remedy = nearest(error.args[0], known) if known else "write it"
        yield ("use",) if "use" in entry else (), f"{file} has no function {error}; {remedy}"
        return
    inputs = {p for p in function.inputs if kind == "statistics" and is_input(p)}
    yield from _input_faults(function, inputs)
    yield from _key_faults(entry, function, inputs)
    for key, option in function.options.items():
        if key in entry:
            yield from _option_faults(key, entry[key], option)
        elif option.default is REQUIRED:
            yield (), f"the option {key!r} is missing; it wants {option.wanted.text}"
    yield from _read_faults(studies, study, function, entry, inputs)


def _intervention_faults(studies: Studies, study: Study, name: str) -> Iterator[Fault]:
    """What is wrong with one intervention on its own."""
    if name in study.entries["statistics"]:
        yield (), "is a statistic's name too; choose another one"
    try:
        intervention = declared(declaration(study.entries["interventions"][name]))
    except DeclarationError as error:
        others = [other for other in study.entries["interventions"] if other != name]
        close = [] if error.keys else get_close_matches(name, others, n=1)
        yield error.keys, f"{error.fault}; did you mean {close[0]!r}?" if close else error.fault
        return
    used = intervention.change.function
    if isinstance(used, str) and used:
        file = study.folder / CHANGES
        known = functions(file)
        if used not in known:
            remedy = nearest(used, list(known)) if known else "write it"
            yield ("change", "use"), f"{file} has no function {used!r}; {remedy}"
        elif len(known[used].args.args) != 2:
            yield ("change", "use"), f"{file}: {used} wants two parameters, values and case"
    for keys, reference in intervention.references.items():
        yield from _reference_faults(studies, study, keys, name, reference.statistic)


def _input_faults(function: Function, inputs: set[str]) -> Iterator[Fault]:
    """Inputs that cannot be provided together, or without an option that the function lacks."""
    activations = inputs & {"section", *SITES, *FINAL_SITES}
    stored = sorted(activations | (inputs & {"stored"}))
    if function.streamed and stored:
        others = ", ".join(stored)
        yield (), f"{function.name} is streamed, and reads {others}, which is stored; take it out"
    if "lens" in inputs and not function.streamed:
        yield (), f"{function.name} has a lens, but nothing to look at; let it return a `Streamed`"
    reading = ["reads a section"] if "section" in inputs else []
    for said in [*reading, *(["is streamed"] if function.streamed else [])]:
        if not {"site", "sites"} & function.options.keys():
            yield (), f"{function.name} {said}, but of no site; give it an option `sites: Sites`"
    known = {"width", "key", "token_id", *function.options, *chain(*DIMENSIONS.values())}
    for size in function.held:
        if size not in known:
            yield (
                (),
                f"{function.name} holds {size!r}, which is no size; {nearest(size, list(known))}",
            )
    for option in function.options:
        if option in KEYS:
            yield (), f"the option {option!r} of {function.name} means something else in a config"


def _key_faults(entry: Config, function: Function, inputs: set[str]) -> Iterator[Fault]:
    """Keys that mean nothing to a product."""
    keys = {"use", "reads"}
    if function.streamed or inputs - {"stored", "tokenizer"}:
        keys.add("stimuli")
    if function.streamed or ("section" in inputs and "layer" not in function.options):
        keys.add("layers")
    for key in entry:
        if key in function.options or key in keys:
            continue
        if key in KEYS:
            of_one = key == "layers" and "layer" in function.options
            remedy = "choose the one it reads with `layer`" if of_one else "take it out"
            yield (key,), f"means nothing to {function.name}; {remedy}"
            continue
        free = [option for option in function.options if option not in entry]
        known = sorted(free or function.options)
        remedy = nearest(str(key), known) if known else f"{function.name} takes none; take it out"
        yield (key,), f"unknown option; {remedy}"


def _option_faults(name: str, value: Any, option: Option) -> Iterator[Fault]:
    """A value that does not fit an option's type."""
    schema = option.wanted.schema
    known = schema.get("enum", schema.get("items", {}).get("enum", []))
    of_sites = "resid_pre" in known
    for site in value if isinstance(value, list) else [value]:
        if of_sites and isinstance(site, str) and site not in SITES:
            yield (name,), f"no site {site!r} of a block; {nearest(site, list(SITES))}"
        elif of_sites and site in KEYED_SITES and site not in known:
            yield (
                (name,),
                f"{site} is NaN where a key is absent, which this function does not leave out; "
                "take another site, or write a function with `sites: AllSites`",
            )
    ascending = option.type != "Limits" or not fits(value, schema) or value[0] < value[1]
    if not fits(value, schema) or not ascending:
        yield (name,), f"wants {option.wanted.text}; has {shown(value)}"


def _read_faults(
    studies: Studies, study: Study, function: Function, entry: Config, inputs: set[str]
) -> Iterator[Fault]:
    """Statistics that are read and do not exist, and parameters that do not."""
    bound = entry.get("reads", {})
    parameters = [p for p in function.inputs if p not in inputs]
    for parameter in bound:
        if parameter not in parameters:
            remedy = nearest(parameter, parameters) if parameters else "it reads no statistics"
            yield ("reads", parameter), f"{function.name} has no such parameter; {remedy}"
    for parameter in parameters:
        where = ("reads", parameter) if parameter in bound else ()
        reference = bound.get(parameter, parameter)
        inputs_too = function.file.stem == "statistics" and parameter not in bound
        others = [*INPUTS, *DIMENSIONS] if inputs_too else []
        yield from _reference_faults(studies, study, where, function.name, reference, others)


def _reference_faults(
    studies: Studies,
    study: Study,
    keys: tuple[str, ...],
    reader: str,
    reference: str,
    inputs: list[str] | None = None,
) -> Iterator[Fault]:
    """A statistic or an intervention that is read and does not exist.

    Args:
        studies: the studies.
        study: the one that reads it.
        keys: the keys that name it.
        reader: what reads it.
        reference: what it is called.
        inputs: what else might have been meant.
    """
    other, kind, wanted = studies.dataset(study, reference)
    entries = studies.study(other).entries
    if wanted not in entries[kind]:
        datasets = [name for kind in DATASETS for name in entries[kind]]
        known = [*(inputs or []), *datasets]
        wrong = "neither an input nor a statistic" if inputs else "no statistic"
        remedy = nearest(wanted, known) if known else "the study has none"
        yield keys, f"{reader} reads {reference!r}, which is {wrong}; {remedy}"


def _circles(studies: Studies, names: list[str]) -> Iterator[Fault]:
    """Statistics and interventions that read each other."""
    graph = {}
    for study in map(studies.study, names):
        for kind in DATASETS:
            for name, entry in study.entries[kind].items():
                bound = entry.get("reads", {})
                graph[study.name, kind, name] = [
                    studies.dataset(study, bound.get(parameter, parameter))
                    for parameter in studies.function(study, kind, name).inputs
                    if not is_input(parameter)
                ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][1:]
        path = ("studies", *circle[0])
        if len(circle) == 1:
            yield path, "reads itself; name another statistic under `reads`"
        else:
            names = [f"{study}.{name}" for study, _, name in circle]
            yield path, f"these read each other: {', '.join(names)}; take one of the reads out"


def _layer_faults(studies: Studies, product: Product, models: list[str]) -> Iterator[Fault]:
    """Layers that a model lacks, or a statistic that is read."""
    said = product.option("layer")
    key = "layers" if said is None else "layer"
    if isinstance(said, str) and not product.of_model:
        fault = f"{product.name} is of no model, and {said} of no depth; give a number"
        yield (*product.path, key), fault
    for model in models:
        n_layers = studies.config["models"][model]["n_layers"]
        made = studies.of_model(product, model)
        layer = made.option("layer")
        named = layer_numbers(made.layers, n_layers) if layer is None else [layer]
        for number in named:
            if not 0 <= number < n_layers:
                yield (
                    (*product.path, key),
                    f"no layer {number} in {model}, it has 0 to {n_layers - 1}",
                )
        if made.intervention:
            try:
                fit_layers(made.intervention, n_layers)
            except DeclarationError as error:
                yield (*product.path, *error.keys), f"{model}: {error.fault}"
        for member in () if layer is None else _read_by(made):
            if member.layers is not None and layer not in member.layers:
                known = ", ".join(map(str, member.layers))
                fault = f"{member.name!r} has no layer {layer} of {model}; it has {known}"
                yield (*product.path, "layer"), fault


def _read_by(product: Product) -> Iterator[Product]:
    """All that a product is made from, but itself."""
    for read in product.reads.values():
        yield from read.family()


def _site_faults(product: Product) -> Iterator[Fault]:
    """Sites that what is read lacks, are too few, or differ in width where they are compared."""
    function = product.function
    chosen = product.option("sites") or [product.option("site")]
    for site in filter(None, chosen):
        for member in _read_by(product):
            if member.chosen_sites and site not in member.chosen_sites:
                known = ", ".join(member.chosen_sites)
                key = "site" if "site" in function.options else "sites"
                yield (*product.path, key), f"{member.name!r} has no site {site}; it has {known}"
    for parameter, needs in function.inputs.items():
        for member in product.reads[parameter].family() if SEVERAL_SITES in needs else ():
            if len(member.chosen_sites) == 1:
                said = f"{product.name!r}, which reads it, wants {SEVERAL_SITES.text}"
                yield (*member.path, "sites"), f"{said}; has {shown(member.chosen_sites)}"
    for name, option in function.options.items():
        if option.type in ("ComparableSites", "SitePair"):
            heads = {"n_heads": "heads", "n_kv_heads": "heads"}  # queries share keys and values
            widths = {
                site: tuple(heads.get(d, d) for d in SITES[site]) for site in product.option(name)
            }
            if len(set(widths.values())) > 1:
                said = ", ".join(f"{site} ({' × '.join(width)})" for site, width in widths.items())
                yield (
                    (*product.path, name),
                    f"wants sites of one width, to compare value by value; has {said}",
                )
