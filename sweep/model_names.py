"""What the models of a sweep are called: by the user, by their folder, and where folders are called alike by parents too.

A sweep that is given no name is called after them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.checkpoints import names_several, split_point
from erasure_sweep.workers.records import Resolved

_SUFFIXES = re.compile(r"(?:\.(?:npy|txt|md|jsonl?|parquet|gz|zst|bz2|gguf|safetensors|pth?))+$")
_NAMED_MODELS = 3
_LABELLED = re.compile(r"([A-Za-z0-9][\w.-]{0,99})=(.+)")


class ListedModel(NamedTuple):
    """An entry of ``models``."""

    label: str | None
    """What the user calls it; ``None`` where it goes by its own name."""
    spec: str

    @classmethod
    def of(cls, entry: str) -> ListedModel:
        """``NAME=MODEL`` taken apart; a folder of the whole name has no other."""
        found = _LABELLED.fullmatch(entry)
        if found is None or Path(split_point(entry)[0]).expanduser().exists():
            return cls(None, entry)
        return cls(found[1], found[2])

    def named(self, model: Resolved) -> Resolved:
        """A model that this entry stands for, called as the user says; of several the point of training is added."""
        if self.label is None:
            return model
        if names_several(self.spec):
            return _renamed(model, self.label)
        return model._replace(name=self.label, base=self.label if model.base == model.name else model.base)


def told_apart(models: Sequence[Resolved], labelled: Collection[str]) -> list[Resolved]:
    """The models, those in folders that are called alike with parent folders before their names, as many as it takes.

    Args:
        models: of a sweep.
        labelled: specs of those that the user named.
    """
    own = [model for model in models if model.spec not in labelled]
    bases = {spec: f for spec, f in ((model.spec, _folder(model.spec)) for model in own) if f is not None}
    alike: dict[str, set[Path | None]] = {}
    for model in own:
        alike.setdefault(model.base, set()).add(bases.get(model.spec))
    names = {base: _with_parents([f for f in folders if f]) for base, folders in alike.items() if len(folders) > 1}
    return [
        _renamed(model, names[model.base][bases[model.spec]])
        if model.spec in bases and model.spec not in labelled and model.base in names
        else model
        for model in models
    ]


def as_before(models: Sequence[Resolved], labelled: Collection[str], before: Mapping[str, str]) -> list[Resolved]:
    """The models, those that an earlier run measured by the name that it gave them, with more or fewer parent folders.

    Args:
        models: of a sweep.
        labelled: specs of those that the user named.
        before: names by hash, of the earlier run.
    """
    taken, kept = {model.name for model in models}, []
    for model in models:
        name = before.get(model.hash, model.name)
        longer, shorter = sorted((name, model.name), key=len, reverse=True)
        if model.spec in labelled or name in taken or not longer.endswith(f"/{shorter}"):
            kept.append(model)
        else:
            kept.append(_renamed(model, name.removesuffix(model.name.removeprefix(model.base))))
    return kept


def sweep_name(config: str, models: Sequence[object] = (), corpus: object = None) -> str:
    """What a sweep is called that is given no name, made one that folders and experiments can have.

    Args:
        config: its preset or file; nothing where the sweep is called by the others alone.
        models: entries in place of the preset's.
        corpus: what is read in place of the preset's.
    """
    listed = [ListedModel.of(str(entry)) for entry in models]
    names = [Path(config).stem, *(model.label or _last_part(model.spec) for model in listed[:_NAMED_MODELS])]
    if len(listed) > _NAMED_MODELS:
        names.append(f"and-{len(listed) - _NAMED_MODELS}-more")
    if corpus is not None:
        names.append(_last_part(str(corpus)))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(filter(None, names))).lstrip("._-")[:100] or "sweep"


def _last_part(path: str) -> str:
    """The name of a file or folder, or the last part of a model's, without what its kind adds."""
    name, at, point = path.partition("@")  # a revision may hold slashes that part no folders
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return _SUFFIXES.sub("", Path(name).resolve().name if last in (".", "..") else last) + at + point


def _renamed(model: Resolved, base: str) -> Resolved:
    """A model under another base, its checkpoint or revision kept."""
    return model._replace(name=base + model.name.removeprefix(model.base), base=base)


def _folder(spec: str) -> Path | None:
    """The folder that a spec names, links followed; ``None`` of a model of the catalog or the hub."""
    name = split_point(spec)[0]
    path = Path(name).expanduser()
    return path.resolve() if find_entry(name) is None and path.is_dir() else None


def _with_parents(folders: Iterable[Path]) -> dict[Path, str]:
    """The last parts of every path, two or as many as tell them apart."""
    folders = [*folders]
    most = max((len(folder.parts) for folder in folders), default=2)
    for n_parts in range(2, most + 1):
        names = {folder: "/".join(folder.parts[1:][-n_parts:]) for folder in folders}
        if len({*names.values()}) == len(folders):
            break
    return names
