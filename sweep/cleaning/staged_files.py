"""What of the staging folder can be removed: weights, token arrays with what is noted of them, and what was left half-made.

Only what is this project's own: files of the names that it gives, in folders that are no links, of a staging folder that
carries its mark. In one that has none, as earlier versions left it, a file has to show by its content whose it is. What is
left alone is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from erasure_sweep.sweep.cleaning.removable import Removable, clock_of, size_of, unlink
from erasure_sweep.sweep.store.driver_process import InUseError
from erasure_sweep.sweep.store.staged_use import STALE_S, UseRecord, read_uses
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.storage.own_staging import NAMES, is_marked
from erasure_sweep.workers.storage.small_files import parse_json, safetensors_header
from erasure_sweep.workers.storage.staged_arrays import load_array
from erasure_sweep.workers.storage.whole_file import TEMPORARY

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
        self._is_marked = is_marked(folder)
        self.left_alone: list[Path] = []
        """What lies among staged files and is not this project's, or not known to be."""
        self._records = [(path, _read_json(path)) for path in self._own("names")]
        self._means = self._own("means")

    def removable(self) -> Iterator[Removable]:
        """Everything that may be removed."""
        for weights in self._own("models"):
            yield self._weights(weights)
        for means in self._means:
            if not self._weights_of(means).exists():
                yield self._removable("means of a scan", set(), [means], None, means)
        for stem in sorted({path.with_suffix("") for path in self._own("corpora")}):
            yield self._tokens(stem)
        for left in self._half_made():
            yield self._left(left)
        own = set(self._own("in-use"))
        for use in read_uses(self._folder):
            if use.path in own and not use.is_live(self._now):
                yield self._use(use)

    def _own(self, name: str) -> list[Path]:
        """The files in one of the folder's folders that are this project's; all others are noted."""
        own = []
        for path in self._regular(name):
            if NAMES[name].fullmatch(path.name) and (self._is_marked or _shows_origin(path)):
                own.append(path)
            elif not path.name.startswith(".") and path not in self.left_alone:
                self.left_alone.append(path)
        return own

    def _half_made(self) -> list[Path]:
        found = [path for name in NAMES for path in self._regular(name) if TEMPORARY.fullmatch(path.name)]
        return found if self._is_marked else []

    def _regular(self, name: str) -> list[Path]:
        """Files of a folder that is no link, themselves none."""
        folder = self._folder / name
        if folder.is_symlink():
            if folder not in self.left_alone:
                self.left_alone.append(folder)
            return []
        with suppress(OSError):
            return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
        return []

    def _weights(self, path: Path) -> Removable:
        about = [(record, values) for record, values in self._records if values.get("fingerprint") == path.stem]
        named = [str(values[key]) for _, values in about for key in ("name", "spec", "base") if values.get(key)]
        shown, names = _origin_of(path)
        means = [means for means in self._means if self._weights_of(means) == path]
        files = [path, *(record for record, _ in about), *means]
        lock = path.with_name(f".{path.name}.lock")
        return self._removable(f"{named[0] if named else shown}, weights", {*named, *names}, files, lock, path)

    def _weights_of(self, means: Path) -> Path:
        """The weights with which means go, and are in use."""
        return self._folder / "models" / f"{means.stem.partition('-')[0]}.safetensors"

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


def _shows_origin(path: Path) -> bool:
    """Whether a file's content says that this project wrote it."""
    if path.suffix == ".safetensors":
        return _header_of(path).get("hash") is not None
    if path.parent.name == "means":
        with suppress(DataError):
            load_array(path)
            return True
        return False
    record = _read_json(path.with_suffix(".json"))
    kinds = ({"fingerprint", "description", "asked"}, {"check", "about"}, {"holder", "pid", "sweep_id"})
    return any(kind <= set(record) for kind in kinds)


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


def _read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where it is damaged or gone."""
    with suppress(OSError, ValueError):
        values = parse_json(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def _origin_of(path: Path) -> tuple[str, set[str]]:
    """What the header of staged weights says of where they come from: as it is shown, and names that mean it."""
    noted = _header_of(path).get("origin")
    if noted is None:
        return "?", set()
    origin, _, checkpoint = str(noted).removeprefix("bundled ").partition(" checkpoints/")
    model = re.sub(r"@[0-9a-f]{40}$", "", origin)
    name = Path(model).name
    return name + (f" at {Path(checkpoint).stem}" if checkpoint else ""), {model, name}


def _header_of(path: Path) -> Mapping[str, Any]:
    """What staged weights note of themselves; empty where they do not."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        noted = safetensors_header(file)["__metadata__"]
        return noted if isinstance(noted, dict) else {}
    return {}
