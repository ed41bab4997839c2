"""What a page is told of a study before anything is read: files, functions and options.

Files have `{model}` in the place of a model's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from microtome.page.readme import Readme

#: Options by model; by None, of a product that depends on no model.
Options = dict[str | None, dict[str, Any]]


@dataclass(frozen=True)
class Code:
    """A function of a study.

    Attributes:
        file: the file, below the folder that has `studies/`.
        name: the function's name.
        source: its lines; empty where they are not shown.
    """

    file: str
    name: str
    source: str = ""


@dataclass(frozen=True)
class Dataset:
    """A statistic or an intervention that a figure is made from.

    Attributes:
        name: as study.yaml has it.
        file: where it lies.
        code: its function; of an intervention, the study.yaml that declares it.
        options: what the function is given, or what is declared.
        inputs: the files, or folders, that it is made from.
    """

    name: str
    file: str
    code: Code
    options: Options
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure of a study.

    Attributes:
        name: its name.
        stem: where it lies, without `.png` and `.svg`.
        code: the function that draws it.
        caption: the function that says its numbers, as `microtome.workflow.load` finds it, or None.
        reads: the datasets that the caption's function is given, by its parameters.
        said: the options that the caption's function is given.
        options: the options of the figure.
        stimuli: the stimulus sets that it is about.
        datasets: all that it is made from, what it reads itself first.
    """

    name: str
    stem: str
    code: Code
    caption: str | None
    reads: dict[str, str]
    said: tuple[str, ...]
    options: Options
    stimuli: tuple[str, ...]
    datasets: tuple[Dataset, ...]

    @property
    def models(self) -> list[str | None]:
        """The models that it is drawn of; None alone if it depends on none."""
        return list(self.options)

    def arguments(self, model: str | None) -> dict[str, Any]:
        """The options that the caption's function is given: a list of the config is a tuple."""
        given = {name: self.options[model][name] for name in self.said}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


@dataclass(frozen=True)
class Table:
    """A table of a study: its name, where it lies without `.csv` and `.txt`, and its models."""

    name: str
    stem: str
    models: tuple[str | None, ...]


@dataclass(frozen=True)
class StudyPage:
    """What a study's page is made of.

    Attributes:
        study: the study's name.
        title: what it is called.
        source: where the study comes from.
        models: the models it runs on, each with its source.
        stimuli: the file of each stimulus set.
        pictures: its figures, in the order of study.yaml.
        tables: its tables.
        readme: its README.md.
        linked: the other studies that this links to and that have a page.
        theme: of the figures, light or dark.
        dpi: dots per inch of the figures.
    """

    study: str
    title: str
    source: str
    models: dict[str, str]
    stimuli: dict[str, str]
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    readme: Readme
    linked: tuple[str, ...]
    theme: str
    dpi: int

    @property
    def datasets(self) -> dict[str, Dataset]:
        """All that its figures are made from, by file."""
        return {dataset.file: dataset for p in self.pictures for dataset in p.datasets}


@dataclass(frozen=True)
class Entry:
    """A study on the start page.

    Attributes:
        study: its name.
        title: what it is called.
        question: its question, in Markdown.
        picture: where the figure that stands for it lies, without `.png`; empty if it has none.
        models: the models that the figure is drawn of; None alone if it depends on none.
        profile: where its profiles across models lie, without `.png`; empty if it has none.
        label: what the profiles show.
    """

    study: str
    title: str
    question: str
    picture: str = ""
    models: tuple[str | None, ...] = ()
    profile: str = ""
    label: str = ""


@dataclass(frozen=True)
class StartPage:
    """What the start page is made of: the studies in order, the models with their sources."""

    entries: tuple[Entry, ...]
    models: dict[str, str]
    theme: str
    dpi: int


def of(path: str, model: str | None) -> str:
    """A path for one model."""
    return path if model is None else path.replace("{model}", model)


def of_all(path: str, models: Sequence[str | None]) -> str:
    """A path for several models, as a shell takes it: `results/figures/mine/{a,b}/drawn.svg`."""
    named = [model for model in models if model]
    return path.replace("{model}", f"{{{','.join(named)}}}" if len(named) > 1 else "".join(named))
