# Tables: made from statistics alone, as CSV and as the text that a notebook would print.

for study in config["studies"]:
    for table in settings.readers(config, study, "tables").values():

        rule:
            name:
                rule_name("table", study, table.name)
            input:
                **statistics_read(table),
            output:
                csv=product_file("tables", table, "csv"),
                txt=product_file("tables", table, "txt"),
            log:
                product_file("logs/tables", table, "log"),
            localrule: True
            params:
                script=f"tables/{study}/{table.script}.py",
                code=code(f"tables/{study}/{table.script}.py"),
                options=table.options,
            script:
                "../scripts/{params.script}"
