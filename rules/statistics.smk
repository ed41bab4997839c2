# Statistics: one labelled dataset each, from activations, tokens or other statistics.


def statistic_inputs(product):
    """An input function: token table, layer files and statistics that a product reads."""

    def inputs(wildcards):
        found = statistics_read(product)
        stimuli = config["studies"][product.study]["stimuli"]
        if product.tokens:
            found["tokens"] = f"results/tokens/{wildcards.model}/{stimuli}.h5"
        if product.sites:
            layers = settings.product_layers(config, product, wildcards.model)
            found["layers"] = [layer_file(wildcards.model, stimuli, layer) for layer in layers]
        return found

    return inputs


for study in config["studies"]:
    for product in settings.statistics(config, study).values():

        rule:
            name:
                f"statistic_{study}_{product.name}"
            input:
                unpack(statistic_inputs(product)),
            output:
                f"{folder('statistics', product)}/{product.name}.h5",
            log:
                f"{folder('logs/statistics', product)}/{product.name}.log",
            params:
                script=f"statistics/{study}/{product.script}.py",
                code=code(f"statistics/{study}/{product.script}.py"),
                sites=list(product.sites),
                options=product.options,
            script:
                "../scripts/{params.script}"
