"""What of finished shards can be removed: an OUT's own, and those of sweeps in a store that several share."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from erasure_sweep.sweep.cleaning.removable import Removable, clock_of, prune, size_of, unlink
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import InUseError, this_driver
from erasure_sweep.sweep.store.lease import KEY, Heartbeat, Lease, LeaseRecord, read_lease
from erasure_sweep.sweep.store.staged_use import STALE_S
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.shard_storage import (
    MARK,
    NUMERICS,
    STATE_KEY,
    FolderStorage,
    Storage,
    StorageError,
    StoredObject,
    joined,
    open_storage,
)
from erasure_sweep.workers.storage.whole_file import TEMPORARY

DELETED_AT_A_TIME = 1000
_SWEEP = re.compile(r"(?P<sweep>[0-9a-f]{32})/(?P<key>.+)")


def removable_of(folder: RunFolder) -> Removable | None:
    """The finished shards inside an OUT; ``None`` where it has none of its own."""
    store = folder.own_store
    if not store.is_dir():
        return None
    size, measured = size_of(_own_files(store))
    _, ran = size_of([folder.manifest])
    driver = folder.working_driver()
    manifest = folder.read_manifest()
    names = frozenset([manifest.name] if manifest and manifest.name else [])
    in_use = driver.where if driver else ""
    return Removable(
        str(store), names, size, max(measured or 0.0, ran or 0.0), clock_of(store), in_use, lambda: _remove_own(folder)
    )


def _own_files(store: Path) -> list[Path]:
    """What this project keeps in an OUT's store, and nothing else."""
    paths = [Path(folder, name) for folder, _, names in os.walk(store) for name in names]
    return [path for path in paths if _is_ours(path.relative_to(store).as_posix())]


def _is_ours(key: str) -> bool:
    return _is_of_a_sweep(key) or bool(TEMPORARY.fullmatch(key.rpartition("/")[2]))


def _is_of_a_sweep(key: str) -> bool:
    return key in (KEY, MARK, NUMERICS) or bool(STATE_KEY.fullmatch(key))


def _remove_own(folder: RunFolder) -> None:
    store = folder.own_store
    if store.is_symlink():
        raise SweepError(
            f"{store} is a link to {store.resolve()}, which is left alone: remove what it leads to yourself"
        )
    with folder.held_by(this_driver("clean", "", folder.out, os.getpid())):
        unlink(_own_files(store))
        prune(store)


def removable_in(address: str) -> Iterator[Removable]:
    """The sweeps in a store, each with everything that this project keeps there and with nothing else.

    Raises:
        UsageError: nothing opens such an address.
        StorageError: the store cannot be read.
    """
    storage = open_storage(address)
    now = _clock_of(storage)
    sweeps: dict[str, list[StoredObject]] = defaultdict(list)
    kept = storage.keys()
    for entry in kept:
        parts = _SWEEP.fullmatch(entry.key)
        if parts and _is_of_a_sweep(parts["key"]):
            sweeps[parts["sweep"]].append(entry._replace(key=parts["key"]))
    for sweep_id, entries in sorted(sweeps.items()):
        found = _StoredSweep(open_storage(joined(address, sweep_id)), sweep_id, entries, now)
        if found.is_ours:
            yield found.removable()


class _StoredSweep:
    """One sweep in a store.

    Args:
        storage: of this sweep alone.
        entries: what is kept there.
        now: by the store's clock.
    """

    def __init__(self, storage: Storage, sweep_id: str, entries: list[StoredObject], now: float) -> None:
        self._storage, self._sweep_id, self._entries, self._now = storage, sweep_id, entries, now
        self._lease = read_lease(storage)

    @property
    def is_ours(self) -> bool:
        """Whether it is a sweep, and no other folder with such a name."""
        return self._lease is not None or any(STATE_KEY.fullmatch(entry.key) for entry in self._entries)

    def removable(self) -> Removable:
        name = self._lease.driver.name if self._lease else None
        times = [entry.modified for entry in self._entries if entry.modified is not None]
        return Removable(
            what=f"{name or 'a sweep'} in {self._storage.address}",
            names=frozenset([name] if name else []),
            size=sum(entry.size for entry in self._entries),
            used=max(times, default=None),
            now=self._now,
            in_use=self._lease.driver.where if self._lease and self._is_live(self._lease) else "",
            remove=self._remove,
        )

    def _is_live(self, lease: LeaseRecord) -> bool:
        alive = lease.driver.is_alive
        if lease.ended or alive is False:
            return False
        beat = next((entry.modified for entry in self._entries if entry.key == KEY), None)
        return bool(alive) or beat is None or self._now - beat < STALE_S

    def _remove(self) -> None:
        """Remove the sweep; a run that begins meanwhile waits until it is gone.

        Raises:
            InUseError: one has begun since it was looked at.
        """
        now = read_lease(self._storage)
        if now is not None and now != self._lease and not now.ended and now.driver.is_alive is not False:
            raise InUseError(now.driver.where)
        name = self._lease.driver.name if self._lease else "clean"
        driver = this_driver(name, self._sweep_id, Path.cwd(), os.getpid())
        lease = Lease(self._storage, driver, say=lambda line: None)
        lease.seize()
        heart = Heartbeat(lease.beat, lease.release)
        heart.start()
        try:
            for some in _by(DELETED_AT_A_TIME, [entry.key for entry in self._entries if entry.key != KEY]):
                lease.check()
                self._storage.delete(some)
        finally:
            heart.close()
        lease.check()
        self._storage.delete([KEY])
        if isinstance(self._storage, FolderStorage):
            folder = Path(self._storage.address)
            self._storage.sweep_up()
            prune(folder)


def _by(n: int, keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + n] for start in range(0, len(keys), n))


def _clock_of(storage: Storage) -> float:
    """The present by a store's clock; by this machine's where it says nothing of that, or cannot be written."""
    if isinstance(storage, FolderStorage):
        return clock_of(Path(storage.address))
    key = f"clock-{secrets.token_hex(4)}/now"
    try:
        storage.put(key, b"")
        written = [entry.modified for entry in storage.keys(key)]
        storage.delete([key])
    except StorageError:
        return time.time()
    return next((time for time in written if time is not None), time.time())
