"""What the loss of a writer costs."""

from __future__ import annotations

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.verify.carries import count_cell
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.wording import interval
from erasure_sweep.workers.tables.values import numeric, strings, table_of

_ABLATIONS = {
    "equal_position": "from another prompt, same position",
    "random_position": "from another prompt, another position",
}


@card(MODEL, "ablation-loss", VERIFIED, order=120, when=is_verified)
def loss_table(view: ModelView) -> HtmlTable:
    """A row per writer and way of resampling it."""
    table = table_of(view.model.tables, "ablation_loss")
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
            count_cell(values["n"][row]),
        ]
        for row, (writer, ablation) in enumerate(zip(strings(table, "writer"), strings(table, "ablation"), strict=True))
    ]
    return HtmlTable(
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
