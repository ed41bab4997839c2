"""Markdown as HTML that asks no network for anything: maths is MathML, pictures are their text."""

from collections.abc import Callable, Sequence
from functools import cache
from html import unescape
from typing import Any
from xml.etree.ElementTree import tostring

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.dollarmath import dollarmath_plugin

#: Where a link of the text leads on the page; None for nowhere, where its text is left.
Link = Callable[[str], str | None]


def html(text: str, link: Link = lambda target: target) -> str:
    """Render paragraphs, lists, tables, code and maths.

    Args:
        text: Markdown as GitHub reads it: `$…$` is maths, and so is a block of code named `math`.
        link: where each link leads.
    """
    return _parser().render(text, {"link": link})


def inline(text: str, link: Link = lambda target: target) -> str:
    """Render a text without paragraphs around it."""
    return _parser().renderInline(text, {"link": link})


def plain(text: str) -> str:
    """A text without its markup; formulas stay as they are written."""
    (found,) = _parser().parseInline(" ".join(text.split()), {})
    return "".join(
        token.content if token.type != "softbreak" else " " for token in found.children or ()
    )


def mathml(formula: str, *, display: bool) -> str:
    """A LaTeX formula as MathML, which in HTML needs no namespace and no references."""
    found = convert_to_element(formula, display="block" if display else "inline")
    del found.attrib["xmlns"]
    for part in found.iter():
        part.text = part.text and unescape(part.text)
    return tostring(found, encoding="unicode")


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.use(
        dollarmath_plugin,
        renderer=lambda formula, options: mathml(formula, display=options["display_mode"]),
        allow_digits=False,
        double_inline=True,
    )
    for name, rule in (("image", _image), ("link_open", _opened), ("link_close", _closed)):
        parser.add_render_rule(name, rule)
    parser.add_render_rule("fence", _fence)
    return parser


def _image(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    """The text of a picture: the page has those of this run."""
    return renderer.renderInlineAsText(tokens[i].children or [], options, env)


def _opened(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    target = env["link"](str(tokens[i].attrGet("href")))
    env.setdefault("open", []).append(target is not None)
    if target is None:
        return ""
    tokens[i].attrSet("href", target)
    return renderer.renderToken(tokens, i, options, env)


def _closed(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    return renderer.renderToken(tokens, i, options, env) if env["open"].pop() else ""


def _fence(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    if tokens[i].info.strip() == "math":
        return f'<div class="math">{mathml(tokens[i].content, display=True)}</div>\n'
    return RendererHTML.fence(renderer, tokens, i, options, env)
