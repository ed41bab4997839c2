# Checkpoints. This is the only rule that uses the network.


rule fetch_model:
    input:
        unpack(reference_manifest),
    output:
        manifest="results/models/{model}/manifest.json",
        checkpoint=directory("results/models/{model}/checkpoint"),
    log:
        "results/logs/fetch_model/{model}.log",
    localrule: True
    params:
        code=code("fetch_model.py"),
        model=lambda wildcards: dict(sorted(config["models"][wildcards.model].items())),
        package=package_version,
        files=folder_files,
    script:
        "../scripts/fetch_model.py"
