"""Models by their sizes, with what is erased of their heads: what the comparison across sizes is drawn and said from.

Models whose names differ in ``-seed3`` alone are training runs of one model: they stand at one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.dashboards.model_names import display_names, family_of, is_checkpoint, seedless, series_of
from erasure_sweep.dashboards.wording import amount
from erasure_sweep.workers.tables.facts.heads import HeadShares, diluted_of, head_shares, quantile_of
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats


class SizedModel(NamedTuple):
    """A model's sizes, None where they are not known, and what is erased of its heads.

    Attributes:
        seedless: its name without its seed.
        kind: what models of a family must share to be compared: attention only or not, and tokens of training.
        plain: of every measured head; ``centred`` the same with means removed.
        diluted: the median over heads of what growth of the stream takes from them; NaN where it was not measured.
    """

    model: str
    family: str
    seedless: str
    series: str
    checkpoint: bool
    kind: tuple[object, ...]
    layers: int | None
    width: int | None
    parameters: int | None
    tokens: int | None
    plain: HeadShares
    centred: HeadShares
    diluted: float

    def heads(self, centred: bool) -> HeadShares:
        return self.centred if centred else self.plain


Runs = Sequence[SizedModel]
"""Training runs of one model, which differ in their seed alone; mostly one."""


def sized(models: Sequence[ModelTables]) -> list[SizedModel]:
    """Models of which a head was measured that later heads could erase: that takes two layers."""
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        plain, centred = (head_shares(model.tables, centred=centred) for centred in (False, True))
        if plain.labels:
            about, base = model.about, seedless(name)
            diluted = diluted_of(model.tables, plain.labels)
            found.append(
                SizedModel(
                    *(name, family_of(name), base, seedless(series_of(about)), is_checkpoint(about)),
                    (bool(about.attn_only), about.training_tokens),
                    *(about.n_layers, about.d_model, about.n_params, about.training_tokens),
                    *(plain, centred, diluted),
                )
            )
    return found


def has_centred(models: Sequence[SizedModel]) -> bool:
    """Whether all of them were measured with means removed, which then stands first."""
    return all(one.centred.labels for one in models)


class SizeAxis(NamedTuple):
    """What the x axis can be: its title, a model's place on it, what models on one line have in common, and in words."""

    title: str
    place: Callable[[SizedModel], int | None]
    held: Callable[[SizedModel], object]
    words: Callable[[SizedModel], str]


LAYERS = SizeAxis("layers", lambda one: one.layers, lambda one: one.width, lambda one: f"width {amount(one.width)}")
WIDTH = SizeAxis("width", lambda one: one.width, lambda one: one.layers, lambda one: f"{amount(one.layers)} layers")
PARAMETERS = SizeAxis("parameters", lambda one: one.parameters, lambda one: one.width, LAYERS.words)
TOKENS = SizeAxis("training tokens", lambda one: one.tokens, lambda one: one.series, lambda one: one.series)
CHOICES = (LAYERS, WIDTH, PARAMETERS, TOKENS)


def against(models: Sequence[SizedModel], choice: SizeAxis) -> list[SizedModel]:
    """Models that have a place on this axis: checkpoints only where it is the tokens of their training."""
    return [one for one in models if choice.place(one) is not None and (choice is TOKENS or not one.checkpoint)]


def training_runs(models: Sequence[SizedModel]) -> list[Runs]:
    """Models that differ in their seed alone together, in the order of the first of each."""
    found: dict[object, list[SizedModel]] = {}
    for one in models:
        sizes = (one.layers, one.width, one.parameters, one.tokens)
        found.setdefault((one.seedless, one.kind, *sizes), []).append(one)
    return list(found.values())


def pooled(runs: Runs, centred: bool) -> Floats:
    """What is erased of the heads of all training runs."""
    return np.concatenate([one.heads(centred).shares for one in runs])


def over_heads(runs: Runs, q: float, centred: bool) -> Interval:
    """A quantile over heads: of one training run with its interval over prompts; of several their mean, and all of these."""
    found = [quantile_of(one.heads(centred), q) for one in runs]
    if len(found) == 1:
        return found[0]
    ends = np.array([one if np.isfinite(one).all() else (one.value,) * 3 for one in found])
    return Interval(float(ends[:, 0].mean()), float(ends[:, 1].min()), float(ends[:, 2].max()))
