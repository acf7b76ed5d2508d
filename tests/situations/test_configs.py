"""Config files and what stands in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erasure_sweep.sweep.config import load_config
from tests.support.bad_input import Bench, Ran, assert_refused


def config_of(bench: Bench, out: Path, text: str | bytes) -> Ran:
    """What ``erasure-sweep config`` says of a file with this text."""
    path = out.parent / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return bench.call(out, ["config", str(path)])


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "values", ["[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}"]
)
def test_aliases_of_aliases(bench: Bench, out: Path, values: str):
    """A config of a few hundred bytes whose aliases stand for millions of values.

    Refused at once: an alias counts as all that it stands for, and a config holds 100,000 values at most.
    """
    first = "&a0 [x]" if values.startswith("[") else "&a0 {x: y}"
    lines = [f"&a{i} {values.format(f'*a{i - 1}')}" for i in range(1, 9)]
    ran = config_of(bench, out, "models:\n" + "".join(f"- {line}\n" for line in [first, *lines]))
    assert_refused(ran, 2, "mine.yaml: not valid YAML: line", "more than 100,000 values")


@pytest.mark.timeout(120)
def test_a_pipe_folder_or_device_as_config(bench: Bench, out: Path):
    """A pipe, a device or a folder in the place of a config.

    Refused with what it is; nothing is waited for.
    """
    os.mkfifo(out.parent / "pipe.yaml")
    assert_refused(bench.call(out, ["run", str(out.parent / "pipe.yaml")]), 2, "pipe.yaml", "it is a pipe, not a file")
    assert_refused(bench.call(out, ["run", "/dev/zero"]), 2, "/dev/zero", "it is a device, not a file")
    assert_refused(bench.call(out, ["run", str(out.parent)]), 2, f"for a model write --model {out.parent}")


def test_names_of_configs_that_no_file_can_have(bench: Bench, out: Path):
    """A config named by a text that is longer than a file's name can be, or in a folder that may not be read.

    One line that says so.
    """
    assert_refused(bench.call(out, ["run", "x" * 5000]), 2, "File name too long")
    assert_refused(bench.call(out, ["run", "a\0b"]), 2, "no preset and no file 'a\\x00b'")
    assert_refused(bench.call(out, ["run", f"{bench.tokens}/mine.yaml"]), 2, "Not a directory")


def test_a_key_that_stands_twice(bench: Bench, out: Path):
    """A config in which a key stands twice.

    Refused with the key and both lines; the last one does not silently win.
    """
    ran = config_of(bench, out, "models: [a]\nseed: 3\nprompts: 8\nseed: 4\n")
    assert_refused(ran, 2, "mine.yaml: not valid YAML: 'seed' stands twice, in lines 2 and 4: keep one")
    ran = config_of(bench, out, "models: [a]\ncorpus: own\nown_corpora: {a: stdlib, a: pile-10k}\n")
    assert_refused(ran, 2, "'a' stands twice, in line 3")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prompts: 1:30", "prompts = '1:30': should be a valid integer"),
        ("shard_deadline_s: 1:30", "shard_deadline_s = '1:30': should be a valid number"),
        ("seed: 010", 'line 2: 010 is octal to some and decimal to others: write 10, or "010" in quotes'),
        ("tau: yes", "tau = 'yes': should be a valid number"),
        ("tau: true", "tau = True: should be a valid number"),
        ("gpu_memory_gib: on", "gpu_memory_gib = 'on': should be a valid number"),
        ("prompts: 1e3", "prompts = '1e3': should be a valid integer"),
        ("prompts: 2024-01-01", "prompts = '2024-01-01': should be a valid integer"),
        ("tau: .inf", "tau = inf: should be a finite number"),
        ("tau: NaN", "tau = 'NaN': should be a finite number"),
        pytest.param("seed: " + "9" * 5000, "line 2: 99999999… has more than 30 digits", id="digits"),
        ("prompts: !!int foo", "line 2: 'foo' is no int"),
        ("prompts: !!bool foo", "line 2: 'foo' is no bool"),
        ("prompts: !!timestamp x", "line 2: could not determine a constructor"),
    ],
)
def test_words_that_yaml_reads_as_other_numbers(bench: Bench, out: Path, line: str, said: str):
    """Values that YAML takes for something else: 1:30 (90), 010 (8), yes (true, 1.0), a date.

    A value is what it looks like, or is refused with what to write.
    """
    assert_refused(config_of(bench, out, f"models: [a]\n{line}\n"), 2, said)


def test_words_that_are_text(bench: Bench, out: Path):
    """Names that YAML takes for something else: a date, `no`, 1e3.

    They are the text that they look like.
    """
    (out.parent / "mine.yaml").write_text("models: [no, on, 2024-01-01, 1e3, 08, 1:30]\ntau: 1e-3\nseed: 1_000\n")
    config = load_config(str(out.parent / "mine.yaml"))
    assert config.models == ["no", "on", "2024-01-01", "1e3", "08", "1:30"]
    assert (config.tau, config.seed) == (0.001, 1000)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text", ["models: " + "[" * 100_000, "- " * 100_000, "{a: " * 100_000], ids=["lists", "dashes", "keys"]
)
def test_a_config_nested_very_deep(bench: Bench, out: Path, text: str):
    """A config nested 100,000 times.

    Refused: a config is nested 20 times at most.
    """
    assert_refused(config_of(bench, out, text), 2, "nested deeper than 20 times")


@pytest.mark.timeout(120)
def test_a_config_of_half_a_gigabyte(bench: Bench, out: Path):
    """A file of 500 MB given as config.

    Refused for its size, before it is read.
    """
    path = out.parent / "large.yaml"
    path.touch()
    os.truncate(path, 500 * 10**6)
    assert_refused(
        bench.call(out, ["config", str(path)]), 2, "large.yaml cannot be read as a config: it is larger than 1 MiB"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"models: [a]\nname: \xe4\n", "it is not UTF-8 (at byte 18)"),
        ("models: [a]".encode("utf-16"), "it is not UTF-8"),
        (b"models:\n\t- a\n", "line 2: found character '\\t' that cannot start any token: indent with spaces"),
        (b"models: [a\x00b]\n", "special characters are not allowed"),
    ],
    ids=["latin-1", "utf-16", "tab", "nul"],
)
def test_a_config_that_is_no_plain_text(bench: Bench, out: Path, text: bytes, said: str):
    """A config in Latin-1 or UTF-16, or with tabs.

    Refused with where.
    """
    assert_refused(config_of(bench, out, text), 2, said)


def test_a_config_with_a_byte_order_mark(bench: Bench, out: Path):
    """A config that an editor began with a byte order mark.

    Read as if it were not there.
    """
    assert config_of(bench, out, "\ufeffmodels: [a]\nseed: 7\n").code == 0
