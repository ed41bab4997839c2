# Statistics: one labelled dataset each, from activations, tokens or other statistics. On a
# cluster, those that run the model are jobs; the others take seconds and would wait longer than
# that for a place in a queue.

for study in config["studies"]:
    for product in settings.statistics(config, study).values():

        rule:
            name:
                rule_name("statistic", study, product.name)
            input:
                unpack(statistic_inputs(product)),
            output:
                product_file("statistics", product, "h5"),
            log:
                product_file("logs/statistics", product, "log"),
            localrule: not runs_model(product)
            threads: config["sweep"]["threads"] if runs_model(product) else 1
            resources:
                mem_mb=statistic_needs(product, "mem_mb"),
                runtime=statistic_needs(product, "runtime"),
                gpu=1 if product.swept and config["sweep"]["device"] == "cuda" else 0,
                batch_size=config["sweep"]["batch_size"],
                device=config["sweep"]["device"],
            params:
                **swept_params(product),
                script=f"statistics/{study}/{product.script}.py",
                code=code(f"statistics/{study}/{product.script}.py"),
                sites=list(product.sites),
                options=product.options,
            script:
                "../scripts/{params.script}"
