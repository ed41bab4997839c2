# Checkpoints. This is the only rule that uses the network.


def reference_manifest(wildcards):
    """The manifest of the model that an untrained one copies its shape from, if it is one."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    untrained = isinstance(source, Untrained)
    return {"reference": f"results/models/{source.model}/manifest.json"} if untrained else {}


def folder_files(wildcards):
    """Size and time of the files of a folder that a model is made from, if it is made from one.

    As inputs they would be compared by content too, but Snakemake would read all weights twice.
    """
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    if not isinstance(source, Folder):
        return None
    made = Path(f"results/models/{wildcards.model}/checkpoint")
    kinds = {".json", ".safetensors", ".txt", ".model", ".jinja"}
    files = sorted(file for file in source.path.iterdir() if file.suffix in kinds)
    return {file.name: size_and_time(file, made / file.name) for file in files}


def package_version(wildcards):
    """The version of the package that a model comes out of, if it is one that is installed."""
    source = parse_source(config["models"][wildcards.model]["source"], allow_unpinned=True)
    try:
        return version(source.package) if isinstance(source, Package) else None
    except PackageNotFoundError:
        return None


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
