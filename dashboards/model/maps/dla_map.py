"""Whether DLA counts what is erased: how a writer's direct logit attribution goes with a later head's, as a map."""

from __future__ import annotations

from collections.abc import Sequence

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid, dla_of
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.maps.choices import NOT_MEASURED, if_many_writers, map_choices, map_controls
from erasure_sweep.dashboards.model.view import MODEL, WRITER_BY_WRITER, ModelView
from erasure_sweep.dashboards.plots.writer_maps import MapColumns, MapStyle, WriterMap, plot_map, writer_map, x_title

DLA_HOVER = " (%{customdata[1]:.3f} to %{customdata[2]:.3f})<br>slope %{customdata[0]:.3f}"
_EFFECTS = (("v_composition", "the part read from the writer"), ("full", "its whole output"))


def dla_map(grid: Grid, top: Sequence[str], columns: MapColumns = "heads", *, by_rank: bool = False) -> WriterMap:
    """Correlation of DLA; under the pointer slope and the interval of r."""
    return writer_map(grid, top, columns, ["r", "slope", "low", "high"], by_rank=by_rank)


@card(MODEL, "dla", WRITER_BY_WRITER, order=15)
def dla_card(view: ModelView) -> Card:
    grids = [(name, grid) for effect, name in _EFFECTS if (grid := dla_of(view.model, effect)).measured]
    style = MapStyle("r", 1.0, DLA_HOVER)
    figures = {}
    for index, (_, grid) in enumerate(grids):
        for choice in map_choices(grid):
            shown = dla_map(grid, view.top, choice.columns, by_rank=choice.by_rank)
            figures[f"{index}{choice.key}"] = plot_map(shown, style, x_title=x_title(shown.columns))
    effects = Control("Eraser's effect", [name for name, _ in grids])
    return Card(
        "Whether DLA counts what is erased",
        "Direct logit attribution (DLA) of a writer and of a later head, on the difference of the two most likely next "
        "tokens: their correlation r over all measured tokens. Red is negative: where the writer's DLA is high, the "
        "head takes it back, so the writer's DLA alone misleads; r and slope of −1 would be all of it. The exact "
        "numbers are under the pointer: r with its interval, and the slope of the head's DLA on the writer's. Grey: "
        "the head is not later than the writer, or the writer was not measured."
        f"{if_many_writers(grids[0][1]) if grids else ''}",
        figures,
        map_controls(effects, grids[0][1]) if grids else [],
        min_width=520,
        empty=f"{NOT_MEASURED}: the table dla_correlation is missing or holds none.",
        tables=("dla_correlation",),
    )
