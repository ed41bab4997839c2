"""Models: from a source to a checkpoint folder, and on to modules that run block by block."""
