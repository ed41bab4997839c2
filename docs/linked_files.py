"""A Sphinx extension: files of the repository that pages link to become pages themselves.

Sphinx would offer each as a download.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import find_lexer_class_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to files lead to their pages."""
    root = Path(app.srcdir).resolve()
    for node in list(doctree.findall(addnodes.download_reference)):
        file = (Path(doctree["source"]).parent / node["reftarget"]).resolve()
        name = file.relative_to(root).as_posix()
        uri = app.builder.get_relative_uri(app.env.docname, f"files/{name}")
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri, file=name))


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page of each file that is linked to."""
    doctrees = map(app.env.get_doctree, sorted(app.env.found_docs))
    links = (node for doctree in doctrees for node in doctree.findall(nodes.reference))
    for name in sorted({node["file"] for node in links if "file" in node}):
        code = (Path(app.srcdir) / name).read_text(encoding="utf-8")
        known = find_lexer_class_for_filename(name)
        lexer = "python" if name.endswith(".smk") else known.aliases[0] if known else "text"
        body = app.builder.highlighter.highlight_block(code, lexer, linenos=False)
        yield f"files/{name}", {"title": name, "body": f"<h1>{name}</h1>{body}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both; links before Sphinx collects downloads."""
    app.connect("doctree-read", link, priority=400)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
