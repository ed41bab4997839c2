# Figures: drawn from statistics alone, as SVG and PNG; the PNG goes into the report.


def caption(figure):
    """A figure's caption; figures that share a script share it, and one may have none."""
    path = ROOT / "report" / figure.study / f"{figure.script}.rst"
    return str(path) if path.exists() else None


for study in config["studies"]:
    for figure in settings.figures(config, study).values():

        rule:
            name:
                f"figure_{study}_{figure.name}"
            input:
                **statistics_read(figure),
            output:
                svg=f"{folder('figures', figure)}/{figure.name}.svg",
                png=report(
                    f"{folder('figures', figure)}/{figure.name}.png",
                    caption=caption(figure),
                    category=study,
                    subcategory="{model}" if figure.of_model else "no model",
                    labels={"figure": figure.name},
                ),
            log:
                f"{folder('logs/figures', figure)}/{figure.name}.log",
            params:
                script=f"figures/{study}/{figure.script}.py",
                code=code(f"figures/{study}/{figure.script}.py"),
                options=figure.options,
                style=dict(sorted(config["style"].items())),
            script:
                "../scripts/{params.script}"
