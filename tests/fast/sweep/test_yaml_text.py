"""YAML: values are what they look like, once each, within bounds."""

from __future__ import annotations

import pytest
import yaml

from erasure_sweep.sweep.config import PRESETS, preset_names
from erasure_sweep.sweep.yaml_text import load_yaml


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_read_as_by_pyyaml(name: str):
    text = (PRESETS / f"{name}.yaml").read_text()
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("True", True),
        ("-0", 0),
        ("+12", 12),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b101", 5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.0e+3", 1000.0),
        ("!!float 1", 1.0),
        ("!!str 3", "3"),
        ('"010"', "010"),
        ("08", "08"),
        ("0o17", "0o17"),
        ("0x_", "0x_"),
        ("._", "._"),
        ("=", "="),
        ("1:30:00", "1:30:00"),
        ("190:20:30.15", "190:20:30.15"),
        ("2001-12-14 21:59:43.10 -5", "2001-12-14 21:59:43.10 -5"),
        ("y", "y"),
        ("OFF", "OFF"),
        ("a: &b {c: 1}\nd: {<<: *b, e: 2}", {"a": {"c": 1}, "d": {"c": 1, "e": 2}}),
        ("a: &b {c: 1}\nd: {<<: *b, c: 2}", {"a": {"c": 1}, "d": {"c": 2}}),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object):
    assert load_yaml(text) == value
    assert type(load_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "a: -007",
            'line 1: -007 is octal to some and decimal to others: write -7, or "-007" in quotes where it is text',
        ),
        ("a: &x [*x]", "line 1: *x stands within what it stands for"),
        ("a: *x", "line 1: found undefined alias 'x'"),
        ("a: [b\n c: d", "line 2: expected ',' or ']'"),
        ("a: 1\n'a': 2", "'a' stands twice, in lines 1 and 2"),
        ("a: !!binary aGk=", "line 1: could not determine a constructor"),
        ("a: !!python/name:os.abort x", "line 1: could not determine a constructor"),
        ("a: !!null 3", "line 1: '3' is no null"),
        ("a: <<", "line 1: could not determine a constructor"),
        pytest.param("x" * 2_000_000, "it is longer than 1,048,576 characters", id="long"),
        pytest.param("- [" + "1," * 100_000 + "]", "it holds more than 100,000 values", id="many-values"),
    ],
)
def test_others_are_refused_with_where_and_why(text: str, line: str):
    with pytest.raises(ValueError) as caught:
        load_yaml(text)
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
