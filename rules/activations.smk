# The sweep: one job per model and stimulus set, one file per layer, whatever the studies ask of
# them together. Batch size, threads and device do not change a result, so they are no params; nor
# are memory and time, which follow from the model's shape and the texts' lengths.

for (model, stimuli), wanted in settings.sweeps(config).items():

    rule:
        name:
            f"activations_{model}_{stimuli}"
        input:
            manifest=f"results/models/{model}/manifest.json",
            checkpoint=ancient(f"results/models/{model}/checkpoint"),
            tokens=f"results/tokens/{model}/{stimuli}.h5",
        output:
            activation_files(model, stimuli, wanted.layers, wanted.final_sites),
        log:
            f"results/logs/activations/{model}/{stimuli}.log",
        threads: config["sweep"]["threads"]
        resources:
            batch_size=config["sweep"]["batch_size"],
            device=config["sweep"]["device"],
            mem_mb=sweep_needs("mem_mb", lambda wildcards, wanted=wanted: wanted),
            runtime=sweep_needs("runtime", lambda wildcards, wanted=wanted: wanted),
            gpu=1 if config["sweep"]["device"] == "cuda" else 0,
        params:
            code=code("activations.py"),
            sites=wanted.sites,
            final_sites=wanted.final_sites,
            dtype=config["sweep"]["dtype"],
            store_dtype=config["sweep"]["store_dtype"],
        script:
            "../scripts/activations.py"
