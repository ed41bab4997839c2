"""What is in a product's file, what it was made from, and whether it is still as it was made."""

import csv
import json
import re
from base64 import urlsafe_b64encode
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError
from microtome.page.files import picture_size
from microtome.show.lines import columns, count, size, some
from microtome.store.checksums import RESULTS, fault, shards_of, untouched

#: Kinds of products that have a folder of their own for each study.
_OF_STUDIES = ("interventions", "statistics", "figures", "tables")
#: Files of a model and of a sweep that stand for all of them: where they lie, and what is told.
_SEVERAL = r"results/models/[^/]+|results/activations/[^/]+/[^/]+"


def product_lines(path: Path) -> list[str]:
    """Tell what is in a product's file.

    Raises:
        MicrotomeError: it is no product's, or damaged.
    """
    name, n_bytes = _name(path), path.stat().st_size
    if path.suffix == ".h5":
        from microtome.show.hdf5 import store_lines
        from microtome.store.virtual import bytes_of

        name, lines = store_lines(path, name)
        n_bytes = bytes_of(path)
    elif path.suffix in _FOR_PEOPLE:
        lines = _FOR_PEOPLE[path.suffix](path)
    else:
        raise MicrotomeError(
            f"{path}: no product of Microtome; show takes activations, token tables, statistics, "
            "interventions, figures, tables, their folders, and models"
        )
    return [f"{path}: {name}, {size(n_bytes)}", *lines, *_record(path)]


def place(path: Path) -> tuple[Path, Path] | None:
    """The folder of the run that a product is from, and its path there; None if from none."""
    whole = path.absolute()
    for parent in (whole, *whole.parents):
        if parent.name == RESULTS.name:
            return parent.parent, whole.relative_to(parent.parent)
    return None


def _name(path: Path) -> str:
    """What a product of a study is, by its path; what any other one may be, by its suffix."""
    found = place(path)
    parts = found[1].parts[1:] if found else ()
    if len(parts) < 3 or parts[0] not in _OF_STUDIES:
        return {".h5": "dataset", ".csv": "table", ".txt": "table"}.get(path.suffix, "figure")
    kind, study, *model = parts[:-1]
    of = f", of {model[0]}" if model else ""
    if len(model) > 1:
        return f"what the statistic {model[1]} of the study {study}{of}, keeps of shard {path.stem}"
    return f"{kind.removesuffix('s')} {path.stem} of the study {study}{of}"


def _csv(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        heading, *rows = csv.reader(file)
    return [f"  {count(len(rows), 'row')} of {some(heading, 12)}"]


def _txt(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"  {line}" for line in lines[:5]] + ["  …"] * (len(lines) > 5)


def _png(path: Path) -> list[str]:
    width, height = picture_size(path)
    return [f"  {width} × {height} pixels"]


def _svg(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"', text)
    return [f"  {found[1]} × {found[2]} points"] if found else []


_FOR_PEOPLE = {".csv": _csv, ".txt": _txt, ".png": _png, ".svg": _svg}


def _record(path: Path) -> list[str]:
    """What a product was made from, and whether it is still as it was made."""
    found = place(path)
    if found is None:
        return []
    run, file = found
    with chdir(run):
        noted, wrong = _noted(file), None
        for part in (file, *shards_of(file)):
            wrong = wrong or (None if untouched(part) else fault(part))
    inputs = dict.fromkeys(
        re.sub(f"^({_SEVERAL})/.*", r"\1", name) for name in noted.get("input", ())
    )
    params, function = " ".join(noted.get("params", ())), r"'(studies/\w+/\w+\.py):(\w+)'"
    # A sweep's streamed statistics have params in common.
    named = ".".join([*file.parts[2:3], *file.with_suffix("").parts[4:5]])
    own = re.findall(f"'product': '{named}', 'function': {function}", params)
    functions = own or re.findall(function, params)
    rows = [["from", name] for name in inputs]
    rows += [["by", f"{function} in {source}"] for source, function in functions]
    return [*columns(rows), f"  {wrong.removeprefix(f'{file}: ') if wrong else 'as it was made'}"]


def _noted(file: Path) -> dict[str, Any]:
    """What Snakemake has noted of a product, below the folder of its run."""
    encoded = urlsafe_b64encode(file.as_posix().encode()).decode()
    *folders, last = (encoded[i : i + 254] for i in range(0, len(encoded), 254))
    note = Path(".snakemake/metadata", *(f"@{folder}" for folder in folders), last)
    with suppress(OSError, ValueError):
        return json.loads(note.read_text(encoding="utf-8"))
    return {}
