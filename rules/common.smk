# What the rules share: the checked config, and where products lie.
import re
import sys
from pathlib import Path

from microtome import config as settings
from microtome.digest import code_digest
from microtome.errors import MicrotomeError
from microtome.sources import Folder, Untrained, parse_source

ROOT = Path(workflow.basedir)

try:
    settings.check(config, ROOT / "config.schema.yaml", workflow.configfiles, ROOT)
except MicrotomeError as error:
    sys.exit(f"microtome: {error}")


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    stimuli="|".join(config["stimuli"]),


def code(script):
    """The digest of a script and of all it imports: a product's code, as a param."""
    return code_digest(ROOT / "scripts" / script, ROOT)


def folder(kind, product):
    """Where a study's products of one kind lie; those of no model lie in the study's folder."""
    return f"results/{kind}/{product.study}" + ("/{model}" if product.of_model else "")


def layer_file(model, stimuli, layer):
    return f"results/activations/{model}/{stimuli}/layer-{layer:02d}.h5"


def statistics_read(product):
    """The statistics a product reads, by name."""
    made = settings.statistics(config, product.study)
    return {read: f"{folder('statistics', made[read])}/{read}.h5" for read in product.reads}


def all_figures():
    """Every figure that the config asks for, once per model it depends on."""
    return [
        f"{folder('figures', figure)}/{figure.name}.{format}".format(model=model)
        for study, entry in config["studies"].items()
        for model in entry["models"]
        for figure in settings.figures(config, study).values()
        for format in ("svg", "png")
    ]
