"""Tokens whose unembedding a writer's output is aligned with: its direct logits, averaged over the corpus.

Direct logits are linear in the output, so that the mean over tokens needs one vector alone: the mean of o / scale, with the
final LayerNorm's scale of each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS
from erasure_sweep.workers.measures.interventions.verified_prompt import WriterPrompt, targets_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import GroupWork, State, writers_of
from erasure_sweep.workers.tables.columns import Columns

SHOWN = 30
"""How many tokens are listed."""


class AlignedTokensAccumulator:
    """Sums of each writer's output over the final scale."""

    def __init__(self) -> None:
        self._sums: dict[str, Float[Tensor, "d_model"]] = {}
        self._n: dict[str, int] = {}

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        total = (view.written(writer) / view.final_scale[:, None]).double().sum(dim=0)
        self._sums[writer] = self._sums[writer] + total if writer in self._sums else total
        self._n[writer] = self._n.get(writer, 0) + len(view.positions)

    def export(self) -> State:
        """The sums [writer, d_model] and the numbers of tokens [writer]."""
        return {"sum": torch.stack(list(self._sums.values())).cpu().numpy(), "n": np.array(list(self._n.values()))}


class AlignedTokens(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """The tokens that each verified writer raises most, on average."""

    stage, name = "group", "aligned_tokens"
    needs = (CLEAN_PASS,)
    tables = ("aligned_tokens",)

    def start(self, shard: Block[GroupWork]) -> AlignedTokensAccumulator:
        """An empty state for one shard."""
        return AlignedTokensAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Sums over all shards."""
        parts = list(states)
        return {name: np.sum([state[name] for state in parts], axis=0) for name in ("sum", "n")}

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """The tokens of each writer, the highest first."""
        merged, rows = states[self.name], list[Row]()
        means = merged["sum"] / merged["n"][:, None]
        for writer, mean in zip(writers_of(block.work.targets), means, strict=True):
            aligned = aligned_with(block.model, mean)
            for rank, (token_id, logit) in enumerate(zip(*aligned, strict=True), start=1):
                row = {"writer": writer, "rank": rank, "token_id": int(token_id)}
                row |= {"token": setting.texts.token(int(token_id)), "mean_direct_logit": float(logit)}
                rows.append(row)
        return columns_of({self.name: rows})

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing."""
        return Cost(stored_bytes=8 * size.shape["d_model"] * len(writers_of(targets_of(size))))


class AlignedTokenList(NamedTuple):
    """The tokens that one writer raises most, on average."""

    token_ids: Int[np.ndarray, "token"]
    mean_direct_logit: Float[np.ndarray, "token"]


def aligned_with(model: LeanModel, mean: Float[np.ndarray, "d_model"]) -> AlignedTokenList:
    """Tokens of a mean output, the highest first; the lower id goes first among equals."""
    logits = model.direct_logits(torch.from_numpy(mean).to(model.device)).double().cpu().numpy()
    ids = np.argsort(-logits, kind="stable")[:SHOWN]
    return AlignedTokenList(ids, logits[ids])
