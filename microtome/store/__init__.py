"""Files on disk: written whole, with checksums, as labelled datasets and layer files."""

#: The version of the files that plumbing writes (`microtome.workflow.digest.PLUMBING`). The code of
#: plumbing is no part of a product's digest; this number is. Raise it by one when the same results
#: are written differently, and every product is made again.
FORMAT = 1
