"""Every product compared with the checksum that was noted when it was made.

python -m microtome.workflow.verify
"""

import sys

from microtome.store.checksums import KINDS, RESULTS, fault, files_of


def main() -> None:
    """Compare every product in `results/` with its checksum and name those that differ."""
    files = [file for kind in KINDS for file in files_of(RESULTS / kind) if file.exists()]
    faults = [found for file in files if (found := fault(file))]
    for found in faults:
        print(found)
    if faults:
        sys.exit(f"{len(faults)} of {len(files)} products differ: delete them and run again")
    print(f"{len(files)} products, all as they were made")


if __name__ == "__main__":
    main()
