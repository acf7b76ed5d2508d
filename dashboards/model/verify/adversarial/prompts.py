"""The prompts at which inputs were replaced, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verify.prompt_words import (
    INPUTS,
    SOURCES,
    TAIL,
    code,
    tail_words,
    token_words,
)
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.workers.tables.facts.adversarial import sources_of
from erasure_sweep.workers.tables.values import numeric, strings, table_of


@card(MODEL, "adversarial-prompts", VERIFIED, order=70, when=is_verified)
def adversarial_table(view: ModelView) -> HtmlTable:
    """A row per prompt and component, the changes of the DLA side by side for both ways of replacing inputs.

    Rows are in the order of the figure: ``writers`` by rank, prompts that were given as they were given, those found
    hardest first.
    """
    table = _in_order(table_of(view.model.tables, "adversarial"), view.verified_writers("adversarial", most=None))
    keys = ["writer", "source", "prompt", "position", "role"]
    rows: list[list[Any]] = []
    if {*keys, "inputs"} <= set(table.columns):
        table = table.assign(source=np.array(sources_of(table), dtype=object)).dropna(subset=["prompt", "position"])
        for (writer, source, _, _, role), part in table.groupby(keys, sort=False, dropna=False):
            rows.append(_row(str(writer), str(source), str(role), part))
    columns = [
        HtmlColumn("component"),
        HtmlColumn("tested", "the verified writer, or the other head whose DLA is highest there", width="narrow"),
        HtmlColumn(
            "prompt",
            "given for this run or in the corpus, where high DLA was looked for (found) or where it counts (shown), and its "
            "number",
            width="narrow",
        ),
        HtmlColumn("most likely, second", "the two most likely next tokens", width="narrow"),
        HtmlColumn("end of its text", "up to the position at which the next token is predicted", width="broad"),
        HtmlColumn("logits apart", "difference of their logits", True),
        HtmlColumn("DLA", "the component's, on that difference", True),
        HtmlColumn("arrives", "how much smaller the difference is with the component's mean output in its place", True),
        HtmlColumn("share", "of the DLA that arrives", True),
        HtmlColumn("fools DLA", "whether a large DLA does not arrive", width="narrow"),
        HtmlColumn("last input replaced", "median DLA over the other prompts", True),
        HtmlColumn("change", "share of its DLA by which the median moves", True),
        HtmlColumn("all inputs replaced", "median DLA over the other prompts", True),
        HtmlColumn("change, all", "share of its DLA by which the median moves", True),
    ]
    return HtmlTable(
        "The prompts at which inputs were replaced",
        f"The last {TAIL} characters of each prompt; what a component's DLA is there, what of it arrives, and its median "
        "with the inputs of other prompts. Change is the distance between the two DLAs as a share of it: near 0 the DLA does "
        "not come from what stands here. Prompts in the corpus: the smallest change first. Line ends are shown as ↵; "
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
    sources = sources_of(table)
    # ranks are those of the writer; the other head's rows stand behind the writer's at the same place
    places = [table[name] for name in ("writer", "source", "prompt", "position")]
    ranks = pd.Series(numeric(table, "rank"), index=table.index).groupby(places, sort=False).transform("min")
    found = np.array([source != "given" for source in sources], dtype=bool)
    keys = pd.DataFrame(
        {
            "writer": [by_rank.get(writer or "", len(by_rank)) for writer in strings(table, "writer")],
            "source": [by_source.get(source or "", len(by_source)) for source in sources],
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
    fools = {"True": "yes", "False": "no"}.get(strings(first, "fools")[0] or "")
    return [
        *(strings(first, "component")[0] or "", tested, f"{source} {numeric(first, 'prompt')[0]:.0f}"),
        Markup("{} {}").format(code(top), code(second)),
        code(tail_words(shown)) if shown is not None else None,
        *(numeric(first, "logit_diff")[0], numeric(first, "clean")[0]),
        *(numeric(first, "total")[0], numeric(first, "total_share")[0], fools),
        *medians,
    ]
