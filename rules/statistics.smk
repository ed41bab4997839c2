# Statistics: one labelled dataset each, from activations, tokens or other statistics.

for study in config["studies"]:
    for product in settings.statistics(config, study).values():

        rule:
            name:
                f"statistic_{study}_{product.name}"
            input:
                unpack(statistic_inputs(product)),
            output:
                product_file("statistics", product, "h5"),
            log:
                product_file("logs/statistics", product, "log"),
            params:
                script=f"statistics/{study}/{product.script}.py",
                code=code(f"statistics/{study}/{product.script}.py"),
                sites=list(product.sites),
                options=product.options,
            script:
                "../scripts/{params.script}"
