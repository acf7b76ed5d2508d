"""Every component of an audit in a table."""

from __future__ import annotations

from erasure_sweep.dashboards.audit.view import AUDIT, AuditView
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.trust import badge
from erasure_sweep.dashboards.wording import interval
from erasure_sweep.workers.tables.facts.trust import FINAL_NORM
from erasure_sweep.workers.tables.values import numeric


def strongest_answer(view: AuditView, component: str) -> str | None:
    """Who changes a component's bar most, and by how much."""
    rows = view.mediation[view.mediation["component"] == component]
    values = numeric(rows, "mediated")
    if not len(values) or not abs(values).max() > 0:
        return None
    at = int(abs(values).argmax())
    name = str(rows["mediator"].iloc[at])
    return f"{'final norm' if name == FINAL_NORM else name} {values[at]:+.2f}".replace("-", "−")


@card(AUDIT, "components", order=60)
def components_table(view: AuditView) -> HtmlTable:
    """A row per component, the longest bar first."""
    return HtmlTable(
        "Every component",
        "DLA = left by the ablation + taken by it; what arrives = taken by it + what others answer. Net: what is left of the "
        "taken part when later heads have read it, patterns and MLPs as they were. In logits.",
        [
            HtmlColumn("component"),
            HtmlColumn("what is taken", "whether it arrives", width="narrow"),
            HtmlColumn("DLA", "the bar that everyone draws", True),
            HtmlColumn("left", "by the ablation", True),
            HtmlColumn("taken", "by the ablation: what DLA says of it", True),
            HtmlColumn("arrives", "how much the logit difference falls", True),
            HtmlColumn("95\u00a0% interval", "of what arrives", filtered=False, width="narrow"),
            HtmlColumn("net", "over all attention paths", True),
            HtmlColumn("answered most by", "who changes it most", width="broad"),
            *([HtmlColumn("in the sweep", "what the model's sweep says of it", width="broad")] if view.known else []),
        ],
        [
            [
                name,
                badge(row.word, row.settled) if row.word else None,
                *(row.dla, row.kept, row.direct, row.effect),
                interval(row.effect_low, row.effect_high) or None,
                row.net,
                strongest_answer(view, name),
                *([view.known.get(name)] if view.known else []),
            ]
            for name, row in ((name, view.rows[name]) for name in view.by_size)
        ],
        filter_by="component or word",
    )
