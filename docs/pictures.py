"""The pictures of the gallery, drawn by its own lines, and the notebooks with what they print.

After `make figures .venv/documented`, in the repository: .venv/bin/python docs/pictures.py
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from microtome.figures.style import style

DOCS = Path(__file__).parent


def gallery() -> Iterator[tuple[str, Figure]]:
    """Run the gallery's lines.

    Yields:
        A picture's name and the figure that the lines below it have drawn.
    """
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    first, *sections = re.split(r"^## ", text, flags=re.M)
    names: dict[str, object] = {}
    exec(_code(first), names)
    for section in sections:
        [picture] = re.findall(r"\(images/(\w+)\.png\)", section)
        with style("light"):
            lines = ast.parse(_code(section)).body
            exec(compile(ast.Module(lines[:-1], []), picture, "exec"), names)
            yield picture, eval(ast.unparse(lines[-1]), names)


def _code(section: str) -> str:
    [code] = re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)
    return code


def run(notebook: Path) -> None:
    """Run a notebook in a Jupyter kernel, and keep what its cells show but for progress."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    folder = {"metadata": {"path": str(notebook.parent)}}
    NotebookClient(content, kernel_name="python3", resources=folder, record_timing=False).execute()
    for cell in content.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [shown for shown in cell.outputs if shown.get("name") != "stderr"]
    content.metadata.language_info = {"name": "python"}
    nbformat.write(content, notebook)


if __name__ == "__main__":
    for picture, figure in gallery():
        figure.savefig(DOCS / "images" / f"{picture}.png", dpi=100)
    for notebook in sorted(DOCS.glob("notebooks/*.ipynb")):
        run(notebook)
