"""Texts: YAML as people write it, stimulus files, token tables."""
