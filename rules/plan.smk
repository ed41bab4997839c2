# The cost of the sweeps, before anything runs: snakemake plan.


rule plan:
    log:
        "results/logs/plan.log",
    localrule: True
    params:
        models=config["models"],
        sweeps=lambda wildcards: planned_sweeps(),
        settings=sweep_settings(),
    script:
        "../scripts/plan.py"
