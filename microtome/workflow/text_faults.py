"""Whether the texts that a product is made from are what it needs."""

from collections.abc import Iterator

from microtome.errors import MicrotomeError, nearest
from microtome.interventions.declaration import DeclarationError, Intervention
from microtome.interventions.fit import fit_set
from microtome.options import (
    ALL_TOKENS,
    CATEGORIES,
    LAST_TOKEN,
    ONE_TEXT,
    POSITIONS,
    WORDS,
    Need,
)
from microtome.sites import KEYED_SITES
from microtome.store.checksums import RESULTS
from microtome.texts.corpora import check_fields
from microtome.workflow.config import Kept, Studies
from microtome.workflow.places import known_stimuli
from microtome.workflow.products import Product
from microtome.workflow.schema import Fault


class TextFaults:
    """The stimulus sets of a config, each read once, and what products need of them."""

    def __init__(self, studies: Studies) -> None:
        """Take the studies; texts are read when they are asked for."""
        self._studies = studies
        self._begun: set[str] = set()  # sets whose corpora were looked into

    def of(self, product: Product) -> Iterator[Fault]:
        """What a product needs of its texts and does not get."""
        for member in product.family():
            unread = self._unread(member)
            if unread:
                yield self._place(member), unread
                return
        needs: dict[str, set[Need]] = {}
        for parameter, wanted in product.function.inputs.items():
            for stimuli in self._sets(product, parameter):
                needs.setdefault(stimuli, set()).update(wanted)
        for stimuli, needed in needs.items():
            for need in sorted(needed, key=lambda need: need.name):
                lacking = self._lacking(stimuli, need)
                if lacking:
                    yield product.path, f"{product.function.name} wants {need.text}; {lacking}"
        yield from self._label_faults(product, list(needs))
        if product.stimuli is None:
            return
        kept = self._studies.tokens_kept(product.stimuli)
        if product.intervention:
            yield from self._intervention_faults(product, product.intervention, product.stimuli)
        else:
            yield from self._mean_faults(product, kept)
            yield from self._position_faults(product, kept)

    def _unread(self, product: Product) -> str | None:
        """Why a product's texts cannot be read."""
        if not product.reads_texts:
            return None
        if product.stimuli is None:
            return f"{product.function.name} reads texts; name a stimulus set, as in `stimuli: …`"
        try:
            self._look_into(product.stimuli)
            return None
        except MicrotomeError as error:
            fault = str(error)
        file = self._studies.stimulus_file(product.stimuli)
        if file.exists() or product.stimuli in self._studies.config.get("stimuli", {}):
            return fault
        known = [*self._studies.config.get("stimuli", {}), *known_stimuli(self._studies.bases)]
        return f"no stimulus set {product.stimuli!r} ({file}); {nearest(product.stimuli, known)}"

    def _look_into(self, stimuli: str) -> None:
        """Read a stimulus set, and of a corpus without tokens so far the first texts.

        Its job reads the beginning of each file, but models are fetched before that.
        """
        found = self._studies.stimulus_set(stimuli)
        if found.corpus is None or stimuli in self._begun:
            return
        self._begun.add(stimuli)
        if not any((RESULTS / "tokens").glob(f"*/{stimuli}.h5")):
            try:
                check_fields(found.corpus, of_each_kind=True)
            except MicrotomeError as error:
                raise MicrotomeError(f"{found.file}: corpus: {error}") from None

    def _place(self, product: Product) -> tuple[str, ...]:
        """The key that says which texts a product is about."""
        study = self._studies.study(product.study)
        own = "stimuli" in study.entries[product.kind][product.name]
        return (*product.path, "stimuli") if own else (*product.path[:2], "stimuli")

    def _sets(self, product: Product, parameter: str) -> set[str]:
        """The stimulus sets that an input of a product is made from."""
        if parameter in product.reads:
            return {m.stimuli for m in product.reads[parameter].family() if m.stimuli is not None}
        return set() if product.stimuli is None else {product.stimuli}

    def _lacking(self, stimuli: str, need: Need) -> str | None:
        """What a stimulus set lacks of a need, or None."""
        found = self._studies.stimulus_set(stimuli)
        kept = self._studies.tokens_kept(stimuli)
        keeps = f"the config's `stimuli: {stimuli}: tokens` keeps {kept}"
        match need:
            case _ if need == ALL_TOKENS and kept != "all":
                return f"{keeps}; take that out"
            case _ if need == POSITIONS and kept == "mean":
                return f"{keeps}; take that out"
            case _ if need == LAST_TOKEN and kept not in ("all", "last") and -1 not in [*kept]:
                return f"{keeps}; let it keep -1 too"
            case _ if need == ONE_TEXT and found.n_sequences != 1:
                n = found.n_sequences or "many"
                return f"{stimuli!r} has {n} texts; name another set, or make one of each"
            case _ if need == WORDS and not found.words:
                return f"{stimuli!r} has none; name another set"
            case _ if need == CATEGORIES and found.labels is not None and len(found.labels) < 2:
                return f"{stimuli!r} has {len(found.labels)}; add one, or name another set"
        return None

    def _intervention_faults(
        self, product: Product, intervention: Intervention, stimuli: str
    ) -> Iterator[Fault]:
        """Texts that a set lacks, or words where it has none."""
        found = self._studies.stimulus_set(stimuli)
        if found.n_sequences is None:
            return  # judged with the tokens
        try:
            fit_set(intervention, found.n_sequences, words=found.words)
        except DeclarationError as error:
            yield (*product.path, *error.keys), error.fault

    def _label_faults(self, product: Product, sets: list[str]) -> Iterator[Fault]:
        """Labels that no word has."""
        for name, option in product.function.options.items():
            if option.type == "LabelPair":
                labels = [self._studies.stimulus_set(stimuli).labels for stimuli in sets]
                if None in labels:
                    continue  # only the fetched file tells
                known = [label for found in labels for label in found or ()]
                for label in product.option(name):
                    if label not in known:
                        remedy = nearest(label, known) if known else "there are no labels"
                        said = f"nothing is labelled {label!r} in {', '.join(sets)}"
                        yield (*product.path, name), f"{said}; {remedy}"

    def _mean_faults(self, product: Product, kept: Kept) -> Iterator[Fault]:
        """Sites without a mean over tokens, of a set that keeps nothing else."""
        for site in product.sites:
            if site in KEYED_SITES and kept == "mean":
                yield (
                    self._place(product),
                    f"{site} has no mean over tokens, which reach different keys, but the config's "
                    f"`stimuli: {product.stimuli}: tokens` keeps mean; let it keep all, last or "
                    "positions",
                )

    def _position_faults(self, product: Product, kept: Kept) -> Iterator[Fault]:
        """Positions that a set does not keep."""
        if kept == "all" or not product.chosen_sites:
            return
        held = [-1] if isinstance(kept, str) else kept
        for name, option in product.function.options.items():
            position = product.option(name)
            if position is None:
                continue
            match option.type:
                case "Position" if kept == "mean" or position not in held:
                    wanted = f"token {position} of each text"
                case "FirstPosition" if kept == "mean" or all(0 <= n < position for n in held):
                    wanted = f"tokens from {position} on"
                case "WordPosition" if kept == "mean":  # of positions, only the tokenizer knows
                    wanted = "tokens of words"
                case _:
                    continue
            said = f"the config's `stimuli: {product.stimuli}: tokens` keeps {kept}"
            yield (*product.path, name), f"wants {wanted}; {said}; make the two agree"
