"""docs/benchmarks.md: what is said of all rows, and each row's section."""

import os
import platform
import textwrap
from importlib.metadata import version
from pathlib import Path

from benchmarks.row import Row

TEXT = """\
# What extraction costs

Made by `make benchmark`; `make benchmark ROWS="layer-6 zero-heads"` measures some rows again. The
checkpoints have random weights in GPT-2's and GPT-2 XL's shape: time and memory do not depend on
the weights' values. How far activations can be compressed does, and is measured with a real model.
All is computed in float32 on the CPU; on a GPU nothing was measured. The ways:

- **sweep**: Microtome's own script, from the checkpoint to HDF5 files that are flushed to disk.
  Snakemake's start is not part of it.
- **[TransformerLens](https://transformerlensorg.github.io/TransformerLens/)** {transformer-lens}:
  `TransformerBridge.boot_transformers` of the local folder,
  `run_with_cache(names_filter=…, stop_at_layer=…, return_type=None)`.
- **[nnsight](https://nnsight.net)** {nnsight}: `TransformersModel` of the local folder (what
  `LanguageModel` is called now), one `trace` per batch, `.save()`, `tracer.stop()` after the last
  value.
- **hooks**: `AutoModelForCausalLM.from_pretrained`, forward hooks that keep what is wanted; the
  last one leaves the model by an exception. One `tanh` of a single number goes ahead of it, and
  of nnsight: without, a race in MKL 2024.2 makes half of the first GELU inaccurate in a few
  processes of a hundred.
- **[datasets](https://huggingface.co/docs/datasets)** {datasets}: `load_dataset` and `map`, with
  the same tokenizer.
- **[accelerate](https://huggingface.co/docs/accelerate)** {accelerate}: `from_pretrained` with
  `device_map="auto"`, `max_memory` and `offload_folder`.
- **[SAELens](https://decoderesearch.github.io/SAELens/)** {sae-lens}: `CacheActivationsRunner`.

Where values are changed, the sweep runs all cases and writes their outcome. TransformerLens runs
`patching.get_act_patch_resid_pre` or, where it has no such function, `run_with_hooks` once for each
case; hooks calls the whole model once for each, with one hook that changes values in place. Both
give logits of all tokens, as they do unasked.

All peers but those that are said to write to disk keep their arrays in memory. They run without
gradients, and have torch {torch} and transformers {transformers} as the sweep has.

Each figure is the median over fresh processes, all ways of a row in turn and each in turn going
first, with the checkpoint in the page cache. Every array is compared in the same run: by its
digest, and where the operations differ, by up to 300,000 numbers evenly spread over it.

How to read the figures:

- *Peak resident* is the kernel's high-water mark (`VmHWM`). It counts pages of mapped files.
- *Peak unreclaimable* is anonymous memory (`RssAnon`), sampled from outside about every 10 ms: what
  the kernel cannot drop under pressure, and so what decides whether a job with a memory limit
  survives.
- transformers maps float32 weights instead of copying them: most of what a peer holds of a float32
  checkpoint is page cache, which the kernel may take back. A bfloat16 checkpoint has to be
  converted; a peer then holds all of its weights in float32, the sweep one block's.
- *Whole process* is the life of the process, its end included, less what the comparison of the
  arrays took. *After imports* is from the end of a way's imports, its own package's among them,
  until the last array is there (the sweep: on disk).
"""


def machine() -> str:
    """The machine and what runs on it, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {versions}"
    )


def document(rows: dict[str, Row], measured: dict[str, dict], before: str = "") -> str:
    """The document.

    Args:
        rows: all of them, by name.
        measured: what was measured of some, by name.
        before: the document as it was; of rows that were not measured here, it keeps what it says.
    """
    sections = [TEXT.format_map(_pins() | {"accelerate": version("accelerate")})]
    known = {section.partition("\n")[0]: section for section in before.split("\n## ")[1:]}
    for name, row in rows.items():
        if name not in measured and f"\n\n`{name}`. " in known.get(row.title, ""):
            sections.append(f"## {known[row.title].rstrip()}\n")
            continue
        lines = [f"## {row.title}\n", _wrapped(f"`{name}`. {row.text}")]
        if name in measured:
            lines += [f"{measured[name]['machine']}.\n", row.section(measured[name])]
            lines += [row.remark.strip() + "\n"] if row.remark else []
        else:
            lines.append("Not measured yet.\n")
        sections.append("\n".join(lines))
    return "\n".join(sections)


def _pins() -> dict[str, str]:
    """The versions in the peers' environments."""
    files = Path(__file__).parent.glob("requirements-*.txt")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==") for line in lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
