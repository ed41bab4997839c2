# Statistics: one labelled dataset each, from activations, tokens, weights or other statistics. On a
# cluster, those that sweep are jobs; the others take seconds and would wait longer than that for a
# place in a queue.

for product in studies.datasets("statistics"):

    rule:
        name:
            product_rule(product)
        input:
            unpack(dataset_inputs(product)),
        output:
            product_file(product, "h5"),
        log:
            product_log(product),
        localrule: not product.runs_model
        threads: config["sweep"]["threads"] if product.runs_model else 1
        resources:
            mem_mb=statistic_needs(product, "mem_mb"),
            runtime=statistic_needs(product, "runtime"),
            gpu=1 if product.streamed and config["sweep"]["device"] == "cuda" else 0,
        params:
            **model_params(product),
            function=function_name(product),
            code=product_code(product),
            sites=product.chosen_sites,
            reads=list(product.reads),
            options=options(product),
        script:
            "../scripts/statistic.py"
