"""Prompts as text, each token coloured by the writer's DLA at it, as it is and net of what later heads take back.

Nothing rests on colour alone: every token says its number when it is pointed at, tapped or focused, and the strongest are
numbered, underlined (dashed where they are negative) and listed. Tokens are any text, of any direction: each is isolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Control, Prose
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.verified import first_head
from erasure_sweep.dashboards.model.verify.prompt_words import (
    SOURCES,
    by_construction,
    code,
    token_words,
)
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.wording import listed, number, percent
from erasure_sweep.workers.printed_commands import command
from erasure_sweep.workers.tables.facts.adversarial import from_source
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, rows_where, strings, table_of

READINGS = {"dla": "as DLA says", "net_dla": "net of what later heads take back", "total": "what arrives"}
MOST_PROMPTS = 8
ALL_TOKENS = 30_000
"""Tokens of a page in all bodies together: of more writers each has fewer prompts."""
_LONGEST = 128
_MARKED = 3
_DEEPEST = 0.6
"""Opacity of a colour at its limit; what stands on it can be read."""
_SUPERSCRIPTS = "¹²³"
_ROUND = (1, 1.5, 2, 3, 4, 5, 7, 10)


class TokenPrompt(NamedTuple):
    """The tokens of a prompt up to its place, and by reading the writer's DLA at each.

    ``top`` and ``second`` are the most likely next tokens behind the last one, empty where not known. ``change``: share of the
    DLA there by which the median moves with the last inputs of other prompts.
    """

    prompt: int
    place: int
    position: Floats
    tokens: list[str]
    values: dict[str, Floats]
    top: str
    second: str
    logit_diff: float
    change: float
    text: str
    """Behind position 0, as it stands in the corpus; empty where the model has no tokenizer, or its text is none for people."""


def token_prompts(model: ModelTables, writer: str, source: str) -> list[TokenPrompt]:
    """Prompts that the user gave as they were given, those found in the corpus hardest first."""
    table = rows_where(table_of(model.tables, "adversarial_tokens"), writer=writer)
    if not {"source", "prompt", "place", "position"} <= set(table.columns):
        return []
    table = from_source(table, source).dropna(subset=["prompt", "place", "position"])
    tested = _tested(model, writer, source)
    found = [
        _prompt(rows.sort_values("position"), tested) for _, rows in table.groupby(["prompt", "place"], sort=False)
    ]
    if source == "given":
        return found
    ranks = {key: float(numeric(row, "rank")[0]) for key, row in tested.items()}
    order = [ranks.get((one.prompt, one.place), np.nan) for one in found]
    return [found[at] for at in np.argsort(order, kind="stable")]


def _tested(model: ModelTables, writer: str, source: str) -> dict[tuple[int, int], pd.DataFrame]:
    """By prompt and place what was found there of the writer, its last input replaced."""
    table = rows_where(table_of(model.tables, "adversarial"), writer=writer)
    if not {"source", "role", "inputs", "prompt", "position"} <= set(table.columns):
        return {}
    table = from_source(table[(table["role"] == "writer") & (table["inputs"] == "last")], source)
    table = table.dropna(subset=["prompt", "position"])
    keys = zip(table["prompt"].astype(int), table["position"].astype(int), strict=True)
    return {key: table.iloc[at : at + 1] for at, key in enumerate(keys)}


def _prompt(rows: pd.DataFrame, tested: Mapping[tuple[int, int], pd.DataFrame]) -> TokenPrompt:
    tokens = [_token_words(*pair) for pair in zip(strings(rows, "token"), numeric(rows, "token_id"), strict=True)]
    values = {reading: numeric(rows, reading) for reading in READINGS}
    place = (int(rows["prompt"].iloc[0]), int(rows["place"].iloc[0]))
    words, measured = ("", ""), (np.nan, np.nan)
    if place in tested:
        row = tested[place]
        words = (_next(row, "top"), _next(row, "second"))
        measured = (float(numeric(row, "logit_diff")[0]), float(numeric(row, "change")[0]))
    return TokenPrompt(*place, numeric(rows, "position"), tokens, values, *words, *measured, _text(rows))


def _text(rows: pd.DataFrame) -> str:
    """The text of a prompt's tokens; position 0, a BOS in most models, is left out."""
    parts = [token for token, at in zip(strings(rows, "token"), numeric(rows, "position"), strict=True) if at > 0]
    text = "".join(part for part in parts if part is not None)
    is_readable = all(letter.isprintable() or letter in "\n\t" for letter in text) and "\ufffd" not in text
    return text if is_readable and None not in parts else ""


def _token_words(token: str | None, token_id: float) -> str:
    """A token as it stands in the text; its number, and a space, where it has no text."""
    return token_words(token, token_id) if token else f"{token_words(None, token_id)} "


def _next(tested: pd.DataFrame, name: str) -> str:
    return token_words(strings(tested, name)[0], numeric(tested, f"{name}_id")[0])


def token_colour_limit(prompts: Sequence[TokenPrompt]) -> float:
    """Where colours end: a round number of logits that at most one value in fifty lies beyond, of either reading."""
    sizes = np.abs([value for prompt in prompts for values in prompt.values.values() for value in values])
    sizes = sizes[np.isfinite(sizes)]
    reach = float(np.quantile(sizes, 0.98)) if len(sizes) else 0.0
    if reach <= 0:
        return 1.0
    step = 10.0 ** np.floor(np.log10(reach))
    return float(next(times * step for times in _ROUND if times * step >= reach * (1 - 1e-9)))


def strongest_tokens(values: Floats, most: int = _MARKED) -> list[int]:
    """Where the values are that are farthest from 0, the farthest first; zeros are not among them."""
    sizes = np.abs(np.nan_to_num(values))
    return [int(at) for at in np.argsort(-sizes, kind="stable")[:most] if sizes[at] > 0]


@card(MODEL, "adversarial-tokens", VERIFIED, order=60, when=is_verified)
def token_text_card(view: ModelView) -> Prose:
    """The prompts of the verified writers."""
    return token_text(view.model, view.verified_writers("adversarial_tokens"))


def token_text(model: ModelTables, writers: Sequence[str]) -> Prose:
    """The prompts of these writers, as far as they have any."""
    prompts = {writer: {source: token_prompts(model, writer, source) for source in SOURCES} for writer in writers}
    shown = [writer for writer in writers if any(prompts[writer].values())]
    sources = [source for source in SOURCES if any(prompts[writer][source] for writer in shown)]
    most = _most_prompts(len(shown))
    bodies: dict[str, Markup] = {}
    for row, writer in enumerate(shown):
        limit = token_colour_limit([one for source in sources for one in prompts[writer][source]])
        for column, source in enumerate(sources):
            for at, reading in enumerate(READINGS):
                shown_prompts = [
                    _shown_prompt(model, writer, prompt, reading, limit) for prompt in prompts[writer][source][:most]
                ]
                bodies[f"{row}.{column}.{at}"] = _body(writer, prompts[writer][source], shown_prompts, limit, most)
    # what stands there first is something
    at_first = first_head(shown)
    first = next((at for at, source in enumerate(sources) if prompts[shown[at_first]][source]), 0)
    choices = [
        Control("Writer (verified only)", shown, chosen=at_first),
        Control("Prompts", [SOURCES[source] for source in sources], chosen=first),
    ]
    return Prose(
        "Token by token: a writer's DLA in its prompts, and what later heads leave of it",
        "Each prompt ends where the writer's DLA was tested. The colour of a token is the writer's DLA at it: blue where the "
        "writer speaks for the most likely next token over the second, red where it speaks against it, on the difference of "
        "that token's own two most likely next tokens, the final scale kept. Net, what all later heads write because they "
        "read the writer is added: where the text pales, they take back what DLA credits the writer with. What arrives is how "
        "much smaller the difference is with the writer's mean output in its place, everything behind computed anew. Colours "
        "end where the legend says, the same in all readings; at most one token of this writer in fifty is beyond. Point at a "
        f"token, or tap it, for its number. At most the last {_LONGEST} tokens of a prompt are shown. Line ends are shown as "
        "↵; #17 is a token's number, of a model without a tokenizer.",
        bodies,
        [*choices, Control("Colours", list(READINGS.values()))] if shown else [],
        tables=("adversarial_tokens", "adversarial"),
        empty="This run did not measure it: the table adversarial_tokens is missing or empty.",
    )


def _most_prompts(n_writers: int) -> int:
    """How many prompts of each writer and source a page holds."""
    return int(np.clip(ALL_TOKENS // (max(1, n_writers) * len(READINGS) * _LONGEST), 2, MOST_PROMPTS))


def _body(
    writer: str, prompts: Sequence[TokenPrompt], shown: Sequence[_ShownPrompt], limit: float, most: int
) -> Markup:
    return render(
        "token_text.html.j2",
        writer=writer,
        prompts=shown,
        sentence=_sentence(writer, prompts, most) if prompts else "",
        limit=limit,
    )


def _sentence(writer: str, prompts: Sequence[TokenPrompt], most: int) -> str:
    dla, net, total = (np.array([one.values[reading][-1] for one in prompts]) for reading in READINGS)
    ends = f"At the ends of these {len(prompts)} prompts" if len(prompts) > 1 else "At the end of this prompt"
    of_many = " at the median" if len(prompts) > 1 else ""
    more = f" The first {most} are shown; all are in the table." if len(prompts) > most else ""
    return (
        f"{ends} the DLA of {writer} is {_signed(_median(dla))} logits{of_many}, {_signed(_median(net))} net of what later "
        f"heads take back, and {_signed(_median(total))} of it arrives.{by_construction(writer)}{more}"
    )


def _median(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


class _Token(NamedTuple):
    """A token as the page shows it; ``depth`` is the opacity of its colour, None where it was not measured."""

    text: str
    title: str
    sign: str
    depth: float | None
    mark: str


class _ShownPrompt(NamedTuple):
    """A prompt as the page shows it."""

    title: str
    ends: str
    is_cut: bool
    tokens: list[_Token]
    following: tuple[Markup, Markup, str] | None
    strongest: str
    audit: str
    """The command that says which bars of a DLA figure to believe there; empty where the prompt has no text."""


def _shown_prompt(model: ModelTables, writer: str, shown: TokenPrompt, reading: str, limit: float) -> _ShownPrompt:
    values = shown.values[reading]
    marks = {at: _SUPERSCRIPTS[rank] for rank, at in enumerate(strongest_tokens(values))}
    return _ShownPrompt(
        f"Prompt {shown.prompt}, up to position {shown.place}",
        _ends(writer, shown),
        bool(shown.position[0] > 0),
        [
            _token(token, value, position, limit, marks.get(at, ""))
            for at, (token, value, position) in enumerate(zip(shown.tokens, values, shown.position, strict=True))
        ],
        (code(shown.top), code(shown.second), number(shown.logit_diff)) if shown.top else None,
        _listed(shown, values, marks),
        command("audit", model.about.spec or model.about.name, "--prompt", shown.text) if shown.text else "",
    )


def _ends(writer: str, shown: TokenPrompt) -> str:
    dla, net, total = (_signed(shown.values[reading][-1]) for reading in READINGS)
    moved = "" if np.isnan(shown.change) else f"; with other prompts' last inputs it moves by {percent(shown.change)}"
    return f"At its end: DLA of {writer} {dla}, net {net}, {total} arrives{moved}."


def _token(token: str, value: float, position: float, limit: float, mark: str) -> _Token:
    where = f"at position {position:.0f}"
    if not np.isfinite(value):
        return _Token(token, f"not measured {where}", "", None, "")
    depth = round(_DEEPEST * min(1.0, abs(value) / limit), 2)
    return _Token(token, f"{_signed(value)} logits {where}", "plus" if value >= 0 else "minus", depth, mark)


def _listed(shown: TokenPrompt, values: Floats, marks: Mapping[int, str]) -> str:
    """The strongest tokens with their numbers."""
    parts = [
        Markup("{} {} {} at {}").format(mark, code(shown.tokens[at]), _signed(values[at]), f"{shown.position[at]:.0f}")
        for at, mark in marks.items()
    ]
    return Markup("Strongest: {}.").format(Markup(listed(parts))) if parts else "No token of it has any."


def _signed(value: float) -> str:
    shown = number(value)
    return f"+{shown}" if np.isfinite(value) and float(shown.replace("−", "-")) > 0 else shown
