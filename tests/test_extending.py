"""The examples of docs/extending.md, run as they stand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import build
from snakemake.utils import update_config
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, gpt2_tokenizer):
    """A copy of the workflow with the document's scripts and config blocks, run on a tiny model."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("Snakefile", "config.yaml", "config.schema.yaml"):
        shutil.copy(ROOT / name, root)
    for name in ("rules", "scripts", "stimuli", "report", "microtome", "profiles"):
        shutil.copytree(ROOT / name, root / name)
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    paths = re.findall(r"`(scripts/\S+\.py)`", text)
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(paths) == len(codes) == 3
    for path, code in zip(paths, codes, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(code, encoding="utf-8")

    model = build(root / "tiny", "gpt2", vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(model)
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        update_config(config, yaml.safe_load(block))
    config["models"] = {"tiny": {"source": str(model), "n_layers": 4}}
    for study in config["studies"].values():
        study["models"] = ["tiny"] if study is config["studies"]["residual_growth"] else []
    chosen = config["studies"]["category_selectivity"]
    chosen["models"] = ["tiny"]
    del chosen["tables"]
    chosen["statistics"] = {k: chosen["statistics"][k] for k in ("cosine_similarities", "rsa")}
    chosen["figures"] = {"rsa_matrix": chosen["figures"]["rsa_matrix"]}
    (root / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--configfile", "mine.yaml"]
    done = subprocess.run(
        [*command, "--replace-workflow-config"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root


def test_the_examples_make_their_figures(extended):
    for name in ("category_selectivity/tiny/rsa_matrix", "residual_growth/tiny/growth"):
        for suffix in (".svg", ".png"):
            figure = (extended / "results" / "figures" / name).with_suffix(suffix)
            assert figure.stat().st_size > 1000


def test_the_example_statistic_is_right(extended):
    text = yaml.safe_load((ROOT / "stimuli" / "penguins.yaml").read_text())["texts"][0]
    ids = AutoTokenizer.from_pretrained(extended / "tiny").encode(text)
    model = AutoModelForCausalLM.from_pretrained(extended / "tiny")
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    expected = [state[0, 1:].norm(dim=1).mean().item() for state in states[1:4]]
    path = extended / "results" / "statistics" / "residual_growth" / "tiny" / "norms.h5"
    with xr.open_dataset(path, engine="h5netcdf") as norms:
        np.testing.assert_allclose(norms["norm"].values[:3], expected, rtol=1e-5)
