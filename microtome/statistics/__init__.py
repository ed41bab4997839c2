"""Statistics: functions from labelled datasets to labelled datasets, a module per method."""
