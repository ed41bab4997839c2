"""Pages as HTML, from what they are made of and the files of a run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pygments import highlight, token
from pygments.formatters import HtmlFormatter
from pygments.lexers.python import PythonLexer

from microtome.page import markdown
from microtome.page.files import (
    TEMPLATES,
    picture_size,
    read_manifest,
    read_table,
    read_texts,
)
from microtome.page.parts import Options, StartPage, StudyPage, of
from microtome.page.readme import ERRATA, FIGURES, METHOD, TABLES

#: CSS pixels to an inch of a picture, at which its letters can just be read.
LEAST_DPI = 54
#: What style.css has a colour for in Python's code.
_COLOURED = (
    *(token.Keyword, token.Operator.Word, token.Literal, token.Comment),
    *(token.Name.Function, token.Name.Class),
)


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
    return Markup(highlight(source, _Coloured(), HtmlFormatter(nowrap=True)).rstrip())


class _Coloured(PythonLexer):  # type: ignore[misc]  # it has no types
    """Tells only what style.css has a colour for: tags of all else would be most of a page."""

    def get_tokens(self, *code: Any) -> Iterator[tuple[Any, str]]:
        for kind, text in super().get_tokens(*code):
            yield (kind if any(kind in known for known in _COLOURED) else token.Text), text


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
