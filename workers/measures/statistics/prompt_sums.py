"""Sums over the tokens of each prompt, row by row: what intervals by leaving out a prompt are worked out from.

A row is something that is measured at every prompt, such as a writer's attribution beside its total effect; a measure says what
its rows are by a named tuple of its own, and which sums it keeps of them, the same for every row. Up to ``GROUPS`` prompts stay
apart. Beyond, they are dealt by their place in the corpus into so many groups, which are left out in their stead. Prompts are
added up in the order of the corpus, so that no digit depends on how they were divided into shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from erasure_sweep.workers.measures.statistics.jackknife import PLAIN, Estimate, Scale, Statistic, jackknife
from erasure_sweep.workers.measures.statistics.rows import RowT, decode_rows, encode_rows
from erasure_sweep.workers.records import State

GROUPS = 1024
"""How many prompts, or groups of them, are kept apart at most."""
STORED_BYTES_PER_SUM = 8
"""Of one sum of one row and prompt on disk: digits of sums do not compress."""


class PromptSums(Generic[RowT]):
    """Sums of the prompts of one shard; every prompt brings every row once, in the order of the corpus."""

    def __init__(self) -> None:
        self._sums: dict[tuple[RowT, ...], list[Float[Tensor, "sum row"]]] = {}

    def add(self, row: RowT, sums: Float[Tensor, "sum"]) -> None:
        """Take in a row's sums over the tokens of the next prompt."""
        self.add_rows((row,), sums[:, None])

    def add_rows(self, rows: tuple[RowT, ...], sums: Float[Tensor, "sum row"]) -> None:
        """Take in several rows at once, the same at every prompt."""
        self._sums.setdefault(rows, []).append(sums.double())

    def export(self) -> State:
        """The rows and their ``prompt_sums``, [prompt, sum, row]; nothing where there are none."""
        if not self._sums:
            return {}
        parts = list(self._sums.values())
        assert len({len(prompts) for prompts in parts}) == 1, "every prompt brings every row once"
        sums = torch.cat([torch.stack(prompts) for prompts in parts], dim=-1)
        return {**encode_rows([row for rows in self._sums for row in rows]), "prompt_sums": sums.cpu().numpy()}


def merge_prompt_sums(states: Iterable[State]) -> State:
    """Rows of many shards, in the order of the corpus; shards without rows have no part in it."""
    parts = [state for state in states if "prompt_sums" in state]
    return {**same_rows(parts), "prompt_sums": deal([state["prompt_sums"] for state in parts])} if parts else {}


def same_rows(states: Sequence[State]) -> State:
    """What the rows of some shards are: the same in all."""
    first, *others = ({name: of for name, of in state.items() if name.startswith("row_")} for state in states)
    for name, values in first.items():
        assert all(np.array_equal(values, other[name]) for other in others), "shards of one model have the same rows"
    return first


def deal(shards: Sequence[Shaped[np.ndarray, "_ *k"]]) -> Shaped[np.ndarray, "group *k"]:
    """What shards hold of each of their prompts, one after the other; of more than ``GROUPS`` prompts the sums of groups."""
    prompts = np.concatenate(shards)
    groups = prompts[:GROUPS].copy()
    for start in range(GROUPS, len(prompts), GROUPS):
        more = prompts[start : start + GROUPS]
        groups[: len(more)] += more
    return groups


class RowSums(Generic[RowT]):
    """Sums of many shards together.

    Args:
        kind: the named tuple that says what a row is.
        state: as ``merge_prompt_sums`` gives it, whatever else it holds.
    """

    def __init__(self, kind: Callable[..., RowT], state: State) -> None:
        self.rows = decode_rows(kind, state)
        self._row = {row: index for index, row in enumerate(self.rows)}
        self._sums: Float[np.ndarray, "prompt sum row"] = state["prompt_sums"] if state else np.empty((0, 0, 0))

    def index(self, row: RowT) -> int:
        """Where a row stands among all."""
        return self._row[row]

    def of(self, row: RowT) -> Float[np.ndarray, "prompt sum"]:
        """A row's sums, prompt by prompt."""
        return self._sums[:, :, self._row[row]]

    def estimate(self, row: RowT, statistic: Statistic, scale: Scale = PLAIN) -> Estimate:
        """A statistic of a row's sums over all prompts, and its interval."""
        return Estimate(*(float(of) for of in jackknife(self.of(row), statistic, scale)))
