# Figures: drawn from statistics alone, as SVG and PNG; the PNG goes into the report.

for product in studies.products("figures"):

    rule:
        name:
            product_rule(product)
        input:
            datasets_read(product),
        output:
            svg=product_file(product, "svg"),
            png=report(
                product_file(product, "png"),
                caption="../report/figure.rst",
                category=product.study,
                subcategory="{model}" if product.of_model else "no model",
                labels={"figure": product.name},
            ),
        log:
            product_log(product),
        localrule: True
        params:
            function=function_name(product),
            code=product_code(product),
            options=options(product),
            style=dict(sorted(config["style"].items())),
            caption=f"{product.study}.{product.name}",
        script:
            "../scripts/figure.py"
