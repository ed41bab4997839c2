"""Five plain scripts, one per notebook, as a reader would write them without Microtome.

Each loads the model, hooks it, computes what the notebook computes and draws what it draws; they
keep nothing but the figures.
"""
