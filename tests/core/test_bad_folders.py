"""A study of a user's own, in its folder: what cannot be right is refused in one line."""

import pytest
from refusals import Case, assert_refused, snakemake

CONFIG = "studies: {mine: {models: [smollm2-135m], stimuli: penguins}}"
YAML = "source: x\nstatistics: {a: {}}\n"
OPTIONS = "from microtome.options import Layer, Site, Sites\n\n"


def study(text: str | bytes, **code: str | bytes) -> dict[str, bytes]:
    """The files of a study: its study.yaml and its code."""
    files = {"study.yaml": text} | {f"{name}.py": body for name, body in code.items()}
    return {
        f"studies/mine/{name}": content.encode() if isinstance(content, str) else content
        for name, content in files.items()
    }


def statistics(code: str | bytes, options: str = "") -> dict[str, bytes]:
    """The files of a study with one statistic, `a`."""
    return study(f"source: x\nstatistics: {{a: {{{options}}}}}\n", statistics=code)


def drawn(page: str = "", **code: str) -> dict[str, bytes]:
    """The files of a study with a statistic `a` and a figure `b` of no model, and more of each."""
    return study(
        f"source: x\nstatistics: {{a: {{}}}}\nfigures: {{b: {{}}}}\n{page}\n",
        statistics="def a():\n    pass\n",
        figures="def b(a):\n    pass\n",
        **code,
    )


FILE, CODE = "microtome: studies/mine/study.yaml", "microtome: studies/mine/statistics.py"

#: The files of the study, and what is said of them.
FOLDERS = {
    # study.yaml
    "no_folder": ({}, "mine.yaml: studies.mine: no folder studies/mine with a study.yaml; known: "),
    "no_study_yaml": (
        {"studies/mine/statistics.py": b"x = 1\n"},
        "mine.yaml: studies.mine: no folder studies/mine with a study.yaml; known: ",
    ),
    "empty": (
        study(""),
        f"{FILE}: wants the keys source, stimuli, interventions, statistics, ",
    ),
    "a_list": (
        study("- a\n"),
        f"{FILE}: wants the keys source, stimuli, interventions, statistics, ",
    ),
    "unknown_key": (
        study("source: x\nfigurs: {}\n"),
        f"{FILE}: figurs: unknown key; did you mean 'figures'?",
    ),
    "models_in_it": (
        study("source: x\nmodels: [smollm2-135m]\n"),
        f"{FILE}: models: unknown key; known: source, stimuli, interventions, statistics, figures",
    ),
    "no_source": (study("figures: {}\n"), f"{FILE}: the key 'source' is missing"),
    "nothing_as_source": (study("source:\n"), f"{FILE}: source: wants where the study comes from"),
    "statistics_are_a_list": (
        study("source: x\nstatistics: [a]\n"),
        f"{FILE}: statistics: wants names with options, as in cosine_matrices",
    ),
    "same_key_twice": (
        study("source: x\nfigures: {}\nfigures: {}\n"),
        f"{FILE}, line 3: the key 'figures' stands there twice; join the two",
    ),
    "not_yaml": (study("source: x\nfigures: {\n"), f"{FILE}, line 3: not YAML ("),
    "not_utf8": (study(b"source: caf\xe9\n"), f"{FILE}: byte 11 is not UTF-8; save it as such"),
    # The files with its code
    "no_statistics_py": (study(YAML), f"{CODE}: no such file; write it"),
    "no_figures_py": (
        study("source: x\nfigures: {a: {}}\n"),
        "microtome: studies/mine/figures.py: no such file; write it",
    ),
    "code_that_is_not_python": (
        statistics("def a(:\n    pass\n"),
        f"{CODE}, line 1: invalid syntax; correct it",
    ),
    "code_that_is_not_utf8": (
        statistics(b"# caf\xe9\ndef a():\n    pass\n"),
        f"{CODE}: byte 5 is not UTF-8; save it as such",
    ),
    "code_with_a_nul": (statistics("def a():\n    pass\n\0"), f"{CODE}: ", "; correct it"),
    "no_such_function": (
        statistics("def b():\n    pass\n"),
        f"{FILE}: statistics.a: studies/mine/statistics.py has no function 'a'; known: b",
    ),
    "a_class": (
        statistics("class a:\n    pass\n"),
        f"{FILE}: statistics.a: studies/mine/statistics.py has no function 'a'; write it",
    ),
    # Options
    "an_option_without_type": (
        statistics("def a(*, n):\n    pass\n"),
        f"{CODE}, line 1: the option 'n' of a has no type; annotate it with one of microtome.opt",
    ),
    "an_option_of_another_type": (
        statistics("def a(\n    *, n: list[int]\n):\n    pass\n"),
        f"{CODE}, line 2: the option 'n' of a has a type that the config cannot check; use one of",
    ),
    "an_option_of_unknown_names": (
        statistics("def a(*, n: Literal[x]):\n    pass\n"),
        f"{CODE}, line 1: the option 'n' of a has a type that the config cannot check; use one of",
    ),
    "a_default_that_is_computed": (
        statistics("def a(*, n: int = f()):\n    pass\n"),
        f"{CODE}, line 1: the option 'n' of a has a default that is computed; write the value",
    ),
    "a_default_that_does_not_fit": (
        statistics(f"{OPTIONS}def a(*, n: Layer = -1):\n    pass\n"),
        f"{CODE}, line 3: the option 'n' of a has the default -1; it wants a layer, as in 6 or 20%",
    ),
    "a_share_of_no_depth": (
        statistics(f"{OPTIONS}def a(*, layer: Layer):\n    pass\n", "layer: 20%"),
        f"{FILE}: statistics.a.layer: a is of no model, and 20% of no depth; give a number",
    ),
    "an_option_that_a_config_has_another_word_for": (
        statistics("def a(*, reads: int = 1):\n    pass\n"),
        f"{FILE}: statistics.a: the option 'reads' of a means something else in a config",
    ),
    "options_of_any_name": (
        statistics("def a(**options):\n    pass\n", "n: 1"),
        f"{CODE}, line 1: a takes any number of parameters, 'options'; write a parameter for each",
    ),
    "an_option_among_the_inputs": (
        statistics("def a(n=1):\n    pass\n"),
        f"{CODE}, line 1: the input 'n' of a has a default; write `*` before options",
    ),
    # Inputs
    "inputs_of_any_number": (
        statistics("def a(*sites):\n    pass\n"),
        f"{CODE}, line 1: a takes any number of parameters, 'sites'; write a parameter for each",
    ),
    "an_input_that_there_is_not": (
        statistics("def a(sektion):\n    pass\n"),
        f"{FILE}: statistics.a: a reads 'sektion', which is neither an input nor a statistic",
    ),
    "a_figure_of_activations": (
        study("source: x\nfigures: {a: {}}\n", figures="def a(section):\n    pass\n"),
        f"{FILE}: figures.a: a reads 'section', which is no statistic; the study has none",
    ),
    "a_section_of_no_site": (
        statistics("def a(section):\n    pass\n"),
        f"{FILE}: statistics.a: a reads a section, but of no site; give it an option `sites",
    ),
    "a_streamed_one_of_no_site": (
        statistics("def a() -> Streamed:\n    pass\n"),
        f"{FILE}: statistics.a: a is streamed, but of no site; give it an option `sites: Sites`",
    ),
    "a_streamed_one_of_a_section": (
        statistics(f"{OPTIONS}def a(section, *, site: Site) -> Streamed:\n    pass\n", "site: q"),
        f"{FILE}: statistics.a: a is streamed, and reads section, which is stored; take it out",
    ),
    "a_lens_that_looks_at_nothing": (
        statistics(f"{OPTIONS}def a(section, lens, *, site: Site):\n    pass\n", "site: resid_pre"),
        f"{FILE}: statistics.a: a has a lens, but nothing to look at; let it return a `Streamed`",
    ),
    "a_lens_on_a_site_beside_the_residual_stream": (
        statistics(
            "from microtome.options import ResidualSite\n\n\n"
            "def a(lens, *, site: ResidualSite) -> Streamed:\n    pass\n",
            "site: q",
        ),
        f'{FILE}: statistics.a.site: wants resid_pre, resid_mid or resid_post; has "q"',
    ),
    "targets_that_are_no_list": (
        statistics(
            "from microtome.options import Targets\n\n\n"
            "def a(tokens, *, targets: Targets):\n    pass\n",
            "targets: insect",
        ),
        f"{FILE}: statistics.a.targets: wants a list of texts that are one token, each once; has",
    ),
    # Its page
    "a_picture_that_is_no_figure": (
        drawn("page: {picture: bb}"),
        f"{FILE}: page.picture: no figure 'bb'; did you mean 'b'?",
    ),
    "a_profile_of_no_statistic": (
        drawn("page: {profile: {statistic: aa, variable: x, label: X}}"),
        f"{FILE}: page.profile.statistic: no statistic 'aa'; did you mean 'a'?",
    ),
    "a_profile_of_no_model": (
        drawn("page: {profile: {statistic: a, variable: x, label: X}}"),
        f"{FILE}: page.profile.statistic: a is of no model; take a statistic that is",
    ),
    "a_profile_without_a_label": (
        drawn("page: {profile: {statistic: a, variable: x}}"),
        f"{FILE}: page.profile: the key 'label' is missing",
    ),
    "an_empty_page": (drawn("page: {}"), f"{FILE}: page: wants {{picture: …}}, {{profile: …}} or"),
    "a_caption_of_no_figure": (
        drawn(captions="def bb(a):\n    pass\n"),
        "studies/mine/captions.py: figures.py has no function 'bb'; did you mean 'b'?",
    ),
    "a_caption_that_reads_something_else": (
        drawn(captions="def b(tokens):\n    pass\n"),
        "studies/mine/captions.py: b takes 'tokens', which is no input of the figure; known: a",
    ),
    "a_caption_with_an_option_of_its_own": (
        drawn(captions="def b(a, *, digits: int = 2):\n    pass\n"),
        "studies/mine/captions.py: b takes 'digits', which is no option of the figure; take it out",
    ),
    "a_streamed_one_of_a_site": (
        statistics(f"{OPTIONS}def a(logits, *, site: Site) -> Streamed:\n    pass\n", "site: q"),
        f"{FILE}: statistics.a: a is streamed, and reads logits, which is stored; take it out",
    ),
    "a_streamed_one_that_holds_no_size": (
        statistics(
            f"{OPTIONS}def a(*, site: Site) -> Annotated[Streamed, Held('d_mlq')]:\n    pass\n",
            "site: q",
        ),
        f"{FILE}: statistics.a: a holds 'd_mlq', which is no size; did you mean 'd_mlp'?",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_study_that_cannot_be_made_is_refused_in_one_line(tmp_path, name):
    files, *says = FOLDERS[name]
    assert_refused(tmp_path, Case(CONFIG, tuple(says), files))


def test_no_study_is_called_as_the_start_page_is(tmp_path):
    config = "studies: {index: {models: [smollm2-135m]}}"
    says = ("mine.yaml: studies.index: is the name of the start page; choose another name",)
    assert_refused(tmp_path, Case(config, says, {"studies/index/study.yaml": b"source: x\n"}))


def test_a_study_that_is_only_read_is_checked_too(tmp_path):
    files = study("- a\n")
    config = "studies: {category_selectivity: {figures: {masks: {reads: {word_pairs: mine.a}}}}}"
    says = (f"{FILE}: wants the keys source, stimuli, interventions, statistics, ",)
    assert_refused(tmp_path, Case(config, says, files))


def test_texts_of_a_study_that_is_only_read_are_checked_too(tmp_path):
    reads = "{use: corpus.moments, reads: {moments: corpus.moments}}"
    config = f"studies: {{hidden_states: {{figures: {{mine: {reads}}}}}}}"
    says = ("corpus/study.yaml: stimuli: moments reads texts; name a stimulus set",)
    assert_refused(tmp_path, Case(config, says))


def test_texts_of_a_study_on_no_model_may_be_as_they_like(tmp_path):
    config = "stimuli: {rock_music: {tokens: last}}\nstudies: {attention_norms: {models: []}}"
    (tmp_path / "mine.yaml").write_text(config, encoding="utf-8")
    done = snakemake(tmp_path, "--dry-run", "results/figures/mlp_distributions/gelu.png")
    assert done.returncode == 0, done.stderr


def test_functions_that_are_no_products_may_be_as_they_like(tmp_path):
    """What is not asked for is not read."""
    helper = "def helper(x, *rest, n=1, **more):\n    pass\n\n\n"
    files = study(
        "source: x\nfigures: {a: {}}\n", figures=f"{helper}def a(*, n: int = 1):\n    pass\n"
    )
    for name, content in (files | {"mine.yaml": CONFIG.encode()}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = snakemake(tmp_path, "--dry-run", "results/figures/mine/a.png")
    assert done.returncode == 0, done.stderr
