"""The page on which models are compared: what its figures are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from erasure_sweep.dashboards.cards import Page
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.model_names import display_names, is_checkpoint, representatives
from erasure_sweep.dashboards.wording import first_of, listed
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.sweep_folder import ModelTables


@dataclass(frozen=True)
class ComparisonView:
    """The models of a comparison.

    Attributes:
        models: all, checkpoints of a model together.
        shown: those that figures of whole models show.
        homes: by display name, where a model's page, tables and run are.
        sweep: the manifest, or what several sweeps share.
        note: which models stand for all, in words; nothing where all are shown.
    """

    models: Sequence[ModelTables]
    shown: Sequence[ModelTables]
    homes: Mapping[str, Home] = field(default_factory=dict)
    sweep: Manifest | None = None
    note: str = ""

    @classmethod
    def of(cls, models: Sequence[ModelTables], homes: Mapping[str, Home], sweep: Manifest | None) -> ComparisonView:
        """The models under their display names, which they keep also where only some of them are shown."""
        names = display_names(models)
        models = [
            model._replace(about=model.about.model_copy(update={"name": name}))
            for name, model in zip(names, models, strict=True)
        ]
        shown = representatives(models)
        return cls(models, shown, homes, sweep, _note(models, shown))


def _note(models: Sequence[ModelTables], shown: Sequence[ModelTables]) -> str:
    if len(shown) == len(models):
        return ""
    unfinished = [model.about.name for model in shown if is_checkpoint(model.about)]
    last = f" ({listed(unfinished, 3)} for lack of them)" if unfinished else ""
    return f" Final weights only{last}."


def not_measured(models: Sequence[ModelTables], measured: Sequence[str]) -> str:
    """The models of which this was not measured, in a sentence; nothing where it was of all."""
    absent = [name for name in display_names(models) if name not in set(measured)]
    return f" Not measured: {first_of(absent)}." if absent else ""


COMPARISON: Page[ComparisonView] = Page("erasure_sweep.dashboards.comparison", ("",))
