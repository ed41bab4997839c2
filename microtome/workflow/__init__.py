"""What the workflow does beside its rules: the config, its faults, staleness, jobs."""
