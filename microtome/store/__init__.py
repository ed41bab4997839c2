"""Files on disk: written whole, with checksums, as labelled datasets and layer files."""

#: The version of what the plumbing writes (`microtome.workflow.digest.PLUMBING`), whose code is no
#: part of a product's digest. Raise it by one where files come to hold something else for the same
#: results: every product is then made again.
FORMAT = 1
