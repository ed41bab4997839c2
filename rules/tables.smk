# Tables: made from statistics alone, as CSV and as the text that a notebook would print.

for product in studies.products("tables"):

    rule:
        name:
            product_rule(product)
        input:
            datasets_read(product),
        output:
            csv=product_file(product, "csv"),
            txt=product_file(product, "txt"),
        log:
            product_log(product),
        localrule: True
        params:
            function=function_name(product),
            code=product_code(product),
            options=options(product),
        script:
            "../scripts/table.py"
