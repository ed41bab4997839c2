# Interventions: one labelled dataset each, of all cases in one sweep. Batch size, threads and device
# decide the last digits, as of activations.

for product in studies.datasets("interventions"):

    rule:
        name:
            product_rule(product)
        input:
            unpack(dataset_inputs(product)),
        output:
            product_file(product, "h5"),
        log:
            product_log(product),
        threads: config["sweep"]["threads"]
        resources:
            mem_mb=intervention_needs(product, "mem_mb"),
            runtime=intervention_needs(product, "runtime"),
            gpu=1 if config["sweep"]["device"] == "cuda" else 0,
        params:
            **model_params(product),
            # All that it declares, in one order, with what is left out.
            declared=declaration(product),
            key=".".join(product.path),
            function=function_name(product),
            code=code("intervention.py"),
            change=code_digest([product.code], ROOT) if product.code else None,
            reads=list(product.reads),
        script:
            "../scripts/intervention.py"
