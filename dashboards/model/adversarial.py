"""Prompts on which a writer's DLA is high whatever it reads (Fig 5).

At the end of a prompt where a writer's direct logit attribution is high, its input is replaced by that of other prompts.
An attribution that stays as it is does not come from this prompt: it is an adversarial example for DLA. Beside the writer
stands the other head whose attribution is highest there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, ORANGE, figure, shade, single, text
from erasure_sweep.dashboards.wording import number, percent
from erasure_sweep.workers.tables.values import Floats, numeric, rows_where, strings, table_of

MOST_PLACES = 24
SOURCES = {"given": "given for this run", "found": "found in the corpus"}
INPUTS = {"last": "at the last position", "all": "at all positions"}
_ROLES = ("writer", "other")
_TAIL = 240
_SPACES = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "↵"})


class Prompt(NamedTuple):
    """Where a prompt ends, what stands there, and its two most likely next tokens with the difference of their logits."""

    prompt: int
    position: int
    text: str
    top: str
    second: str
    logit_diff: float
    rank: float


class Bars(NamedTuple):
    """A component at every prompt: its DLA clean, and quantiles of it over prompts whose input it gets."""

    components: list[str]
    clean: Floats
    q12_5: Floats
    median: Floats
    q87_5: Floats
    change: Floats


class Places(NamedTuple):
    """What Fig 5 shows of one writer, the same prompts for the writer and the strongest other head."""

    writer: str
    source: str
    inputs: str
    prompts: list[Prompt]
    own: Bars
    other: Bars
    left_out: int


def token_words(token: str | None, token_id: float) -> str:
    """A token for reading, line ends and tabs made visible; its number where the model has no tokenizer."""
    if token is None:
        return f"#{token_id:.0f}" if np.isfinite(token_id) else "?"
    return token.translate(_SPACES)


def tail_words(shown: str | None, most: int = _TAIL) -> str:
    """The end of a prompt's text in one line; nothing where the model has no tokenizer."""
    flat = (shown or "").translate(_SPACES)
    return flat if len(flat) <= most else f"… {flat[-most:]}"


def adversarial_places(
    model: ModelTables, writer: str, source: str, inputs: str, most: int = MOST_PLACES
) -> Places | None:
    """Prompts that the user gave as they were given, those found in the corpus hardest first; None without one."""
    table = rows_where(table_of(model.tables, "adversarial"), writer=writer)
    if not {"source", "inputs", "role", "prompt", "position"} <= set(table.columns):
        return None
    table = table[(table["source"] == source) & (table["inputs"] == inputs)].dropna(subset=["prompt", "position"])
    own, other = (table[table["role"] == role].set_index(["prompt", "position"]) for role in _ROLES)
    own = own[~own.index.duplicated()]
    if not len(own):
        return None
    # ranks are those of the writer with its last input replaced, in any view
    ranks = numeric(own, "rank") if source == "found" else np.arange(len(own), dtype=np.float64)
    own = own.iloc[np.argsort(ranks, kind="stable")]
    left_out = max(0, len(own) - most)
    own = own.iloc[:most]
    return Places(
        writer,
        source,
        inputs,
        _prompts(own),
        _bars(own),
        _bars(other[~other.index.duplicated()].reindex(own.index)),
        left_out,
    )


def _prompts(table: pd.DataFrame) -> list[Prompt]:
    tops, seconds = (
        [token_words(*pair) for pair in zip(strings(table, name), numeric(table, f"{name}_id"), strict=True)]
        for name in ("top", "second")
    )
    texts = [tail_words(shown) for shown in strings(table, "text")]
    numbers = zip(numeric(table, "logit_diff"), numeric(table, "rank"), strict=True)
    return [
        Prompt(int(prompt), int(position), *words, *values)
        for (prompt, position), words, values in zip(
            table.index, zip(texts, tops, seconds, strict=True), numbers, strict=True
        )
    ]


def _bars(table: pd.DataFrame) -> Bars:
    names = [label or "" for label in strings(table, "component")]
    return Bars(names, *(numeric(table, name) for name in ("clean", "q12_5", "median", "q87_5", "change")))


def plot_places(shown: Places) -> go.Figure:
    """Fig 5: pairs of bars at every prompt, the writer above, the strongest other head below."""
    ticks = [f"{one.prompt}: “{text(_short(one.top))}”<br>“{text(_short(one.second))}”" for one in shown.prompts]
    at = np.arange(len(ticks), dtype=np.float64)
    data = [*_pair(at, shown.prompts, shown.own, "y2"), *_pair(at, shown.prompts, shown.other, "y")]
    for trace in data[2:]:
        trace.showlegend = False
    # which head it is differs from prompt to prompt
    data[2].update(text=[text(name) for name in shown.other.components], textposition="outside", cliponaxis=False)
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


def _pair(at: Floats, prompts: list[Prompt], bars: Bars, axis: str) -> list[go.Bar]:
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
    return [clean, patched]


def _about(prompt: Prompt, component: str) -> str:
    where = f"prompt {prompt.prompt}, position {prompt.position}"
    lines = [text(line) for line in textwrap.wrap(prompt.text, 60)[-4:]]
    tokens = f"“{text(prompt.top)}” over “{text(prompt.second)}” by {number(prompt.logit_diff)}"
    return "<br>".join([f"<b>{text(component)}</b>, {where}", tokens, *lines])


def _sentence(shown: Places) -> str:
    changes = shown.own.change[np.isfinite(shown.own.change)]
    more = f" {shown.left_out} more are in the table." if shown.left_out else ""
    if not len(changes):
        return f"No change of {shown.writer}'s DLA was measured.{more}"
    more = f"{by_construction(shown.writer)}{more}"
    others = shown.other.change[np.isfinite(shown.other.change)]
    beside = f", that of the strongest other head by {percent(np.median(others))}" if len(others) else ""
    return (
        f"With inputs replaced {INPUTS[shown.inputs]}, the DLA of {shown.writer} changes by {percent(np.median(changes))} "
        f"at the median prompt{beside}.{more}"
    )


def by_construction(writer: str) -> str:
    """What replacing inputs can show of an embedding, which reads no other position; nothing of any other writer."""
    said = {
        "pos_embed": "has no input from the text: at a position it is the same in every prompt, 0\u00a0% by construction",
        "embed": "reads nothing but the token at the position itself: replaced there or everywhere is the same",
    }
    return f" {writer} {said[writer]}." if writer in said else ""


def adversarial_table(model: ModelTables, writers: Sequence[str] = ()) -> HtmlTable:
    """A row per prompt and component, the changes of the DLA side by side for both ways of replacing inputs.

    Rows are in the order of the figure: ``writers`` by rank, prompts that were given as they were given, those found
    hardest first.
    """
    table = _in_order(table_of(model.tables, "adversarial"), writers)
    keys = ["writer", "source", "prompt", "position", "role"]
    rows: list[list[Any]] = []
    if {*keys, "inputs"} <= set(table.columns):
        table = table.dropna(subset=["prompt", "position"])
        for (writer, source, _, _, role), part in table.groupby(keys, sort=False, dropna=False):
            rows.append(_row(str(writer), str(source), str(role), part))
    columns = [
        HtmlColumn("component"),
        HtmlColumn("tested", "the verified writer, or the other head whose DLA is highest there", width="narrow"),
        HtmlColumn("prompt", "given for this run or found in the corpus, and its number", width="narrow"),
        HtmlColumn("most likely, second", "the two most likely next tokens", width="narrow"),
        HtmlColumn("end of its text", "up to the position at which the next token is predicted", width="broad"),
        HtmlColumn("logits apart", "difference of their logits", True),
        HtmlColumn("DLA", "the component's, on that difference", True),
        HtmlColumn("last input replaced", "median DLA over the other prompts", True),
        HtmlColumn("change", "share of its DLA by which the median moves", True),
        HtmlColumn("all inputs replaced", "median DLA over the other prompts", True),
        HtmlColumn("change, all", "share of its DLA by which the median moves", True),
    ]
    return HtmlTable(
        "adversarial-prompts",
        "The prompts at which inputs were replaced",
        f"The last {_TAIL} characters of each prompt; what a component's DLA is there, and its median with the inputs of "
        "other prompts. Change is the distance between the two as a share of the DLA: near 0 the DLA does not come from "
        "what stands here. Prompts found in the corpus: the smallest change first. Line ends are shown as ↵; "
        "#17 is a token's number, of a model without a tokenizer.",
        columns,
        rows,
        empty="This run did not measure it: the table adversarial is missing or empty.",
        filter_by="component, text or token",
        tables=("adversarial",),
    )


def _in_order(table: pd.DataFrame, writers: Sequence[str]) -> pd.DataFrame:
    if not {"source", "prompt", "position"} <= set(table.columns):
        return table
    by_rank = {writer: rank for rank, writer in enumerate(writers)}
    by_source = {source: rank for rank, source in enumerate(SOURCES)}
    # ranks are those of the writer; the other head's rows stand behind the writer's at the same place
    places = [table[name] for name in ("writer", "source", "prompt", "position")]
    ranks = pd.Series(numeric(table, "rank"), index=table.index).groupby(places, sort=False).transform("min")
    found = np.array([source == "found" for source in strings(table, "source")], dtype=bool)
    keys = pd.DataFrame(
        {
            "writer": [by_rank.get(writer or "", len(by_rank)) for writer in strings(table, "writer")],
            "source": [by_source.get(source or "", len(by_source)) for source in strings(table, "source")],
            "rank": np.where(found, ranks.to_numpy(), 0.0),
        }
    )
    return table.iloc[keys.sort_values(["writer", "source", "rank"], kind="stable").index.to_numpy()]


def _row(writer: str, source: str, role: str, part: pd.DataFrame) -> list[Any]:
    first = part.iloc[:1]
    top, second = (token_words(strings(first, name)[0], numeric(first, f"{name}_id")[0]) for name in ("top", "second"))
    shown = strings(first, "text")[0]
    tested = "writer" if role == "writer" else f"beside {writer}"
    by_inputs = {inputs: part[part["inputs"] == inputs].iloc[:1] for inputs in INPUTS}
    medians = [
        float(numeric(rows, name)[0]) if len(rows) else float("nan")
        for rows in by_inputs.values()
        for name in ("median", "change")
    ]
    return [
        *(strings(first, "component")[0] or "", tested, f"{source} {numeric(first, 'prompt')[0]:.0f}"),
        Markup("{} {}").format(code(top), code(second)),
        code(tail_words(shown)) if shown is not None else None,
        *(numeric(first, "logit_diff")[0], numeric(first, "clean")[0], *medians),
    ]


def code(shown: str) -> Markup:
    """A text or token as it stands, its spaces kept."""
    return Markup("<code>{}</code>").format(shown)
