"""Compare every product with the checksum that was recorded when it was made.

python -m microtome.workflow.verify
"""

import sys

from microtome.store.checksums import (
    CHECKSUMS,
    KINDS,
    RESULTS,
    fault,
    files_of,
    product_of,
    recorded,
)


def main() -> None:
    """Name the products in `results/` that changed or are missing, each with what remakes it."""
    present = (file for kind in KINDS for file in files_of(RESULTS / kind) if file.exists())
    files = sorted({*present, *recorded()})
    faults = {file: found for file in files if (found := fault(file))}
    for file, found in faults.items():
        print(f"{found}; make it again: snakemake --force {product_of(file)}")
    if faults:
        sys.exit(
            f"{len(faults)} of {len(files)} products differ or are missing. Add the --configfile "
            f"they were made with; of one that is not wanted any more, delete the file and its "
            f"record in {CHECKSUMS}/"
        )
    print(f"{len(files)} products, all as they were made")


if __name__ == "__main__":
    main()
