# Checkpoints, and where their sites lie. This rule and `fetch_text` use the network, no other.
#
# Sites are kept apart from the manifest, which is an input of all that is made from a model: where a
# job's own sites lie is its param, so that another way of finding sites makes nothing else stale.


rule fetch_model:
    input:
        unpack(reference_manifest),
    output:
        manifest="results/models/{model}/manifest.json",
        checkpoint=directory("results/models/{model}/checkpoint"),
        sites="results/models/{model}/sites.json",
    log:
        "results/logs/fetch_model/{model}.log",
    localrule: True
    params:
        # What passes through a model's modules does not depend on what runs them.
        code=code("fetch_model.py", plumbing=["microtome/models/mapped.py"]),
        model=lambda wildcards: dict(sorted(config["models"][wildcards.model].items())),
        package=package_version,
        files=folder_files,
    script:
        "../scripts/fetch_model.py"
