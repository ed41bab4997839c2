"""Texts: YAML files, stimulus files, token tables, and what studies require of them."""
