"""The config and the studies it names: which products there are, and what they want of models.

A study is a folder `studies/<study>/`, of the working directory or of the workflow. Its study.yaml
lists interventions, statistics, figures and tables; what the config says of the study is laid over
it. A statistic, a figure or a table is a function of the same name in statistics.py, figures.py or
tables.py (`use:` names another one). An intervention is declared (docs/interventions.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.interventions.declared import declared
from microtome.options import layer_numbers
from microtome.sites import FINAL_SITES, SITES
from microtome.texts.documents import read_yaml
from microtome.texts.stimuli import StimulusSet, read_set
from microtome.workflow.functions import Function, read_function
from microtome.workflow.places import Config, stimulus_file, study_folder
from microtome.workflow.products import DATASETS, KINDS, Product, declaration, is_input

#: Types of options that only the tokens of a text can tell to be right, and what each is a wish of.
_JUDGED = {
    "Position": "position",
    "FirstPosition": "first_token",
    "WordPosition": "word_token",
    "Target": "target",
    "Targets": "targets",
}

#: Whose activations are kept of a text: all, last, mean, or positions in it.
Kept = str | list[int]


@dataclass(frozen=True)
class Study:
    """A study, as its folder and the config have it.

    Attributes:
        name: its name.
        folder: where its study.yaml lies.
        models: the models that the config runs it on.
        stimuli: the stimulus set of products that name no other one.
        entries: what is said of each product, by kind and name.
        source: where the study comes from.
        page: what the start page shows of it.
    """

    name: str
    folder: Path
    models: tuple[str, ...]
    stimuli: str | None
    entries: dict[str, dict[str, Config]]
    source: str
    page: Config


def read_study(name: str, config: Config, folder: Path) -> Study:
    """Read a study, with what the config says of it laid over what its folder says.

    Raises:
        MicrotomeError: study.yaml is not YAML.
    """
    own = read_yaml(folder / "study.yaml", typed=True)
    over = config["studies"].get(name, {})
    entries: dict[str, dict[str, Config]] = {}
    for kind in KINDS:
        said = [source.get(kind) or {} for source in (own, over)]
        names = dict.fromkeys([*said[0], *said[1]])
        entries[kind] = {n: {**(said[0].get(n) or {}), **(said[1].get(n) or {})} for n in names}
    models = tuple(over.get("models", ()))
    stimuli = over.get("stimuli", own.get("stimuli"))
    return Study(name, folder, models, stimuli, entries, own["source"], own.get("page") or {})


class Studies:
    """The studies that a config asks for, and those that they read statistics of.

    Attributes:
        config: the config.
        bases: the folders that `studies/` and `stimuli/` may lie in; the first one wins.
    """

    def __init__(self, config: Config, bases: Sequence[Path]) -> None:
        """Take a config; studies are read when they are asked for."""
        self.config, self.bases = config, bases
        self._studies: dict[str, Study] = {}
        self._products: dict[tuple[str, str, str], Product] = {}
        self._made: dict[tuple[str | int, ...], Product] = {}
        self._sets: dict[str, StimulusSet] = {}
        self._asked: list[tuple[str, Product]] | None = None

    def study(self, name: str) -> Study:
        """A study by its name.

        Raises:
            MicrotomeError: it cannot be read.
            KeyError: there is no such study.
        """
        if name not in self._studies:
            folder = study_folder(name, self.bases)
            if folder is None:
                raise KeyError(name)
            self._studies[name] = read_study(name, self.config, folder)
        return self._studies[name]

    def product(self, study: str, kind: str, name: str) -> Product:
        """One product; the config has been checked."""
        key = (study, kind, name)
        if key not in self._products:
            self._products[key] = self._build(*key)
        return self._products[key]

    def _build(self, study: str, kind: str, name: str) -> Product:
        home = self.study(study)
        entry = home.entries[kind][name]
        function = self.function(home, kind, name)
        bound = entry.get("reads", {})
        reads = {
            parameter: self.product(*self.dataset(home, bound.get(parameter, parameter)))
            for parameter in function.inputs
            if kind not in DATASETS or not is_input(parameter)
        }
        if kind == "interventions":
            stimuli = entry.get("stimuli", home.stimuli)
            return Product(kind, study, name, function, stimuli, None, declaration(entry), reads)
        options = {key: entry[key] for key in sorted(entry.keys() & function.options.keys())}
        product = Product(kind, study, name, function, None, None, options, reads)
        layers = entry.get("layers", "all")
        if "section" in product.inputs and "layer" in function.options:
            layers = [product.option("layer")]
        return Product(
            *(kind, study, name, function),
            entry.get("stimuli", home.stimuli) if product.reads_texts else None,
            None if layers == "all" else tuple(layers),
            options,
            reads,
        )

    def function(self, home: Study, kind: str, name: str) -> Function:
        """The function that makes a product; of an intervention, what its declaration says.

        Raises:
            DeclarationError: a declaration that cannot be right.
        """
        if kind == "interventions":
            found = declared(declaration(home.entries[kind][name]))
            reads = (reference.statistic for reference in found.references.values())
            return Function(
                home.folder / "study.yaml", name, dict.fromkeys(["tokens", *reads], ()), {}
            )
        return read_function(*self.source(home, kind, name))

    def source(self, home: Study, kind: str, name: str) -> tuple[Path, str]:
        """Where a product's function stands, in its own study or, as `study.function`, in another.

        Returns:
            The file, and the function's name.
        """
        study, _, used = home.entries[kind][name].get("use", name).rpartition(".")
        folder = self.study(study).folder if study else home.folder
        return folder / f"{kind}.py", used

    def dataset(self, home: Study, reference: str) -> tuple[str, str, str]:
        """The key of an intervention or a statistic, called by its name or as `study.name`."""
        study, _, name = reference.rpartition(".")
        study = study or home.name
        intervenes = name in self.study(study).entries["interventions"]
        return (study, "interventions" if intervenes else "statistics", name)

    def products(self, kind: str) -> list[Product]:
        """The products of one kind of the studies that the config names, in their order."""
        return [
            self.product(study, kind, name)
            for study in self.config["studies"]
            for name in self.study(study).entries[kind]
        ]

    def datasets(self, *kinds: str) -> list[Product]:
        """All of some `DATASETS`: of the studies that the config names, and what they read."""
        found: dict[tuple[str, ...], Product] = {}
        for kind in KINDS:
            for product in self.products(kind):
                for member in product.family():
                    if member.kind in kinds:
                        found.setdefault(member.path, member)
        return list(found.values())

    def asked(self) -> list[tuple[str, Product]]:
        """Each model of the config's studies with each dataset that its products need."""
        if self._asked is None:
            needed: dict[str, dict[tuple[str, ...], Product]] = {}
            for kind in KINDS:
                for product in self.products(kind):
                    own = needed.setdefault(product.study, {})
                    for member in product.family():
                        if member.kind in DATASETS:
                            own.setdefault(member.path, member)
            found = {
                (model, *path): (model, self.of_model(member, model))
                for study, members in needed.items()
                for model in self.config["studies"][study]["models"]
                for path, member in members.items()
            }
            self._asked = list(found.values())
        return self._asked

    def of_model(self, product: Product, model: str) -> Product:
        """A product as it is made of a model: layers by their numbers."""
        key = (*product.path, self.config["models"][model]["n_layers"])
        if key not in self._made:
            self._made[key] = product.at_depth(key[-1])
        return self._made[key]

    def reading_head(self, model: str, *, next_token: bool = False) -> str | None:
        """The first of a model's studies that reads what its head predicts, or None.

        Args:
            model: the model.
            next_token: whether those are meant that take it for the next token.
        """
        return next(
            (
                product.study
                for kind in KINDS
                for product in self.products(kind)
                if model in self.config["studies"][product.study]["models"]
                and any(
                    member.reads_next_token if next_token else member.reads_head
                    for member in product.family()
                )
            ),
            None,
        )

    def sweeps(self) -> "dict[tuple[str, str], Sweep]":
        """What the studies together want of each (model, stimulus set)."""
        asking: dict[tuple[str, str], list[Product]] = {}
        for model, product in self.asked():
            if product.stimuli is None or product.streamed:
                continue
            if product.sites or product.final_sites:
                asking.setdefault((model, product.stimuli), []).append(product)
        return {
            (model, stimuli): Sweep(
                [site for site in SITES if any(site in p.sites for p in products)],
                sorted({n for p in products if p.sites for n in self.layers(p, model)}),
                [site for site in FINAL_SITES if any(site in p.final_sites for p in products)],
            )
            for (model, stimuli), products in asking.items()
        }

    def streams(self) -> "dict[tuple[str, str, int], list[Product]]":
        """The streamed statistics that share a sweep, by model, stimulus set and turn.

        One that reads another streamed one takes a later turn.
        """
        found: dict[tuple[str, str, int], list[Product]] = {}
        for model, product in self.asked():
            if product.streamed and product.stimuli is not None:
                found.setdefault((model, product.stimuli, _turn(product)), []).append(product)
        return {key: sorted(products, key=lambda p: p.path) for key, products in found.items()}

    def stream(self, products: Sequence[Product], model: str) -> "Sweep":
        """What streamed statistics together want of a model."""
        sites = [site for site in SITES if any(site in p.chosen_sites for p in products)]
        return Sweep(sites, sorted({n for p in products for n in self.layers(p, model)}), [])

    def judged(self, model: str, stimuli: str) -> list[dict[str, Any]]:
        """What is asked of a model and a stimulus set that only their tokens can tell.

        Returns:
            Wishes as `microtome.workflow.requirements.judge` takes them.
        """
        heads = {"head": self.reading_head(model)}
        heads["next_token"] = self.reading_head(model, next_token=True)
        found: list[dict[str, Any]] = [
            {"key": f"studies.{study}.models", wish: model}
            for wish, study in heads.items()
            if study
        ]
        for asking, product in self.asked():
            sets = {member.stimuli for member in product.family()}
            if asking != model or stimuli not in sets:
                continue
            place = ".".join(product.path)
            if product.intervention and product.stimuli == stimuli:
                found.append({"key": place, "intervention": product.options})
            if product.sites and product.stimuli == stimuli:
                found.append({"key": place, "sites": product.sites})
            for name, option in product.function.options.items():
                value = product.option(name)
                if option.type in _JUDGED and value is not None:
                    found.append({"key": f"{place}.{name}", _JUDGED[option.type]: value})
        return found

    def layers(self, product: Product, model: str) -> list[int]:
        """The layers of a model that a product reads, ascending."""
        n_layers = self.config["models"][model]["n_layers"]
        return list(layer_numbers(self.of_model(product, model).layers, n_layers))

    def parts(self, model: str, wanted: "Sweep") -> "list[Sweep]":
        """A sweep as the jobs that make it, each of as many blocks as the config gives a job."""
        n_blocks = self.config["models"][model]["n_layers"]
        if not wanted.final_sites:
            n_blocks = wanted.layers[-1] + 1
        size = self.config["sweep"].get("layers_per_job", n_blocks)
        jobs = []
        for start in range(0, n_blocks, size):
            stop = start + size if start + size < n_blocks else None
            layers = [layer for layer in wanted.layers if start <= layer < (stop or n_blocks)]
            sites = wanted.sites if layers else []
            jobs.append(Sweep(sites, layers, [] if stop else wanted.final_sites, start, stop))
        return jobs

    def stimulus_file(self, stimuli: str) -> Path:
        """The file of a stimulus set: below the first of the folders that has it."""
        return stimulus_file(self.config, stimuli, self.bases)

    def stimulus_set(self, stimuli: str) -> StimulusSet:
        """What a stimulus set's file says, read once.

        Raises:
            MicrotomeError: the file cannot be right.
        """
        if stimuli not in self._sets:
            self._sets[stimuli] = read_set(self.stimulus_file(stimuli), self.stimulus_file)
        return self._sets[stimuli]

    def fetched_file(self, stimuli: str) -> Path | None:
        """Where the text of a set lies once it is fetched; None where the set has its texts."""
        return self.stimulus_set(stimuli).fetched_file(stimuli)

    def tokens_kept(self, stimuli: str) -> Kept:
        """Whose activations are kept of a set's texts: all, last, mean, or positions in each."""
        entry = self.config.get("stimuli", {}).get(stimuli, {})
        return entry.get("tokens", "all")


@dataclass
class Sweep:
    """What the studies together want of one model and stimulus set, in the order of computation.

    Attributes:
        sites: sites of blocks.
        layers: the layers they are wanted from.
        final_sites: sites after the last block.
        start: the first block that is run.
        stop: the block at which another job goes on; None where this is the last one.
    """

    sites: list[str]
    layers: list[int]
    final_sites: list[str]
    start: int = 0
    stop: int | None = None


def _turn(product: Product) -> int:
    """How many streamed statistics have to be made before a product, one after the other."""
    return max((_turn(read) + read.streamed for read in product.reads.values()), default=0)
