# Microtome: thin sections through language models.
# Every figure and table of every study in the config; see README.md.
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/resources.smk"


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
    work_alone()
    start_jobs_unhurried()
    share_imports()


onerror:
    say_what_the_cluster_ended(log)


include: "rules/models.smk"
include: "rules/stimuli.smk"
include: "rules/activations.smk"
include: "rules/statistics.smk"
include: "rules/figures.smk"
include: "rules/tables.smk"
include: "rules/plan.smk"
