"""Passwords, keys and tokens: which parts of an address are secret, and texts without them.

An address is taken apart as those who open it do, databases as SQLAlchemy reads them, all else as urllib does; where the two
differ, more is hidden rather than less. What is secret in an address that this process was given, and what its environment
holds of that kind, is masked by its value in every text that is shown, logged or kept.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"

_SERVERS = ("http", "https")
"""Who gives a user without a password in such an address means a token."""
_DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "sqlite")
_NAME_PARTS = ("password", "passwd", "passphrase", "pwd", "secret", "token", "signature", "credential")
_NAME_WORDS = ("key", "apikey", "accesskey", "accountkey", "sharedaccesskey", "sig", "sas", "auth", "pass", "pw")
_VARIABLE = re.compile(r"(?i)(?:password|passwd|passphrase|pwd|(?:^|_)(?:pass|secret|token|key|credentials?))$")
_WORDS = ("true", "false", "none", "null", "auto", "default", "disabled", "enabled", "required")
"""Values that hold nothing, though the variable's or parameter's name says so."""
_ADDRESS = re.compile(r"(?<![\w+.-])[\w+.-]+://\S+")  # from the beginning of a word, so that long ones are read once
_PORT = re.compile(r"\d*(?:/|$)")
_FEWEST = 8
"""Characters; what is shorter stands in too many words to be hidden outside its address."""
_DISTINCT = 12
"""Characters, from which on a value stands in no longer word by chance."""
_TOKEN = 16
"""Characters, from which on a user without a password is a token wherever it stands."""

_noted: set[str] = set()


class _Span(NamedTuple):
    """A secret part of an address."""

    start: int
    end: int
    values: tuple[str, ...]
    """What is to be hidden elsewhere as well."""


def note(address: str | None) -> None:
    """Remember what is secret in an address, so that ``masked`` hides it wherever it turns up."""
    if address:
        _noted.update(_values(address))


def has_secret(text: str) -> bool:
    """Whether a text holds something that must not be shown."""
    return masked(text) != text


def masked(text: str) -> str:
    """A text, or an address, as it may be shown, logged and kept."""
    if pattern := _pattern(frozenset(_noted) | _environment()):
        text = pattern.sub(MASK, text)
    return _ADDRESS.sub(lambda found: _hidden(found[0]), text)


def masked_values(value: object) -> object:
    """The same of every text in what JSON can hold."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: masked_values(each) for key, each in value.items()}
    return [masked_values(each) for each in value] if isinstance(value, list | tuple) else value


def _hidden(address: str) -> str:
    shown, end = "", 0
    for span in sorted(_spans(address)):
        if span.start >= end:
            shown += address[end : span.start] + MASK
        end = max(end, span.end)
    return shown + address[end:]


def _values(address: str) -> set[str]:
    """The secrets of an address in all ways of writing them; not what stands in it openly as well."""
    shown = set(re.split(r"[/:@?&=]", _hidden(address)))
    return {form for span in _spans(address) for value in span.values if not shown & {value} for form in _forms(value)}


def _spans(address: str) -> Iterator[_Span]:
    scheme, separator, rest = address.partition("://")
    kind = scheme.lower().partition("+")[0]
    start = len(scheme) + len(separator)
    at = _end_of_user(kind, rest)
    if at > 0:
        user, colon, password = rest[:at].partition(":")
        if colon and password:
            # what reads it in another way may name a piece of it, as the host say
            yield _Span(start + len(user) + 1, start + at, (password, *re.split(r"[@/?#]", password)))
        elif kind in _SERVERS:
            yield _Span(start, start + at, (user,) if len(user) >= _TOKEN else ())
    yield from _parameters(address, start + max(at, 0))


def _end_of_user(kind: str, rest: str) -> int:
    """Index of the ``@`` behind user and password, which may hold slashes and further ones; -1 where there are none."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, colon, behind = rest.partition(":")
    if "/" in user or (colon and "@" not in behind):
        return authority.rfind("@")
    if not colon or (kind not in _DATABASES and _PORT.match(re.split(r"[?#]", behind)[0])):
        return authority.rfind("@")  # a number before a slash is a server's port
    before_query = rest.partition("?")[0].rfind("@")
    return before_query if before_query >= 0 else rest.rfind("@")


def _parameters(address: str, start: int) -> Iterator[_Span]:
    """Secret values of ``?NAME=VALUE`` and the like, also of an ODBC connection string in such a value."""
    for place in (match.end() for match in re.finditer(r"[?&;#]", address[start:])):
        name, equals, rest = address[start + place :].partition("=")
        if not equals or re.search(r"[?&;#/]", name):
            continue
        value = rest.partition("&")[0]
        begin = len(address) - len(rest)
        nested = tuple(_of_connection(unquote_plus(value)))
        if value and (nested or _is_secret_name(unquote_plus(name))):
            yield _Span(begin, begin + len(value), nested or (value,))


def _of_connection(text: str) -> Iterator[str]:
    """Secrets of ``NAME=VALUE;NAME={VALUE}``, as ODBC and Azure write it."""
    if ";" not in text and "=" not in text:
        return
    for name, braced, value in re.findall(r"(?:^|;)\s*([^=;{}]+?)\s*=\s*(?:\{((?:[^}]|\}\})*)\}|([^;]*))", text):
        if (braced or value) and _is_secret_name(name):
            yield braced.replace("}}", "}") or value


def _is_secret_name(name: str) -> bool:
    squeezed = re.sub(r"[^a-z0-9]", "", name.lower())
    words = re.split(r"[^a-z0-9]+", name.lower())
    return any(part in squeezed for part in _NAME_PARTS) or any(word in _NAME_WORDS for word in (squeezed, *words))


def _environment() -> frozenset[str]:
    return _of_variables(tuple(os.environ.items()))


@lru_cache(maxsize=4)
def _of_variables(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """What variables of the environment hold that must not be shown: by their names, and in addresses."""
    found: set[str] = set()
    for name, value in variables:
        if _ADDRESS.fullmatch(value):
            found |= _values(value)
        elif _VARIABLE.search(name) and value.lower() not in _WORDS and "/" not in value[:1]:
            found |= set(_forms(value))
        found |= {form for secret in _of_connection(value) for form in _forms(secret) if name.startswith("AZURE_")}
    return frozenset(found)


def _forms(value: str) -> Iterable[str]:
    """The ways of writing a value: as it is, decoded, and as addresses, JSON and pages hold it."""
    plain = {value, unquote(value), unquote_plus(value)}
    return plain | {
        form
        for each in plain
        for form in (quote(each, safe=""), quote_plus(each), html.escape(each), json.dumps(each)[1:-1])
    }


@lru_cache(maxsize=4)
def _pattern(values: frozenset[str]) -> re.Pattern[str] | None:
    """Finds any of these, the longest first, and no part of a longer word."""
    parts = [
        re.escape(value) if len(value) >= _DISTINCT else rf"(?<![^\W_]){re.escape(value)}(?![^\W_])"
        for value in sorted(values, key=len, reverse=True)
        if len(value) >= _FEWEST and value.lower() not in _WORDS
    ]
    return re.compile("|".join(parts)) if parts else None
