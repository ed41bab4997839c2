# The sweep: one job for each model and stimulus set, or several jobs of some blocks each. It writes
# one file per layer, with all sites that the studies read. A job that is not the last one also
# writes the hidden states that leave its last block. They are kept, so that the next job can run
# again without it.
#
# Batch size, threads and device decide the order of sums, and so the last digits: they are params.
# Threads are those of the config, even where a job is granted fewer cores. Memory and time are no
# params: they follow from the model's shape and the texts' lengths.
#
# With `sequences_per_job`, each shard of the texts has such jobs of its own, and a last job writes
# the files that read as all of them. It goes by the shards' checksums: if their activations were
# its inputs, Snakemake would read them all.

for (model, stimuli), wanted in SWEEPS.items():
    parts = studies.parts(model, wanted)
    for part in parts:
        label = f"{stimuli}-{part.start:02d}" if len(parts) > 1 else stimuli
        layer_files = activation_files(model, stimuli, part.layers, part.final_sites, SHARD)
        resid_out = resid_files(model, stimuli, part.stop, SHARD)

        rule:
            name:
                rule_name("activations", model, label)
            input:
                manifest=f"results/models/{model}/manifest.json",
                checkpoint=ancient(f"results/models/{model}/checkpoint"),
                tokens=in_shard(f"results/tokens/{model}/{stimuli}", SHARD) + ".h5",
                resid_in=resid_files(model, stimuli, part.start, SHARD),
            output:
                layers=layer_files,
                resid_out=resid_out,
                sums=[sums_file(model, stimuli, part.start, SHARD)] if SHARD else [],
            log:
                in_shard(f"results/logs/activations/{model}/{label}", SHARD) + ".log",
            threads: config["sweep"]["threads"]
            resources:
                mem_mb=sweep_needs("mem_mb", lambda wildcards, part=part: part),
                runtime=sweep_needs("runtime", lambda wildcards, part=part: part),
                gpu=1 if config["sweep"]["device"] == "cuda" else 0,
            params:
                code=code("activations.py"),
                sites=part.sites,
                taps=taps_param(
                    model,
                    part.sites,
                    rule_name("activations", model, label),
                    [*layer_files, *resid_out][0],
                ),
                final_sites=part.final_sites,
                batch_tokens=config["sweep"]["batch_tokens"],
                threads=config["sweep"]["threads"],
                device=config["sweep"]["device"],
                dtype=config["sweep"]["dtype"],
                store=dict(sorted(config["store"].items())),
            script:
                "../scripts/activations.py"

    if SHARD:

        rule:
            name:
                rule_name("join", model, stimuli)
            input:
                lambda wildcards, model=model, stimuli=stimuli: sums(model, stimuli),
            output:
                activation_files(model, stimuli, wanted.layers, wanted.final_sites),
            log:
                f"results/logs/join/{model}/{stimuli}.log",
            localrule: True
            params:
                code=code("join.py"),
            script:
                "../scripts/join.py"
