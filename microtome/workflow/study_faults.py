"""Whether what a config asks of its studies can be done: functions, options, texts and layers."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from microtome.errors import MicrotomeError, in_short, nearest
from microtome.options import (
    ALL_TOKENS,
    CATEGORIES,
    ONE_TEXT,
    SEVERAL_SITES,
    WORDS,
    Need,
)
from microtome.sites import SITES
from microtome.texts.stimuli import Stimulus, read_stimuli
from microtome.workflow.config import KEYS, KINDS, Config, Product, Studies, Study, is_input
from microtome.workflow.functions import REQUIRED, Function, Option

Fault = tuple[tuple[str | int, ...], str]


def study_faults(studies: Studies) -> Iterator[Fault]:
    """Find the faults of the studies that a config names, in an order in which each can be judged.

    Args:
        studies: the studies; their files fit the schema.

    Yields:
        The path of a key in the config, and what is wrong there.
    """
    names = list(studies.config["studies"])
    for name in names:  # grows by those whose statistics are read
        for kind in KINDS:
            for product in studies.study(name).entries[kind]:
                for path, message in _product_faults(studies, studies.study(name), kind, product):
                    yield ("studies", name, kind, product, *path), message
                for other in _referred(studies.study(name).entries[kind][product]):
                    if other not in names:
                        names.append(other)
    yield from _circles(studies, names)
    texts = _Texts(studies)
    for kind in KINDS:
        for product in studies.products(kind):
            here = ("studies", product.study, kind, product.name)
            models = studies.config["studies"][product.study]["models"]
            found = [
                *_layer_faults(studies, product, models),
                *_site_faults(product),
                *texts.faults(product),
            ]
            yield from (((*here, *path), message) for path, message in found)


def _referred(entry: Config) -> Iterator[str]:
    """The other studies that a product reads or uses."""
    for reference in (entry.get("use", ""), *entry.get("reads", {}).values()):
        if "." in reference:
            yield reference.rpartition(".")[0]


def _product_faults(studies: Studies, study: Study, kind: str, name: str) -> Iterator[Fault]:
    """What is wrong with one product on its own."""
    entry = study.entries[kind][name]
    for reference in _referred(entry):
        try:
            studies.study(reference)
        except KeyError:
            key = "use" if entry.get("use", "").startswith(f"{reference}.") else "reads"
            yield (
                (key,),
                f"no study {reference!r}; make a folder studies/{reference}, or correct it",
            )
            return
        except MicrotomeError as error:
            yield (), str(error)
            return
    try:
        function = studies.function(study, kind, name)
    except KeyError as error:
        from microtome.workflow.functions import functions

        other = entry.get("use", name).rpartition(".")[0]
        file = (studies.study(other).folder if other else study.folder) / f"{kind}.py"
        known = sorted(functions(file))
        remedy = nearest(error.args[0], known) if known else "write it"
        yield ("use",) if "use" in entry else (), f"{file} has no function {error}; {remedy}"
        return
    except MicrotomeError as error:
        yield (), str(error)
        return
    yield from _key_faults(entry, function, kind)
    for option, value in entry.items():
        if option in function.options:
            yield from _option_faults(option, value, function.options[option])
    for option, known in function.options.items():
        if known.default is REQUIRED and option not in entry:
            yield (), f"the option {option!r} is missing; it wants {known.wanted.text}"
    bound = entry.get("reads", {})
    for parameter in bound:
        if parameter not in function.inputs or (kind == "statistics" and is_input(parameter)):
            known = [p for p in function.inputs if kind != "statistics" or not is_input(p)]
            remedy = nearest(parameter, known) if known else "it reads no statistics"
            yield ("reads", parameter), f"{function.name} has no such parameter; {remedy}"
    for parameter in function.inputs:
        if kind == "statistics" and is_input(parameter):
            continue
        reference = bound.get(parameter, parameter)
        other, _, wanted = (
            studies.statistic(study, reference)[0],
            None,
            reference.rpartition(".")[2],
        )
        known = list(studies.study(other).entries["statistics"])
        if wanted not in known:
            where = ("reads", parameter) if parameter in bound else ()
            remedy = nearest(wanted, known) if known else "the study has none"
            yield where, f"{function.name} reads {reference!r}, which is no statistic; {remedy}"


def _key_faults(entry: Config, function: Function, kind: str) -> Iterator[Fault]:
    """Keys that mean nothing to a product."""
    inputs = {p for p in function.inputs if kind == "statistics" and is_input(p)}
    keys = {"use", "reads"}
    if inputs - {"stored", "tokenizer", "checkpoint"}:
        keys.add("stimuli")
    if "stream" in inputs or ("section" in inputs and "layer" not in function.options):
        keys.add("layers")
    for key in entry:
        if key in function.options or key in keys:
            continue
        if key in KEYS:
            yield (key,), f"means nothing to {function.name}; take it out"
            continue
        free = [option for option in function.options if option not in entry]
        known = sorted(free or function.options)
        remedy = nearest(str(key), known) if known else f"{function.name} takes none; take it out"
        yield (key,), f"unknown option; {remedy}"


def _option_faults(name: str, value: Any, option: Option) -> Iterator[Fault]:
    from microtome.workflow.values import fits

    if not fits(value, option.wanted.schema):
        if option.wanted.schema.get("enum") == list(SITES) and isinstance(value, str):
            yield (name,), f"no site {value!r}; {nearest(value, list(SITES))}"
            return
        unknown = (
            [site for site in value if isinstance(site, str) and site not in SITES]
            if (
                option.wanted.schema.get("items", {}).get("enum") == list(SITES)
                and isinstance(value, list)
            )
            else []
        )
        if unknown:
            yield (name,), f"no site {unknown[0]!r}; {nearest(unknown[0], list(SITES))}"
        else:
            yield (name,), f"wants {option.wanted.text}; has {in_short(value, width=60)}"


def _circles(studies: Studies, names: list[str]) -> Iterator[Fault]:
    """Statistics that read each other."""
    graph = {}
    for name in names:
        study = studies.study(name)
        for statistic, entry in study.entries["statistics"].items():
            bound = entry.get("reads", {})
            graph[name, statistic] = [
                studies.statistic(study, bound.get(parameter, parameter))[::2]
                for parameter in studies.function(study, "statistics", statistic).inputs
                if not is_input(parameter)
            ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = [f"{study}.{statistic}" for study, statistic in error.args[1][1:]]
        path = ("studies", circle[0].partition(".")[0], "statistics")
        yield path, f"these read each other: {', '.join(circle)}; take one of the reads out"


def _layer_faults(studies: Studies, product: Product, models: list[str]) -> Iterator[Fault]:
    key = "layer" if "layer" in product.function.options else "layers"
    layer = product.option("layer")
    chosen = product.layers or () if layer is None else (layer,)
    for number in chosen:
        for model in models:
            n_layers = studies.config["models"][model]["n_layers"]
            if not 0 <= number < n_layers:
                yield (key,), f"no layer {number} in {model}, it has 0 to {n_layers - 1}"
    if layer is None:
        return
    for read in product.reads.values():
        for member in read.family():
            if member.layers is not None and layer not in member.layers:
                known = ", ".join(map(str, member.layers))
                yield ("layer",), f"{member.name!r} has no layer {layer}; it has {known}"


def _site_faults(product: Product) -> Iterator[Fault]:
    """Too few sites, or sites that are to be compared value by value and differ in width."""
    for parameter, needs in product.function.inputs.items():
        for member in product.reads[parameter].family() if SEVERAL_SITES in needs else ():
            if len(member.chosen_sites) == 1:
                said = f"{member.name!r} has one, {member.chosen_sites[0]}"
                yield (), f"{product.function.name} wants {SEVERAL_SITES.text}; {said}"
    for name, option in product.function.options.items():
        if option.type.endswith(("ComparableSites", "SitePair")):
            heads = {"n_heads": "heads", "n_kv_heads": "heads"}  # queries share keys and values
            widths = {
                site: tuple(heads.get(d, d) for d in SITES[site]) for site in product.option(name)
            }
            if len(set(widths.values())) > 1:
                said = ", ".join(f"{site} ({' × '.join(width)})" for site, width in widths.items())
                yield (name,), f"wants sites of one width, to compare value by value; has {said}"


class _Texts:
    """The stimulus sets of a config, each read once, and what products need of them."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._read: dict[str, list[Stimulus] | MicrotomeError] = {}

    def faults(self, product: Product) -> Iterator[Fault]:
        """What a product needs of its texts and does not get."""
        for member in product.family():
            if member.stimuli is not None:
                found = self._stimuli(member.stimuli)
                if isinstance(found, MicrotomeError):
                    yield self._place(member), str(found)
                    return
        wanted: dict[str, set[Need]] = {}
        for parameter, needs in product.function.inputs.items():
            for stimuli in self._sets(product, parameter):
                wanted.setdefault(stimuli, set()).update(needs)
        for stimuli, needs in wanted.items():
            for need in sorted(needs, key=lambda need: need.name):
                lacking = self._lacking(stimuli, need)
                if lacking:
                    yield (), f"{product.function.name} wants {need.text}; {lacking}"
        if product.stimuli is not None:
            kept = self._studies.tokens_kept(product.stimuli)
            yield from self._position_faults(product, kept)

    def _place(self, member: Product) -> tuple[str, ...]:
        entry = self._studies.study(member.study).entries[member.kind][member.name]
        return ("stimuli",) if "stimuli" in entry else ()

    def _sets(self, product: Product, parameter: str) -> set[str]:
        """The stimulus sets that an input of a product is made from."""
        if parameter in product.reads:
            return {m.stimuli for m in product.reads[parameter].family() if m.stimuli is not None}
        return set() if product.stimuli is None else {product.stimuli}

    def _stimuli(self, name: str) -> list[Stimulus] | MicrotomeError:
        if name not in self._read:
            try:
                self._read[name] = read_stimuli(self._studies.stimulus_file(name))
            except MicrotomeError as error:
                self._read[name] = error
        return self._read[name]

    def _lacking(self, stimuli: str, need: Need) -> str | None:
        """What a stimulus set lacks of a need, or None."""
        texts, kept = self._stimuli(stimuli), self._studies.tokens_kept(stimuli)
        categories = {text.category for text in texts if text.category is not None}
        match need:
            case _ if need == ALL_TOKENS and kept != "all":
                return f"the config's `stimuli: {stimuli}: tokens` keeps {kept}; take that out"
            case _ if need == ONE_TEXT and len(texts) > 1:
                return f"{stimuli!r} has {len(texts)} texts; name another set, or make one of each"
            case _ if need == WORDS and not categories:
                return f"{stimuli!r} has none; name another set"
            case _ if need == CATEGORIES and len(categories) < 2:
                return f"{stimuli!r} has {len(categories)}; add one, or name another set"
        return None

    def _position_faults(self, product: Product, kept: str | list[int]) -> Iterator[Fault]:
        """Positions that a set does not keep."""
        if kept == "all" or not product.inputs & {"section", "stream"}:
            return
        held = [-1] if kept == "last" else kept
        for name, option in product.function.options.items():
            position = product.option(name)
            asks = option.type in ("Position", "FirstPosition") and position is not None
            if not asks:
                continue
            exact = option.type == "Position"
            if held == "mean" or (exact and position not in held):
                yield (
                    (name,),
                    f"wants token {position} of each text; the config's `stimuli: "
                    f"{product.stimuli}: tokens` keeps {kept}; make the two agree",
                )
