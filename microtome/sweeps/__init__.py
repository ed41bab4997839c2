"""The sweep: texts through a model block by block, interventions on the way, and what it costs."""
