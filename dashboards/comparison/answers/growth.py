"""Whether erasure grows with size: models alike in everything known of them but one size, from the smallest to the largest.

The share compared is a model's most erased head's: embeddings are erased at any depth, and the last layer never is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from erasure_sweep.dashboards.comparison.mostly_gone import mostly_gone
from erasure_sweep.dashboards.comparison.training import erased_of
from erasure_sweep.dashboards.model_names import display_names, family_of, is_checkpoint
from erasure_sweep.dashboards.wording import amount, number
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.sweep_folder import ModelTables

GrownSize = Literal["layers", "width", "parameters"]
Trend = Literal["grows", "shrinks", "neither"]
_KEYS: dict[GrownSize, str] = {"layers": "n_layers", "width": "d_model", "parameters": "n_params"}
_MOST_STEPS = 5
GROWS_TO = "\u00a0→\u00a0"


class Growth(NamedTuple):
    """Models that differ in one size alone, by that size.

    Attributes:
        held: the size that they share, in words; nothing where sizes grow together.
        sizes: two or more, ascending.
        heads: the share taken out of the most erased head, 0 where nothing is erased of any.
        means: the mean share over the heads of which anything is erased, 0 where there are none.
        centred: as ``heads``, with means removed; NaN where that was not measured.
        gone: the share of writers that are mostly gone at the end; NaN where that was not measured.
    """

    family: str
    held: str
    sizes: list[int]
    heads: list[float]
    means: list[float]
    centred: list[float]
    gone: list[float]


class _MeasuredModel(NamedTuple):
    family: str
    kind: tuple[object, ...]
    sizes: dict[GrownSize, int | None]
    heads: float
    mean: float
    centred: float
    gone: float


def growths(models: Sequence[ModelTables], size: GrownSize) -> list[Growth]:
    """Families along one size: layers at equal width, width at equal layers, parameters as they come.

    Checkpoints, models without a measured head and those of unknown size are left out; so are models of one family that
    nothing known of them tells apart, since a line has one model at each of its places.
    """
    alike: dict[tuple[object, ...], list[_MeasuredModel]] = {}
    for one in _measured(models):
        if one.sizes[size] is not None and (size == "parameters" or one.sizes[_other(size)] is not None):
            equal = () if size == "parameters" else (one.sizes[_other(size)],)
            alike.setdefault((one.family, one.kind, *equal), []).append(one)
    found = []
    for members in alike.values():
        line = sorted(members, key=lambda one: one.sizes[size] or 0)
        sizes = [one.sizes[size] or 0 for one in line]
        if 1 < len(set(sizes)) == len(sizes):
            held = _held(line[0], size)
            shares = zip(*((one.heads, one.mean, one.centred, one.gone) for one in line), strict=True)
            found.append(Growth(line[0].family, held, sizes, *map(list, shares)))
    return found


def _other(size: GrownSize) -> GrownSize:
    return "width" if size == "layers" else "layers"


def _held(one: _MeasuredModel, size: GrownSize) -> str:
    if size == "parameters":
        return ""
    shared = amount(one.sizes[_other(size)])
    return f"width\u00a0{shared}" if size == "layers" else f"{shared}\u00a0layer{'' if shared == '1' else 's'}"


def _measured(models: Sequence[ModelTables]) -> list[_MeasuredModel]:
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        heads = erased_of(model).heads
        if heads.by_writer and not is_checkpoint(model.about):
            kind = (bool(model.about.attn_only), model.about.training_tokens)
            sizes = {size: getattr(model.about, key) for size, key in _KEYS.items()}
            strongest = [max(found.strongest[1], 0.0) for found in (heads, erased_of(model, centred=True).heads)]
            shares = (strongest[0], heads.mean, strongest[1], mostly_gone([model])[0].share)
            found.append(_MeasuredModel(family_of(name), kind, sizes, *shares))
    return found


def trend(shares: Sequence[float]) -> Trend:
    """Whether shares grow or shrink from first to last with no step the other way; hundredths count for nothing."""
    steps = np.diff(np.array(shares, dtype=np.float64))
    whole = shares[-1] - shares[0]
    if whole >= NOTICEABLE and (steps > -NOTICEABLE).all():
        return "grows"
    return "shrinks" if whole <= -NOTICEABLE and (steps < NOTICEABLE).all() else "neither"


def verdict(lines: Sequence[Growth], shares: Callable[[Growth], Sequence[float]] = lambda line: line.heads) -> str:
    """The trends of all lines in a few words; nothing where no line was measured at each of its places."""
    measured = [found for line in lines if np.isfinite(found := shares(line)).all()]
    trends = [trend(found) for found in measured]
    up, down, n = trends.count("grows"), trends.count("shrinks"), amount(len(trends))
    if not trends:
        return ""
    if len(trends) in (up, down):
        return ("yes" if up else "no, it shrinks") + ("" if len(trends) == 1 else f" in {n} of {n} comparisons")
    if not up and not down:
        return "neither grows nor shrinks throughout" + ("" if len(trends) == 1 else f" in any of {n} comparisons")
    counts = [("grows in", up), ("shrinks in", down)]
    return f"{', '.join(f'{verb} {amount(count)}' for verb, count in counts if count)} of {n} comparisons"


class GrowthWords(NamedTuple):
    """A line in words: which models these are, and their shares, the smallest model's first.

    ``centred``: the shares with means removed, where these go another way; else nothing.
    """

    models: str
    shares: str
    centred: str


def in_words(line: Growth, size: GrownSize) -> GrowthWords:
    """``toy-gelu, width 64, 2 → 3 → 4 layers`` and ``0.42 → 0.70 → 0.87``; of many models the ends."""
    n = len(line.sizes)
    kept = range(n) if n <= _MOST_STEPS else (0, n - 1)
    sizes = GROWS_TO.join(amount(line.sizes[at]) for at in kept)
    shares, centred = (GROWS_TO.join(number(found[at]) for at in kept) for found in (line.heads, line.centred))
    another = np.isfinite(line.centred).all() and trend(line.centred) != trend(line.heads)
    unit = {"layers": f"{sizes} layers", "width": f"width {sizes}", "parameters": f"{sizes} parameters"}[size]
    return GrowthWords(
        ", ".join(part for part in (line.family, line.held, unit) if part), shares, centred if another else ""
    )
