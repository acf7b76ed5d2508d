"""More about a verified writer: what it carries and where, what else erases it, what comes after, and what its loss costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.adversarial import code, token_words
from erasure_sweep.dashboards.model.verified import pair_name
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.presence import band
from erasure_sweep.dashboards.plots.quartile_points import CLEAN, LIMIT, PATCHED, READ, Quartiles, plot_runs, quartiles
from erasure_sweep.dashboards.plots.theme import GREY, figure, robust_range, shade, single, text
from erasure_sweep.dashboards.wording import interval, number, with_interval
from erasure_sweep.workers.labels import component_order
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, rows_of
from erasure_sweep.workers.tables.values import Floats, numeric, rows_where, strings, table_of

MOST_COMPONENTS = 40
_NAMED = 4
_PARTS = {"all": "its whole output", "bos": "read from the first token", "non_bos": "read from all other tokens"}
_ABLATIONS = {
    "equal_position": "from another prompt, same position",
    "random_position": "from another prompt, another position",
}


class Profile(NamedTuple):
    """A target's group in bins of positions, and how much the writer writes there (root mean square of its norm)."""

    target: VerifiedGroup
    bins: list[str]
    clean: Quartiles
    patched: Quartiles
    norm: Floats


class Runs(NamedTuple):
    """Components onto a writer in several runs, each with a name from the data's columns; ``left_out`` are not drawn."""

    writer: str
    labels: list[str]
    runs: dict[str, Quartiles]
    left_out: int
    beta: Floats
    low: Floats
    high: Floats


def position_profile(model: ModelTables, target: VerifiedGroup) -> Profile | None:
    """The bins in the order of positions; None where nothing was measured."""
    table = rows_of(table_of(model.tables, "position_profile"), target)
    first, last = numeric(table, "first_position"), numeric(table, "last_position")
    order = np.argsort(first, kind="stable")
    table, ends = table.iloc[order], zip(first[order], last[order], strict=True)
    clean, patched = quartiles(table, "clean"), quartiles(table, "patched")
    if not np.isfinite(np.append(clean.median, patched.median)).any():
        return None
    bins = [f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}" for low, high in ends]
    return Profile(target, bins, clean, patched, numeric(table, "writer_norm"))


def plot_profile(shown: Profile) -> go.Figure:
    """The group's projection above, the writer's norm below, over the same bins."""
    data: list[Any] = []
    for look, values, dash in ((CLEAN, shown.clean, "solid"), (PATCHED, shown.patched, "dash")):
        data += band(shown.bins, values.q25, values.q75, shade(look.colour, 0.2), look.name)
        data.append(
            go.Scatter(
                x=shown.bins,
                y=single(values.median),
                customdata=single(np.stack([values.q25, values.q75], axis=1)),
                name=look.name,
                legendgroup=look.name,
                mode="lines+markers",
                line={"color": look.colour, "dash": dash, "width": 2},
                marker={"symbol": look.symbol, "size": 7},
                hovertemplate="positions %{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
            )
        )
    for trace in data:
        trace.yaxis = "y2"
    bars = go.Bar(
        x=shown.bins,
        y=single(shown.norm),
        name="norm of the writer's output",
        marker={"color": shade(GREY, 0.6)},
        hovertemplate="positions %{x}: %{y:.3g}<extra></extra>",
    )
    medians = np.append(shown.clean.median, shown.patched.median)
    edges = np.concatenate([shown.clean.q25, shown.clean.q75, shown.patched.q25, shown.patched.q75])
    return figure(
        [*data, bars],
        x_title="position in the prompt",
        y_title="writer's norm",
        height=520,
        sentence=_profile_sentence(shown),
        xaxis={"type": "category", "anchor": "y"},
        yaxis={"domain": [0, 0.26], "rangemode": "tozero", "nticks": 4},
        yaxis2={
            **{
                "domain": [0.34, 1],
                "anchor": "x",
                "range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=LIMIT),
            },
            "title": {"text": f"the group's projection ratio<br>onto {text(shown.target.writer)}"},
        },
        showlegend=True,
    )


def _profile_sentence(shown: Profile) -> str:
    read = shown.clean.median - shown.patched.median
    if not np.isfinite(read).any():
        return ""
    at = int(np.nanargmin(read))
    return (
        f"Erased most at position {shown.bins[at]}: median over tokens of the group {number(shown.clean.median[at])}, "
        f"{number(shown.patched.median[at])} without reading {shown.target.writer}."
    )


def mlp_erasers(model: ModelTables, writer: str) -> Runs | None:
    """Every MLP behind the writer: as it is, without the writer in its input, and what it writes because it reads it."""
    table = rows_where(table_of(model.tables, "mlp_erasure"), writer=writer)
    return _runs(writer, table, ("clean", "patched", "read"), "beta")


def later_use(model: ModelTables, target: VerifiedGroup) -> Runs | None:
    """Every component behind the erasers, as it is and with the erasers patched; the largest of very many."""
    return _runs(
        target.writer, rows_of(table_of(model.tables, "later_use"), target), ("clean", "patched"), "clean_beta"
    )


def _runs(
    writer: str, table: pd.DataFrame, names: Sequence[str], beta: str, most: int = MOST_COMPONENTS
) -> Runs | None:
    if "component" not in table:
        return None
    table = table.dropna(subset="component").drop_duplicates("component").set_index("component")
    table = table.loc[component_order(table.index.astype(str))]
    left_out = max(0, len(table) - most)
    if left_out:
        strength = np.nan_to_num(np.abs(numeric(table, beta)))
        table = table.iloc[np.sort(np.argsort(-strength, kind="stable")[:most])]
    runs = {name: quartiles(table, name) for name in names}
    if not np.isfinite(np.concatenate([values.median for values in runs.values()])).any():
        return None
    betas = (numeric(table, f"{beta}{suffix}") for suffix in ("", "_low", "_high"))
    return Runs(writer, table.index.astype(str).tolist(), runs, left_out, *betas)


def plot_mlps(shown: Runs) -> go.Figure:
    """MLPs as they are, without the writer in their input, and the difference of the two."""
    looks = {"clean": CLEAN, "patched": PATCHED, "read": READ}
    most = _strongest(shown, shown.beta <= -NOTICEABLE)
    sentence = (
        f"What MLPs write against {shown.writer} because they read it, pooled β: {most}."
        if most
        else f"No MLP writes against {shown.writer} because it reads it."
    )
    return plot_runs(
        shown.labels,
        [(looks[name], values) for name, values in shown.runs.items()],
        x_title="MLP, in stream order",
        y_title=f"projection ratio onto {text(shown.writer)}",
        sentence=sentence,
    )


def plot_later_use(shown: Runs) -> go.Figure:
    """Components behind the erasers, as they are and with the erasers patched."""
    looks = {"clean": CLEAN, "patched": PATCHED._replace(name="with the erasers patched")}
    most = _strongest(shown, shown.beta >= NOTICEABLE)
    said = f"Components that write along {shown.writer} again, pooled β: {most}." if most else ""
    none = "" if most else f"No component behind the erasers writes along {shown.writer}."
    more = f" Drawn are the {len(shown.labels)} with the largest β; {shown.left_out} others are left out."
    return plot_runs(
        shown.labels,
        [(looks[name], values) for name, values in shown.runs.items()],
        x_title="component behind the erasers, in stream order",
        y_title=f"projection ratio onto {text(shown.writer)}",
        sentence=f"{said}{none}{more if shown.left_out else ''}",
    )


def _strongest(shown: Runs, among: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """The largest β among some of the components, with their intervals."""
    rows = [int(row) for row in np.argsort(-np.nan_to_num(np.abs(shown.beta)), kind="stable") if among[row]]
    return ", ".join(
        f"{shown.labels[row]}\u00a0{with_interval(shown.beta[row], shown.low[row], shown.high[row])}"
        for row in rows[:_NAMED]
    )


def carries_table(model: ModelTables, targets: Sequence[VerifiedGroup]) -> HtmlTable:
    """A row per target and part of the writer's output."""
    columns = [
        HtmlColumn("writer ← erasers"),
        HtmlColumn("of its output", "the whole, or what a head reads from the first token and from all others"),
        HtmlColumn("share of power", "pooled coefficient of the part along the whole output", True),
        HtmlColumn("variance", "mean squared distance from the mean over tokens", True),
        HtmlColumn("of its variance: position", "share of the variance between positions, chance taken off", True),
        HtmlColumn(
            "of its variance: token",
            "share of the variance between the tokens that stand there, chance taken off",
            True,
        ),
        HtmlColumn(
            "erased by reading, named erasers",
            "pooled share of the part that the named erasers alone take out because they read it, on the prompts verified "
            "on; elsewhere it is all later heads, on the scan's prompts",
            True,
        ),
        HtmlColumn("tokens", "", True),
    ]
    numbers = ("power_share", "variance", "position_share", "token_share", "erased_by_reading")
    rows: list[list[Any]] = []
    for target in targets:
        table = rows_of(table_of(model.tables, "carries"), target)
        for row, part in enumerate(strings(table, "part")):
            values = [float(numeric(table, name)[row]) for name in numbers]
            rows.append([pair_name(target), _PARTS.get(part or "", part), *values, _count(numeric(table, "n")[row])])
    return HtmlTable(
        "carries",
        "What the writers carry",
        "How much of each writer's output is a matter of position alone, and how much of the token that stands there "
        "(1 would be all of its variance; values a little below 0 are chance). Of a head also what it writes from the "
        "first token, where attention often rests, and from all others. This is about the writer; what position alone "
        "explains of its erasure, which verdicts say, is another number. Erased by reading is here the share of each "
        "part that the named erasers alone take out because they read it, pooled over the prompts verified on; "
        "elsewhere on this page it is what all later heads take out, on the scan's prompts, so the two need not agree. "
        "— means that nothing varies.",
        columns,
        rows,
        empty="This run did not measure it: the table carries is missing or empty.",
        filter_by="writer or part",
        tables=("carries",),
    )


def loss_table(model: ModelTables) -> HtmlTable:
    """A row per writer and way of resampling it."""
    table = table_of(model.tables, "ablation_loss")
    columns = [
        HtmlColumn("writer"),
        HtmlColumn("its output replaced by one"),
        HtmlColumn("loss", "mean over tokens, in nats, of the next token", True),
        HtmlColumn("mean increase", "in nats", True),
        HtmlColumn(
            "95\u00a0%",
            "interval of the mean increase, from drawing blocks of prompts again",
            filtered=False,
            width="narrow",
        ),
        HtmlColumn("median increase", "in nats", True),
        HtmlColumn("quartiles", "of the increase, in nats", filtered=False, width="narrow"),
        HtmlColumn("tokens", "", True),
    ]
    values = {name: numeric(table, name) for name in ("clean_loss", "increase_mean", "median", "q25", "q75", "n")}
    lows, highs = (numeric(table, f"increase_mean_{end}") for end in ("low", "high"))
    rows = [
        [
            *(writer, _ABLATIONS.get(ablation or "", ablation)),
            *(values["clean_loss"][row], values["increase_mean"][row], interval(lows[row], highs[row], 3) or None),
            *(values["median"][row], interval(values["q25"][row], values["q75"][row], 3) or None),
            _count(values["n"][row]),
        ]
        for row, (writer, ablation) in enumerate(zip(strings(table, "writer"), strings(table, "ablation"), strict=True))
    ]
    return HtmlTable(
        "ablation-loss",
        "What the loss of a writer costs",
        "How much worse the model predicts the next token, in nats, when a writer's output is replaced by its output on "
        "another prompt and everything later is computed anew. At the same position it keeps what it says of "
        "position; at another it loses that as well.",
        columns,
        rows,
        empty="This run did not measure it: the table ablation_loss is missing or empty.",
        filter_by="writer",
        tables=("ablation_loss",),
    )


def aligned_table(model: ModelTables) -> HtmlTable:
    """A row per writer and token, writers by rank, tokens with the highest logits first."""
    table = table_of(model.tables, "aligned_tokens")
    tokens = zip(strings(table, "token"), numeric(table, "token_id"), strict=True)
    logits, ranks = numeric(table, "mean_direct_logit"), numeric(table, "rank")
    rows = [
        [writer, _count(ranks[row]), code(token_words(token, token_id)), _id(token_id), float(logits[row])]
        for row, (writer, (token, token_id)) in enumerate(zip(strings(table, "writer"), tokens, strict=True))
    ]
    return HtmlTable(
        "aligned-tokens",
        "Tokens that the writers point at",
        "The tokens whose logits a writer's output would raise most on average over all measured tokens, if nothing "
        "later read it. Line ends are shown as ↵; #17 is a token's number, of a model without a tokenizer.",
        [
            HtmlColumn("writer"),
            HtmlColumn("rank", "", True),
            HtmlColumn("token"),
            HtmlColumn("token id", width="narrow"),
            HtmlColumn("mean direct logit", "", True),
        ],
        rows,
        empty="This run did not measure it: the table aligned_tokens is missing or empty.",
        filter_by="writer or token",
        tables=("aligned_tokens",),
    )


def _id(value: float) -> str | None:
    """A token's number, a name rather than a quantity."""
    return str(int(value)) if np.isfinite(value) else None


def _count(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None
