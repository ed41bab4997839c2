"""Pages as HTML, from what they are made of and the files of a run."""

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from microtome.page import markdown
from microtome.page.files import (
    TEMPLATES,
    picture_size,
    read_manifest,
    read_table,
    read_texts,
)
from microtome.page.parts import Options, StartPage, StudyPage, of
from microtome.page.readme import ERRATA, FIGURES, METHOD, TABLES, read_readme

#: CSS pixels to an inch of a picture, at which its letters can just be read.
LEAST_DPI = 54


def render_study(
    page: StudyPage, readme: Path, said: Mapping[tuple[str, str | None], str], shown: list[str]
) -> str:
    """A study's page.

    Args:
        page: what it is made of.
        readme: the study's README.md, which may be missing.
        said: what a figure's numbers say in this run, in Markdown, by figure and model.
        shown: the studies that have a page, which others may link to.
    """
    found = read_readme(readme)
    link = partial(_link, shown)
    return (
        _environment()
        .get_template("study.html")
        .render(
            page=page,
            title=found.title or _title(page.study),
            readme=found,
            captions=found.sections(FIGURES),
            tabled=found.sections(TABLES),
            method=found.chapters.get(METHOD),
            errata=found.chapters.get(ERRATA),
            said=said,
            texts={name: read_texts(Path(file)) for name, file in page.stimuli.items()},
            manifests=_manifests(page.models),
            html=lambda text: Markup(markdown.html(text, link)),
            inline=lambda text: Markup(markdown.inline(text, link)),
        )
    )


def render_start(page: StartPage, readmes: Mapping[str, Path]) -> str:
    """The start page.

    Args:
        page: what it is made of.
        readmes: the README.md of each study, which may be missing.
    """
    found = {name: read_readme(file) for name, file in readmes.items()}

    def inline(text: str) -> Markup:
        return Markup(markdown.inline(text, lambda target: None))

    return (
        _environment()
        .get_template("index.html")
        .render(
            page=page,
            title=lambda entry: found[entry.study].title or _title(entry.study),
            question=lambda entry: inline(found[entry.study].question),
            inline=inline,
            manifests=_manifests(page.models),
        )
    )


def _manifests(models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {name: read_manifest(Path(f"results/models/{name}/manifest.json")) for name in models}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _link(shown: list[str], target: str) -> str | None:
    """Where a link of a README leads on its page: to the web, to a part of a page, or nowhere."""
    if target.startswith(("https://", "http://", "#")):
        return target
    path, _, part = target.partition("#")
    folder, _, file = path.rpartition("/")
    study = folder.removeprefix("../")
    if file == "README.md" and study in shown:
        return f"{study}.html#{part}" if part else f"{study}.html"
    return None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "of": of,
        "size": lambda png: picture_size(Path(png)),
        "read_table": lambda csv: read_table(Path(csv)),
        "LEAST_DPI": LEAST_DPI,
    }
    environment.filters |= {
        "here": lambda path: f"../{path.removeprefix('results/')}",
        "python": _python,
        "options": _options,
        "shared": _shared,
        "plain": markdown.plain,
        "first_sentence": lambda text: markdown.plain(text.partition("\n\n")[0]).partition(". ")[0],
        "pattern": _pattern,
    }
    return environment


def _python(source: str) -> Markup:
    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip())


def _options(options: Mapping[str, Any]) -> str:
    """Options as study.yaml would have them, in a line."""
    said = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in options.items())
    return ", ".join(said)


def _shared(options: Options) -> bool:
    """Whether all models have the same options."""
    first, *others = options.values()
    return all(other == first for other in others)


def _pattern(path: str) -> Markup:
    """A path with a word in the place of a model."""
    before, place, after = path.partition("{model}")
    return Markup("{}<var>model</var>{}").format(before, after) if place else Markup.escape(path)
