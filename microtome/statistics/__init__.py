"""Statistics: functions from labelled datasets to labelled datasets, one module per idea."""
