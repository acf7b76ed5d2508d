"""Which models stand beside each other: their names, their order, their families, and whose training they are part of.

A checkpoint is named ``BASE@POINT`` and says its ``base``; final weights have their base's name. Where models of one
name come from several sweeps, the name ends with `` · `` and the sweep. Models whose names differ in ``-seed3`` alone are
training runs of one model that differ in their seed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from erasure_sweep.workers.manifest import ManifestEntry
from erasure_sweep.workers.printable import printable_line
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_SWEEP = " · "
_POINT = re.compile(r"@\S*")
# depth (4l), width (w128), both (4L512W), GPT-2's sizes and counts of parameters (70m), each a part of a name
_SIZE = re.compile(
    r"[-_](?:\d+l|w\d+|\d+l\d+w|\d+(?:\.\d+)?[mb]|small|medium|large|xl)(?=[-_\s]|$)", flags=re.IGNORECASE
)
_SEED = re.compile(r"[-_]seed[-_]?\d+(?=[-_\s@]|$)", flags=re.IGNORECASE)


def display_names(models: Sequence[ModelTables]) -> list[str]:
    """Names by which models are told apart: the folder is added where two have the same."""
    names = [name_of(model.about) for model in models]
    seen = Counter(names)
    return [
        f"{name} ({model.about.folder})" if seen[name] > 1 else name for name, model in zip(names, models, strict=True)
    ]


def name_of(about: ManifestEntry) -> str:
    """A model's name as its manifest has it, such that it can be shown."""
    return printable_line(about.name or "unnamed model")


def family_of(name: str) -> str:
    """A name without depth, width, size, seed and checkpoint: ``toy-gelu-4l-w128@65536`` is of the family ``toy-gelu``."""
    whole = _POINT.sub("", seedless(name))
    return _SIZE.sub("", whole) or whole or name


def seedless(name: str) -> str:
    """A name without its seed: ``toy-2l-seed3@65536`` and ``toy-2l-seed4@65536`` are both ``toy-2l@65536``."""
    return _SEED.sub("", name) or name


def series_of(about: ManifestEntry) -> str:
    """The model of whose training this is a point, told apart by sweep where several have it."""
    name, sweep = _parts(about)
    return f"{printable_line(about.base or '') if is_checkpoint(about) else name}{sweep}"


def is_checkpoint(about: ManifestEntry) -> bool:
    """Whether these are not the final weights of a model but others of its training."""
    base = printable_line(about.base or "")
    return bool(base) and _parts(about)[0].startswith(f"{base}@")


def _parts(about: ManifestEntry) -> tuple[str, str]:
    """A name as its own sweep has it, and what was put behind it."""
    name, mark, sweep = name_of(about).partition(_SWEEP)
    return name, mark + sweep


def counted(models: Sequence[ModelTables]) -> str:
    """How many there are in words: ``12 models and 9 checkpoints``, ``1 model``, ``3 checkpoints``."""
    checkpoints = sum(is_checkpoint(model.about) for model in models)
    numbers = {"model": len(models) - checkpoints, "checkpoint": checkpoints}
    shown = {noun: n for noun, n in numbers.items() if n} or {"model": 0}
    return " and ".join(f"{n} {noun}{'' if n == 1 else 's'}" for noun, n in shown.items())


def in_order(models: Sequence[ModelTables]) -> list[ModelTables]:
    """Checkpoints of a model together, by tokens or steps of training, its final weights last; models as they came."""
    series = list(dict.fromkeys(series_of(model.about) for model in models))

    def place(model: ModelTables) -> tuple[float, ...]:
        trained = (model.about.training_tokens, model.about.training_steps)
        known = [float("inf") if value is None else float(value) for value in trained]
        return (series.index(series_of(model.about)), not is_checkpoint(model.about), *known)

    return sorted(models, key=place)


def is_one_training(models: Sequence[ModelTables]) -> bool:
    """Whether these are points of one model's training and nothing else."""
    return any(is_checkpoint(model.about) for model in models) and len(_by_series(models)) == 1


def representatives(models: Sequence[ModelTables]) -> list[ModelTables]:
    """The models that figures of whole models show: all points of one training, else what stands for each model."""
    return list(models) if is_one_training(models) else final_models(models)


def final_models(models: Sequence[ModelTables]) -> list[ModelTables]:
    """Models without their checkpoints, as they came; the last checkpoint where the final weights are not among them."""
    kept: set[int] = set()
    for members in _by_series(models).values():
        trained = any(is_checkpoint(model.about) for model in members)
        kept |= {id(model) for model in (in_order(members)[-1:] if trained else members)}
    return [model for model in models if id(model) in kept]


def _by_series(models: Sequence[ModelTables]) -> dict[str, list[ModelTables]]:
    found: dict[str, list[ModelTables]] = {}
    for model in models:
        found.setdefault(series_of(model.about), []).append(model)
    return found
