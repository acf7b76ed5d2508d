"""Who takes a component's direct logit attribution (DLA) back, or adds to it: every later component's part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView
from erasure_sweep.dashboards.wording import number
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.trust import FINAL_NORM, arriving_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import numeric, strings, table_of

_MOST_NAMED = 4
_NOTICEABLE = 0.01


class Mediation(NamedTuple):
    """What becomes of a component's DLA: shares of it, negative where it is taken back."""

    writer: str
    arrives: float
    heads: float
    mlps: float
    final_norm: float
    taken_back_by: list[tuple[str, float]]
    """The mediators that take back most, the strongest first."""
    added_by: list[tuple[str, float]]


def mediations(model: ModelTables) -> list[Mediation]:
    """Of every component with something behind it, those first of which least arrives."""
    table, arriving = table_of(model.tables, "dla_mediation"), arriving_of(model.tables)
    nothing = (np.nan,) * 3
    parts: dict[str, list[tuple[str, float]]] = {}
    rows = zip(strings(table, "writer"), strings(table, "mediator"), numeric(table, "share").tolist(), strict=True)
    for writer, mediator, share in rows:
        parts.setdefault(str(writer), []).append((mediator or "", share))
    found = [
        _mediation(writer, arriving.get(writer, nothing)[0], shares)
        for writer, shares in parts.items()
        if any(math.isfinite(share) for _, share in shares)
    ]
    return sorted(found, key=lambda one: np.nan_to_num(one.arrives, nan=np.inf))


def _mediation(writer: str, arrives: float, shares: Sequence[tuple[str, float]]) -> Mediation:
    ordered = sorted(shares, key=lambda pair: pair[1])
    norm = sum(share for label, share in shares if label == FINAL_NORM)
    heads = sum(share for label, share in shares if is_head(label))
    mlps = sum(share for label, share in shares if label.startswith("MLP"))
    taken = [pair for pair in ordered if pair[1] <= -_NOTICEABLE][:_MOST_NAMED]
    added = [pair for pair in reversed(ordered) if pair[1] >= _NOTICEABLE][:_MOST_NAMED]
    return Mediation(writer, arrives, heads, mlps, norm, taken, added)


def _is_shown(view: ModelView) -> bool:
    """It is measured of all components, also where no writer was chosen to be verified."""
    return view.was_verified or len(table_of(view.model.tables, "dla_mediation")) > 0


@card(MODEL, "mediation", VERIFIED, order=190, when=_is_shown)
def mediation_table(view: ModelView) -> HtmlTable:
    """A row per component: what of its DLA arrives, and who takes back or adds the rest."""
    return HtmlTable(
        "Who takes a component's DLA back",
        "Where a component is replaced by its mean, later components write something else, and their own DLA changes too. What "
        "that adds to the component's, as shares of it, says where the rest of it goes: 1 + heads + MLPs + final norm "
        "= share that arrives. −1 takes back all that its DLA says, by whatever path: values, patterns or MLPs. It does not "
        "say what the answering component does it for. Named are the strongest, from "
        f"{_NOTICEABLE:.0%} on. Those first of which least arrives.".replace("%", "\u00a0%"),
        [
            HtmlColumn("component"),
            HtmlColumn("share that arrives", "Σ d·e / Σ d²", True),
            HtmlColumn("later heads", "their parts together", True),
            HtmlColumn("later MLPs", "their parts together", True),
            HtmlColumn("final norm", "the part of the final LayerNorm's scale", True),
            HtmlColumn("taken back by", "the strongest first", width="broad"),
            HtmlColumn("added by", "the strongest first", width="broad"),
        ],
        [
            [
                *(one.writer, one.arrives, one.heads, one.mlps, one.final_norm),
                *(_words(one.taken_back_by), _words(one.added_by)),
            ]
            for one in mediations(view.model)
        ],
        empty="This run did not measure it: the table dla_mediation, which verify makes, is missing or empty.",
        filter_by="component",
        tables=("dla_mediation", "dla_trust"),
    )


def _words(parts: Sequence[tuple[str, float]]) -> str | None:
    return (
        ", ".join(f"{'final norm' if label == FINAL_NORM else label} {number(share)}" for label, share in parts) or None
    )
