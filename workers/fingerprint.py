"""The one hash of this project: BLAKE2b over pieces in their order, the same on every machine.

Ids of shards and sweeps, names of staged files and checksums of states are made of it: another order, size or encoding
would lose all that is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

FINGERPRINT_BYTES = 16
Piece = str | bytes | memoryview


def digest(pieces: Iterable[Piece], n_bytes: int = FINGERPRINT_BYTES) -> bytes:
    """Hash of all pieces one behind the other, text as UTF-8; they are taken one at a time."""
    hashed = blake2b(digest_size=n_bytes)
    for piece in pieces:
        hashed.update(piece.encode() if isinstance(piece, str) else piece)
    return hashed.digest()


def fingerprint(*pieces: Piece, n_bytes: int = FINGERPRINT_BYTES) -> str:
    """The digest of these pieces in hexadecimal digits, two for each byte."""
    return digest(pieces, n_bytes).hex()
