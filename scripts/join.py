"""Join the shards of a model's activations: layer files that read as those of all texts."""

from pathlib import Path

from microtome.store.checksums import remove_other_shards
from microtome.store.virtual import join
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        shards: dict[str, dict[Path, str]] = {}
        for file in map(Path, snakemake.input):
            for line in file.read_text(encoding="utf-8").splitlines():
                sha256, name = line.split()
                shards.setdefault(name, {})[file.with_name(name)] = sha256
        for path in map(Path, snakemake.output):
            join(path, shards[path.name])
        folders = {Path(file).parent for file in snakemake.input}
        remove_other_shards(Path(snakemake.output[0]).parent, folders)
