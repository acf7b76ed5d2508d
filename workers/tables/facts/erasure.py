"""What is erased in a model: which writers most, by which heads, and how many stand out of chance.

It is read off the table ``writers``: what is erased of a writer is what later heads take out of it over all attention paths.
The pairs that were tested stand in ``v_composition``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.values import Floats, Tables, numeric, rows_where, strings, table_of

NOTICEABLE = 0.01
"""Below this share of its output nothing noteworthy happens to a writer."""


class Counted(NamedTuple):
    """How many of how many."""

    n: int
    of: int


class HalfGone(NamedTuple):
    """How many of how many writers are half gone at the end; ``centred`` where means are removed."""

    n: int
    of: int
    centred: bool


def writers_by_rank(tables: Tables) -> pd.DataFrame:
    """The table ``writers`` by rank, writers without one most opposed first; an empty one where there is none."""
    table = tables.get("writers")
    if table is None or "writer" not in table:
        return pd.DataFrame({"writer": pd.Series(dtype=str), "opposed": pd.Series(dtype=float)})
    # NaN sorts last, so a run that measured no ranks is in the order of what it did measure
    order = np.lexsort((numeric(table, "opposed"), numeric(table, "rank")))
    return table.iloc[order].reset_index(drop=True)


def is_ranked(writers: pd.DataFrame) -> bool:
    """Whether this table says what later heads erase because they read it, and ranks writers by that."""
    return bool(np.isfinite(numeric(writers, "rank")).any())


def top_writers(tables: Tables, n: int | None = None) -> list[str]:
    """The ``n`` writers (all by default) most erased, means kept, or most opposed where that was not measured."""
    table = writers_by_rank(tables)
    measured = np.isfinite(numeric(table, "opposed")) | np.isfinite(numeric(table, "rank"))
    return table["writer"].astype(str)[measured].tolist()[:n]


def erased_writers(tables: Tables, *, heads: bool = False) -> pd.DataFrame:
    """The rows of ``writers`` in which erasure was measured, the most erased first, means kept.

    Args:
        heads: attention heads alone.
    """
    writers = table_of(tables, "writers")
    shares = numeric(writers, "erased")
    order = np.argsort(-shares, kind="stable")
    rows = writers.iloc[order[np.isfinite(shares[order])]]
    wanted = [is_head(writer) or not heads for writer in rows["writer"].astype(str)]
    return rows[np.array(wanted, dtype=bool)]


def clearly_erased(tables: Tables, *, heads: bool = False) -> pd.DataFrame:
    """Those rows of ``erased_writers`` of which more than τ is erased beyond chance: whatever lists erased writers lists these.

    Args:
        heads: attention heads alone.
    """
    rows = erased_writers(tables, heads=heads)
    return rows[np.array([flag == "True" for flag in strings(rows, "clearly_erased")], dtype=bool)]


def largest_share(tables: Tables) -> tuple[str, float] | None:
    """The writer of which later heads take most because they read it, whether or not by chance, and the share."""
    return max(erased_shares(tables).items(), key=lambda item: item[1], default=None)


def erased_shares(tables: Tables, *, centred: bool = False) -> dict[str, float]:
    """The share of each measured writer's output that later heads take out because they read it.

    Args:
        centred: with what is the same at every token left out.
    """
    writers = table_of(tables, "writers")
    shares = numeric(writers, "erased_centred" if centred else "erased")
    labels = writers["writer"].astype(str)
    return {label: float(x) for label, x in zip(labels, shares, strict=True) if np.isfinite(x)}


def most_erased(tables: Tables) -> dict[str, str]:
    """The writer and the head that later heads clearly erase most, as ``most_erased`` and ``most_erased_head``, if any."""
    found: dict[str, str] = {}
    for name, heads in (("most_erased", False), ("most_erased_head", True)):
        clear = clearly_erased(tables, heads=heads)["writer"].astype(str).tolist()
        if clear:
            found[name] = clear[0]
    return found


def shares_of_heads(tables: Tables, writer: str) -> dict[str, float]:
    """What each later head takes out of a writer over all attention paths, as a share of the writer's output."""
    rows = rows_where(table_of(tables, "erasure_shares"), writer=writer)
    shares = zip(strings(rows, "eraser"), numeric(rows, "share").tolist(), strict=True)
    return {str(eraser): share for eraser, share in shares if is_head(str(eraser)) and np.isfinite(share)}


def written_back(writers: pd.DataFrame) -> Floats:
    """What others write back of what later heads take out: all three of ``writers``, remaining − written + erased.

    Below 0 more goes than later heads take out because they read it.
    """
    remaining, written, erased = (numeric(writers, name) for name in ("remaining", "written", "erased"))
    return remaining - written + erased


def half_gone(tables: Tables) -> HalfGone:
    """How many writers end with less than half of what they wrote, whoever took it out and for whatever reason.

    Where nothing positive was written (others outweigh the writer along it), there is no half to lose: it is not counted.
    Means are removed where that was measured, since constants rule the numbers with means kept, in deep models above all.
    """
    writers = table_of(tables, "writers")
    centred = bool(np.isfinite(numeric(writers, "remaining_centred")).any())
    suffix = "_centred" if centred else ""
    written, remaining = numeric(writers, f"written{suffix}"), numeric(writers, f"remaining{suffix}")
    counted = np.isfinite(remaining) & (written > 0)
    return HalfGone(int((counted & (remaining < written / 2)).sum()), int(counted.sum()), centred)


def strongest_first(joined: str, strengths: Mapping[str, float]) -> list[str]:
    """Heads joined by ``+``, the most negative of these numbers first; one without a number stands at 0."""
    return sorted((head for head in joined.split("+") if head), key=lambda head: _strength(strengths, head))


def _strength(strengths: Mapping[str, float], head: str) -> float:
    strength = strengths.get(head, 0.0)
    return 0.0 if np.isnan(strength) else strength


def erasers_of(tables: Tables, writer: str) -> list[str] | None:
    """The heads that erase a writer, those first that take out most; None where reading it was not measured."""
    joined = strings(rows_where(table_of(tables, "writers"), writer=writer), "erasers")
    if not joined or joined[0] is None:
        return None
    pairs = rows_where(table_of(tables, "v_composition"), writer=writer)
    strengths = zip(strings(pairs, "eraser"), numeric(pairs, "beta").tolist(), strict=True)
    return strongest_first(joined[0], {str(eraser): beta for eraser, beta in strengths})


def significant_pairs(tables: Tables) -> Counted | None:
    """How many of the tested pairs of a writer and a later head are significant; None where none was tested."""
    significant = [found for found in strings(table_of(tables, "v_composition"), "significant") if found is not None]
    return Counted(significant.count("True"), len(significant)) if significant else None
