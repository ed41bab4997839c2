# Figures: drawn from statistics alone, as SVG and PNG; the PNG goes into the report.

for study in config["studies"]:
    for figure in settings.readers(config, study, "figures").values():

        rule:
            name:
                rule_name("figure", study, figure.name)
            input:
                **statistics_read(figure),
            output:
                svg=product_file("figures", figure, "svg"),
                png=report(
                    product_file("figures", figure, "png"),
                    caption=caption(figure),
                    category=study,
                    subcategory="{model}" if figure.of_model else "no model",
                    labels={"figure": figure.name},
                ),
            log:
                product_file("logs/figures", figure, "log"),
            localrule: True
            params:
                script=f"figures/{study}/{figure.script}.py",
                code=code(f"figures/{study}/{figure.script}.py"),
                options=figure.options,
                style=dict(sorted(config["style"].items())),
            script:
                "../scripts/{params.script}"
