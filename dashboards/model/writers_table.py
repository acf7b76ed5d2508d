"""The table of every writer in numbers: what is erased of it, where that was measured, and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.grids import Grid
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable, NumberColumn
from erasure_sweep.dashboards.model.view import ALL_WRITERS, MODEL, ModelView
from erasure_sweep.dashboards.wording import first_of
from erasure_sweep.workers.tables.facts.erasure import is_ranked, strongest_first, written_back
from erasure_sweep.workers.tables.values import numeric

_Cells = tuple[HtmlColumn, Sequence[Any]]
_RULE = "median ≤ −τ (0.05 by default) and upper quartile < 0"
_CENTRED = "each component's mean over tokens taken out first: what is left of it is information, not a constant"


_ERASED = (
    NumberColumn(
        "erased",
        "erased, means kept",
        "share that all later heads together take out because they read it or what others left of it, over all attention paths",
    ),
    NumberColumn("erased_centred", "erased, means removed", f"the same, {_CENTRED}"),
)


_WRITTEN_BACK = NumberColumn(
    "written_back",
    "written back",
    "means kept, remaining − written + erased: what others write back of what is taken out; below 0 more goes than later heads "
    "take out on attention paths",
)


_SIGNIFICANT = (
    NumberColumn(
        "significant_erasers",
        "significant erasers",
        "how many later heads take out more than τ of it by a test over blocks of prompts, false discoveries kept to 5 %",
    ),
)


_ERASERS = (
    NumberColumn(
        "v_composition_share",
        "V-composition share",
        "of what the erasers write against it, the share that they write because they read it; above 1 they write along "
        "it for other reasons and so oppose it less; — where on the whole they do not oppose it",
    ),
    NumberColumn("dla_r", "DLA r", "correlation of its DLA with the later heads': near −1 its DLA misleads"),
    NumberColumn("dla_slope", "DLA slope", "slope of the later heads' DLA on its DLA"),
)


_LEDGER = (
    NumberColumn(
        "written", "written", "pooled β in the stream where it writes: the first state with the writer's output"
    ),
    NumberColumn("remaining", "remaining", "pooled β in the stream at the end, the last state"),
    NumberColumn("reinforced", "reinforced", "sum of later components' positive β"),
    NumberColumn("opposed", "opposed", "sum of later components' negative β"),
    NumberColumn("opposed_centred", "opposed, means removed", f"the same, {_CENTRED}"),
)


def most_erased(writers: pd.DataFrame) -> str:
    """What the first writers of this table are, in words."""
    return "most erased" if is_ranked(writers) else "most opposed"


@card(MODEL, "writers", ALL_WRITERS, order=20)
def writers_in_numbers(view: ModelView) -> HtmlTable:
    """A row per writer, in the order of ``writers``; erasers and opposing heads strongest first."""
    writers = view.writers
    ranked = is_ranked(writers)
    labels = writers["writer"].astype(str).tolist()
    ledger = _numbers(writers, _LEDGER)
    opposing = _heads(view.components, writers, "median", "opposing")
    about = f"later heads with {_RULE}{', erasers left out' if ranked else ''}"
    cells: list[_Cells] = [*ledger, (HtmlColumn("opposing heads", about), opposing)]
    if ranked:
        erasers = _heads(view.reading, writers, "beta", "erasers")
        read = (HtmlColumn("erasers", f"later heads whose V-composed part has {_RULE}"), erasers)
        tested = _counts(writers, _SIGNIFICANT) if "significant_erasers" in writers else []
        back = (_WRITTEN_BACK.html, written_back(writers).tolist())
        cells = [*_numbers(writers, _ERASED), back, read, *tested, *_numbers(writers, _ERASERS), *cells]
    columns = [HtmlColumn("writer"), *(column for column, _ in cells)]
    rows = [[label, *(values[row] for _, values in cells)] for row, label in enumerate(labels)]
    return HtmlTable(
        "Every writer in numbers",
        _caption(ranked),
        columns,
        rows,
        empty="The table writers is missing or empty.",
        filter_by="writer or eraser" if ranked else "writer or opposing head",
        tables=("writers", "component_projection", *(["v_composition"] if ranked else [])),
    )


def _caption(ranked: bool) -> str:
    ledger = (
        "Shares of the writer's output, pooled over all measured tokens: written + reinforced + opposed = remaining. "
    )
    ending = "— means not measured. {} first; click a heading to sort otherwise."
    if not ranked:
        return (
            f"{ledger}Opposing are later heads that write against it at most tokens, strongest first; whether they do "
            f"so because they read it is another measure. {ending.format('Most opposed')}"
        )
    return (
        f"{ledger}Erased is what all later heads together take out because they read the writer, or what earlier "
        "ones left of it; others can write it back. Two tests find erasers, and a head can pass one alone: those listed, "
        "strongest first, take out at most "
        f"tokens (their V-composed part has {_RULE}); significant ones take out more than τ pooled over tokens, beyond "
        "chance. Opposing heads write against it at most tokens without being listed as erasers. DLA r and slope hold "
        "the direct logit attribution of what all later heads write because they read the writer against the writer's own. "
        f"Means are kept but where a heading says that they are removed. {ending.format('Most erased, means kept,')}"
    )


def _numbers(writers: pd.DataFrame, columns: Sequence[NumberColumn]) -> list[_Cells]:
    return [(one.html, numeric(writers, one.name).tolist()) for one in columns]


def _counts(writers: pd.DataFrame, columns: Sequence[NumberColumn]) -> list[_Cells]:
    return [
        (column, [None if np.isnan(value) else int(value) for value in values])
        for column, values in _numbers(writers, columns)
    ]


def _heads(grid: Grid, writers: pd.DataFrame, statistic: str, column: str) -> list[str | None]:
    """A column's lists of heads in words, each strongest first and the first few of many."""
    lists = writers[column] if column in writers else [None] * len(writers)
    named = zip(writers["writer"].astype(str), lists, strict=True)
    return [_in_words(joined, grid, writer, statistic) for writer, joined in named]


def _in_words(joined: object, grid: Grid, writer: str, statistic: str) -> str | None:
    """None where that was not measured."""
    if not isinstance(joined, str):
        return None
    return first_of(strongest_first(joined, grid.by_column(writer, statistic))) or "none"
