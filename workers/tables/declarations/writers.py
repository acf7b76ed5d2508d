"""Every writer in one row: what it wrote, what later components made of it, who erased it."""

from __future__ import annotations

from collections.abc import Iterator

from erasure_sweep.workers.tables.columns import WRITER, Column, Table, flag, number, text

_LEDGER = {
    "written": "β at the state right after the writer's own sublayer",
    "remaining": "β at the final state: `written` + `reinforced` + `opposed`",
    "reinforced": "sum of the positive β of later heads, biases and MLPs",
    "opposed": "sum of their negative β",
}
_ERASED = "−β of the V-composed part of `later`: the share of the writer's output that later heads remove because they read it"
_MEANS_OUT = "every component's mean over all tokens taken out first"


def _centred() -> Iterator[Column]:
    yield from (number(f"{name}_centred", f"{meaning}, {_MEANS_OUT}") for name, meaning in _LEDGER.items())


TABLES = (
    Table(
        "writers",
        "One row for each writer. A writer of the last layer has no later heads: its numbers of reading are null, its lists "
        "empty. A writer that writes nothing has nulls throughout.",
        ("scan",),
        ("writer",),
        (
            WRITER,
            *(number(name, meaning) for name, meaning in _LEDGER.items()),
            number("erased_by_reading", _ERASED),
            *_centred(),
            number("erased_by_reading_centred", f"{_ERASED}, {_MEANS_OUT}"),
            flag(
                "clearly_erased",
                "whether more than τ of it is erased beyond chance: the `p` of `later` in `v_composition` is below 2.5 %; null "
                "where there is none. What is listed as erased, and verified, is this alone",
                nullable=True,
            ),
            text(
                "erasers",
                "later heads whose V-composed part has a median PR ≤ −τ and a negative upper quartile, joined by `+`; empty "
                "where there are none",
                nullable=True,
            ),
            text(
                "opposing",
                "later heads with median PR ≤ −τ and a negative upper quartile that are not erasers, joined by `+`",
                nullable=True,
            ),
            number(
                "significant_erasers",
                "how many later heads are `significant` in `v_composition`: a count that means the same in small and large "
                "models. It tests the mean coefficient, the list of erasers quartiles of PR, so neither need hold the other",
                "heads",
            ),
            number(
                "v_composition_share",
                "the V-composed part's share of what the erasers oppose (β of their full outputs); above 1 where they also "
                "write along the writer for other reasons; null where on the whole they do not oppose it",
            ),
            number(
                "dla_r", "correlation of the DLA of the V-composed part of `later` with the writer's", "correlation"
            ),
            number("dla_slope", "slope of the same"),
            number("rank", "by `erased_by_reading`, 1 for the most erased; null where that was not measured", "rank"),
        ),
    ),
)
