# What the sweeps, interventions and large statistics will cost, said before anything runs: snakemake plan. It
# makes no product, so that it may be asked for while a run is at work.


rule plan:
    log:
        "results/logs/plan.log",
    localrule: True
    params:
        models=config["models"],
        sweeps=lambda wildcards: planned_sweeps(),
        datasets=lambda wildcards: planned_datasets(),
        settings=sweep_settings(),
        sequences=SEQUENCES,
        plan=config.get("plan"),
    script:
        "../scripts/plan.py"
