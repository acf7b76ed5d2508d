"""Options of the command line that are made from the config's fields."""

from __future__ import annotations

import inspect

import click
import pytest

from erasure_sweep.sweep.commands.options import config_options
from erasure_sweep.sweep.commands.run import run
from erasure_sweep.sweep.config import SweepConfig, flags, load_config

SPELLINGS = [
    *(
        "--model",
        "--corpus",
        "--prompts",
        "--seq-len",
        "--pack",
        "--pad-id",
        "--positions",
        "--writer",
        "--erasers",
        "--ln",
    ),
    *("--seed", "--stage", "--top", "--batch", "--device", "--dtype", "--workers", "--max-workers"),
    *("--ray-address", "--out", "--store", "--staging", "--tracking-uri", "--experiment"),
]
VALUES = {
    **dict.fromkeys(("--prompts", "--seq-len", "--seed", "--top", "--batch", "--workers", "--max-workers"), "7"),
    **{
        "--pack": "False",
        "--pad-id": "-1",
        "--positions": "all",
        "--ln": "recompute",
        "--stage": "scan",
        "--device": "cpu",
        "--dtype": "float64",
    },
}


def test_what_can_be_typed():
    assert [option.opts[0] for option in config_options().values()] == SPELLINGS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_sets_its_key(spelling: str):
    (key,) = (key for key, option in config_options().items() if option.opts == [spelling])
    typed = VALUES.get(spelling, "L0H2")
    context = run.make_context("run", ["demo", spelling, typed, *(["--writer", "L0H1"] if key == "erasers" else [])])
    value = context.params[key]
    given = list(value) if isinstance(value, tuple) else value
    others = {"writers": ["L0H1"]} if key == "erasers" else {}
    config = load_config("demo", {key: given, **others})
    found = getattr(config, key)
    assert (found[0] if isinstance(found, list) else str(found)) == typed


def test_help_is_the_docstring_of_the_field():
    options = config_options()
    assert options["seed"].help == SweepConfig.model_fields["seed"].description
    assert options["models"].help == (
        "Models to measure: bundled or hub names (`erasure-sweep models` lists them) or directories; `mine=DIR` is called "
        "`mine`; again for more."
    )
    assert "in place of those that the scan finds" in (options["writers"].help or "")
    assert all((option.help or "").endswith(".") for option in options.values())


def test_choices_and_what_stands_for_a_value():
    options, context = config_options(), click.Context(run)
    shown = {key: option.make_metavar(context) for key, option in options.items()}
    assert shown["stage"] == "[scan|verify|all]" and shown["dtype"] == "[float32|float64|bfloat16]"
    assert shown["positions"] == "all|N" and shown["seq_len"] == shown["workers"] == "N"
    assert shown["models"] == "[NAME=]NAME|DIR" and shown["erasers"] == "L2H2+L2H3"


def test_a_key_without_a_mark_is_no_option():
    assert "tau" in SweepConfig.model_fields
    assert "tau" not in flags() and "tau" not in config_options()


def test_handlers_take_what_is_left_of_the_config():
    """Options of the config arrive as keyword arguments, whichever there are."""
    assert any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(run.callback).parameters.values()
    )
