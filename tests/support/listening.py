"""What processes listen on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import psutil


class ListeningSocket(NamedTuple):
    """A socket that waits for connections."""

    process: str
    host: str
    port: int


def listening_sockets(process: psutil.Process) -> list[ListeningSocket]:
    """Those of a process and of all that it has started; a process may end while it is asked."""
    return [found for each in (process, *process.children(recursive=True)) for found in _of(each)]


def _of(process: psutil.Process) -> Iterator[ListeningSocket]:
    with suppress(psutil.NoSuchProcess):
        name = process.name()
        for socket in process.net_connections("inet"):
            if socket.status == psutil.CONN_LISTEN:
                yield ListeningSocket(name, socket.laddr.ip, socket.laddr.port)
