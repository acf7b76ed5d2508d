"""The verdicts on verified writers, for the page's opening."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.verified import verdict_line
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView
from erasure_sweep.workers.tables.facts.verified import Verdict, verdicts
from erasure_sweep.workers.tables.sweep_folder import ModelTables

MOST_VERDICTS = 10
NOT_VERIFIED = "This run did not verify any writer: run the sweep with the stage verify, or all."


def verdict_list(model: ModelTables) -> Markup:
    """The verdicts on the first targets as a list in HTML, for the page's opening; nothing where none was verified."""
    found = verdicts(model.tables)
    if not found:
        return Markup("")
    lines = [verdict_line(verdict) for verdict in found[:MOST_VERDICTS]]
    return render("verdicts.html.j2", verified=_verified_on(found), lines=lines, more=len(found) - MOST_VERDICTS)


def _verified_on(found: Sequence[Verdict]) -> str:
    on_others = all(verdict.held_out for verdict in found)
    where = "on prompts that the scan did not see" if on_others else "on the scan's own prompts"
    return (
        f"Verified {where}, with the erasers named alone (above: all later heads, on the scan's prompts): the pooled "
        "coefficient β of what they write because they read the writer (−1 takes out all of it) and its 95 % interval:"
    )


@card(MODEL, "verify", VERIFIED, when=lambda view: not view.was_verified)
def not_verified_card(view: ModelView) -> Card:
    """What stands in the place of all that verify measures."""
    return Card("Verified writers", "", {}, empty=nothing_verified(view.model) or NOT_VERIFIED)


def nothing_verified(model: ModelTables) -> str:
    """Why a run that came as far as verify chose no writer; nothing where it chose some, or did not come so far."""
    about = model.about
    return f"This run verified {about.targets_reason}." if "verify" in about.stages and not about.targets else ""
