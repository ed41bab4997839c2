"""Figures: one style for all, and the panels that several of them share."""
