"""Models side by side in their causal maps of erasure: two are chosen, all share their colours."""

from __future__ import annotations

from collections.abc import Sequence

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.grids import reading_of
from erasure_sweep.dashboards.html.parts import OUTPUTS, Card, Control
from erasure_sweep.dashboards.model_names import display_names, is_checkpoint
from erasure_sweep.dashboards.plots.writer_maps import (
    BETA_TITLE,
    READING_HOVER,
    MapColumns,
    MapSize,
    MapStyle,
    WriterMap,
    causal_map,
    colour_limit,
    plot_map,
    x_title,
)
from erasure_sweep.dashboards.wording import first_of
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_MAP_SIZE = MapSize(max_writers=60, top_rows=10)
_COLUMNS: tuple[tuple[MapColumns, str], ...] = (("layers", "whole layers"), ("heads", "heads"))


def causal_maps(models: Sequence[ModelTables]) -> dict[tuple[MapColumns, str], list[WriterMap]]:
    """Per choice of columns and model, its causal map as it is and with means removed; models without one left out."""
    maps = {}
    for name, model in zip(display_names(models), models, strict=True):
        grid = reading_of(model)
        for columns, _ in _COLUMNS if grid.measured else ():
            maps[columns, name] = [
                causal_map(grid, top_writers(model.tables), columns, centred=centred, size=_MAP_SIZE)
                for centred in (False, True)
            ]
    return maps


@card(COMPARISON, "causal", order=90)
def causal_card(view: ComparisonView) -> Card:
    """A map per model, whole layers or heads, as it is and with means removed."""
    models = view.models
    maps = causal_maps(models)
    names = list(dict.fromkeys(name for _, name in maps))
    large = [name for name in names if maps["heads", name][0].aggregated]
    offered = _COLUMNS if len(large) < len(names) else _COLUMNS[:1]
    figures = {}
    for choice, (columns, _) in enumerate(offered):
        alike = [one for name in names for one in maps[columns, name]]
        style = MapStyle(BETA_TITLE, colour_limit(alike), READING_HOVER)
        for at, name in enumerate(names):
            for centred, one in enumerate(maps[columns, name]):
                plot = plot_map(one, style, x_title=x_title(one.columns), least_height=380)
                figures[f"{centred}.{choice}.{at}" if len(offered) > 1 else f"{centred}.{at}"] = plot
    shown = display_names(models)
    absent = [name for name in shown if name not in names]
    # to begin with the two deepest, which have most to show; of checkpoints the first, against the final weights
    unfinished = [is_checkpoint(model.about) for model, name in zip(models, shown, strict=True) if name in set(names)]
    deepest = sorted(range(len(names)), key=lambda at: (-len(maps["layers", names[at]][0].columns), unfinished[at]))[:2]
    two = [Control("Model", names, chosen=at) for at in sorted(deepest)]
    controls = [OUTPUTS, Control("Erasers", [title for _, title in offered])]
    return Card(
        "The causal maps of erasure",
        "What each later attention layer, or head, (column) writes along each writer (row) because it read it: β of "
        "its V-composed part, a share of the writer's output. Layers do not add up to what is erased: what one took out the "
        "next no longer reads. Red removes, blue adds; all maps share their colours. "
        "Grey: it is not later than the writer, or the writer was not measured."
        + (f" No later heads, or not measured: {first_of(absent)}." if absent else "")
        + (
            f" Of models with more than {_MAP_SIZE.max_writers} writers before their last layer rows are the median "
            f"over each layer's writers, then the {_MAP_SIZE.top_rows} most erased writers, and columns always whole "
            f"layers: {first_of(large)}."
            if large
            else ""
        ),
        figures,
        controls[: len(offered)] if figures else [],
        panels=names if len(names) < 3 else two,
        empty="This was not measured in any model, or none has a writer with a later attention layer.",
        tables=("v_composition",),
    )
