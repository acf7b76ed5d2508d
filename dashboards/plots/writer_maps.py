"""Maps of writers by erasers.

The causal map shows β of the V-composed part, what a head writes because the writer is in its value input: red removes
the writer's output, blue adds to it. A model with hundreds of writers does not fit a screen: there the rows are layers and
top writers, the columns layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.plots.layer_axis import layer_dividers, layer_spans
from erasure_sweep.dashboards.plots.layer_rows import MAX_WRITERS, TOP_ROWS, column_medians, layer_groups
from erasure_sweep.dashboards.plots.theme import figure, single, text
from erasure_sweep.workers.labels import is_head, kind_of, place_of
from erasure_sweep.workers.tables.values import Floats

MapColumns = Literal["heads", "layers"]
_LIMITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_MOST_NAMED_COLUMNS = 40
READING_HOVER = "<br>median ratio %{customdata[0]:.3f}, without reading it %{customdata[1]:.3f}"


class WriterMap(NamedTuple):
    """``values`` [row, column] and what is under the pointer [row, column, number].

    ``aggregated``: rows are layers and top writers, not all writers.
    """

    rows: list[str]
    columns: list[str]
    values: Floats
    hover: Floats
    aggregated: bool


class MapStyle(NamedTuple):
    """What a map's colours mean and where they end, and the template of what is under the pointer."""

    title: str
    limit: float
    hover: str


class MapSize(NamedTuple):
    """With more than ``max_writers``, rows are medians over layers and ``top_rows`` writers, columns whole layers."""

    max_writers: int = MAX_WRITERS
    top_rows: int = TOP_ROWS


WHOLE = MapSize()
BETA_TITLE = "β"


def causal_map(
    grid: Grid,
    top: Sequence[str],
    columns: MapColumns = "heads",
    *,
    centred: bool = False,
    by_rank: bool = False,
    size: MapSize = WHOLE,
) -> WriterMap:
    """β of the V-composed parts; under the pointer the median ratios, clean and patched."""
    value = "beta_centred" if centred else "beta"
    return writer_map(grid, top, columns, [value, "clean_median", "patched_median"], by_rank=by_rank, size=size)


def writer_map(
    grid: Grid,
    top: Sequence[str],
    columns: MapColumns,
    statistics: Sequence[str],
    *,
    by_rank: bool = False,
    size: MapSize = WHOLE,
) -> WriterMap:
    """Writers by erasers, the first statistic as colour, the others under the pointer.

    Args:
        top: all measured writers by rank.
        by_rank: rows are the first ``top_rows`` of ``top`` rather than all in the order of the stream.
    """
    aggregated = len(grid.writers) > size.max_writers
    keep = [i for i, name in enumerate(grid.columns) if _is_among(name, "layers" if aggregated else columns)]
    members = _rows(grid, top[: size.top_rows], aggregated, by_rank)
    stacked = np.stack(
        [
            np.array([column_medians(grid.values[name][np.ix_(rows, keep)]) for rows in members.values()])
            for name in statistics
        ],
        axis=-1,
    ).reshape(len(members), len(keep), len(statistics))
    return WriterMap(list(members), [grid.columns[i] for i in keep], stacked[..., 0], stacked[..., 1:], aggregated)


def _is_among(eraser: str, columns: MapColumns) -> bool:
    """Whether a map has a column for it; the sum of all later heads has none, since it counts erasers in series again."""
    return is_head(eraser) if columns == "heads" else kind_of(eraser) == "attention"


def _rows(grid: Grid, top: Sequence[str], aggregated: bool, by_rank: bool) -> dict[str, list[int]]:
    """The grid's rows behind each row of the map."""
    ranked = {writer: [grid.row_index[writer]] for writer in top if writer in grid.row_index}
    if aggregated:
        return layer_groups(grid) | ranked
    return ranked if by_rank else {writer: [row] for row, writer in enumerate(grid.writers)}


def colour_limit(maps: Sequence[WriterMap]) -> float:
    """Where colours end: a round number that at most one value in fifty lies beyond."""
    values = np.concatenate([np.abs(one.values[np.isfinite(one.values)]) for one in maps]) if maps else np.array([])
    reach = float(np.quantile(values, 0.98)) if len(values) else 1.0
    return next((limit for limit in _LIMITS if limit >= reach), _LIMITS[-1])


def x_title(columns: Sequence[str]) -> str:
    """What the erasers of a map are."""
    return "later head, in stream order" if _all_heads(columns) else "later attention layer"


def plot_map(shown: WriterMap, style: MapStyle, *, x_title: str, least_height: int = 320) -> go.Figure:
    """Diverging colours around 0 that end at ±limit; blank is what cannot be or was not measured."""
    names = [text(name) for name in shown.columns]
    rows = [text(name) for name in shown.rows]
    limit = style.limit
    cells = go.Heatmap(
        x=names,
        y=rows,
        z=single(shown.values),
        customdata=single(shown.hover),
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=f"%{{y}}, %{{x}}: %{{z:.3f}}{style.hover}<extra></extra>",
    )
    ticks = [f"≤ −{limit:g}", f"−{limit / 2:g}", "0", f"{limit / 2:g}", f"≥ {limit:g}"]
    colour_bar = {"tickvals": [limit * share for share in (-1, -0.5, 0, 0.5, 1)], "ticktext": ticks}
    return figure(
        [cells],
        x_title=x_title,
        y_title="writer",
        height=int(np.clip(15 * len(rows) + 140, least_height, 1100)),
        xaxis={
            **{"type": "category", "tickangle": -90, "tickfont": {"size": 10}, "showgrid": False},
            **{"constrain": "domain"},
            **_layer_ticks(shown.columns, names),
        },
        yaxis={"type": "category", "autorange": "reversed", "tickfont": {"size": 10}, "showgrid": False},
        shapes=layer_dividers(layer_spans(_layers(shown.columns))) if _all_heads(shown.columns) else [],
        coloraxis={
            **{"cmin": -limit, "cmax": limit},
            "colorbar": {"title": {"text": style.title}, **colour_bar, "len": 1, "y": 0.5},
        },
    )


def _layers(columns: Sequence[str]) -> list[int | None]:
    places = [place_of(name) for name in columns]
    return [place.layer if place else None for place in places]


def _all_heads(columns: Sequence[str]) -> bool:
    return all(is_head(name) for name in columns)


def _layer_ticks(columns: Sequence[str], names: Sequence[str]) -> dict[str, object]:
    """Where there are too many heads to name each, the layers' names in their middles."""
    if len(columns) <= _MOST_NAMED_COLUMNS or not _all_heads(columns):
        return {"tickmode": "linear", "dtick": 1} if len(columns) <= _MOST_NAMED_COLUMNS else {}
    spans = layer_spans(_layers(columns))
    return {
        "tickmode": "array",
        "tickvals": [names[(span.first + span.last) // 2] for span in spans],
        "ticktext": [f"layer {span.layer}" for span in spans],
    }
