"""One prompt of a shard as the verify measures see it: every vector of the clean pass, its partner, and what is drawn.

Prompts of a shard are paired, each with the next one, cyclically: what is put in a writer's place comes from the partner, and
where that is shorter, from its beginning again.
Draws are hashes of (seed, the prompt's index in the corpus), so that they do not depend on how prompts are batched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, own_sublayer, reader_behind
from erasure_sweep.workers.measures.scan.composition import output, written_pattern
from erasure_sweep.workers.measures.scan.products import NEGLIGIBLE
from erasure_sweep.workers.measures.traced_prompts import TracedPrompt, first_source, traced_as_partner, traced_prompts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import ShardTask

LOSS_POSITIONS = 128
"""At how many positions of a prompt the loss is taken: a distribution over the vocabulary at each is what costs."""
_SHUFFLE = 2**32
_ROTATION = 2**36
"""What is added to positions, so that draws for different purposes use different hashes."""


class PromptView:
    """One prompt and its partner in a trace that keeps the stream."""

    def __init__(
        self,
        model: LeanModel,
        trace: Trace,
        index: int,
        corpus_prompt: int,
        seed: int,
        tokens: Int[Tensor, "pos"],
        first: int = 1,
        longest: int | None = None,
    ) -> None:
        self.model, self.trace, self.index = model, trace, index
        self.corpus_prompt, self.seed, self.tokens = corpus_prompt, seed, tokens
        self.first = first
        """The first position at which a writer's output is a source, and may be measured."""
        self.longest = longest or len(tokens)
        """The most tokens that a prompt may have."""
        self.partner = self
        self.positions: Int[Tensor, "token"] = trace.positions[index]
        self.logit_direction: Float[Tensor, "token d_model"] = trace.logit_direction[index]
        self._outputs: dict[str, Tensor] = {}
        self._mid: dict[int, Tensor] = {}

    @property
    def seq_len(self) -> int:
        return len(self.tokens)

    def output(self, label: str) -> Float[Tensor, "pos d_model"]:
        """A writer's output at every position."""
        if label not in self._outputs:
            self._outputs[label] = output(self.model, self.trace, self.index, label)
        return self._outputs[label]

    def source(self, label: str) -> Float[Tensor, "pos d_model"]:
        """What is propagated, taken out or replaced of a writer: its output, zero where position 0 is left out."""
        found = self.output(label)
        if self.first:
            found = found.clone()
            found[: self.first] = 0.0
        return found

    def written(self, label: str) -> Float[Tensor, "token d_model"]:
        """A writer's output at the measured positions."""
        return self.output(label)[self.positions]

    def input_of(self, sublayer: Sublayer) -> Float[Tensor, "pos d_model"]:
        """The stream that a sublayer reads; the final state behind the last one."""
        assert self.trace.resid_pre is not None
        layer = sublayer.layer
        if not sublayer.mlp or self.model.config.parallel:
            return self.trace.resid_pre[layer, self.index]
        if layer not in self._mid:
            z = self.trace.z[layer, self.index, None]
            self._mid[layer] = self.trace.resid_pre[layer, self.index] + self.model.attention_out(layer, z)[0]
        return self._mid[layer]

    @property
    def final(self) -> Float[Tensor, "pos d_model"]:
        """The final state."""
        return self.input_of(Sublayer(self.model.config.n_layers, False))

    @cached_property
    def final_scale(self) -> Float[Tensor, "token"]:
        """What the final LayerNorm divides by, at the measured positions."""
        return self.model.scale(self.final[self.positions])

    def reader_of(self, label: str) -> Sublayer:
        """The first sublayer that can read a writer's output."""
        return reader_behind(self.model.config.layout, own_sublayer(label))

    def written_stream(self, label: str) -> Float[Tensor, "pos d_model"]:
        """The stream right after a writer's own sublayer."""
        return self.input_of(self.reader_of(label))

    def valid(self, label: str) -> Bool[Tensor, "pos"]:
        """Where a writer's output is large enough, beside the stream, to have a projection ratio."""
        norm_sq = self.output(label).square().sum(dim=-1)
        return norm_sq > NEGLIGIBLE * self.written_stream(label).square().sum(dim=-1)

    def patterns(
        self, layer: int, heads: Sequence[int], positions: Int[Tensor, "query"] | None = None
    ) -> Float[Tensor, "head query source"]:
        """With which weights some heads write, at some positions or at all, what they read."""
        at = torch.arange(self.seq_len, device=self.tokens.device) if positions is None else positions
        return written_pattern(self.model, self.trace, self.index, layer, at, heads=heads)

    @cached_property
    def shuffled(self) -> Int[Tensor, "pos"]:
        """A permutation of the positions; where position 0 is left out it stays where it is."""
        moved = np.arange(self.first, self.seq_len, dtype=np.uint64)
        hashes = hash_u64(self.seed, self.corpus_prompt, moved + np.uint64(_SHUFFLE))
        order = np.concatenate([np.arange(self.first), self.first + np.argsort(hashes, kind="stable")])
        return torch.from_numpy(order).to(self.tokens.device)

    @cached_property
    def rotated(self) -> Int[Tensor, "pos"]:
        """Positions turned by one offset, which is never none; where position 0 is left out it stays where it is."""
        n = self.seq_len - self.first
        turn = 1 + int(hash_u64(self.seed, self.corpus_prompt, _ROTATION)) % (n - 1) if n > 1 else 0
        order = np.concatenate([np.arange(self.first), self.first + (np.arange(n) + turn) % n])
        return torch.from_numpy(order).to(self.tokens.device)

    @cached_property
    def of_partner(self) -> Int[Tensor, "pos"]:
        """Which position of the partner stands for each: the same, and in a shorter one from its beginning again."""
        at = torch.arange(self.seq_len, device=self.tokens.device)
        behind = (at - self.first) % max(1, self.partner.seq_len - self.first) + self.first
        return torch.where(at < self.first, at, behind)

    def resampled(self, label: str) -> Float[Tensor, "pos d_model"]:
        """What the partner's writer is the source of, at shuffled positions."""
        return self.partner.source(label)[self.of_partner[self.shuffled]]

    @cached_property
    def loss_positions(self) -> Int[Tensor, "token"]:
        """The measured positions with a next token whose hashes are lowest, ascending."""
        return self.drawn_positions(self.positions[self.positions < self.seq_len - 1], LOSS_POSITIONS)

    def drawn_positions(self, positions: Int[Tensor, "token"], most: int) -> Int[Tensor, "_"]:
        """At most so many of some positions, those whose hashes are lowest, ascending."""
        found = positions.cpu().numpy()
        hashes = hash_u64(self.seed, self.corpus_prompt, found)
        lowest = np.sort(found[np.argsort(hashes, kind="stable")[:most]])
        return torch.from_numpy(lowest).to(self.tokens.device)

    def loss_of(self, final: Float[Tensor, "pos d_model"]) -> Float[Tensor, "loss_token"]:
        """−log p of the token that really follows, in nats, at ``loss_positions``, from a final state."""
        at = self.loss_positions
        return torch.nn.functional.cross_entropy(self.model.logits_of(final[at]), self.tokens[at + 1], reduction="none")

    @cached_property
    def clean_loss(self) -> Float[Tensor, "loss_token"]:
        """The loss of the clean run."""
        return self.loss_of(self.final)


def views(model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int) -> Iterator[PromptView]:
    """A shard's prompts one by one, each with its partner."""
    for view, partner in pairwise(_round(model, task, prompts, batch)):
        view.partner = partner
        yield view


def lone_views(
    model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int
) -> Iterator[PromptView]:
    """A shard's prompts one by one, each its own partner."""
    yield from map(partial(_view, model, task), traced_prompts(model, task, prompts, batch, keep_resid=True))


def _round(model: LeanModel, task: ShardTask, prompts: Int[Tensor, "prompt pos"], batch: int) -> Iterator[PromptView]:
    """Views of all prompts and of the first one again."""
    yield from lone_views(model, task, prompts, batch)
    yield _view(model, task, traced_as_partner(model, task, prompts))


def _view(model: LeanModel, task: ShardTask, traced: TracedPrompt) -> PromptView:
    trace, index, corpus_prompt, tokens, longest = traced
    return PromptView(model, trace, index, corpus_prompt, task.seed, tokens, first_source(task), longest)


CLEAN_PASS = SharedProduct("clean pass", lambda size: Cost(passes=size.n_prompts))


def loss_flops(size: ShardSize, runs: int) -> float:
    """Operations of the unembeddings of so many runs of every prompt."""
    n_tokens = size.n_prompts * min(LOSS_POSITIONS, size.positions)
    return 2.0 * n_tokens * runs * int(size.shape["d_model"]) * int(size.shape["d_vocab"])
