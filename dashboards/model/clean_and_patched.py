"""Erasing by reading (Fig 3): each later head as it is, beside the same head when it cannot read the writer.

In the patched run the writer's output is taken out of the head's value input alone. What a head still writes against
the writer then, it does not write because it read it. A model with many later heads does not fit a screen: there the
heads that change most are drawn, in the order of the stream.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.maps.choices import COLUMNS, ERASERS, NOT_MEASURED
from erasure_sweep.dashboards.model.view import MODEL, WRITER_BY_WRITER, ModelView
from erasure_sweep.dashboards.plots.layer_axis import layer_dividers, layer_notes, layer_spans, shaded
from erasure_sweep.dashboards.plots.medians import CLEAN, PATCHED, RATIO_LIMIT, Quartiles, beside, median_points
from erasure_sweep.dashboards.plots.theme import figure, robust_range, text
from erasure_sweep.dashboards.wording import eraser_name, number
from erasure_sweep.workers.labels import is_head, kind_of, place_of
from erasure_sweep.workers.tables.facts.erasure import strongest_first
from erasure_sweep.workers.tables.facts.verified import LATER

MOST_HEADS = 60
_NAMED = 6
_RULE = "Erasers are heads whose V-composed part has a median of at most −τ (0.05 by default) and an upper quartile < 0"


class CleanAndPatched(NamedTuple):
    """Later heads, or whole layers and named groups, onto one writer: as they are and without reading it.

    ``erasers`` are the heads that qualify, strongest first, None where that was not measured; ``removed`` is the sum of what
    later heads remove on direct paths, a share of the writer's output; ``left_out`` counts heads that are not drawn.
    """

    writer: str
    labels: list[str]
    clean: Quartiles
    patched: Quartiles
    erasers: list[str] | None
    removed: float
    left_out: int


def clean_and_patched(
    grid: Grid,
    writer: str,
    erasers: object,
    columns: Literal["heads", "layers"] = "heads",
    most: int = MOST_HEADS,
) -> CleanAndPatched:
    """What Fig 3 shows of one writer; ``erasers`` is its cell of ``writers``: labels joined by ``+``, or null."""
    measured = np.isfinite(grid.row(writer, "clean_median"))
    kinds = [kind_of(name) for name in grid.columns]
    wanted = [kind == "head" if columns == "heads" else kind != "head" for kind in kinds]
    keep = np.flatnonzero(measured & np.array(wanted, dtype=bool))
    left_out = max(0, len(keep) - most) if columns == "heads" else 0
    if left_out:
        change = np.abs(grid.row(writer, "clean_median") - grid.row(writer, "patched_median"))[keep]
        keep = np.sort(keep[np.argsort(-np.nan_to_num(change), kind="stable")[:most]])
    clean, patched = (
        Quartiles(*(grid.row(writer, f"{run}_{name}")[keep] for name in Quartiles._fields))
        for run in ("clean", "patched")
    )
    later = grid.column_index.get(LATER)
    removed = float("nan") if later is None else -float(grid.row(writer, "beta")[later])
    found = strongest_first(erasers, grid.by_column(writer, "beta")) if isinstance(erasers, str) else None
    return CleanAndPatched(writer, [grid.columns[i] for i in keep], clean, patched, found, removed, left_out)


def plot_clean_and_patched(shown: CleanAndPatched) -> go.Figure:
    """Fig 3: medians and quartiles, clean to the left of patched; erasers are shaded, their names bold."""
    places = [place_of(label) for label in shown.labels]
    spans = layer_spans([place.layer if place else None for place in places])
    erasers = [index for index, label in enumerate(shown.labels) if label in set(shown.erasers or [])]
    runs = (shown.clean, shown.patched)
    medians = np.concatenate([values.median for values in runs])
    edges = np.concatenate([np.append(values.q25, values.q75) for values in runs])
    at, shifts = np.arange(len(shown.labels), dtype=np.float64), beside(len(shown.labels), len(runs))
    names = [eraser_name(label) for label in shown.labels]
    ticks = [f"<b>{text(name)}</b>" if index in erasers else text(name) for index, name in enumerate(names)]
    heads = all(is_head(label) for label in shown.labels)
    return figure(
        [
            median_points(at + shift, names, values, style)
            for shift, values, style in zip(shifts, runs, (CLEAN, PATCHED), strict=True)
        ],
        x_title="later head, in stream order" if heads else "later attention layers and named groups",
        y_title=f"projection ratio onto {text(shown.writer)}",
        height=440,
        sentence=_sentence(shown),
        xaxis={
            **{"tickmode": "array", "tickvals": list(range(len(shown.labels)))},
            **{"ticktext": ticks},
            **{"tickangle": -90, "tickfont": {"size": 10}, "showgrid": False, "zeroline": False},
            **{"range": [-0.6, len(shown.labels) - 0.4]},
        },
        yaxis={"range": robust_range(medians, edges, keep=(-0.1, 0.1), limit=RATIO_LIMIT)},
        shapes=[*(layer_dividers(spans) if heads else []), *(shaded(index, index) for index in erasers)],
        annotations=layer_notes(spans) if heads else [],
        showlegend=True,
        legend={"y": 1.08},
    )


def _sentence(shown: CleanAndPatched) -> str:
    sentences = []
    if np.isfinite(shown.removed):
        direction = "take out" if shown.removed >= 0 else "add"
        sentences.append(
            f"Because they read it, later heads together {direction} {number(abs(shown.removed))} of {shown.writer}'s "
            "output (pooled β), summed over direct paths: what two take out in a row counts twice."
        )
    if shown.erasers is not None:
        sentences.append(_erasers(shown))
    sentences += [
        f"The group {label}: {_move(shown, index)}." for index, label in enumerate(shown.labels) if "+" in label
    ]
    if shown.left_out:
        sentences.append(
            f"Drawn are the {len(shown.labels)} heads that change most; {shown.left_out} others are left out."
        )
    return " ".join(sentences)


def _erasers(shown: CleanAndPatched) -> str:
    """The erasers by name with their medians where they are drawn."""
    if not shown.erasers:
        return "No head qualifies as its eraser."
    at = {label: index for index, label in enumerate(shown.labels)}
    named = shown.erasers[:_NAMED]
    listed = [f"{label}\u00a0{_move(shown, at[label])}" if label in at else label for label in named]
    more = f" and {len(shown.erasers) - _NAMED} more" if len(shown.erasers) > _NAMED else ""
    is_drawn = any(label in at for label in shown.erasers)
    medians = ", strongest first, with their medians as they are → without reading it" if is_drawn else ""
    return f"Its erasers{medians}: {', '.join(listed)}{more}."


def _move(shown: CleanAndPatched, index: int) -> str:
    return f"{number(shown.clean.median[index])}\u00a0→\u00a0{number(shown.patched.median[index])}"


@card(MODEL, "patched", WRITER_BY_WRITER, order=10)
def patched_card(view: ModelView) -> Card:
    measured = set(view.reading.measured)
    names = [writer for writer in view.offered if writer in measured]
    labels = view.writers["writer"].astype(str)
    erasers = dict(zip(labels, view.writers["erasers"], strict=True)) if "erasers" in view.writers else {}
    figures = {
        f"{index}.{number}": plot_clean_and_patched(
            clean_and_patched(view.reading, writer, erasers.get(writer), columns)
        )
        for index, writer in enumerate(names)
        for number, (columns, _) in enumerate(COLUMNS)
    }
    return Card(
        "Who erases a writer because it reads it",
        "Each later head's projection onto the writer, as it is and with the writer's output taken out of the head's "
        "value input (queries, keys and all other readers still see it). Where the second point moves to 0, the head "
        "wrote against the writer because it read it; where both stay below 0, it writes against it anyway. Where the "
        "first is near or above 0 and the second higher still, it takes out as well: without reading the writer the head "
        "would have added to it, for other reasons. Points "
        f"are medians over all measured tokens, bars the quartiles (25 to 75 %). {_RULE}; their names are bold, "
        "their places shaded. 'Whole layers' shows each later attention layer as one, the sum of all later heads on "
        "direct paths, and the groups of heads that were named for this run. The axis ends at ±4.",
        figures,
        [Control("Writer", names), ERASERS] if names else [],
        min_width=min(900, 18 * max((len(one.data[0].x) for one in figures.values()), default=0)),
        empty=f"{NOT_MEASURED}: the table v_composition is missing or holds none.",
        tables=("v_composition", "writers"),
    )
