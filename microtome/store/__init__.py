"""Files on disk: written whole, with checksums, as labelled datasets and layer files."""
