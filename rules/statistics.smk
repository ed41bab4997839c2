# Statistics: one labelled dataset each, from activations, tokens, weights or other statistics. On a
# cluster, those that run the model are jobs; the others take seconds and would wait longer than
# that for a place in a queue.

#: The sites that the model's stored weights lie at.
MLP_SITES = ("pre", "pre_linear", "post")


def statistic_inputs(product):
    """An input function: what a statistic's function is called with."""

    def inputs(wildcards):
        found = {"statistics": statistics_read(product)}
        if product.reads_tokens:
            found["tokens"] = f"results/tokens/{wildcards.model}/{product.stimuli}.h5"
        if product.reads_checkpoint:
            found["manifest"] = f"results/models/{wildcards.model}/manifest.json"
            found["checkpoint"] = ancient(f"results/models/{wildcards.model}/checkpoint")
        if product.sites and not product.streamed:
            layers = studies.layers(product, wildcards.model)
            found["layers"] = activation_files(wildcards.model, product.stimuli, layers, False)
        if product.final_sites:
            found["final"] = activation_files(wildcards.model, product.stimuli, [], True)
        return found

    return inputs


def model_params(product):
    """Of a statistic made from a model: where its sites lie, and how it is run."""
    sweep = config["sweep"]
    sites = product.chosen_sites if product.streamed else MLP_SITES

    def taps(wildcards):
        file = product_file(product, "h5").format(model=wildcards.model)
        name = rule_name("statistic", product.study, product.name)
        return taps_param(wildcards.model, sites, name, file)(wildcards)

    if product.streamed:
        return {
            "layers": lambda wildcards: studies.layers(product, wildcards.model),
            "taps": taps,
            **{key: sweep[key] for key in ("batch_size", "threads", "device", "dtype")},
        }
    if product.runs_model:
        return {"threads": sweep["threads"]}
    return {"taps": taps} if "stored" in product.inputs else {}


for product in studies.statistics():

    rule:
        name:
            rule_name("statistic", product.study, product.name)
        input:
            unpack(statistic_inputs(product)),
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
            options=product.options,
        script:
            "../scripts/statistic.py"
