"""Edits of a copy of the repository, each with the jobs that it makes stale."""

import os
import re
import shutil
from collections.abc import Callable

from conftest import build
from transformers import AutoTokenizer
from workflows import TEXTS, WORDS, Clone

WORD_SWEEP = {"activations/tiny/words"}
TEXT_SWEEP = {"activations/tiny/texts"}
WORD_PAGE, TEXT_PAGE = {"page/category_selectivity"}, {"page/mlp_distributions"}
START_PAGE = {"page/index"}
PAGES = WORD_PAGE | TEXT_PAGE | START_PAGE
#: The start page shows the first figure of each study.
COSINE_FIGURE = {"figures/category_selectivity/tiny/cosine_matrices"} | WORD_PAGE | START_PAGE
RSA_FIGURE = {"figures/category_selectivity/tiny/rsa_profile"} | WORD_PAGE
RSA = {"statistics/category_selectivity/tiny/rsa"} | RSA_FIGURE
COSINES = {"statistics/category_selectivity/tiny/cosine_similarities"} | COSINE_FIGURE | RSA
TSNE_FIGURE = {"figures/mlp_distributions/tiny/tsne"} | TEXT_PAGE
TSNE = {"statistics/mlp_distributions/tiny/tsne"} | TSNE_FIGURE
ARCHITECTURES = "microtome/models/architectures.py"
GELU_FIGURE = {"figures/mlp_distributions/gelu"} | TEXT_PAGE | START_PAGE
GELU = {"statistics/mlp_distributions/gelu"} | GELU_FIGURE
WEIGHTS_TABLE = {"tables/mlp_distributions/tiny/weight_counts"} | TEXT_PAGE
WEIGHTS = {"statistics/mlp_distributions/tiny/weight_counts"} | WEIGHTS_TABLE
FIGURES = COSINE_FIGURE | RSA_FIGURE | TSNE_FIGURE | GELU_FIGURE
SWEPT = WORD_SWEEP | TEXT_SWEEP | COSINES | TSNE
TOKENS = {"tokens/tiny/words", "tokens/tiny/texts"}
#: All that depends on the model, and all but the style sheet of the pages.
OF_MODEL = {"models/tiny"} | TOKENS | SWEPT | WEIGHTS
MADE = OF_MODEL | GELU
ALL = MADE | {"page/style"}


def touch_everything(clone: Clone) -> None:
    for path in sorted(clone.folder.rglob("*")):
        if path.exists() and ".snakemake" not in path.relative_to(clone.folder).parts:
            os.utime(path)


def reformat(clone: Clone) -> None:
    clone.replace("microtome/statistics/dimensionality.py", "\n\ndef tsne(", "\n\n\n\ndef   tsne(")
    clone.replace("microtome/workflow/inputs.py", "import inspect\n", "import inspect  # it\n\n")
    clone.replace("studies/category_selectivity/figures.py", "def masks(", "def  masks(")


def drop_comments(clone: Clone) -> None:
    clone.replace("rules/figures.smk", "# Figures:", "# Pictures:")
    clone.replace("rules/activations.smk", "\nfor (model", "\n\n\n# The loop.\nfor (model")


def docstrings(clone: Clone) -> None:
    clone.replace("studies/category_selectivity/statistics.py", '"""Correlation', '"""The one')
    clone.replace("microtome/sweeps/sweep.py", '"""The sweep:', '"""The one sweep:')
    clone.replace("microtome/statistics/similarity.py", '"""Correlate', '"""Just correlate')


def swap_functions(clone: Clone) -> None:
    """Write two functions of a file in the other order."""
    file = clone.folder / "studies/category_selectivity/statistics.py"
    head, *functions = re.split(r"^(?=def )", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    functions = [f"{function.rstrip()}\n\n\n" for function in functions]
    file.write_text(head + "".join(reversed(functions)), encoding="utf-8")


def add_word(clone: Clone) -> None:
    words = WORDS | {"words": WORDS["words"] | {"fruit": ["apple", "pear", "plum", "quince"]}}
    clone.save(words, "stimuli/words.yaml")


def add_sites(clone: Clone) -> None:
    histograms = {"sites": ["ln2_out", "pre", "post", "mlp_out"], "layer": 1}
    clone.config["studies"]["mlp_distributions"] |= {
        "statistics": {"activation_histograms": histograms | {"n_edges": 51, "limit": 3.0}},
        "figures": {"activation_histograms": {}},
    }
    clone.save(clone.config)


def add_model(clone: Clone) -> None:
    clone.config["models"]["twin"] = {"source": "untrained://tiny?seed=1", "n_layers": 3}
    clone.change("studies", "category_selectivity", "models", to=["tiny", "twin"])


def rename_model(clone: Clone) -> None:
    clone.config["models"]["double"] = clone.config["models"].pop("tiny")
    for study in clone.config["studies"].values():
        study["models"] = ["double"]
    clone.save(clone.config)


def swap_source(clone: Clone) -> None:
    other = clone.folder / "other"
    shutil.copytree(clone.config["models"]["tiny"]["source"], other)
    clone.change("models", "tiny", "source", to=str(other))


def swap_architecture(clone: Clone) -> None:
    other = build(clone.folder / "other", "llama", vocab_size=50257, num_hidden_layers=3)
    tokenizer = AutoTokenizer.from_pretrained(clone.config["models"]["tiny"]["source"])
    tokenizer.save_pretrained(other)
    clone.change("models", "tiny", "source", to=str(other))


def add_study(clone: Clone) -> None:
    clone.save(TEXTS | {"texts": ["Of another study, every word."]}, "stimuli/more.yaml")
    norms = {"norms": {"site": "attn_out"}, "norm_histograms": {"first_token": 1}}
    clone.save_study("attention_norms", {"statistics": norms, "figures": {"norms": {}}})
    clone.change("studies", "attention_norms", to={"models": ["tiny"], "stimuli": "more"})


def own_study(clone: Clone) -> None:
    """A study that is not of this repository, and reads a statistic of another study."""
    folder = clone.folder / "studies" / "mine"
    folder.mkdir()
    code = "def half(rsa):\n    return rsa / 2\n"
    (folder / "statistics.py").write_text(code, encoding="utf-8")
    half = {"reads": {"rsa": "category_selectivity.rsa"}}
    drawn = {"use": "category_selectivity.rsa_profile", "reads": {"rsa": "half"}}
    clone.save_study("mine", {"statistics": {"half": half}, "figures": {"drawn": drawn}})
    clone.change("studies", "mine", to={"models": ["tiny"]})


def show_profile(clone: Clone) -> None:
    """Have the start page show what a statistic says of each layer."""
    with (clone.folder / STUDY / "study.yaml").open("a", encoding="utf-8") as file:
        profile = "{statistic: rsa, variable: r, at: {pair: q-k}, label: RSA}"
        file.write(f"page: {{picture: cosine_matrices, profile: {profile}}}\n")


def show_another_picture(clone: Clone) -> None:
    with (clone.folder / STUDY / "study.yaml").open("a", encoding="utf-8") as file:
        file.write("page: {picture: rsa_profile}\n")


def remove_study(clone: Clone) -> None:
    del clone.config["studies"]["mlp_distributions"]
    clone.save(clone.config)


def reorder(clone: Clone) -> None:
    def backwards(entry: object) -> object:
        if not isinstance(entry, dict):
            return entry
        return {key: backwards(entry[key]) for key in reversed(entry)}

    clone.save(backwards(clone.config))


def chain(model: str) -> set[str]:
    """All the jobs of category_selectivity on a model."""
    own = {"models/tiny", "tokens/tiny/words"} | WORD_SWEEP | COSINES
    return {label.replace("tiny", model) for label in own}


STUDY = "studies/category_selectivity"
STATISTICS = ("studies", "mlp_distributions", "statistics")
TSNE_OPTIONS = (*STATISTICS, "tsne")
OWN = {"statistics/mine/tiny/half", "figures/mine/tiny/drawn", "page/mine"} | START_PAGE
HISTOGRAMS = {
    "statistics/mlp_distributions/tiny/activation_histograms",
    "figures/mlp_distributions/tiny/activation_histograms",
    *TEXT_PAGE,
}
MORE = {
    "tokens/tiny/more",
    "activations/tiny/more",
    "statistics/attention_norms/tiny/norms",
    "statistics/attention_norms/tiny/norm_histograms",
    "figures/attention_norms/tiny/norms",
    "page/attention_norms",
    *START_PAGE,
}


def in_code(name: str, old: str, new: str) -> Callable[[Clone], None]:
    return lambda clone: clone.replace(name, old, new)


def in_config(*path: str, to: object) -> Callable[[Clone], None]:
    return lambda clone: clone.change(*path, to=to)


#: What is edited, how, and the jobs that it makes stale.
EDITS: dict[str, tuple[Callable[[Clone], None], set[str]]] = {
    "nothing": (lambda clone: None, set()),
    "every file touched": (touch_everything, set()),
    "a fresh checkout": (Clone.check_out, set()),
    "library reformatted": (reformat, set()),
    "comments in rules": (drop_comments, set()),
    "docstrings": (docstrings, set()),
    "functions in another order": (swap_functions, set()),
    # Of the code, exactly what a product calls.
    "one function of two in a study's file": (
        in_code(f"{STUDY}/statistics.py", "return similarity.rep", "return 1 * similarity.rep"),
        RSA,
    ),
    "a function that one statistic calls": (
        in_code("microtome/statistics/dimensionality.py", "max(n_tokens / 48, 10)", "12"),
        TSNE,
    ),
    "a function that only one of a file's functions calls": (
        in_code("microtome/statistics/similarity.py", "return values @", "return 1 * values @"),
        COSINES,
    ),
    "a function that no product calls": (
        in_code("microtome/statistics/similarity.py", "np.arctanh(", "np.arctan("),
        set(),
    ),
    "a function's default": (
        in_code(
            f"{STUDY}/statistics.py", "word_token: WordPosition", "word_token: WordPosition = -1"
        ),
        COSINES,
    ),
    "a function of the library's that draws one panel": (
        in_code("microtome/figures/panels.py", '"Transformer layer"', '"Layer"'),
        RSA_FIGURE,
    ),
    "a function of all figures": (
        in_code("microtome/figures/style.py", 'format="png", dpi=dpi', 'dpi=dpi, format="png"'),
        FIGURES,
    ),
    "a constant that one figure reads": (
        in_code("studies/mlp_distributions/figures.py", "LARGEST = 10", "LARGEST = 12"),
        GELU_FIGURE,
    ),
    "a constant that none reads": (
        in_code(f"{STUDY}/figures.py", '"A) Same-category mask"', '"A) One mask"'),
        set(),
    ),
    "a constant of all figures": (
        in_code("microtome/figures/style.py", '"axes.titleweight": "bold"', '"axes.grid": True'),
        FIGURES,
    ),
    "a method of a class that one statistic reads": (
        in_code("microtome/models/stored.py", "return stored.T", "return stored.transpose()"),
        WEIGHTS,
    ),
    "a decorator": (
        in_code(
            "microtome/statistics/dimensionality.py",
            "\n\ndef tsne(",
            "\n\n@np.errstate(all='ignore')\ndef tsne(",
        ),
        TSNE,
    ),
    "a figure that no config asks for": (
        in_code(f"{STUDY}/figures.py", "Impact of transformation", "Impact"),
        set(),
    ),
    "a label in a figure": (in_code(f"{STUDY}/figures.py", "RSA scores", "Scores"), RSA_FIGURE),
    "a colour in a figure": (in_code(f"{STUDY}/figures.py", "magma", "viridis"), COSINE_FIGURE),
    "a table's layout": (
        in_code("studies/mlp_distributions/tables.py", '"% total"', '"share"'),
        WEIGHTS_TABLE,
    ),
    "an input's provider": (
        in_code("microtome/workflow/inputs.py", "opened[list(job.params.sites)]", "opened"),
        COSINES | TSNE,
    ),
    "a provider of inputs that none has": (
        in_code(
            "microtome/workflow/inputs.py",
            "(job.input.layers, site)",
            "(list(job.input.layers), site)",
        ),
        set(),
    ),
    "a function of the sweep": (
        in_code("microtome/sweeps/sweep.py", "max(layers) + 1", "1 + max(layers)"),
        SWEPT,
    ),
    "a method in the sweep": (
        in_code("microtome/models/calls.py", "Stop(Exception)", "Stop(BaseException)"),
        SWEPT,
    ),
    # Of the pages, what they show.
    "a caption in a README": (
        in_code(f"{STUDY}/README.md", "Look for layers where the", "Look where the"),
        WORD_PAGE,
    ),
    "a study's question": (
        in_code(f"{STUDY}/README.md", "Are words of one", "How are words of one"),
        WORD_PAGE | START_PAGE,
    ),
    "what a caption says of this run": (
        in_code(f"{STUDY}/captions.py", "Scores are", "The scores are"),
        WORD_PAGE,
    ),
    "what another study's captions say": (
        in_code("studies/attention_norms/captions.py", "Significant in", "It is significant in"),
        set(),
    ),
    "the docstring of a figure, which its page shows": (
        in_code(f"{STUDY}/figures.py", "Draw the scores of `rsa`", "Draw the scores"),
        WORD_PAGE,
    ),
    "how numbers are said": (
        in_code("microtome/page/numbers.py", "abs(value) >= 1000", "abs(value) > 1000"),
        WORD_PAGE | TEXT_PAGE,
    ),
    "how pages are rendered": (
        in_code("microtome/page/files.py", "FIRST = 64, 32", "FIRST = 60, 32"),
        PAGES,
    ),
    "the template of a study's page": (
        in_code("microtome/page/templates/study.html", "<footer>", "<footer class=last>"),
        WORD_PAGE | TEXT_PAGE,
    ),
    "the style sheet": (
        in_code("microtome/page/templates/style.css", "sans-serif", "serif"),
        PAGES | {"page/style"},
    ),
    "a profile across models": (
        show_profile,
        {"page/profiles/category_selectivity"} | START_PAGE,
    ),
    "another picture of a study": (show_another_picture, START_PAGE),
    # What carries results about, and decides none.
    "an error's wording": (
        in_code(
            "microtome/statistics/dimensionality.py",
            "correct the `perplexity`",
            "mend `perplexity`",
        ),
        set(),
    ),
    "how jobs are run": (
        in_code("microtome/workflow/jobs.py", "error: {message", "fault: {message"),
        set(),
    ),
    "how options are judged": (
        in_code(
            "microtome/workflow/requirements.py", "for wish in asked", "for wish in list(asked)"
        ),
        set(),
    ),
    "how files are written": (
        in_code("microtome/store/files.py", ".partial", ".unfinished"),
        set(),
    ),
    "how a config is read": (
        in_code(
            "microtome/workflow/config.py",
            "dict.fromkeys([*said[0], *said[1]])",
            "{**said[0], **said[1]}",
        ),
        set(),
    ),
    "dark mode": (in_config("style", "theme", to="dark"), FIGURES),
    "t-SNE's perplexity": (in_config(*TSNE_OPTIONS, "perplexity", to=3), TSNE),
    "t-SNE's seed": (in_config(*TSNE_OPTIONS, "seed", to=1), TSNE),
    "the layer of a panel": (
        in_config("studies", "category_selectivity", "figures", "cosine_matrices", "layer", to=0),
        COSINE_FIGURE,
    ),
    "a word added": (add_word, {"tokens/tiny/words"} | WORD_SWEEP | COSINES),
    "a text changed": (
        lambda clone: clone.replace("stimuli/texts.yaml", "one of many", "one of a few"),
        {"tokens/tiny/texts"} | TEXT_SWEEP | TSNE,
    ),
    "sites added": (add_sites, TEXT_SWEEP | TSNE | HISTOGRAMS),
    "a layer added": (
        in_config(
            *("studies", "category_selectivity", "statistics", "cosine_similarities", "layers"),
            to="all",
        ),
        WORD_SWEEP | COSINES,
    ),
    "a model added": (add_model, chain("twin")),
    "a model renamed": (rename_model, {name.replace("tiny", "double") for name in OF_MODEL}),
    "a model's source swapped": (swap_source, OF_MODEL),
    "a model removed": (
        in_config("studies", "category_selectivity", "models", to=[]),
        START_PAGE,
    ),
    "a study added": (add_study, MORE),
    "a study of one's own": (own_study, OWN),
    "a study removed": (remove_study, START_PAGE),
    "the order of keys": (reorder, START_PAGE),  # that of studies and models, on the page
    "a key of another study": (in_config(*STATISTICS, "gelu", "n", to=41), GELU),
    "batch size": (in_config("sweep", "batch_tokens", to=2), SWEPT),
    "threads": (in_config("sweep", "threads", to=2), SWEPT),
    "device": (in_config("sweep", "device", to="auto"), SWEPT),
    "how sites are found": (
        in_code("microtome/models/matching.py", "TOLERANCE = 1e-4", "TOLERANCE = 2e-4"),
        OF_MODEL,
    ),
    "a site of another architecture": (
        in_code(ARCHITECTURES, 'Tap("mlp.up_proj")', 'Tap("mlp.gate_proj")'),
        OF_MODEL,
    ),
    "a model of another architecture in its place": (swap_architecture, OF_MODEL),
    "what jobs ask a cluster for": (
        in_code("microtome/sweeps/cost.py", "MARGIN = 1.25", "MARGIN = 1.5"),
        set(),
    ),
    "an option that has its default": (
        in_config("studies", "category_selectivity", "figures", "rsa_profile", to={}),
        set(),
    ),
    "a figure deleted": (
        lambda clone: clone.product("figures/mlp_distributions/gelu.png").unlink(),
        GELU_FIGURE,
    ),
    "an activation file deleted, its figures there": (
        lambda clone: clone.product("activations/tiny/words/layer-01.h5").unlink(),
        set(),
    ),
}
