"""Every writer in one row: what it wrote, what later components made of it, who erased it."""

from __future__ import annotations

from collections.abc import Iterator

from erasure_sweep.workers.tables.columns import WRITER, Column, Table, flag, number, text, with_interval

_LEDGER = {
    "written": "β at the state right after the writer's own sublayer",
    "remaining": "β at the final state: `written` + `reinforced` + `opposed`",
    "reinforced": "sum of the positive β of later heads, biases and MLPs",
    "opposed": "sum of their negative β",
}
_ERASED = (
    "the share of the writer's output that later heads take out over all attention paths: `share` of `later` in "
    "`erasure_shares`"
)
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
            *_centred(),
            number(
                "diluted",
                "`diluted` of the final state in `residual_projection`: by how much less a reader behind a norm sees of it at "
                "the end because the stream has grown, whatever was written against it",
            ),
            number("constant_share", "share of its power that its mean vector over all tokens holds"),
            *with_interval("erased", _ERASED),
            *with_interval("erased_centred", "the same of what varies: `share_centred` of `later`"),
            number(
                "net_r", "correlation of its net DLA, what all attention paths leave of it, with its DLA", "correlation"
            ),
            number("net_slope", "slope of the same"),
            flag(
                "clearly_erased",
                "whether more than τ of it is erased beyond chance: the whole interval of `erased` lies above τ; null where "
                "there is none. What is listed as erased, and verified, is this alone",
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
            number("rank", "by `erased`, 1 for the most erased; null where that was not measured", "rank"),
        ),
    ),
)
