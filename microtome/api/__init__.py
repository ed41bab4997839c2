"""Microtome from Python, without a workflow: a model, its activations, interventions, products.

See docs/python.md. The package hands these functions on: `import microtome as mt`, `mt.sweep(…)`.
"""

from microtome.api.activations import lens, open, sweep
from microtome.api.interventions import intervene
from microtome.api.language_model import Model, model

__all__ = ["Model", "intervene", "lens", "model", "open", "sweep"]
