"""Stimulus files that cannot be right, and texts that a product cannot be made from."""

import pytest
from refusals import Case, assert_refused, study

#: A stimulus file, and what is said of it.
STIMULI = {
    "empty_file": (b"", "wants `source:` with `texts:`, `document:`, `url:`, `dataset:`, "),
    "a_list": (b"- pear\n- grape\n", "wants `source:` with `texts:`, `document:`"),
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
    "refers_to_itself": (b"source: x\ntexts: &a [b, *a]\n", ", line 2: refers to itself: an alias"),
    "unknown_key": (b"source: x\ntext: [a]\n", "unknown key 'text'; did you mean 'texts'?"),
    "key_twice": (
        b"source: x\ntemplate: 'A {word}'\nwords:\n  fruit: [a, b]\n  fruit: [c, d]\n",
        ", line 5: the key 'fruit' stands there twice; join the two",
    ),
    "no_source": (b"texts: [a]\n", "`source:` is missing; say where the stimuli come from"),
    "texts_and_words": (
        b"source: x\ntexts: [a]\ntemplate: 'A {word}'\nwords: {fruit: [a, b]}\n",
        "wants one of `texts:`, `document:`, `url:`, `dataset:`, `corpus:`, `like:`, or `templ",
    ),
    "words_alone": (
        b"source: x\nwords: {fruit: [a, b]}\n",
        "wants one of `texts:`, `document:`",
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

ONE_CATEGORY = b"source: x\ntemplate: 'The {word}'\nwords: {fruit: [pear, grape]}\n"
TWO_TEXTS = b"source: x\ntexts: [One text, Another text]\n"


def kept(stimuli, tokens):
    return f"stimuli: {{{stimuli}: {{tokens: {tokens}}}}}"


#: A config, files beside it, and what is said of it.
NEEDS = {
    # Sets
    "unknown_set": (
        study("{stimuli: category}"),
        {},
        "mine.yaml: studies.category_selectivity.stimuli: no stimulus set 'category' "
        "(stimuli/category.yaml); did you mean 'categories'?",
    ),
    "unknown_set_of_a_statistic": (
        study("{statistics: {next_tokens: {stimuli: metamorphoses}}}", "hidden_states"),
        {},
        "mine.yaml: studies.hidden_states.statistics.next_tokens.stimuli: no stimulus set "
        "'metamorphoses' (stimuli/metamorphoses.yaml); did you mean 'metamorphosis'?",
    ),
    "unknown_set_that_would_keep_tokens": (
        kept("categries", "last"),
        {},
        "mine.yaml: stimuli.categries: no stimulus set 'categries'",
        "did you mean 'categories'?",
    ),
    "no_set": (
        "studies: {corpus: {models: [smollm2-135m]}}",
        {},
        "studies.corpus.stimuli: moments reads texts; name a stimulus set, as in `stimuli: …`",
    ),
    "a_field_that_the_texts_of_a_corpus_lack": (
        "studies: {corpus: {models: [smollm2-135m], stimuli: mine}}",
        {
            "stimuli/mine.yaml": b"{source: x, corpus: texts, field: body}",
            "stimuli/texts/a.txt": b"A text.",
            "stimuli/texts/b.jsonl": b'{"text": "a"}\n',
        },
        "studies.corpus.stimuli: stimuli/mine.yaml: corpus: stimuli/texts/b.jsonl: line 1: has no ",
        "field 'body', only 'text'; correct `field:`",
    ),
    "a_mean_of_patterns": (
        kept("penguins", "mean")
        + "\nstudies: {corpus: {models: [smollm2-135m], stimuli: penguins, "
        "statistics: {moments: {sites: [pattern]}}}}",
        {},
        "studies.corpus.stimuli: pattern has no mean over tokens, which reach different keys, but "
        "the config's `stimuli: penguins: tokens` keeps mean",
    ),
    "a_set_that_is_no_file": (
        "stimuli: {mine: {file: stimuli/mine.yaml}}",
        {},
        "mine.yaml: stimuli.mine: stimuli/mine.yaml: no such file; correct the path",
    ),
    "a_set_that_is_a_folder": (
        "stimuli: {mine: {file: results}}",
        {},
        "mine.yaml: stimuli.mine: results: Is a directory; name a file that can be read",
    ),
    "a_set_that_cannot_be_read": (
        study("{stimuli: mine}"),
        {"stimuli/mine.yaml": b"source: x\ntexts: []\n"},
        "mine.yaml: studies.category_selectivity.stimuli: stimuli/mine.yaml: texts: wants a list",
    ),
    "a_set_that_is_a_text": (
        "stimuli: {mine: words.yaml}",
        {},
        "mine.yaml: stimuli.mine: wants {file: …} or {tokens: all, last, mean or [positions]}",
    ),
    "texts_for_weights": (
        study("{statistics: {weight_counts: {stimuli: penguins}}}", "mlp_distributions"),
        {},
        "weight_counts.stimuli: means nothing to weight_counts; take it out",
    ),
    "texts_for_a_figure": (
        study("{figures: {masks: {stimuli: penguins}}}"),
        {},
        "masks.stimuli: means nothing to masks; take it out",
    ),
    "texts_for_what_reads_a_statistic": (
        study("{statistics: {rsa: {stimuli: penguins}}}"),
        {},
        "rsa.stimuli: means nothing to rsa; take it out",
    ),
    # What statistics need of them
    "no_words": (
        study("{stimuli: penguins}"),
        {},
        "category_selectivity/study.yaml: statistics.word_pairs: word_pairs ",
        "wants words or texts in two or more categories; 'penguins' has 0; add one, or name",
    ),
    "one_category": (
        study("{stimuli: mine}"),
        {"stimuli/mine.yaml": ONE_CATEGORY},
        "word_pairs wants words or texts in two or more categories; 'mine' has 1; add one",
    ),
    "two_texts_where_one_is_meant": (
        study("{stimuli: mine}", "hidden_states"),
        {"stimuli/mine.yaml": TWO_TEXTS},
        "token_profile wants a set of one text; 'mine' has 2 texts; name another set, or make",
    ),
    "two_texts_for_one_statistic": (
        study("{statistics: {next_tokens: {stimuli: mine}}}", "hidden_states"),
        {"stimuli/mine.yaml": TWO_TEXTS},
        "mine.yaml: studies.hidden_states.statistics.next_tokens: next_tokens wants a set of one ",
    ),
    "two_texts_for_the_statistic_of_an_intervention": (
        study("{interventions: {scaled_blocks: {stimuli: mine}}}", "hidden_states"),
        {"stimuli/mine.yaml": TWO_TEXTS},
        "statistics.scaling: scaling wants a set of one text; 'mine' has 2 texts",
    ),
    "unknown_set_of_an_intervention": (
        study("{interventions: {scaled_blocks: {stimuli: metamorphoses}}}", "hidden_states"),
        {},
        "mine.yaml: studies.hidden_states.interventions.scaled_blocks.stimuli: no stimulus set "
        "'metamorphoses' (stimuli/metamorphoses.yaml); did you mean 'metamorphosis'?",
    ),
    "a_text_that_a_set_lacks": (
        study("{interventions: {scaled_blocks: {change: {patch: [[0, 1]]}}}}", "hidden_states"),
        {},
        "mine.yaml: studies.hidden_states.interventions.scaled_blocks.change.patch: no text 1; ",
        "there are 0 to 0",
    ),
    "a_word_of_texts": (
        study("{interventions: {scaled_blocks: {tokens: word}}}", "hidden_states"),
        {},
        "scaled_blocks.tokens: the stimuli have no words; name a set with `template:` and `words:`",
    ),
    "a_label_that_no_word_has": (
        study("{statistics: {t_tests: {difference: [noun, vreb]}}}", "grammar_tuning"),
        {},
        "t_tests.difference: nothing is labelled 'vreb' in nouns_and_verbs; did you mean 'verb'?",
    ),
    # Tokens that are not kept
    "tokens_of_another_kind": (
        kept("categories", "first"),
        {},
        "mine.yaml: stimuli.categories.tokens: wants all, last, mean or [positions]; has",
    ),
    "contexts_of_the_last_token_alone": (
        kept("categories", "last"),
        {},
        "statistics.token_variances: token_variances wants all tokens of each text; the config's "
        "`stimuli: categories: tokens` keeps last; take that out",
    ),
    "autoregression_over_kept_rows": (
        kept("rock_music", "[0, 5, -1]"),
        {},
        "regression wants all tokens of each text; the config's `stimuli: rock_music: tokens` "
        "keeps [0, 5, -1]; take that out",
    ),
    "hidden_states_of_means": (
        kept("penguins", "mean"),
        {},
        "token_profile wants all tokens of each text; the config's `stimuli: penguins: tokens`",
    ),
    "words_without_all_their_tokens": (
        kept("nouns_and_verbs", "last"),
        {},
        "word_activations wants all tokens of each text; the config's `stimuli: nouns_and_verbs",
    ),
    "a_prediction_from_means": (
        kept("metamorphosis", "mean"),
        {},
        "next_tokens wants the last token of each text; the config's `stimuli: metamorphosis: "
        "tokens` keeps mean; let it keep -1 too",
    ),
    "a_prediction_after_the_first_token": (
        kept("metamorphosis", "[0]"),
        {},
        "next_tokens wants the last token of each text; the config's `stimuli: metamorphosis: "
        "tokens` keeps [0]; let it keep -1 too",
    ),
    "histograms_by_position_of_means": (
        kept("strawberry", "mean"),
        {},
        "token_histograms wants tokens, not their mean; the config's `stimuli: strawberry: tokens`",
    ),
    "tokens_from_one_on_that_are_not_kept": (
        kept("strawberry", "[0]"),
        {},
        "activation_profile.first_token: wants tokens from 1 on; the config's `stimuli: "
        "strawberry: tokens` keeps [0]; make the two agree",
    ),
}

CASES = {
    f"stimuli_{name}": Case(
        "stimuli: {mine: {file: words.yaml}}",
        ("mine.yaml: stimuli.mine: words.yaml", *says),
        {"words.yaml": content},
    )
    for name, (content, *says) in STIMULI.items()
}
CASES |= {name: Case(config, tuple(says), files) for name, (config, files, *says) in NEEDS.items()}


@pytest.mark.parametrize("name", CASES)
def test_texts_that_cannot_be_right_are_refused_in_one_line(tmp_path, name):
    assert_refused(tmp_path, CASES[name])
