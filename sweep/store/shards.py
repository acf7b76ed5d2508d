"""Finished shards: a shard counts once its state stands in the store, and a resumed sweep goes on from what does.

A state is whole there or absent, and carries a checksum that covers its shard's id: a torn, altered or exchanged one is
found, named in the log, removed and measured again. What a sweep finds when it begins is listed once; from then on only its
own driver and workers put and remove.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from erasure_sweep.workers.records import Numerics, PathsWork, ScanWork, ShardTask, SharedStore, TrustWork, WriterBlock
from erasure_sweep.workers.storage.shard_storage import MARK, NUMERICS, STATE_KEY, Storage, state_key
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.storage.states import is_whole

log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 2**20
"""How much of the store is looked at at a time, or one shard where that is more."""
BATCH_SHARDS = 256

BlockKeys = list[tuple[WriterBlock, list[str]]]
"""For each block of writers the keys of its shards, in plan order."""


class VerifyKeys(NamedTuple):
    """The keys of verify's shards, in plan order."""

    group: list[str]
    trust: BlockKeys
    adversarial: list[str]


def keys_of(tasks: Iterable[ShardTask]) -> list[str]:
    """Where the states of shards stand, whether or not they do."""
    return [state_key(task.id) for task in tasks]


def block_keys(tasks: Iterable[ShardTask]) -> BlockKeys:
    """The keys of shards that see a block of writers each, block by block."""
    keys: dict[WriterBlock, list[str]] = {}
    for task in tasks:
        assert isinstance(task.work, ScanWork | PathsWork | TrustWork)
        keys.setdefault(task.work.writers, []).append(state_key(task.id))
    return list(keys.items())


class ShardStore:
    """Shard states by shard id. Its methods raise ``StorageError`` where the storage fails.

    Args:
        storage: of this sweep alone; nothing is asked of it before it is used.
        say: tells people a line.
    """

    def __init__(self, storage: Storage, say: Callable[[str], None] = log.info) -> None:
        self._storage, self._say = storage, say
        self._listed: dict[str, int] | None = None

    @property
    def address(self) -> str:
        """Where the states are, as it may be shown."""
        return self._storage.address

    @property
    def location(self) -> str:
        """As ``workers.storage.shard_storage.open_storage`` takes it, in any process."""
        return self._storage.location

    def share(self) -> SharedStore:
        """Where workers may put states themselves; a mark there tells them that it is this store."""
        mark = secrets.token_hex(16)
        self._storage.put(MARK, mark.encode())
        return SharedStore(self._storage.location, mark)

    def numerics(self, device: str) -> Numerics | None:
        """With which numerics the sweep's shards were measured on a kind of device; ``None`` where none were."""
        noted = self._noted_numerics().get(device)
        return noted if noted and any(map(STATE_KEY.fullmatch, self._sizes())) else None

    def note_numerics(self, numerics: Numerics) -> None:
        """Note with which numerics shards are measured from now on."""
        noted = self._noted_numerics()
        if noted.get(numerics.device) != numerics:
            noted[numerics.device] = numerics
            values = {device: each._asdict() for device, each in noted.items()}
            self._storage.put(NUMERICS, json.dumps(values, indent=1).encode())

    def _noted_numerics(self) -> dict[str, Numerics]:
        """By kind of device; a damaged note is none, and the shards, whose ids cover it, are measured anew if it is lost."""
        try:
            values = parse_json(self._storage.get(NUMERICS) or b"{}")
            return {str(device): Numerics(**each) for device, each in values.items()}
        except (ValueError, TypeError, AttributeError):
            return {}

    def put(self, shard_id: str, state: bytes | None) -> None:
        """Keep a finished shard.

        Args:
            state: ``None`` where its worker has put it.
        """
        key = state_key(shard_id)
        if state is not None:
            self._storage.put(key, state)
        if self._listed is not None:
            self._listed[key] = len(state or b"")

    def finished(self, shard_ids: Iterable[str]) -> set[str]:
        """Which of these shards are here and whole; damaged ones are removed."""
        sizes = self._sizes()
        found = {key: shard_id for shard_id in shard_ids if (key := state_key(shard_id)) in sizes}
        whole: set[str] = set()
        damaged: list[str] = []
        for batch in batches(found, sizes):
            for key, state in self._storage.get_many(batch).items():
                (whole.add if is_whole(state, found[key]) else damaged.append)(found[key])
        self._remove_damaged(damaged)
        return whole

    def _remove_damaged(self, shard_ids: list[str]) -> None:
        if not shard_ids:
            return
        places = [f"{self.address}/{state_key(shard_id)}" for shard_id in shard_ids]
        for shard_id, where in zip(shard_ids, places, strict=True):
            log.warning("shard %s: %s is damaged and is measured again", shard_id, where)
        others = f" and {len(places) - 1} more are" if len(places) > 1 else " is"
        self._say(f"{places[0]}{others} damaged or another shard's: measured again")
        self.discard(shard_ids)

    def discard(self, shard_ids: Iterable[str]) -> None:
        """Forget these shards."""
        sizes = self._sizes()
        keys = [key for shard_id in shard_ids if (key := state_key(shard_id)) in sizes]
        self._storage.delete(keys)
        for key in keys:
            sizes.pop(key, None)

    def _sizes(self) -> dict[str, int]:
        """Bytes of what is here, by key."""
        if self._listed is None:
            entries = self._storage.keys()
            self._listed = {entry.key: entry.size for entry in entries}
        return self._listed


def batches(keys: Iterable[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """Keys in batches that memory holds."""
    batch: list[str] = []
    n_bytes = 0
    for key in keys:
        if batch and (n_bytes + sizes[key] > BATCH_BYTES or len(batch) == BATCH_SHARDS):
            yield batch
            batch, n_bytes = [], 0
        batch.append(key)
        n_bytes += sizes[key]
    if batch:
        yield batch
