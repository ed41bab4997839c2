"""What the benchmarks' tables say of measurements."""

from importlib import import_module

import numpy as np
import pytest

from benchmarks import process
from benchmarks.document import document
from benchmarks.row import Bar, Row, Same, Way, difference
from benchmarks.rows import ROWS
from benchmarks.ways import Task

TASK = Task("gpt2", "texts-32", layers=(0,))
PAIRS = [{"a": {"work": a}, "b": {"work": 2.0}} for a in (1.0, 1.5, 3.0)]


def row(at_most):
    bar = Bar("a ÷ b", lambda pair: pair["a"]["work"] / pair["b"]["work"], at_most)
    ways = {"a": Way("sweep", TASK), "b": Way("bare", TASK)}
    return Row("small", "A small row", "Two ways.", ways, [bar], [Same("a", "b")])


def test_a_bar_is_set_against_the_ratio_of_the_medians():
    section = row(0.75).section({"pairs": PAIRS, "differences": [0.0]})
    assert "| a ÷ b | 0.75 | 0.50–1.50 | ≤ 0.75 | met |" in section
    assert "a and b: equal bit for bit" in section


def test_a_missed_bar_says_by_how_much():
    section = row(0.6).section({"pairs": PAIRS, "differences": [1e-6]})
    assert "| ≤ 0.60 | **missed** by 0.15 |" in section
    assert "at most 1.0e-06" in section


def test_a_row_without_measurements_says_so():
    assert document(ROWS, {}).count("Not measured yet.") == len(ROWS)


def test_a_killed_process_is_in_the_table():
    run = {"wall": 4.0, "resident": 1900.0, "anonymous": 1890.0}
    killed = [{"sweep": run, "hooks": run | {"killed": "SIGKILL"}}]
    section = ROWS["xl-cap"].section({"pairs": killed, "differences": []})
    assert "| sweep | 1 of 1 |" in section
    assert "| hooks | 0 of 1, else killed (SIGKILL) |" in section
    assert "the sweep finishes. Met." in section


def test_every_way_of_every_row_exists():
    for some in ROWS.values():
        assert {name for same in some.same for name in (same.one, same.other)} <= some.ways.keys()
        for way in some.ways.values():
            module = import_module(way.task.MODULE)
            assert way.function in module.WAYS
            assert module.Task.read(way.task.argument()) == way.task


def test_arrays_that_differ_are_found(tmp_path):
    folder = tmp_path / process.SAMPLES
    folder.mkdir()
    np.savez(folder / "a.npz", key=np.array([1.0, 4.0]))
    np.savez(folder / "b.npz", key=np.array([1.0, 5.0]))
    same = Same("a", "b")
    assert difference(same, {"a": {"key": "1"}, "b": {"key": "1"}}, tmp_path) == 0
    assert difference(same, {"a": {"key": "1"}, "b": {"key": "2"}}, tmp_path) == 0.2
    with pytest.raises(SystemExit, match="not the same"):
        difference(same, {"a": {"key": "1"}, "b": {"other": "1"}}, tmp_path)
