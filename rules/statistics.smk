# Statistics: one labelled dataset each, from activations, tokens, weights or other statistics. They
# take seconds, and would wait longer than that for a place in a queue. Those of a sweep are in
# streams.smk.

for product in studies.datasets("statistics"):
    if product.streamed:
        continue

    rule:
        name:
            product_rule(product)
        input:
            unpack(dataset_inputs(product)),
        output:
            product_file(product, "h5"),
        log:
            product_log(product),
        localrule: True
        resources:
            mem_mb=statistic_needs(product, "mem_mb"),
            runtime=statistic_needs(product, "runtime"),
        params:
            **model_params(product),
            function=function_name(product),
            code=product_code(product),
            sites=product.chosen_sites,
            reads=list(product.reads),
            options=options(product),
        script:
            "../scripts/statistic.py"
