# Microtome: thin sections through language models.
# Every figure and table of every study in the config; see README.md.
from pathlib import Path

from snakemake.utils import min_version

from microtome.workflow.config_files import refuse_unreadable

min_version("9.0")

refuse_unreadable([Path(workflow.current_basedir, "config.yaml")])


configfile: str(Path(workflow.current_basedir, "config.yaml"))


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/run.smk"


rule all:
    input:
        all_products(),
    localrule: True


# The stages before, as targets of their own. What one makes anew with the same bytes makes
# nothing stale in the next, but only between invocations: Snakemake plans all that is downstream
# of a job at once.
rule tokens:
    input:
        all_tokens(),
    localrule: True


rule activations:
    input:
        all_activations(),
    localrule: True


rule statistics:
    input:
        all_statistics(),
    localrule: True


onstart:
    if set(workflow.dag_settings.targets) != {"plan"}:  # which may be made beside a run
        begin_run()


onerror:
    report_slurm_failures()


include: "rules/models.smk"
include: "rules/stimuli.smk"
include: "rules/activations.smk"
include: "rules/statistics.smk"
include: "rules/figures.smk"
include: "rules/tables.smk"
include: "rules/plan.smk"
