"""One page on the finished models of several sweeps.

Within a sweep all models are measured alike; across sweeps they may not be. So each model carries what its sweep was
measured with, and the page says in words where that differs.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dashboards.pages import write_comparison
from dashboards.tables import ModelTables, read_out
from sweep.files import MODEL_PAGE
from workers.corpora import OWN
from workers.errors import SweepError, UsageError

_PROTOCOL = ("prompts", "seq_len", "positions", "corpus", "seed", "dtype")
_MADE_WITH = ("device_type", "version")


class _Folder(NamedTuple):
    """A sweep as its folder has it."""

    path: Path
    manifest: dict[str, Any]
    models: list[ModelTables]


def compare_folders(folders: list[Path], to: Path) -> None:
    """Write one page on all finished models of several sweeps' folders.

    A model's name leads to its own page where that is on this disk.

    Raises:
        UsageError: a folder holds no sweep, none has a finished model, or ``to`` is a folder.
        DataError: a manifest or a table is damaged or of another version.
        SweepError: the page cannot be written.
    """
    if to.is_dir():
        raise UsageError(f"{to} is a folder: name the page to write, such as --to {to / 'compare.html'}")
    sweeps = [_read(path) for path in {folder.resolve(): folder for folder in folders}.values()]
    labels = _labels(sweeps)
    _tell_apart(sweeps, labels)
    models = [model for sweep in sweeps for model in sweep.models if model.about.get("state") == "FINISHED"]
    if not models:
        raise UsageError(f"no model is finished of sweep {', '.join(labels)}: `erasure-sweep run` goes on with it")
    links = {name: href for sweep in sweeps for name, href in _links(sweep, to).items()}
    try:
        write_comparison(models, to, _together(sweeps), links)
    except OSError as error:
        raise SweepError(f"{to} cannot be written ({error.strerror}): choose another --to") from error


def _read(path: Path) -> _Folder:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise UsageError(f"{path} holds no sweep (it has no manifest.json): name a run's folder, such as runs/demo")
    models = read_out(path)
    values = json.loads(manifest.read_text(encoding="utf-8"))
    shared = {key: _said(values, key) for key in (*_PROTOCOL, *_MADE_WITH)}
    named = (
        {"corpus_name": shared["corpus"]} if shared["corpus"] != OWN else {}
    )  # as runs before did not say it of models
    return _Folder(path, values, [ModelTables({**shared, **named, **model.about}, model.tables) for model in models])


def _said(manifest: dict[str, Any], key: str) -> Any:
    return manifest.get(key) if key in _MADE_WITH else (manifest.get("config") or {}).get(key)


def _tell_apart(sweeps: list[_Folder], labels: list[str]) -> None:
    """Add the sweep to the names of models that several sweeps have."""
    seen = Counter(model.about["name"] for sweep in sweeps for model in sweep.models)
    for sweep, label in zip(sweeps, labels, strict=True):
        for model in sweep.models:
            if seen[model.about["name"]] > 1:
                model.about["name"] = f"{model.about['name']} · {label}"


def _labels(sweeps: list[_Folder]) -> list[str]:
    """What tells the sweeps apart: their names, else their folders' names, else the folders' paths."""
    candidates = (
        [str(sweep.manifest.get("name")) for sweep in sweeps],
        [sweep.path.resolve().name for sweep in sweeps],
        [str(sweep.path) for sweep in sweeps],
    )
    return next((labels for labels in candidates if len(set(labels)) == len(labels)), candidates[-1])


def _links(sweep: _Folder, to: Path) -> dict[str, str]:
    """Where each model's page is, as seen from the folder of the comparison."""
    pages = {model.about["name"]: sweep.path / model.about["folder"] / MODEL_PAGE for model in sweep.models}
    return {
        name: quote(Path(os.path.relpath(page, to.parent)).as_posix()) for name, page in pages.items() if page.is_file()
    }


def _together(sweeps: list[_Folder]) -> dict[str, Any]:
    """One manifest for all: what they share as it is, what differs side by side."""

    def values(key: str) -> Any:
        found = [value for sweep in sweeps if (value := _said(sweep.manifest, key)) is not None]
        different = list(dict.fromkeys(str(value) for value in found))
        return " / ".join(different) if len(different) > 1 else next(iter(found), None)

    return {
        **{key: values(key) for key in _MADE_WITH},
        "config": {key: values(key) for key in _PROTOCOL},
        "models": [model.about for sweep in sweeps for model in sweep.models],
    }
