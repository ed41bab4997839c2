"""The studies of docs/extending.md, run as they stand from a folder of their own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import build
from forked import shared
from snakemake.utils import update_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome import options
from microtome.errors import MicrotomeError
from microtome.workflow.faults import check
from microtome.workflow.new_study import new_study
from microtome.workflow.products import INPUTS

ROOT = Path(__file__).parents[2]
STUDY = "studies/residual_growth"
N_LAYERS = 4


def write_examples(folder):
    """Write each file of the document, below a line that is its name."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.M | re.S))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return set(files)


def run(*arguments, folder):
    """Run Snakemake on this repository's code."""
    done = shared().run(folder, ["--snakefile", str(ROOT / "Snakefile"), *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory, gpt2_tokenizer):
    """A working directory with the document's studies, run on a tiny model in SmolLM2's place."""
    folder = tmp_path_factory.mktemp("work")
    write_examples(folder)
    model = build(folder / "tiny", "gpt2", vocab_size=50257, max_position_embeddings=128)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(model)
    studies = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["studies"]
    tiny = {
        "models": {
            "smollm2-135m": {"source": str(model), "n_layers": N_LAYERS},
            "smollm2-untrained": {"n_layers": N_LAYERS},
        },
        "studies": {name: {"models": []} for name in studies}
        | {
            name: {"models": ["smollm2-135m"]}
            for name in ("second_looks", "dimmed_heads", "loudness", "settling")
        },
        "sweep": {"device": "cpu", "threads": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    overlays = ("--configfile", f"{STUDY}/config.yaml", "tiny.yaml", "--cores", "1")
    run(*overlays, folder=folder)
    return folder


def test_the_document_has_all_files_of_a_study(tmp_path):
    python = {f"{name}.py" for name in ("statistics", "figures", "tables", "captions")}
    files = {"config.yaml", "study.yaml", "README.md"} | python
    assert {f"{STUDY}/{name}" for name in files} < write_examples(tmp_path)


def test_the_document_shows_what_new_study_makes(tmp_path, monkeypatch):
    write_examples(tmp_path / "document")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    new_study("residual_growth")
    made, shown = (
        {file.name: file.read_text() for file in (tmp_path / place / STUDY).iterdir()}
        for place in ("work", "document")
    )
    assert made == shown


def test_the_document_names_all_inputs_types_and_needs():
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    types = [name for name in vars(options) if name[0].isupper() and name[1:] != name[1:].upper()]
    needs = [name for name, value in vars(options).items() if isinstance(value, options.Need)]
    named = set(re.findall(r"`(\w+)`", text))
    imported = {"Annotated", "Any", "Need", "Sequence", "Wanted"}
    assert set(types) - imported | set(needs) | set(INPUTS) <= named


def test_the_examples_make_their_figures(work):
    for name in (
        "residual_growth/smollm2-135m/growth",
        "residual_growth/smollm2-untrained/growth",
        "second_looks/smollm2-135m/autoregression",
        "second_looks/smollm2-135m/rsa_matrix",
    ):
        for suffix in (".svg", ".png"):
            assert (work / f"results/figures/{name}{suffix}").stat().st_size > 1000


def test_the_example_interventions_are_right(work):
    """Beside the model itself, with hooks on what enters the output projections."""
    text = yaml.safe_load((ROOT / "stimuli" / "metamorphosis.yaml").read_text())["texts"][0]
    ids = torch.tensor([AutoTokenizer.from_pretrained(work / "tiny").encode(text)])
    model = AutoModelForCausalLM.from_pretrained(work / "tiny").eval()
    n_heads = model.config.n_head

    def predicted(factors=None):
        """The next token's log-probabilities, with heads times (layer, head)."""
        hooks = []
        for layer in range(N_LAYERS) if factors is not None else ():
            spread = factors[layer].repeat_interleave(model.config.n_embd // n_heads)
            projection = model.transformer.h[layer].attn.c_proj
            hooks.append(
                projection.register_forward_pre_hook(lambda m, args, f=spread: args[0] * f)
            )
        with torch.no_grad():
            found = model(ids).logits[0, -1].double().log_softmax(-1)
        for hook in hooks:
            hook.remove()
        return found

    def divergence(factors):
        clean = predicted()
        return (clean.exp() * (clean - predicted(factors))).sum().item()

    silenced = np.zeros((N_LAYERS, n_heads))
    for layer, head in np.ndindex(silenced.shape):
        factors = torch.ones(silenced.shape)
        factors[layer, head] = 0
        silenced[layer, head] = divergence(factors)
    folder = work / "results/interventions/dimmed_heads/smollm2-135m"
    with xr.open_dataset(folder / "silenced.h5", engine="h5netcdf") as outcome:
        assert outcome["kl"].dims == ("layer", "head", "token")
        np.testing.assert_allclose(outcome["kl"][:, :, 0], silenced, rtol=1e-3, atol=1e-9)
    strongest = silenced >= np.sort(silenced, axis=1)[:, [-2]]
    dimmed = divergence(torch.where(torch.from_numpy(strongest), 0.5, 1.0))
    table = pd.read_csv(work / "results/tables/dimmed_heads/smollm2-135m/divergences.csv")
    np.testing.assert_allclose(table["kl"], [silenced.max(), dimmed], rtol=1e-3)


def test_the_example_of_a_sweep_is_right(work):
    """Beside what attention and MLP of the model itself add."""
    text = yaml.safe_load((ROOT / "stimuli" / "metamorphosis.yaml").read_text())["texts"][0]
    ids = torch.tensor([AutoTokenizer.from_pretrained(work / "tiny").encode(text)])
    model = AutoModelForCausalLM.from_pretrained(work / "tiny").eval()
    found = {"attn_out": [], "mlp_out": []}
    for block in model.transformer.h:
        for site, module in (("attn_out", block.attn), ("mlp_out", block.mlp)):
            module.register_forward_hook(
                lambda module, args, out, site=site: found[site].append(
                    (out[0] if isinstance(out, tuple) else out).double().square().mean().sqrt()
                )
            )
    with torch.no_grad():
        model(ids)
    path = work / "results/statistics/loudness/smollm2-135m/loudness.h5"
    with xr.open_dataset(path, engine="h5netcdf") as made:
        for site, expected in found.items():
            np.testing.assert_allclose(made["rms"].sel(site=site), expected, rtol=1e-5)
    table = pd.read_csv(work / "results/tables/loudness/smollm2-135m/loudest.csv")
    assert table.set_index("site")["layer"].to_dict() == {
        site: int(np.argmax(values)) for site, values in found.items()
    }


def test_the_example_lens_is_right(work):
    """Beside the model's own final norm and head on the hidden states after each block."""
    text = yaml.safe_load((ROOT / "stimuli" / "metamorphosis.yaml").read_text())["texts"][0]
    tokenizer = AutoTokenizer.from_pretrained(work / "tiny")
    model = AutoModelForCausalLM.from_pretrained(work / "tiny").eval()
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(text)])
        states = model(ids, output_hidden_states=True).hidden_states
        # transformers' last hidden state is after the final norm.
        normed = [*map(model.transformer.ln_f, states[1:-1]), states[-1]]
        predicted = model.lm_head(torch.stack([state[0, -1] for state in normed])).log_softmax(-1)
    [target] = tokenizer.encode(" insect")
    table = pd.read_csv(work / "results/tables/settling/smollm2-135m/settling.csv")
    entropy = -(predicted.exp() * predicted).sum(-1)
    np.testing.assert_allclose(table["entropy"], entropy, rtol=1e-5)
    above = (predicted > predicted[:, [target]]).sum(-1)
    assert table["target_rank"].tolist() == (1 + above).tolist()
    assert table["guess"].tolist() == [tokenizer.decode(i) for i in predicted.argmax(-1)]
    path = work / "results/statistics/settling/smollm2-135m/predictions.h5"
    with xr.open_dataset(path, engine="h5netcdf") as found:
        assert found["log_probabilities"].shape == (N_LAYERS, ids.shape[1], 1)
        np.testing.assert_allclose(
            found["log_probabilities"][:, -1, 0], predicted[:, target], rtol=1e-5
        )
    assert not (work / "results/activations/smollm2-135m/metamorphosis").exists()


def test_the_example_statistic_and_table_are_right(work):
    text = yaml.safe_load((ROOT / "stimuli" / "penguins.yaml").read_text())["texts"][0]
    ids = AutoTokenizer.from_pretrained(work / "tiny").encode(text)
    model = AutoModelForCausalLM.from_pretrained(work / "tiny")
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    norms = [state[0, 1:].norm(dim=1) for state in states[1:N_LAYERS]]
    expected = {
        "mean": [norm.mean().item() for norm in norms],
        "sd": [norm.std(correction=0).item() for norm in norms],
    }
    path = work / "results/statistics/residual_growth/smollm2-135m/norms.h5"
    table = pd.read_csv(work / "results/tables/residual_growth/smollm2-135m/growth.csv")
    with xr.open_dataset(path, engine="h5netcdf") as found:
        assert found["layer"].values.tolist() == list(range(N_LAYERS))
        for name, values in expected.items():
            # The last hidden state is after the final norm, so the last layer is left out.
            np.testing.assert_allclose(found[name].values[:-1], values, rtol=1e-5)
            np.testing.assert_allclose(table[name][:-1], values, rtol=1e-5)
    np.testing.assert_allclose(table["growth"][1:-1], np.diff(expected["mean"]), rtol=1e-3)


def test_a_function_of_another_study_reads_what_the_study_says(work):
    path = work / "results/statistics/second_looks/smollm2-135m/norms.h5"
    layer = work / "results/activations/smollm2-135m/rock_music/layer-01.h5"
    with (
        xr.open_dataset(path, engine="h5netcdf") as found,
        xr.open_dataset(layer, engine="h5netcdf") as section,
    ):
        assert list(section.data_vars) == ["mlp_out"]
        expected = np.log(np.linalg.norm(section["mlp_out"].values, axis=1))
        np.testing.assert_allclose(found["log_norm"].sel(layer=1), expected, rtol=1e-6)


def test_nothing_is_stale_from_the_other_folder(work):
    overlays = ("--configfile", str(work / STUDY / "config.yaml"), str(work / "tiny.yaml"))
    command = [sys.executable, "-m", "snakemake", "-n", "--directory", str(work), *overlays]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_an_edit_of_the_users_code_makes_its_products_stale(work, tmp_path):
    edited = tmp_path / "work"
    shutil.copytree(work, edited, symlinks=True)
    tables, helpers = (edited / STUDY / name for name in ("tables.py", "helpers.py"))
    arguments = ("--configfile", f"{STUDY}/config.yaml", "tiny.yaml")

    def planned():
        return set(re.findall(r"rule (\w+):", run("-n", *arguments, folder=edited)))

    code = tables.read_text().replace('frame["mean"].diff()', 'change(frame["mean"])')
    own = "from studies.residual_growth.helpers import change\n"
    tables.write_text(code.replace("\n\n\n", f"\n\n{own}\n\n", 1))
    helpers.write_text("def change(column):\n    return column.diff()\n")
    assert planned() == {"all", "table__residual_growth__growth", "page__residual_growth"}
    run("--cores", "1", *arguments, folder=edited)
    assert planned() == set()
    helpers.write_text("def change(column):\n    return column.pct_change()\n")
    assert planned() == {"all", "table__residual_growth__growth", "page__residual_growth"}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "statistics.py",
            "def norms",
            "def norm",
            "{folder}/study.yaml: statistics.norms: {folder}/statistics.py has no function "
            "'norms'; did you mean 'norm'?",
        ),
        (
            "statistics.py",
            "section: xr.Dataset",
            "sektion: xr.Dataset",
            "{folder}/study.yaml: statistics.norms: norms reads 'sektion', which is neither an "
            "input nor a statistic; did you mean 'section'?",
        ),
        (
            "study.yaml",
            "resid_post",
            "resid",
            "{folder}/study.yaml: statistics.norms.site: no site 'resid' of a block; "
            "did you mean 'resid_pre'?",
        ),
        (
            "study.yaml",
            "stimuli: penguins",
            "",
            "{folder}/config.yaml: studies.residual_growth.stimuli: norms reads texts; name a "
            "stimulus set, as in `stimuli: …`",
        ),
        (
            "study.yaml",
            'source: "An example"',
            "",
            "{folder}/study.yaml: the key 'source' is missing",
        ),
        (
            "config.yaml",
            "}",
            ", figures: {growth: {limits: [0, 1]}}}",
            "{folder}/config.yaml: studies.residual_growth.figures.growth.limits: unknown option; "
            "growth takes none; take it out",
        ),
    ],
)
def test_a_fault_in_a_study_names_its_file(tmp_path, file, old, new, message):
    write_examples(tmp_path)
    folder = tmp_path / STUDY
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    files = [ROOT / "config.yaml", folder / "config.yaml"]
    config = {}
    for path in files:
        update_config(config, yaml.safe_load(path.read_text(encoding="utf-8")))
    with pytest.raises(MicrotomeError) as error:
        check(config, ROOT / "config.schema.yaml", files, [tmp_path, ROOT])
    assert str(error.value) == message.format(folder=folder)
