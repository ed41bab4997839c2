# Checkpoints, and where their sites lie. Only the first rule uses the network.


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


# Apart from the manifest: a new way of finding sites fetches no model again, and makes no sweep
# stale. The taps of the sites that a job reads are its param.
rule find_sites:
    input:
        manifest="results/models/{model}/manifest.json",
        checkpoint=ancient("results/models/{model}/checkpoint"),
    output:
        "results/models/{model}/sites.json",
    log:
        "results/logs/find_sites/{model}.log",
    localrule: True
    params:
        code=code("find_sites.py"),
    script:
        "../scripts/find_sites.py"
