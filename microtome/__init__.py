"""Thin sections through language models.

The library behind the workflow: checkpoints, token tables, the sweep, the store, statistics
and figures. It knows nothing of Snakemake, and imports torch only where a model runs.
"""
