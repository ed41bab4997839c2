# Streamed statistics: made in a sweep, of which no activations are stored. All those of one model and
# stimulus set share one sweep, each with its own sites and layers. Where one is edited the sweep
# runs again; the others come out with the same bytes, so that nothing behind them is stale.
#
# With `sequences_per_job`, each shard has such a sweep of its own, which writes what the statistics
# keep of it. A last job for each statistic merges these in order.

for (model, stimuli, turn), products in studies.streams().items():
    label = f"{stimuli}-{turn}" if turn else stimuli
    wanted = studies.stream(products, model)
    files = [streamed_file(product, model, SHARD) for product in products]

    rule:
        name:
            rule_name("streams", model, label)
        input:
            manifest=f"results/models/{model}/manifest.json",
            checkpoint=ancient(f"results/models/{model}/checkpoint"),
            tokens=in_shard(f"results/tokens/{model}/{stimuli}", SHARD) + ".h5",
            datasets=[
                file for product in products for file in streamed_reads(product, model).values()
            ],
        output:
            files,
        log:
            in_shard(f"results/logs/streams/{model}/{label}", SHARD) + ".log",
        threads: config["sweep"]["threads"]
        resources:
            mem_mb=streams_need("mem_mb", model, products, wanted),
            runtime=streams_need("runtime", model, products, wanted),
            gpu=1 if config["sweep"]["device"] == "cuda" else 0,
        params:
            code=code("streams.py"),
            products=[streamed_param(product, model) for product in products],
            sites=wanted.sites,
            layers=wanted.layers,
            lens=any("lens" in product.inputs for product in products),
            states=bool(SHARD),
            taps=taps_param(model, wanted.sites, rule_name("streams", model, label), files[0]),
            batch_tokens=config["sweep"]["batch_tokens"],
            threads=config["sweep"]["threads"],
            device=config["sweep"]["device"],
            dtype=config["sweep"]["dtype"],
        script:
            "../scripts/streams.py"

    for product in products if SHARD else []:

        rule:
            name:
                rule_name("merge", model, product.study, product.name)
            input:
                unpack(merge_inputs(product, model)),
                # By itself: as long as it is not known, the others are.
                states=states(product, model),
            output:
                streamed_file(product, model),
            log:
                f"results/logs/merge/{product.study}/{model}/{product.name}.log",
            localrule: True
            resources:
                mem_mb=merge_needs("mem_mb", product, model),
                runtime=merge_needs("runtime", product, model),
            params:
                code=code("merge.py"),
                product=streamed_param(product, model),
            script:
                "../scripts/merge.py"
