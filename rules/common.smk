# What the rules share: the checked config, and where products lie.
import ast
import fcntl
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snakemake.io import IOFile

from microtome.workflow import config as settings
from microtome.workflow.digest import code_digest
from microtome.errors import MicrotomeError
from microtome.workflow.faults import check
from microtome.store.checksums import size_and_time
from microtome.model.architectures import plain_taps
from microtome.model.sources import Folder, Package, Untrained, parse_source

ROOT = Path(workflow.basedir)

try:
    overlays = workflow.overwrite_configfiles
    files = [file for file in workflow.configfiles if file not in overlays] + overlays
    check(config, ROOT / "config.schema.yaml", list(map(Path, files)), ROOT)
except MicrotomeError as error:
    sys.exit(f"microtome: {error}")


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    stimuli="|".join(config["stimuli"]),


def code(script):
    """The digest of a script and of all it imports: a product's code, as a param."""
    return code_digest(ROOT / "scripts" / script, ROOT)


def product_file(kind, product, extension):
    """Where a study's product lies; one of no model lies in the study's own folder."""
    folder = "{model}/" if product.of_model else ""
    return f"results/{kind}/{product.study}/{folder}{product.name}.{extension}"


def activation_files(model, stimuli, layers, final):
    """The files of some layers, and of what follows the last block."""
    folder = f"results/activations/{model}/{stimuli}"
    files = [f"{folder}/layer-{layer:02d}.h5" for layer in layers]
    return [*files, f"{folder}/final.h5"] if final else files


def resid_files(model, stimuli, block):
    """The file of what enters a block that a job of the sweep begins at; none for the first."""
    return [f"results/activations/{model}/{stimuli}/resid-{block:02d}.h5"] if block else []


def statistics_read(product):
    """The statistics a product reads, by name."""
    made = settings.statistics(config, product.study)
    return {read: product_file("statistics", made[read], "h5") for read in product.reads}


def all_products():
    """Every figure and table that the config asks for, once per model it depends on."""
    extensions = {"figures": ("svg", "png"), "tables": ("csv", "txt")}
    return [
        product_file(kind, product, extension).format(model=model)
        for study, entry in config["studies"].items()
        for model in entry["models"]
        for kind in extensions
        for product in settings.readers(config, study, kind).values()
        for extension in extensions[kind]
    ]


def all_statistics():
    """Every statistic that the config asks for, once per model it depends on."""
    return [
        product_file("statistics", product, "h5").format(model=model)
        for study, entry in config["studies"].items()
        for model in entry["models"]
        for product in settings.statistics(config, study).values()
    ]


def all_activations():
    """Every layer file that the config asks for."""
    return [
        file
        for (model, stimuli), wanted in settings.sweeps(config).items()
        for file in activation_files(model, stimuli, wanted.layers, wanted.final_sites)
    ]


def all_tokens():
    """The token table of every sweep; those of other statistics follow with them."""
    return [f"results/tokens/{model}/{stimuli}.h5" for model, stimuli in settings.sweeps(config)]


def work_alone():
    """Refuse to run beside another run in the same folder.

    Snakemake's own lock outlives a run that is killed and then wants to be unlocked by hand; this
    one the system lets go of with the process.
    """
    global folder_lock
    results = Path("results")
    if results.exists() and not os.access(results, os.W_OK):
        sys.exit(
            f"microtome: {results.resolve()}: the file system is read-only; choose another place "
            "with --directory"
        )
    folder_lock = open(".snakemake/microtome.lock", "w")
    try:
        fcntl.flock(folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"microtome: {Path.cwd()}: another run is at work here; wait for its end, or choose "
            "another folder with --directory"
        )


def start_jobs_unhurried():
    """Take Snakemake's limit on jobs per second away: 100 by default, which no run comes near.

    Each job leaves a timer behind, which has the scheduler look at the inputs of all waiting jobs
    again, every second until the end: half of the CPU time of a run with 150 jobs.
    """
    workflow.scheduler.job_rate_limiter = None


def share_imports():
    """Let scripts that run beside this process be forks of one that has imported what they do."""
    global forks
    folder = Path(tempfile.mkdtemp(prefix="microtome-"))
    server = ROOT / "microtome" / "workflow" / "forks.py"
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(folder / "forks"))
    except OSError:  # a system without such sockets, or TMPDIR is too long a name for one
        folder.rmdir()
        return
    with listener:
        listener.listen()
        forks = subprocess.Popen(
            [sys.executable, server, "--serve", str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    ask = map(str, [sys.executable, "-I", "-S", server, folder / "forks"])
    shell.prefix(f"set -euo pipefail; {shlex.join(ask)} ")


def say_what_the_cluster_ended(logs):
    """Say in a line each which jobs Slurm ended for good; a script's own errors have theirs.

    The executor plugin knows the job's state, but tells it in Snakemake's report alone.
    """
    failed = r"Error in \w+ (\S+):\s+message: SLURM-job '\d+' failed, SLURM status is: '(\w+)'.*?"
    failed += r"\n *log: ([^,\n]+), (\S+)"
    said = "".join(Path(log).read_text(encoding="utf-8") for log in logs)
    found = re.findall(failed, said, re.DOTALL)
    last = {name: files for name, *files in found}
    for name, (status, log_file, slurm_log) in last.items():
        if not Path(log_file).exists() or "error: " not in Path(log_file).read_text("utf-8"):
            print(f"microtome: {name}: ended by Slurm ({status}); see {slurm_log}", file=sys.stderr)


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


def statistic_inputs(product):
    """An input function: what a statistic reads, under the name of what it is."""

    def inputs(wildcards):
        found = statistics_read(product)
        if product.tokens:
            found["tokens"] = f"results/tokens/{wildcards.model}/{product.stimuli}.h5"
        if product.checkpoint:
            found["manifest"] = f"results/models/{wildcards.model}/manifest.json"
            found["checkpoint"] = ancient(f"results/models/{wildcards.model}/checkpoint")
        if product.sites and not product.swept:
            layers = settings.product_layers(config, product, wildcards.model)
            found["layers"] = activation_files(wildcards.model, product.stimuli, layers, False)
        if product.final_sites and not product.swept:
            found["final"] = activation_files(wildcards.model, product.stimuli, [], True)
        return found

    return inputs


def caption(figure):
    """A figure's caption; figures that share a script share it, and one may have none."""
    path = ROOT / "report" / figure.study / f"{figure.script}.rst"
    return str(path) if path.exists() else None


def taps_param(model, sites, rule_name, file):
    """A param: where sites lie in a model's blocks; <TBD> until the model is fetched.

    It takes wildcards alone, since Snakemake records no param that is made from input files.

    Args:
        model: the model's name.
        sites: what the job reads.
        rule_name: the name of the job's rule.
        file: a file that it makes. If the model has been deleted since, the taps are those that
            Snakemake recorded of this file: a checkpoint that is gone makes nothing stale.
    """

    def taps(wildcards):
        try:
            return plain_taps(f"results/models/{model}/manifest.json", sites)
        except FileNotFoundError:
            made = IOFile(file, rule=workflow.get_rule(rule_name))
            for param in workflow.persistence.params(made) or ():
                recorded = ast.literal_eval(param) if param.startswith("{") else {}
                if recorded and recorded.keys() <= set(sites):
                    return recorded
            raise

    return taps


def model_params(product):
    """Of a statistic made from a model: where its sites lie, and how it is run."""
    sweep = config["sweep"]
    sites = product.sites if product.swept else ("pre", "pre_linear", "post")

    def taps(wildcards):
        file = product_file("statistics", product, "h5").format(model=wildcards.model)
        name = f"statistic_{product.study}_{product.name}"
        return taps_param(wildcards.model, sites, name, file)(wildcards)

    if product.swept:
        return {
            "layers": lambda wildcards: settings.product_layers(config, product, wildcards.model),
            "taps": taps,
            **{key: sweep[key] for key in ("batch_size", "threads", "device", "dtype")},
        }
    if runs_model(product):
        return {"threads": sweep["threads"]}
    return {"taps": taps} if product.checkpoint else {}
