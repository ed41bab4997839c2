"""The library's packages: imports go down only, and torch is imported where a model runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: The ground floor first; modules of the ground floor stand directly in the library.
FLOORS = (
    "",
    "store",
    "models",
    "texts",
    "sweeps",
    "interventions",
    "statistics",
    "figures",
    "page",
    "workflow",
    "api",
    "show",
    "cli",
)
MODULES = sorted((ROOT / "microtome").rglob("*.py"))


def floor(module: str) -> int:
    """The floor of a module by its dotted name below the library, which hands on the top floor."""
    if module == "__init__":
        return FLOORS.index("api")
    first, _, rest = module.partition(".")
    return FLOORS.index(first) if first in FLOORS and (rest or first in FLOORS[1:]) else 0


def imported(file: Path) -> set[str]:
    """Dotted names that a module imports anywhere, for types or to run."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {f"{module}.{alias.name}" for alias in names}
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down(file):
    here = ".".join(file.relative_to(ROOT / "microtome").with_suffix("").parts)
    below = {
        name.removeprefix("microtome.") for name in imported(file) if name.startswith("microtome.")
    }
    assert not {name for name in below if floor(name) > floor(here)}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_library_does_without_snakemake(file):
    named = {name for name in imported(file) if name.partition(".")[0] == "snakemake"}
    assert named == ({"snakemake.cli"} if file == ROOT / "microtome/workflow/run.py" else set())


@pytest.mark.parametrize(
    "module", ["api", "models.fetch", "sweeps.cost", "workflow.faults", "workflow.inputs"]
)
def test_torch_is_imported_when_a_model_is_at_work(module):
    code = f"import sys; import microtome.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["statistics", "figures", "tables", "captions"])
def test_a_study_is_imported_without_torch(kind):
    names = [f"studies.{f.parent.name}.{kind}" for f in (ROOT / "studies").glob(f"*/{kind}.py")]
    seen = "print(*{'torch', 'transformers'} & set(sys.modules))"
    code = f"import sys; import {', '.join(names)}; {seen}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
