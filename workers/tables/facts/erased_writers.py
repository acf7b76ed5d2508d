"""Writers that are clearly erased, each with the numbers that are said of it: with means removed where that was measured.

Constants rule the outputs as they are, in deep models above all, so numbers with means kept stand beside and not first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE, clearly_erased, erasers_of
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.values import Tables, numeric

_COLUMNS = ("erased{}", "erased{}_low", "erased{}_high", "written{}", "remaining{}")


class ErasedWriter(NamedTuple):
    """A writer of which something is erased, and the heads that do it, the strongest first.

    Attributes:
        share: what later heads take out of it, of its output; ``kept`` the same with means kept.
        written: the share of it in the stream where it writes; ``remaining`` that at the end. Means are as in ``share``.
        diluted: what growth of the stream takes from it, as readers behind a norm see it.
    """

    writer: str
    share: Interval
    kept: float
    written: float
    remaining: float
    diluted: float
    erasers: list[str]

    @property
    def written_back(self) -> float:
        """What is written back of what was taken out; below 0 what else was taken out of it."""
        return self.remaining - (self.written - self.share.value)


def erased_writers_of(tables: Tables, *, heads: bool = False) -> list[ErasedWriter]:
    """The clearly erased writers of a model, those of which most is taken out first.

    One of which nothing is taken out but a constant, what is the same at every token, is left out.

    Args:
        heads: attention heads alone.
    """
    rows = clearly_erased(tables, heads=heads)
    plain, centred = (
        np.array([numeric(rows, column.format(suffix)) for column in _COLUMNS]) for suffix in ("", "_centred")
    )
    shown = np.where(np.isfinite(centred[0]), centred, plain)
    diluted = numeric(rows, "diluted")
    found = []
    for at, writer in enumerate(rows["writer"].astype(str)):
        share, low, high, written, remaining = shown[:, at].tolist()
        numbers = (float(plain[0, at]), written, remaining, float(diluted[at]))
        found.append(ErasedWriter(writer, Interval(share, low, high), *numbers, erasers_of(tables, writer) or []))
    return sorted((one for one in found if one.share.value >= NOTICEABLE), key=lambda one: -one.share.value)
