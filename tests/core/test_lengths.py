"""How many tokens texts have, and how many rows and words."""

from microtome.store.datasets import write_dataset
from microtome.texts.lengths import count_words, n_kept
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table


def test_rows_follow_from_what_a_set_keeps():
    lengths = [3, 1, 4]
    assert n_kept(lengths, "all") == 8
    assert n_kept(lengths, "last") == n_kept(lengths, "mean") == 3
    assert n_kept(lengths, [0]) == 3
    assert n_kept(lengths, [0, -1]) == 2 + 1 + 2  # of a text of one token, both are the same
    assert n_kept([4, 4], [1, -1, -3]) == 4


def test_words_are_counted_and_texts_are_none(smollm2, tmp_path):
    words = [Stimulus("a pear", "pear", "fruit", (2, 6)), Stimulus("a plum", "plum", "x", (2, 6))]
    write_dataset(token_table(words, smollm2), tmp_path / "words.h5")
    write_dataset(token_table([Stimulus("a pear")], smollm2), tmp_path / "texts.h5")
    assert count_words(tmp_path / "words.h5") == 2
    assert count_words(tmp_path / "texts.h5") == 0
