"""Pages as HTML, from what they are made of and the files of a run."""

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pygments import token
from pygments.lexers.python import PythonLexer

from microtome.page import markdown
from microtome.page.files import (
    TEMPLATES,
    picture_size,
    read_manifest,
    read_table,
    read_texts,
)
from microtome.page.parts import Options, StartPage, StudyPage, of, of_all
from microtome.page.readme import ERRATA, FIGURES, METHOD, TABLES

#: CSS pixels to an inch of a picture, at which its letters can just be read.
LEAST_DPI = 54
#: The elements of Python's code that style.css has a colour for; more would be most of a page.
_ELEMENTS = {
    token.Keyword: "b",
    token.Operator.Word: "b",
    token.Name.Function: "dfn",
    token.String: "q",
    token.Comment: "i",
}


def render_study(page: StudyPage, said: Mapping[tuple[str, str | None], str], command: str) -> str:
    """A study's page.

    Args:
        page: what it is made of.
        said: what a figure's numbers say in this run, in Markdown, by figure and model.
        command: what makes a product again, before the product's name.
    """
    link = partial(_link, page.linked)
    return _render(
        "study.html",
        page=page,
        captions=page.readme.sections(FIGURES),
        tabled=page.readme.sections(TABLES),
        method=page.readme.chapters.get(METHOD),
        errata=page.readme.chapters.get(ERRATA),
        said=said,
        command=command,
        texts={name: read_texts(Path(file)) for name, file in page.stimuli.items()},
        html=lambda text: Markup(markdown.html(text, link)),
        inline=lambda text: Markup(markdown.inline(text, link)),
    )


def render_start(page: StartPage) -> str:
    """The start page, from what it is made of."""

    def inline(text: str) -> Markup:
        return Markup(markdown.inline(text, lambda target: None))

    return _render("index.html", page=page, inline=inline)


def _render(template: str, page: StudyPage | StartPage, **given: Any) -> str:
    found = _environment().get_template(template)
    return found.render(page=page, manifests=_manifests(page.models), **given)


def _manifests(models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {name: read_manifest(Path(f"results/models/{name}/manifest.json")) for name in models}


def _link(studies: Sequence[str], target: str) -> str | None:
    """Where a link of a README leads on its page: to the web, to a part of a page, or nowhere."""
    if target.startswith(("https://", "http://", "#")):
        return target
    path, _, part = target.partition("#")
    folder, _, file = path.rpartition("/")
    study = folder.removeprefix("../")
    if file == "README.md" and study in studies:
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
        "of_all": of_all,
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
        "pattern": _pattern,
    }
    return environment


def _python(source: str) -> Markup:
    parts = []
    tokens = ((_element(kind), text) for kind, text in PythonLexer().get_tokens(source))
    for element, found in groupby(tokens, itemgetter(0)):
        text = html.escape("".join(text for _, text in found), quote=False)
        parts.append(f"<{element}>{text}</{element}>" if element else text)
    return Markup("".join(parts).rstrip())


def _element(kind: Any) -> str | None:
    return next((element for known, element in _ELEMENTS.items() if kind in known), None)


def _options(options: Mapping[str, Any]) -> Markup:
    """Options as study.yaml would have them, in a line."""
    said = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in options.items())
    return Markup(html.escape(", ".join(said), quote=False))


def _shared(options: Options) -> bool:
    """Whether all models have the same options."""
    first, *others = options.values()
    return all(other == first for other in others)


def _pattern(path: str) -> Markup:
    """A path with a word in the place of a model."""
    before, place, after = path.partition("{model}")
    return Markup("{}<var>model</var>{}").format(before, after) if place else Markup.escape(path)
