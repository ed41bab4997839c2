# Microtome: thin sections through language models.
# Every figure and table of every study in the config; see README.md.
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"


rule all:
    input:
        all_products(),
    localrule: True


include: "rules/models.smk"
include: "rules/stimuli.smk"
include: "rules/activations.smk"
include: "rules/statistics.smk"
include: "rules/figures.smk"
include: "rules/tables.smk"
