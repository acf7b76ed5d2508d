"""Who works on a sweep whose store several machines may see: one driver at a time, by a lease that it renews.

The lease is the object ``driver.json`` in the sweep's store. A driver creates it, rewrites it every ``BEAT_S`` with one
more beat, and marks it ended. Who finds another's, not ended, takes it over at once where that was a process of this
machine that is gone; else it watches it for ``LEASE_S``: a beat more, and the other lives. Clocks are never compared.

Two that take over at the same time write one after the other. A driver rewrites the lease only after it has read its
own there, so all but the last of them find that they have lost it, the first time seconds later, and end.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from erasure_sweep.sweep.store.driver_process import DriverProcess, InUseError, read_driver
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.small_files import parse_json

if TYPE_CHECKING:
    from erasure_sweep.workers.storage.shard_storage import Storage

log = logging.getLogger(__name__)

KEY = "driver.json"
"""Of the lease, in a sweep's store."""

LEASE_S = 30.0
"""For how long a lease that no one renews is watched before it is taken over."""
BEAT_S = 10.0
FIRST_BEAT_S = 2.0
"""When the lease is read again for the first time, so that of two that took it over one ends early."""
WATCH_EVERY_S = 1.0
UNNOTED_S = 3 * LEASE_S
"""For how long a lease may not be renewed, because the store fails, until the run ends."""
CLOSE_S = 4.0
"""How long an ending run waits for its last beat."""


class LeaseRecord(NamedTuple):
    """What stands in a store about who works on it."""

    driver: DriverProcess
    beat: int
    at: str
    """When it was written, by the clock of who wrote it: for people."""
    ended: bool


def read_lease(storage: Storage) -> LeaseRecord | None:
    """The lease of a sweep's store; ``None`` where there is none or it is damaged.

    Raises:
        StorageError: the store cannot be read.
    """
    content = storage.get(KEY)
    try:
        values = parse_json(content or b"{}")
        driver = read_driver(values)
        return LeaseRecord(driver, int(values["beat"]), str(values["at"]), bool(values["ended"])) if driver else None
    except (ValueError, KeyError, TypeError):
        return None


class Lease:
    """One driver's lease. But for ``check`` it is used by one thread at a time.

    Args:
        storage: of the sweep alone.
        driver: who asks for it.
        say: hears why it takes long.
        clock, sleep: of this process, in seconds.
    """

    def __init__(
        self,
        storage: Storage,
        driver: DriverProcess,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage, self._driver, self._say = storage, driver, say
        self._clock, self._sleep = clock, sleep
        self._beats = 0
        self._held = False
        self._lost: LeaseRecord | None = None
        self._noted = 0.0
        """When the lease was last written, by ``clock``."""
        self._failure: SweepError | None = None
        """Why it could not be since."""

    def acquire(self) -> None:
        """Take the lease, from one who no longer works too.

        Raises:
            InUseError: another driver works on this sweep.
            StorageError: the store cannot be read or written.
        """
        while not self._storage.create(KEY, self._content()):
            found = read_lease(self._storage)
            if found is None and self._storage.get(KEY) is None:
                continue  # it went away meanwhile
            if found is None or self._is_left(found):
                self.seize()
                return
        self._held, self._noted = True, self._clock()

    def seize(self) -> None:
        """Take the lease, whoever holds it.

        Raises:
            StorageError: the store cannot be written.
        """
        self._storage.put(KEY, self._content())
        self._held, self._noted = True, self._clock()

    def _is_left(self, found: LeaseRecord) -> bool:
        """Whether nobody works under this lease; False where it went away while it was watched."""
        if found.ended or found.driver.is_alive is False:
            return True
        self._say(f"waiting to see whether another run ({found.driver}) still works on this sweep ({LEASE_S:.0f} s)")
        until = self._clock() + LEASE_S
        while self._clock() < until:
            self._sleep(WATCH_EVERY_S)
            now = read_lease(self._storage)
            if now is None or now.ended or now.driver.is_alive is False:
                return now is not None
            if (now.driver.holder, now.beat) != (found.driver.holder, found.beat):
                raise self._refusal(now)
        self._say(f"it does not ({found.driver.where}): going on from what it stored")
        return True

    def _refusal(self, found: LeaseRecord) -> InUseError:
        return InUseError(
            f"another run ({found.driver}) is working on this sweep in {self._storage.address}: wait for it, stop it, or "
            "choose another --store"
        )

    def beat(self) -> None:
        """Renew the lease, unless another driver has taken it; what fails is tried again by the next beat."""
        if not self._held or self._lost:
            return
        try:
            self._renew()
        except SweepError as error:
            log.warning("the lease in %s could not be renewed: %s", self._storage.address, error)
            self._failure = error

    def _renew(self, ended: bool = False) -> None:
        found = read_lease(self._storage)
        if found is not None and found.driver.holder != self._driver.holder:
            self._lost = found
            return
        self._beats += 1
        self._storage.put(KEY, self._content(ended))
        self._noted, self._failure = self._clock(), None

    def check(self) -> None:
        """See that this driver is still the one that works on the sweep.

        Raises:
            InUseError: another one took the lease, while this one could not renew it.
            SweepError: it could not be renewed for long.
        """
        if self._lost:
            raise InUseError(
                f"another run ({self._lost.driver}) has taken over this sweep in {self._storage.address}: it goes on "
                "there"
            )
        unnoted = self._clock() - self._noted
        if self._failure and unnoted > UNNOTED_S:
            raise SweepError(f"for {unnoted:.0f} s it could not be noted that this run goes on: {self._failure}")

    def release(self) -> None:
        """Let others have the sweep; where that cannot be noted, they watch the lease first."""
        if not self._held or self._lost:
            return
        self._held = False
        try:
            self._renew(ended=True)
        except SweepError:
            log.warning("the end of the lease in %s could not be noted", self._storage.address, exc_info=True)

    def _content(self, ended: bool = False) -> bytes:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({**self._driver._asdict(), "beat": self._beats, "at": at, "ended": ended}).encode()


class Heartbeat:
    """Does something every ``BEAT_S``, and something else in the end, in a thread of its own.

    Args:
        beat: what is done again and again, the first time ``FIRST_BEAT_S`` after the start.
        end: what is done last.
    """

    def __init__(self, beat: Callable[[], None], end: Callable[[], None]) -> None:
        self._beat, self._end = beat, end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Do the last, started or not, and wait ``CLOSE_S`` at most: a store that hangs does not keep an interrupted run."""
        self._stopping.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        wait_s = FIRST_BEAT_S
        while not self._stopping.wait(wait_s):
            wait_s = BEAT_S
            self._do(self._beat)
        self._do(self._end)

    def _do(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception:
            log.exception("a beat failed")
