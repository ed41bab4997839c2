# Microtome: thin sections through language models.
# Every figure and table of every study in the config; see README.md.
import atexit
import gc
from pathlib import Path

from snakemake.utils import min_version

from microtome.workflow.arrays import become_own_task
from microtome.workflow.config_files import refuse_unreadable
from microtome.workflow.kept import keep_modules

min_version("9.0")
become_own_task()

# The rules and the graph are many objects, which stay until the end. To look for garbage among them
# again and again, and once more at the end, takes as long as making them.
gc.set_threshold(100_000)
atexit.register(gc.freeze)

overlays = getattr(workflow, "overwrite_configfiles", [])
refuse_unreadable([Path(workflow.current_basedir, "config.yaml"), *overlays])


configfile: str(Path(workflow.current_basedir, "config.yaml"))


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/resources.smk"
include: "rules/run.smk"


rule all:
    input:
        all_products(),
        all_pages(),
    localrule: True


# The earlier stages as targets. If a stage makes the same bytes again, nothing in the next stage is
# stale, but only if the next stage is run by another call of Snakemake: within one call, everything
# downstream of a job is planned at once.
rule tokens:
    input:
        all_tokens(),
    localrule: True


rule activations:
    input:
        all_activations(),
    localrule: True


rule interventions:
    input:
        all_datasets("interventions"),
    localrule: True


# Interventions too: either kind may read the other.
rule statistics:
    input:
        all_datasets("interventions", "statistics"),
    localrule: True


onstart:
    if set(workflow.dag_settings.targets) != {"plan"}:  # which may be made beside a run
        begin_run()


onerror:
    report_slurm_failures()


include: "rules/models.smk"
include: "rules/stimuli.smk"
include: "rules/activations.smk"
include: "rules/interventions.smk"
include: "rules/streams.smk"
include: "rules/statistics.smk"
include: "rules/figures.smk"
include: "rules/tables.smk"
include: "rules/page.smk"
include: "rules/plan.smk"


keep_modules()
