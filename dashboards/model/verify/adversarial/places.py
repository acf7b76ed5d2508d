"""Prompts on which a writer's DLA is high: what of it arrives, and what it is whatever the writer reads (Fig 5).

At the end of a prompt where a writer's direct logit attribution is high, its output is replaced by its mean and everything
behind it computed anew: where far less of the DLA arrives, DLA is fooled. Beside it the writer's input is replaced by that of
other prompts: an attribution that stays as it is does not come from this prompt. Beside the writer stands the other head
whose attribution is highest there.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.verified import first_head
from erasure_sweep.dashboards.model.verify.choices import drawn, writer_control
from erasure_sweep.dashboards.model.verify.prompt_words import (
    INPUTS,
    SOURCES,
    by_construction,
    tail_words,
    token_words,
)
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, ORANGE, figure, shade, single, text
from erasure_sweep.dashboards.wording import number, percent
from erasure_sweep.workers.tables.declarations.adversarial import ARRIVES, LARGE
from erasure_sweep.workers.tables.facts.adversarial import COUNTED, fooled, from_source, sources_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, rows_where, strings, table_of

MOST_PLACES = 24
_ROLES = ("writer", "other")


class TestedPrompt(NamedTuple):
    """Where a prompt ends, what stands there, and its two most likely next tokens with the difference of their logits."""

    prompt: int
    position: int
    text: str
    top: str
    second: str
    logit_diff: float
    rank: float
    fools: bool | None


class PromptBars(NamedTuple):
    """A component at every prompt: its DLA clean, what of it arrives, and quantiles of it over prompts whose input it gets."""

    components: list[str]
    clean: Floats
    total: Floats
    total_share: Floats
    q12_5: Floats
    median: Floats
    q87_5: Floats
    change: Floats


class TestedPlaces(NamedTuple):
    """What Fig 5 shows of one writer, the same prompts for the writer and the strongest other head."""

    writer: str
    source: str
    inputs: str
    prompts: list[TestedPrompt]
    own: PromptBars
    other: PromptBars
    left_out: int
    arrives: str
    """In a sentence at how many of all these prompts DLA is fooled, where they count."""


def adversarial_places(
    model: ModelTables, writer: str, source: str, inputs: str, most: int = MOST_PLACES
) -> TestedPlaces | None:
    """Prompts that the user gave as they were given, those found in the corpus hardest first; None without one."""
    table = rows_where(table_of(model.tables, "adversarial"), writer=writer)
    if not {"source", "inputs", "role", "prompt", "position"} <= set(table.columns):
        return None
    table = from_source(table[table["inputs"] == inputs], source).dropna(subset=["prompt", "position"])
    own, other = (table[table["role"] == role].set_index(["prompt", "position"]) for role in _ROLES)
    own = own[~own.index.duplicated()]
    if not len(own):
        return None
    # ranks are those of the writer with its last input replaced, in any view
    ranks = np.arange(len(own), dtype=np.float64) if source == "given" else numeric(own, "rank")
    own = own.iloc[np.argsort(ranks, kind="stable")]
    left_out = max(0, len(own) - most)
    own = own.iloc[:most]
    return TestedPlaces(
        writer,
        source,
        inputs,
        _prompts(own),
        _bars(own),
        _bars(other[~other.index.duplicated()].reindex(own.index)),
        left_out,
        _arrives(model, writer, source),
    )


def _arrives(model: ModelTables, writer: str, source: str) -> str:
    if source not in COUNTED:
        return "On this half of the prompts high places were looked for: it does not say how often DLA is fooled. "
    n, of, share = fooled(model.tables, source, writer)
    if not of:
        return ""
    return (
        f"{n} of {of} {'place' if of == 1 else 'places'} {'fools' if n == 1 else 'fool'} DLA; at the median place "
        f"{percent(share)} of the DLA of {writer} arrives. "
    )


def _prompts(table: pd.DataFrame) -> list[TestedPrompt]:
    tops, seconds = (
        [token_words(*pair) for pair in zip(strings(table, name), numeric(table, f"{name}_id"), strict=True)]
        for name in ("top", "second")
    )
    texts = [tail_words(shown) for shown in strings(table, "text")]
    told = [None if word is None else word == "True" for word in strings(table, "fools")]
    numbers = zip(numeric(table, "logit_diff"), numeric(table, "rank"), told, strict=True)
    return [
        TestedPrompt(int(prompt), int(position), *words, *values)
        for (prompt, position), words, values in zip(
            table.index, zip(texts, tops, seconds, strict=True), numbers, strict=True
        )
    ]


def _bars(table: pd.DataFrame) -> PromptBars:
    names = [label or "" for label in strings(table, "component")]
    columns = ("clean", "total", "total_share", "q12_5", "median", "q87_5", "change")
    return PromptBars(names, *(numeric(table, name) for name in columns))


def plot_places(shown: TestedPlaces) -> go.Figure:
    """Fig 5: bars at every prompt, the writer above, the strongest other head below; prompts that fool DLA say so."""
    ticks = [
        f"{one.prompt}: “{text(_short(one.top))}”<br>“{text(_short(one.second))}”{'<br><b>fools DLA</b>' * bool(one.fools)}"
        for one in shown.prompts
    ]
    at = np.arange(len(ticks), dtype=np.float64)
    own = _bars_of(at, shown.prompts, shown.own, "y2")
    data = [*own, *_bars_of(at, shown.prompts, shown.other, "y")]
    for trace in data[len(own) :]:
        trace.showlegend = False
    # which head it is differs from prompt to prompt
    data[len(own)].update(
        text=[text(name) for name in shown.other.components], textposition="outside", cliponaxis=False
    )
    named = {"showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    return figure(
        data,
        x_title="prompt: its two most likely next tokens",
        y_title="DLA (logits)",
        height=600,
        sentence=_sentence(shown),
        xaxis={
            **{"tickmode": "array", "tickvals": at.tolist(), "ticktext": ticks, "showgrid": False, "zeroline": False},
            **{"range": [-0.6, len(ticks) - 0.4], "anchor": "y", "tickfont": {"size": 11}},
        },
        yaxis={"domain": [0, 0.43]},
        yaxis2={"domain": [0.55, 0.98], "anchor": "x", "title": {"text": "DLA (logits)"}},
        annotations=[
            {**named, "y": 0.985, "text": f"<b>{text(shown.writer)}</b>"},
            {**named, "y": 0.435, "text": "<b>the strongest other head</b>"},
        ],
        barmode="group",
        bargap=0.3,
        bargroupgap=0.08,
        legend={"y": 1.06},
        showlegend=True,
    )


def _short(token: str, most: int = 10) -> str:
    return token if len(token) <= most else f"{token[: most - 1]}…"


def _bars_of(at: Floats, prompts: list[TestedPrompt], bars: PromptBars, axis: str) -> list[go.Bar]:
    about = [_about(prompt, name) for prompt, name in zip(prompts, bars.components, strict=True)]
    clean = go.Bar(
        x=at,
        y=single(bars.clean),
        yaxis=axis,
        name="this prompt",
        customdata=about,
        marker={"color": BLUE},
        hovertemplate="DLA %{y:.3f}<br>%{customdata}<extra></extra>",
    )
    up, down = bars.q87_5 - bars.median, bars.median - bars.q12_5
    notes = [
        f"{number(low)} to {number(high)}, change {percent(change)}<br>{words}"
        for low, high, change, words in zip(bars.q12_5, bars.q87_5, bars.change, about, strict=True)
    ]
    patched = go.Bar(
        x=at,
        y=single(bars.median),
        yaxis=axis,
        name="other prompts' input",
        customdata=notes,
        error_y={
            **{"type": "data", "symmetric": False, "array": single(up), "arrayminus": single(down)},
            **{"width": 3, "thickness": 1.5, "color": GREY},
        },
        marker={"color": shade(ORANGE, 0.6), "pattern": {"shape": "/", "fgcolor": ORANGE, "size": 6}},
        hovertemplate="DLA %{y:.3f} from %{customdata}<extra></extra>",
    )
    arriving = go.Bar(
        x=at,
        y=single(bars.total),
        yaxis=axis,
        name="what arrives",
        customdata=[
            f"{percent(share)} of the DLA<br>{words}" for share, words in zip(bars.total_share, about, strict=True)
        ],
        marker={"color": GREY},
        hovertemplate="arrives: %{y:.3f}, %{customdata}<extra></extra>",
    )
    return [clean, arriving, patched]


def _about(prompt: TestedPrompt, component: str) -> str:
    where = f"prompt {prompt.prompt}, position {prompt.position}"
    lines = [text(line) for line in textwrap.wrap(prompt.text, 60)[-4:]]
    tokens = f"“{text(prompt.top)}” over “{text(prompt.second)}” by {number(prompt.logit_diff)}"
    return "<br>".join([f"<b>{text(component)}</b>, {where}", tokens, *lines])


def _sentence(shown: TestedPlaces) -> str:
    changes = shown.own.change[np.isfinite(shown.own.change)]
    more = f" {shown.left_out} more are in the table." if shown.left_out else ""
    if not len(changes):
        return f"{shown.arrives}No change of {shown.writer}'s DLA was measured.{more}"
    more = f"{by_construction(shown.writer)}{more}"
    others = shown.other.change[np.isfinite(shown.other.change)]
    beside = f", that of the strongest other head by {percent(np.median(others))}" if len(others) else ""
    return (
        f"{shown.arrives}With inputs replaced {INPUTS[shown.inputs]}, the DLA of {shown.writer} changes by "
        f"{percent(np.median(changes))} at the median prompt{beside}.{more}"
    )


@card(MODEL, "adversarial", VERIFIED, order=50, when=is_verified)
def adversarial_card(view: ModelView) -> Card:
    table = table_of(view.model.tables, "adversarial")
    sources = [source for source in SOURCES if source in sources_of(table)]
    inputs = [one for one in INPUTS if one in strings(table, "inputs")]
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    firsts: list[int] = []
    for writer in view.verified_writers("adversarial"):
        views = [adversarial_places(view.model, writer, source, one) for source in sources for one in inputs]
        if any(view is not None for view in views):
            keys = [f"{len(names)}.{source}.{one}" for source in range(len(sources)) for one in range(len(inputs))]
            figures |= {key: drawn(view, plot_places) for key, view in zip(keys, views, strict=True)}
            # the first figure of a page is one that shows something
            firsts.append(next(at for at, view in enumerate(views) if view is not None) // len(inputs))
            names.append(writer)
    most = max((len(plot.layout.xaxis.ticktext or ()) for plot in figures.values()), default=0)
    return Card(
        "Where a writer's DLA is high: does it arrive?",
        "At the end of a prompt, the share that a component's output has in the logit difference of the two most likely next "
        "tokens, its DLA (plain); how much smaller that difference is with the component's mean output in its place and "
        "everything behind computed anew, what arrives (grey); and its DLA with the inputs of other prompts (hatched, the "
        "median; lines from 12.5 to 87.5 %), the final scale kept. Above the writer, below the other head whose DLA is "
        f"highest there, whose name stands on its bar. A prompt fools DLA where the DLA is large, at least {LARGE} logits with "
        f"and without the mean's, and less than {ARRIVES:.0%} of it arrives. A DLA that is alike with other inputs does not "
        "come from this prompt; it may arrive all the same. Of prompts in the corpus, high places were looked for on "
        "one half, and those on the other that are as high count; the smallest change first.",
        figures,
        [
            writer_control(names),
            Control("Prompts", [SOURCES[source] for source in sources], chosen=firsts[first_head(names)]),
            Control("Inputs replaced", [INPUTS[one] for one in inputs]),
        ]
        if names
        else [],
        min_width=min(1100, 58 * most),
        empty="This run did not measure it: the table adversarial is missing or empty.",
        tables=("adversarial",),
    )
