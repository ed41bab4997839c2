"""Compare every product with the checksum that was recorded when it was made: microtome verify."""

import sys

from microtome.store.checksums import (
    CHECKSUMS,
    KINDS,
    RESULTS,
    fault,
    files_of,
    product_of,
    recorded_files,
)


def verify_products() -> None:
    """Print the products in `results/` that differ or are missing, and how to make them again.

    Raises:
        SystemExit: there are such products.
    """
    present = (file for kind in KINDS for file in files_of(RESULTS / kind) if file.exists())
    files = sorted({*present, *recorded_files()})
    faults = {file: found for file in files if (found := fault(file))}
    for file, found in faults.items():
        print(f"{found}; make it again: snakemake --force {product_of(file)}")
    if faults:
        sys.exit(
            f"{len(faults)} of {len(files)} files differ or are missing. Give snakemake the "
            f"--configfile they were made with. If a product is no longer wanted, delete its file "
            f"and its record in {CHECKSUMS}/"
        )
    print(f"{len(files)} products, all as they were made")
