"""Commands that can be pasted."""

import shlex

import pytest

from erasure_sweep.workers.printed_commands import command, quoted


@pytest.mark.parametrize(
    "word", ["plain", "my experiment", "it's", '"x"', "$HOME", "a;b", "*", "", "ü", "a\\b", "~/x", "`id`"]
)
def test_a_shell_reads_the_words_back(word: str):
    assert shlex.split(command("ui", "--experiment", word)) == ["erasure-sweep", "ui", "--experiment", word]


def test_a_word_that_looks_like_a_flag():
    assert quoted("--experiment", "-x", "--to", 3) == "--experiment=-x --to 3"
