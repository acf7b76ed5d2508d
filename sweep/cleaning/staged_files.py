"""What of the staging folder can be removed: weights, token arrays with what is noted of them, and what was left half-made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from erasure_sweep.sweep.cleaning.removable import Removable, clock_of, size_of, unlink
from erasure_sweep.sweep.store.driver_process import InUseError
from erasure_sweep.sweep.store.staged_use import STALE_S, UseRecord, read_uses

_PREPARING = " (preparing)"
_PROMPTS = re.compile(r"-(\d+)$")


class StagedFiles:
    """The staging folder, as it is found.

    Args:
        folder: need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = clock_of(folder)
        self._records = list(_read_records(folder / "names"))

    def removable(self) -> Iterator[Removable]:
        """Everything that may be removed."""
        for weights in sorted((self._folder / "models").glob("*.safetensors")):
            yield self._weights(weights)
        arrays = (path.with_suffix("") for path in (self._folder / "corpora").glob("[!.]*") if _is_array(path))
        for stem in sorted(set(arrays)):
            yield self._tokens(stem)
        for left in sorted(self._folder.rglob(".*.tmp")):
            yield self._left(left)
        for use in read_uses(self._folder):
            if not use.is_live(self._now):
                yield self._use(use)

    def _weights(self, path: Path) -> Removable:
        about = [(record, values) for record, values in self._records if values.get("fingerprint") == path.stem]
        named = [str(values[key]) for _, values in about for key in ("name", "spec", "base") if values.get(key)]
        shown, names = _origin_of(path)
        files = [path, *(record for record, _ in about)]
        lock = path.with_name(f".{path.name}.lock")
        return self._removable(f"{named[0] if named else shown}, weights", {*named, *names}, files, lock, path)

    def _tokens(self, stem: Path) -> Removable:
        array, record = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".npy", ".json"))
        corpus = str(_read_json(record).get("description", "")).partition(": ")[0]
        asked = _PROMPTS.search(stem.name)
        lock = stem.with_name(f".{_PROMPTS.sub('', stem.name)}.lock")
        what = f"{corpus or '?'}, {asked[1] if asked else '?'} prompts"
        names = {corpus, Path(corpus).name} if corpus else set()
        # The record goes first: an array without one does not count.
        return self._removable(what, names, [record, array], lock, array)

    def _left(self, path: Path) -> Removable:
        """Of a process that was killed: those that live hold a lock, or write."""
        owner = path.name[1:].split(".")[0]
        locks = [path.with_name(f".{name}.lock") for name in (f"{owner}.safetensors", _PROMPTS.sub("", owner))]
        lock = next((lock for lock in locks if lock.exists()), None)
        found = self._removable("left half-made", set(), [path], lock, path)
        young = found.used is not None and self._now - found.used < STALE_S
        return found._replace(in_use=found.in_use or ("a process that writes it" if young else ""))

    def _use(self, use: UseRecord) -> Removable:
        """What a run that was killed used."""
        found = self._removable(f"left by {use.driver.where}", set(), [use.path], None, use.path)
        return found._replace(in_use="")

    def _removable(self, what: str, names: set[str], files: list[Path], lock: Path | None, where: Path) -> Removable:
        size, used = size_of(path for path in files if path.parent == where.parent)
        shown = f"{what} ({where.relative_to(self._folder)})"
        in_use = self._user_of(where)

        def remove() -> None:
            if user := self._user_of(where):  # which began meanwhile
                raise InUseError(user)
            _remove(files, lock)

        return Removable(shown, frozenset(names), size, used, self._now, in_use, remove)

    def _user_of(self, path: Path) -> str:
        for use in read_uses(self._folder):
            if use.is_live(self._now) and (use.files is None or path in use.files):
                return use.driver.where + (_PREPARING if use.files is None else "")
        return ""


def _is_array(path: Path) -> bool:
    return path.suffix in (".npy", ".json")


def _remove(files: Iterable[Path], lock: Path | None) -> None:
    """Remove files, and with them the lock by which they are made.

    Raises:
        InUseError: they are being made.
    """
    with _held(lock):
        unlink(files)
        if lock is not None:
            lock.unlink(missing_ok=True)


@contextmanager
def _held(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise InUseError("a process that makes it") from error
    except NotImplementedError:  # a file system without locks
        yield


def _read_records(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """What names of the hub were found to be."""
    for path in sorted(folder.glob("*.json")):
        yield path, _read_json(path)


def _read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where it is damaged or gone."""
    with suppress(OSError, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def _origin_of(path: Path) -> tuple[str, set[str]]:
    """What the header of staged weights says of where they come from: as it is shown, and names that mean it."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            origin = str(header["__metadata__"]["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return "?", set()
    origin, _, checkpoint = origin.removeprefix("bundled ").partition(" checkpoints/")
    model = re.sub(r"@[0-9a-f]{40}$", "", origin)
    name = Path(model).name
    return name + (f" at {Path(checkpoint).stem}" if checkpoint else ""), {model, name}
