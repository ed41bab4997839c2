# The sweep: for each model and stimulus set one job, or one for every so many blocks, and one file
# per layer, whatever the studies ask of them together. Between two jobs lies what leaves the blocks
# of the first; it is kept, so that the second can be made again without it.
#
# Batch size, threads and device decide the order of sums, and so the last digits: they are params.
# Threads are those of the config, even where a job is granted fewer cores. Memory and time are no
# params: they follow from the model's shape and the texts' lengths.


def taps(model, sites):
    """A param: where the sites lie in the model's blocks; <TBD> until the model is fetched.

    It takes wildcards alone, since Snakemake records no param that is made from input files.
    """
    return lambda wildcards: plain_taps(f"results/models/{model}/manifest.json", sites)


def forget_planned_params():
    """Have Snakemake record the params of a job as they are when it runs.

    It keeps those that it compared while it planned, when the model may not have been fetched.
    Without this, a sweep whose model was fetched in the same run would be made again in the next.
    """
    planned = getattr(type(workflow.persistence), "_params", None)
    if hasattr(planned, "cache_clear"):
        planned.cache_clear()


for (model, stimuli), wanted in SWEEPS.items():
    parts = studies.parts(model, wanted)
    for part in parts:
        label = f"{stimuli}-{part.start:02d}" if len(parts) > 1 else stimuli

        rule:
            name:
                rule_name("activations", model, label)
            input:
                manifest=f"results/models/{model}/manifest.json",
                checkpoint=ancient(f"results/models/{model}/checkpoint"),
                tokens=f"results/tokens/{model}/{stimuli}.h5",
                resid_in=resid_files(model, stimuli, part.start),
            output:
                layers=activation_files(model, stimuli, part.layers, part.final_sites),
                resid_out=resid_files(model, stimuli, part.stop),
            log:
                f"results/logs/activations/{model}/{label}.log",
            threads: config["sweep"]["threads"]
            resources:
                mem_mb=sweep_needs("mem_mb", lambda wildcards, part=part: part),
                runtime=sweep_needs("runtime", lambda wildcards, part=part: part),
                gpu=1 if config["sweep"]["device"] == "cuda" else 0,
            params:
                code=code("activations.py"),
                sites=part.sites,
                taps=taps(model, part.sites),
                final_sites=part.final_sites,
                batch_size=config["sweep"]["batch_size"],
                threads=config["sweep"]["threads"],
                device=config["sweep"]["device"],
                dtype=config["sweep"]["dtype"],
                store_dtype=config["sweep"]["store_dtype"],
            script:
                "../scripts/activations.py"
