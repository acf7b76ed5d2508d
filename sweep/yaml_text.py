"""YAML as everybody reads it: values are what they look like, or refused with what to write instead.

YAML 1.1, which PyYAML reads, takes ``1:30`` for 90, ``010`` for 8, ``no`` for false and a date for an object, and drops the
first of two keys of one name. Here such words are text, as in YAML 1.2, octals and doubles are refused, and what a text can
grow to is bounded before it grows: its length, its depth, and what its aliases stand for.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

MOST_BYTES = 2**20
_MOST_DEPTH = 20
_MOST_DIGITS = 30
_MOST_VALUES = 100_000
"""With each alias counted as all that it stands for."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_OCTAL = f"{_TAG}octal"
_PLAIN = (
    (f"{_TAG}null", r"~|null|Null|NULL|"),
    (f"{_TAG}bool", r"true|True|TRUE|false|False|FALSE"),
    (f"{_TAG}int", r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]*[01]|0x[0-9a-fA-F_]*[0-9a-fA-F])"),
    (
        f"{_TAG}float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    ),
    (_OCTAL, r"[-+]?0[0-7_]+"),
    (_MERGE, r"<<"),
)
"""What a word without quotes may be other than text."""
_KEPT = (f"{_TAG}null", f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float", f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map", None)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {None: [(tag, re.compile(f"(?:{pattern})$")) for tag, pattern in _PLAIN]}  # noqa: RUF012
    yaml_constructors = {tag: SafeConstructor.yaml_constructors[tag] for tag in _KEPT}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a value, within what is allowed of values and of depth."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # of PyYAML
        mark: Any = event.start_mark
        if isinstance(event, AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ComposerError(None, None, f"*{event.anchor} stands within what it stands for", mark)
            self._n_values += self._sizes[id(node)]
            self._check_bounds(mark)
            return node
        before = self._n_values
        self._n_values, self._depth = before + 1, self._depth + 1
        self._check_bounds(mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._n_values - before
        return node

    def _check_bounds(self, mark: Any) -> None:
        if self._depth > _MOST_DEPTH:
            raise ComposerError(None, None, f"it is nested deeper than {_MOST_DEPTH} times", mark)
        if self._n_values > _MOST_VALUES:
            raise ComposerError(
                None, None, f"it holds more than {_MOST_VALUES:,} values, what aliases stand for included", mark
            )

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping, in which each key stands once."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != _MERGE:
                line = key.start_mark.line + 1
                if key.value in lines:
                    both = f"lines {lines[key.value]} and {line}" if line != lines[key.value] else f"line {line}"
                    raise ComposerError(None, None, f"{key.value!r} stands twice, in {both}: keep one")
                lines[key.value] = line
        return node

    def construct_scalar(self, node: ScalarNode | MappingNode) -> Any:
        """Read a value as its tag says, where it looks like that."""
        looks_like = self.resolve(ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        if node.tag not in (looks_like, f"{_TAG}str") and (looks_like, node.tag) != (f"{_TAG}int", f"{_TAG}float"):
            raise ConstructorError(None, None, f"{node.value!r} is no {node.tag.removeprefix(_TAG)}", node.start_mark)
        if looks_like == node.tag == f"{_TAG}int" and len(node.value) > _MOST_DIGITS:
            raise ConstructorError(
                None, None, f"{node.value[:8]}… has more than {_MOST_DIGITS} digits", node.start_mark
            )
        return super().construct_scalar(node)


def _refuse_octal(loader: _Loader, node: ScalarNode) -> None:
    decimal = int(node.value, 10)
    raise ConstructorError(
        None,
        None,
        f'{node.value} is octal to some and decimal to others: write {decimal}, or "{node.value}" in quotes where it is text',
        node.start_mark,
    )


_Loader.add_constructor(_OCTAL, _refuse_octal)


def load_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: it is none, or beyond the bounds; the message is a line that says where and why.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES:,} characters")
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from error


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong and in which line, without the parser's drawing of it."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return where + problem + (": indent with spaces" if r"'\t'" in problem else "")
