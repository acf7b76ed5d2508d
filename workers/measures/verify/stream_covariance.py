"""How the stream varies in the states that first hold the verified writers: what placebos are drawn from.

Of each state the mean and the co-moments of the stream over the measured tokens of the scan's prompts. It makes no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.placebos import states_holding
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.statistics.moments import MergedSizes
from erasure_sweep.workers.records import CovarianceWork, State
from erasure_sweep.workers.tables.columns import Columns


class _Sums(NamedTuple):
    """Over some tokens, of each state."""

    reference: Float[Tensor, "state d_model"]
    """What is taken from the stream before it is added up."""
    sum: Float[Tensor, "state d_model"]
    products: Float[Tensor, "state d_model d_model"]


class StreamCovarianceAccumulator:
    """Sums over one shard about the first prompt's mean, which keeps rounding small.

    Args:
        block: of the model.
    """

    def __init__(self, block: Block[CovarianceWork]) -> None:
        layout = block.layout
        # One writer for each state: the stream right after its sublayer.
        self._writers = {layout.states[layout.written_state(writer)]: writer for writer in block.work.writers}
        self._states = states_holding(layout, block.work.writers)
        self._n = 0
        self._sums: _Sums | None = None

    def update(self, products: PromptView) -> None:
        """Take in one prompt."""
        at = products.positions
        stream = torch.stack([products.written_stream(self._writers[state])[at] for state in self._states]).double()
        reference = stream.mean(dim=1) if self._sums is None else self._sums.reference
        centred = stream - reference[:, None]
        added = _Sums(reference, centred.sum(dim=1), centred.transpose(1, 2) @ centred)
        before = self._sums
        self._sums = (
            added if before is None else _Sums(reference, before.sum + added.sum, before.products + added.products)
        )
        self._n += len(at)

    def export(self) -> State:
        """Tokens, means and co-moments."""
        assert self._sums is not None, "a shard has prompts"
        mean = self._sums.sum / self._n
        comoment = self._sums.products - self._n * mean[:, :, None] * mean[:, None]
        return {
            "n": np.array(self._n, dtype=np.int64),
            "mean": (mean + self._sums.reference).cpu().numpy(),
            "comoment": comoment.cpu().numpy(),
        }


class StreamCovariance(Measure[CovarianceWork, Block[CovarianceWork], PromptView]):
    """Means and co-moments of the stream where verified writers write."""

    stage, name = "covariance", "stream_covariance"
    needs = (CLEAN_PASS,)
    tables = ()

    def start(self, shard: Block[CovarianceWork]) -> StreamCovarianceAccumulator:
        """An empty state for one shard."""
        return StreamCovarianceAccumulator(shard)

    def merge(self, block: Block[CovarianceWork], states: Iterable[State]) -> State:
        """Those of all shards, added up in plan order."""
        return merge_comoments(states)

    def columns(
        self, block: Block[CovarianceWork], states: Mapping[str, State], setting: Setting
    ) -> dict[str, Columns]:
        """None."""
        return {}

    def cost(self, size: ShardSize) -> Cost:
        """Products of the stream with itself, which are stored."""
        assert isinstance(size.work, CovarianceWork)
        n_states, d_model = len(states_holding(size.layout, size.work.writers)), size.shape["d_model"]
        values = n_states * d_model**2
        return Cost(flops=4.0 * size.n_tokens * values, stored_bytes=8.0 * values)


def merge_comoments(states: Iterable[State]) -> State:
    """Tokens, means and co-moments of many shards, in their order."""
    n, mean, comoment = np.array(0), None, None
    for state in states:
        if mean is None:
            n, mean, comoment = state["n"], state["mean"], state["comoment"]
            continue
        sizes, apart = MergedSizes.of(n, state["n"]), state["mean"] - mean
        comoment = comoment + state["comoment"] + sizes.weight * apart[:, :, None] * apart[:, None]
        n, mean = np.array(sizes.n), sizes.mean(mean, state["mean"])
    assert mean is not None and comoment is not None, "a stage has shards"
    return {"n": n, "mean": mean, "comoment": comoment}


def stream_covariance(states: Iterable[State]) -> Float[np.ndarray, "state d_model d_model"]:
    """The covariance of the stream in each state, from the states of all shards in plan order."""
    merged = merge_comoments(states)
    covariance: np.ndarray = merged["comoment"] / merged["n"]
    return covariance
