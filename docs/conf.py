"""Sphinx's configuration: `make docs` builds the pages of docs/ and the studies' READMEs.

The source directory is the repository, so that links from page to page are the same here and on a
host of repositories.
"""

import sys
from pathlib import Path

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parent))

project = "Microtome"
root_doc = "docs/index"
include_patterns = [
    *("docs/**.md", "docs/**.ipynb", "studies/*/README.md"),
    *("CHANGELOG.md", "CONTRIBUTING.md"),
]
exclude_patterns = [".*", "benchmarks", "build", "microtome", "results", "tests"]
extensions = [
    "linked_files",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
nb_execution_mode = "off"

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_rtype = False  # of "sites: what they are", the first part is no type
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "Microtome"
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_extra_path = ["root"]
html_static_path = ["static"]
html_css_files = ["style.css"]
html_show_copyright = False
html_math_renderer = "mathml"


def _inline(translator: HTML5Translator, node: Element) -> None:
    translator.body.append(_mathml(node, "inline"))
    raise SkipNode


def _displayed(translator: HTML5Translator, node: Element) -> None:
    translator.body.append(f'<div class="math">{_mathml(node, "block")}</div>')
    raise SkipNode


def _mathml(node: Element, display: str) -> str:
    found = convert(node.astext(), display=display)
    if "\\" in found:  # a command that it does not know stays as it is
        getLogger(__name__).warning("%s: unknown in formulas", found, location=node)
    return found


def setup(app: Sphinx) -> None:
    """Set formulas in MathML, which browsers read: MathJax comes from a network."""
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))
