# Checkpoints. The only rule that may use the network; every later job works offline.


def model_origin(wildcards):
    """What a model is made from on this machine: a folder's weights, or another model."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return {"reference": f"results/models/{source.model}/manifest.json"}
    if isinstance(source, Folder):
        files = [source.path / "config.json", *sorted(source.path.glob("*.safetensors"))]
        return {"files": [str(file) for file in files if file.exists()]}
    return {}


rule fetch_model:
    localrule: True
    input:
        unpack(model_origin),
    output:
        manifest="results/models/{model}/manifest.json",
        checkpoint=directory("results/models/{model}/checkpoint"),
    log:
        "results/logs/fetch_model/{model}.log",
    params:
        code=code("fetch_model.py"),
        model=lambda wildcards: dict(sorted(config["models"][wildcards.model].items())),
    script:
        "../scripts/fetch_model.py"
