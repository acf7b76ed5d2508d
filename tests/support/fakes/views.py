"""What cards are made from, of models that a test invents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasure_sweep.dashboards.comparison.view import ComparisonView
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import Part
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.sweep_folder import ModelTables


def comparison_view(
    models: Sequence[ModelTables], homes: Mapping[str, Home] | None = None, sweep: Manifest | None = None
) -> ComparisonView:
    """A comparison of these models, all of which its figures show, under the names that they have."""
    return ComparisonView(models, models, homes or {}, sweep)


def verify_cards(model: ModelTables) -> list[Part]:
    """The parts of a model's page on its verified writers, the table of trust aside."""
    view = ModelView(model)
    keys = {entry.key for entry in MODEL.entries() if entry.place(view)[0] == VERIFIED} - {"trust"}
    return MODEL.parts(view, keys)
