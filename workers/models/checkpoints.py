"""Training checkpoints: which a model has, at how many tokens, and which of them ``NAME@POINT`` names.

Models of TransformerLens' layout keep them as files, ``checkpoints/*.pth`` or ``*.safetensors``, whose label is the last
number in the file's name. Labels are steps, unless the largest exceeds 1e9, which is TransformerLens' own rule, or the
name begins with ``tokens``. What a step is in tokens ``training_log.json`` or config.json says, or nobody does. Models
of Hugging Face's layout keep them as revisions of their repository, which the hub alone can list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.hub.files import hub_file, list_files
from erasure_sweep.workers.models.catalog import CHECKPOINT_SUFFIXES, ModelLocation, locate
from erasure_sweep.workers.models.files.file_formats import CONFIG, layout_of, read_config
from erasure_sweep.workers.models.known_names import (
    Checkpoint,
    TrainingCheckpoints,
    recall_checkpoints,
    remember_checkpoints,
)
from erasure_sweep.workers.storage.given_files import check_given_file, read_given_json

SEPARATOR = "@"
FOLDER = "checkpoints"
LOG = "training_log.json"
TOKEN_LABELS_ABOVE = 1e9

_SHOWN = 10
_NUMBER = re.compile(r"-?\d+")
_LOG_SPACED = "log:"


def split_point(spec: str) -> tuple[str, str | None]:
    """``NAME@POINT`` taken apart at its last ``@``; a directory of the whole name has no point."""
    name, separator, point = spec.rpartition(SEPARATOR)
    if not separator or Path(spec).expanduser().is_dir():
        return spec, None
    if not name or not point:
        raise UsageError(f"model {spec!r}: write NAME@POINT, or NAME alone")
    return name, point


def names_several(spec: str) -> bool:
    """Whether a spec stands for several checkpoints: ``NAME@all`` or ``NAME@log:N``."""
    return _several(split_point(spec)[1])


def expand(spec: str, staging: str, refresh: bool = False) -> tuple[str, ...]:
    """The single models that a spec stands for, in the order of training.

    Args:
        spec: ``NAME@all`` for every checkpoint, and the final weights where they are known to be later; ``NAME@log:N``
            for N of these, evenly spaced in the logarithm of their tokens. Any other spec stands for itself.
        staging: the folder that remembers which checkpoints the hub has.
        refresh: ask the hub for what is remembered as well.

    Raises:
        UsageError: the model has no checkpoints as files, or N is no number.
        DataError: the hub cannot be asked.
    """
    name, point = split_point(spec)
    if point is None or not _several(point):
        return (spec,)
    location = locate(name)
    training = find_training(location, Path(staging), refresh)
    if training is None:
        raise UsageError(f"{spec}: {_only_revisions(location)}")
    _require_checkpoints(training, spec, name)
    if training.unlisted is not None:
        raise DataError(training.unlisted)
    moments = _moments(training)
    if point.startswith(_LOG_SPACED):
        moments = _log_spaced(moments, _count_of(spec, point))
    return tuple(name if moment.point is None else f"{name}{SEPARATOR}{moment.point}" for moment in moments)


def find_training(
    location: ModelLocation, staging: Path | None = None, refresh: bool = False
) -> TrainingCheckpoints | None:
    """Which checkpoints a model has as files; ``None`` for Hugging Face's layout, whose checkpoints are revisions.

    Args:
        location: of the model.
        staging: the folder that remembers which checkpoints the hub has.
        refresh: ask the hub for what is remembered as well.

    Raises:
        DataError: its config.json cannot be read, or the hub cannot be asked.
    """
    if location.kind == "directory":
        directory = Path(location.place)
        config = read_config(directory)
        if layout_of(config) == "hugging_face":
            return None
        return _training(_files_below(directory), config, read_log(directory))
    known = None if refresh or staging is None else recall_checkpoints(location.place, staging)
    return known or _training_on_hub(location.place, staging, refresh)


def _training_on_hub(repo: str, staging: Path | None, refresh: bool) -> TrainingCheckpoints | None:
    folder = hub_file(repo, CONFIG, (CONFIG,), refresh=refresh).parent
    config = read_config(folder)
    if layout_of(config) == "hugging_face":
        return None
    try:
        names = list_files(repo, folder.name)[1]
    except DataError as error:
        cached = _training(_files_below(folder), config, read_log(folder), folder.name)
        if cached.checkpoints:
            return cached._replace(unlisted=str(error))
        raise
    if LOG in names:
        hub_file(repo, LOG, (LOG,), folder.name)
    training = _training(names, config, read_log(folder), folder.name)
    if staging is not None:
        remember_checkpoints(repo, training, staging)
    return training


def find_checkpoint(training: TrainingCheckpoints, point: str, name: str) -> Checkpoint:
    """The checkpoint that ``name@point`` names: by tokens, else by its label, else by its index.

    Raises:
        UsageError: there is none such.
        DataError: only the hub could say, and it cannot be asked.
    """
    spec = f"{name}{SEPARATOR}{point}"
    _require_checkpoints(training, spec, name)
    found, number = training.checkpoints, int(point) if _NUMBER.fullmatch(point) else None
    if number is None:
        raise UsageError(f"{spec}: give a count of tokens, a label, an index, all or log:N; {_available(training)}")
    by_number = [checkpoint for checkpoint in found if checkpoint.tokens == number]
    by_number += [checkpoint for checkpoint in found if checkpoint.label == number]
    if not by_number and training.unlisted is not None:
        raise DataError(training.unlisted)
    by_number += [found[number]] if -len(found) <= number < len(found) else []
    if not by_number:
        raise UsageError(f"{spec}: there is no such checkpoint; {name} {_available(training, number)}")
    return by_number[0]


def revision_steps(revision: str) -> int | None:
    """The training step that a revision's name says, ``step1000`` or ``checkpoint-1000``."""
    found = re.fullmatch(r"(?:step-?|checkpoint-)(\d+)", revision)
    return int(found[1]) if found else None


def read_log(directory: Path) -> dict[str, Any]:
    """``training_log.json`` of a directory, empty where there is none that can be read.

    Raises:
        DataError: what lies there stands for another file, or is none.
    """
    check_given_file(directory / LOG)
    with suppress(FileNotFoundError, DataError):
        log = read_given_json(directory / LOG)
        return log if isinstance(log, dict) else {}
    return {}


def final_counts(config: Mapping[str, Any], log: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """On how many tokens, and in how many steps, the final weights were trained, where that is known."""
    entries = log.get("log")
    last = entries[-1] if isinstance(entries, list) and entries and isinstance(entries[-1], dict) else {}
    tokens, per_step = _whole(last.get("tokens")), tokens_per_step(config, log)
    tokens = _whole(config.get("max_tokens")) if tokens is None else tokens
    steps = _whole(last.get("step"))
    if steps is None and tokens is not None and per_step:
        steps = tokens // per_step
    return tokens, steps


def tokens_per_step(config: Mapping[str, Any], log: Mapping[str, Any]) -> int | None:
    """Tokens of a training step, as the log or the config says."""
    settings = log.get("settings")
    said = settings.get("tokens_per_step") if isinstance(settings, dict) else None
    return _whole(said) or _whole(config.get("tokens_per_step")) or None


def _whole(value: object) -> int | None:
    """A count that JSON may hold as a float; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value >= 0 and float(value).is_integer() else None


def _training(
    names: Iterable[str], config: Mapping[str, Any], log: Mapping[str, Any], revision: str | None = None
) -> TrainingCheckpoints:
    """The checkpoints among a model's files."""
    files = _labelled(names)
    in_tokens = bool(files) and (max(files) > TOKEN_LABELS_ABOVE or _says_tokens(files[max(files)]))
    per_step = tokens_per_step(config, log)
    checkpoints = []
    for label, file in sorted(files.items()):
        tokens = label if in_tokens else label * per_step if per_step else None
        steps = label if not in_tokens else label // per_step if per_step else None
        checkpoints.append(Checkpoint(file, label, tokens, steps))
    return TrainingCheckpoints(tuple(checkpoints), *final_counts(config, log), revision)


def _labelled(names: Iterable[str]) -> dict[int, str]:
    """Checkpoint files by label; safetensors are preferred to a torch file of the same label."""
    files = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        numbers = re.findall(r"\d+", path.stem)
        if str(path.parent) == FOLDER and path.suffix in CHECKPOINT_SUFFIXES and numbers:
            label = int(numbers[-1])
            if label not in files or path.suffix == ".safetensors":
                files[label] = name
    return files


def _says_tokens(file: str) -> bool:
    return PurePosixPath(file).name.startswith("tokens")


def _files_below(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in directory.glob(f"{FOLDER}/*") if not path.is_dir()]


class _PointOfTraining(NamedTuple):
    """A point of a training; ``point`` is ``None`` for its end."""

    point: int | None
    at: int


def _moments(training: TrainingCheckpoints) -> list[_PointOfTraining]:
    """The checkpoints, and the end where it is known to be later than the last of them."""
    last = training.checkpoints[-1]
    moments = [_PointOfTraining(checkpoint.point, checkpoint.point) for checkpoint in training.checkpoints]
    end = training.final_steps if last.tokens is None else training.final_tokens
    return [*moments, _PointOfTraining(None, end)] if end is not None and end > last.point else moments


def _log_spaced(moments: list[_PointOfTraining], n: int) -> list[_PointOfTraining]:
    """``n`` moments, evenly spaced in the logarithm from the first nonzero one to the last; all where there are fewer."""
    trained = [moment for moment in moments if moment.at > 0] or moments
    if len(trained) <= n:
        return trained
    if n == 1:
        return trained[-1:]
    logs = [math.log(moment.at) for moment in trained]
    chosen: list[int] = []
    for i in range(n):
        wanted = logs[0] + (logs[-1] - logs[0]) * i / (n - 1)
        left = range(chosen[-1] + 1 if chosen else 0, len(logs) - (n - 1 - i))
        chosen.append(min(left, key=lambda k: abs(logs[k] - wanted)))
    return [trained[k] for k in chosen]


def _count_of(spec: str, point: str) -> int:
    number = point.removeprefix(_LOG_SPACED)
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"{spec}: log:N takes a number of checkpoints, as in log:8")
    return int(number)


def _several(point: str | None) -> bool:
    return point is not None and (point == "all" or point.startswith(_LOG_SPACED))


def _require_checkpoints(training: TrainingCheckpoints, spec: str, name: str) -> None:
    if not training.checkpoints:
        raise UsageError(
            f"{spec}: {name} has no checkpoints (files {FOLDER}/*.pth or *.safetensors): name it without @"
        )


def _only_revisions(location: ModelLocation) -> str:
    if location.kind == "directory":
        return "checkpoints in Hugging Face's layout are folders of their own: name each of them"
    return (
        f"its checkpoints are revisions of {location.place}: look them up on the hub and list them, "
        f"{location.name}@REVISION for each"
    )


def _available(training: TrainingCheckpoints, near: int | None = None) -> str:
    """``has checkpoints at 0, 65536, … 8388608 tokens``, those nearest to a number among them."""
    points = [checkpoint.point for checkpoint in training.checkpoints]
    unit = "steps" if training.checkpoints[-1].tokens is None else "tokens"
    shown = points
    if len(points) > _SHOWN:
        nearest = sorted(points, key=lambda point: abs(point - (near or 0)))[:2]
        shown = sorted({*points[:2], *nearest, points[-1]})
    text = [str(shown[0])]
    for before, point in pairwise(shown):
        gap = points.index(point) - points.index(before) > 1
        text.append(f"… {point}" if gap else str(point))
    return f"has checkpoints at {', '.join(text)} {unit}"
