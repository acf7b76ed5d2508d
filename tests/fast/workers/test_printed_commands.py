"""Commands that can be pasted."""

import shlex
import subprocess

import pytest

from erasure_sweep.workers.printed_commands import command, quoted


@pytest.mark.parametrize(
    "word", ["plain", "my experiment", "it's", '"x"', "$HOME", "a;b", "*", "", "ü", "a\\b", "~/x", "`id`"]
)
def test_a_shell_reads_the_words_back(word: str):
    assert shlex.split(command("ui", "--experiment", word)) == ["erasure-sweep", "ui", "--experiment", word]


def test_a_word_that_looks_like_a_flag():
    assert quoted("--experiment", "-x", "--to", 3) == "--experiment=-x --to 3"


@pytest.mark.parametrize("word", ["a\nb", "it's\n\ta\\b", "\r"])
def test_line_ends_are_spelled_out_and_read_back(word: str):
    line = quoted("printf", "%s", word)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == word
