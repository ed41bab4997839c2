"""What the pages are made of, as the config and the studies' folders have it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microtome.page.parts import (
    Code,
    Dataset,
    Entry,
    Options,
    Picture,
    StartPage,
    StudyPage,
    Table,
)
from microtome.page.readme import Readme, read_readme
from microtome.workflow.config import Studies, Study
from microtome.workflow.functions import Function, functions, read_function, source
from microtome.workflow.products import Product

#: The file of what a study's figures say in this run.
CAPTIONS = "captions.py"
#: Where the pages lie.
PAGES = "results/page"
#: The style sheet and the script of all pages.
STYLE = ("style.css", "page.js")


def studies_shown(studies: Studies) -> list[str]:
    """The studies that have a page: those of the config that run on a model, in its order."""
    return [name for name, study in studies.config["studies"].items() if study["models"]]


def studies_profiled(studies: Studies) -> list[str]:
    """Those among them of which the start page shows profiles across models."""
    return [name for name in studies_shown(studies) if "profile" in studies.study(name).page]


def study_page(studies: Studies, name: str) -> StudyPage:
    """What a study's page is made of."""
    config, study = studies.config, studies.study(name)
    pictures = [studies.product(name, "figures", figure) for figure in study.entries["figures"]]
    tables = [studies.product(name, "tables", table) for table in study.entries["tables"]]
    texts = dict.fromkeys(stimuli for product in pictures for stimuli in _stimuli(product))
    readme = _readme(study)
    said = "\n".join(readme.chapters.values())
    return StudyPage(
        name,
        _title(readme, name),
        study.source,
        {model: config["models"][model]["source"] for model in study.models},
        {stimuli: str(studies.stimulus_file(stimuli)) for stimuli in texts},
        tuple(_picture(studies, product, study.models) for product in pictures),
        tuple(Table(t.name, t.stem, tuple(models_of(t, study.models))) for t in tables),
        readme,
        tuple(other for other in studies_shown(studies) if f"../{other}/README.md" in said),
        config["style"]["theme"],
        config["style"]["dpi"],
    )


def start_page(studies: Studies) -> StartPage:
    """What the start page is made of."""
    config, shown = studies.config, studies_shown(studies)
    used = {model for name in shown for model in studies.study(name).models}
    return StartPage(
        tuple(_entry(studies, name) for name in shown),
        {name: model["source"] for name, model in config["models"].items() if name in used},
        config["style"]["theme"],
        config["style"]["dpi"],
    )


def _entry(studies: Studies, name: str) -> Entry:
    study = studies.study(name)
    figure = study.page.get("picture", next(iter(study.entries["figures"]), None))
    profile = study.page.get("profile", {})
    shown: dict[str, Any] = {}
    if profile:
        shown |= {"profile": f"{PAGES}/profiles/{name}", "label": profile["label"]}
    if figure is not None:
        product = studies.product(name, "figures", figure)
        shown |= {"picture": product.stem, "models": tuple(models_of(product, study.models))}
    readme = _readme(study)
    return Entry(name, _title(readme, name), readme.question, **shown)


def _readme(study: Study) -> Readme:
    return read_readme(study.folder / "README.md")


def _title(readme: Readme, name: str) -> str:
    return readme.title or name.replace("_", " ").capitalize()


def models_of(product: Product, models: tuple[str, ...]) -> list[str | None]:
    """The models that a product is made of; None alone if it depends on none."""
    return list(models) if product.of_model else [None]


def caption(product: Product) -> Function | None:
    """The function that says a figure's numbers: beside that which draws it, and of its name."""
    file = product.function.file.with_name(CAPTIONS)
    if not file.is_file() or product.function.name not in functions(file):
        return None
    return read_function(file, product.function.name)


def file_digest(*files: Path) -> str:
    """A digest of files, such as templates."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def digest(page: StudyPage | StartPage) -> str:
    """A digest of what a page is made of, but for the content of files."""
    return hashlib.sha256(repr(page).encode()).hexdigest()[:16]


def _picture(studies: Studies, product: Product, models: tuple[str, ...]) -> Picture:
    said = caption(product)
    return Picture(
        product.name,
        product.stem,
        _code(product, source(product.function.file, product.function.name)),
        f"{_place(said.file)}:{said.name}" if said else None,
        {name: f"{product.reads[name].stem}.h5" for name in said.inputs} if said else {},
        tuple(said.options) if said else (),
        _options(studies, product, models),
        tuple(_stimuli(product)),
        tuple(_dataset(studies, read, product.study, models) for read in _behind(product)),
    )


def _dataset(studies: Studies, product: Product, home: str, models: tuple[str, ...]) -> Dataset:
    name = product.name if product.study == home else f"{product.study}.{product.name}"
    inputs = [f"{read.stem}.h5" for read in product.reads.values()]
    if (product.sites or product.final_sites) and not product.streamed:
        inputs.append(f"results/activations/{{model}}/{product.stimuli}")
    if product.reads_tokens:
        inputs.append(f"results/tokens/{{model}}/{product.stimuli}.h5")
    if product.reads_checkpoint:
        inputs.append("results/models/{model}/checkpoint")
    options = _options(studies, product, models)
    return Dataset(name, f"{product.stem}.h5", _code(product), options, tuple(inputs))


def _options(studies: Studies, product: Product, models: tuple[str, ...]) -> Options:
    found: Options = {}
    for model in models_of(product, models):
        made = product if model is None else studies.of_model(product, model)
        given = {name: made.option(name) for name in made.function.options}
        if made.layers and "layer" not in given:
            given["layers"] = list(made.layers)
        found[model] = _sorted(given | made.options)
    return found


def _sorted(value: Any) -> Any:
    """A value whose keys are in an order that does not depend on the config's."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def _code(product: Product, lines: str = "") -> Code:
    file, name = product.code or (product.function.file, product.name)
    return Code(_place(file), name, lines)


def _place(file: Path) -> str:
    """A study's file, below the folder that has `studies/`."""
    return f"studies/{file.parent.name}/{file.name}"


def _behind(product: Product) -> list[Product]:
    """All datasets that a product is made from, each once, the nearest first."""
    found: dict[tuple[str, ...], Product] = {}
    waiting = list(product.reads.values())
    for read in waiting:  # grows
        found.setdefault(read.path, read)
        waiting += read.reads.values()
    return list(found.values())


def _stimuli(product: Product) -> Iterator[str]:
    """The stimulus sets that a product is about, each once."""
    return iter(dict.fromkeys(read.stimuli for read in _behind(product) if read.stimuli))
