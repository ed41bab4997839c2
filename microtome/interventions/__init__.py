"""Interventions: what a model is changed at, what becomes of it, and the cases in one sweep."""
