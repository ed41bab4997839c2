"""Measure rows, keep what was measured, and write docs/benchmarks.md from all that is kept."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.document import document, machine
from benchmarks.process import REPOSITORY
from benchmarks.rows import ROWS


def main() -> None:
    """Build, measure, keep, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all if none is named"
    )
    parser.add_argument("--pairs", type=int, default=3, help="runs of each way (3)")
    results = REPOSITORY / "results" / "benchmarks"
    parser.add_argument(
        "--folder", type=Path, default=results / "scratch", help="checkpoints are kept there, 10 GB"
    )
    parser.add_argument("--results", type=Path, default=results, help="measurements are kept there")
    parser.add_argument("--environments", type=Path, default=results / "environments")
    parser.add_argument("--write", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    parser.add_argument("--only-write", action="store_true", help="measure nothing")
    options = parser.parse_args()
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row is called {min(unknown)!r}; there are {', '.join(ROWS)}")
    if not options.only_write:
        folder = options.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        options.results.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.scratch"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            check=True,
        )
        for name in options.rows or ROWS:
            # Not resolved: an environment's interpreter is known by the path it is called by.
            found = ROWS[name].measure(folder, options.environments.absolute(), options.pairs)
            kept = json.dumps({"machine": machine()} | found, indent=1)
            (options.results / f"{name}.json").write_text(kept + "\n", encoding="utf-8")
    files = {name: options.results / f"{name}.json" for name in ROWS}
    measured = {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name, file in files.items()
        if file.exists()
    }
    before = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
    options.write.write_text(document(ROWS, measured, before), encoding="utf-8")


if __name__ == "__main__":
    main()
