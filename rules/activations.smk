# The sweep: one job for each model and stimulus set, or several jobs of some blocks each. It writes
# one file per layer, with all sites that the studies read. Batch size, threads and device do not
# change a result, so they are not params; nor are memory and time, which follow from the model's
# shape and the texts' lengths. A job that is not the last one also writes the hidden states that
# leave its last block. They are kept, so that the next job can run again without it.

for (model, stimuli), wanted in settings.sweeps(config).items():
    parts = settings.parts(config, model, wanted)
    for part in parts:
        label = f"{stimuli}-{part.start:02d}" if len(parts) > 1 else stimuli

        rule:
            name:
                rule_name("activations", model, label)
            input:
                manifest=f"results/models/{model}/manifest.json",
                checkpoint=ancient(f"results/models/{model}/checkpoint"),
                tokens=f"results/tokens/{model}/{stimuli}.h5",
                entering=resid_files(model, stimuli, part.start),
            output:
                layers=activation_files(model, stimuli, part.layers, part.final_sites),
                leaving=resid_files(model, stimuli, part.stop),
            log:
                f"results/logs/activations/{model}/{label}.log",
            threads: config["sweep"]["threads"]
            resources:
                batch_size=config["sweep"]["batch_size"],
                device=config["sweep"]["device"],
                mem_mb=sweep_needs("mem_mb", lambda wildcards, part=part: part),
                runtime=sweep_needs("runtime", lambda wildcards, part=part: part),
                gpu=1 if config["sweep"]["device"] == "cuda" else 0,
            params:
                code=code("activations.py"),
                sites=part.sites,
                final_sites=part.final_sites,
                dtype=config["sweep"]["dtype"],
                store_dtype=config["sweep"]["store_dtype"],
            script:
                "../scripts/activations.py"
