"""What a writer is worth to the model: how much the loss rises when another prompt's output is put in its place.

Resampled from the partner at the same position, and at shuffled positions, everything behind the writer recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.ablation import RESAMPLED
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import ABLATED, WriterPrompt, targets_of, writers_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import GroupWork, State
from erasure_sweep.workers.tables.columns import Columns

LOSS_POSITIONS = 128
"""At how many positions of a prompt the loss is taken: a distribution over the vocabulary at each is what costs."""
CLEAN = "clean"


class LossRow(NamedTuple):
    """The clean loss, or how much it rises under an ablation of a writer."""

    writer: str
    ablation: str


class AblationLossAccumulator:
    """The loss of the true next token, clean and how much it rises under each resampling of each writer."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[LossRow] = RatioRecorder()
        self._clean: tuple[PromptView, Int[Tensor, "token"], Float[Tensor, "token"]] | None = None
        """Of the prompt at hand, the same for all its writers: where the loss is taken, and what it is."""

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        view, writer = products.view, products.writer
        if self._clean is None or self._clean[0] is not view:
            at = loss_positions(view)
            self._clean = view, at, next_token_loss(view, view.final, at)
        _, at, clean = self._clean
        self._ratios.add_values(LossRow(writer, CLEAN), clean)
        for name, resid in zip(RESAMPLED, products.ablated.resampled, strict=True):
            self._ratios.add_values(LossRow(writer, name), next_token_loss(view, resid, at) - clean)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


def loss_positions(view: PromptView) -> Int[Tensor, "token"]:
    """The measured positions with a next token whose hashes are lowest, ascending."""
    positions = view.positions[view.positions < view.seq_len - 1].cpu().numpy()
    hashes = hash_u64(view.seed, view.corpus_prompt, positions)
    lowest = np.sort(positions[np.argsort(hashes, kind="stable")[:LOSS_POSITIONS]])
    return torch.from_numpy(lowest).to(view.tokens.device)


def next_token_loss(
    view: PromptView, final: Float[Tensor, "pos d_model"], positions: Int[Tensor, "token"]
) -> Float[Tensor, "token"]:
    """−log p of the token that really follows, in nats."""
    model = view.model
    logits = model.normalize(final[positions]) @ model.weights["W_U"] + model.weights["b_U"]
    following = view.tokens[positions + 1]
    return torch.nn.functional.cross_entropy(logits, following, reduction="none")


class AblationLoss(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """The loss under resampling of a writer."""

    stage, name = "group", "ablation_loss"
    needs = (CLEAN_PASS, ABLATED)
    tables = ("ablation_loss",)

    def start(self, shard: Block[GroupWork]) -> AblationLossAccumulator:
        """An empty state for one shard."""
        return AblationLossAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer and resampling."""
        ratios = Ratios(LossRow, states[self.name])
        writers = writers_of(block.work.targets)
        return columns_of({self.name: [_row(ratios, LossRow(w, ablation)) for w in writers for ablation in RESAMPLED]})

    def cost(self, size: ShardSize) -> Cost:
        """Unembeddings: clean, and two for each writer."""
        n_tokens = size.n_prompts * min(LOSS_POSITIONS, size.positions)
        runs = 1 + len(RESAMPLED) * len(writers_of(targets_of(size)))
        flops = 2 * n_tokens * runs * size.shape["d_model"] * size.shape["d_vocab"]
        n_rows = (1 + len(RESAMPLED)) * len(writers_of(targets_of(size)))
        return Cost(flops=flops, stored_bytes=STORED_BYTES_PER_RATIO * n_rows)


def _row(ratios: Ratios[LossRow], row: LossRow) -> Row:
    return {
        "writer": row.writer,
        "ablation": row.ablation,
        "clean_loss": ratios.beta(LossRow(row.writer, CLEAN)),
        "increase_mean": ratios.beta(row),
        **interval_columns("increase_mean", ratios.beta_interval(row)),
        **ratios.quantiles(row),
        "n": ratios.n(row),
    }
