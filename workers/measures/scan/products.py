"""Products of one prompt's terms with its writers: what every measure of the scan starts from.

The residual stream is a sum of terms, so with the Gram matrix of one token's terms, G[c, w] = o_c·o_w, the projection
ratio is PR(c, w) = G[c, w] / G[w, w], and that of a sum is the sum of its rows. The same product with the direction of the
top two tokens' logit difference is a term's direct logit attribution. Vectors are formed a chunk of tokens at a time and
dropped; what is kept of a prompt has no d_model axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.scan.composition import Composer, PromptParts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import ScanOptions, ScanWork, WriterBlock

NEGLIGIBLE = 1e-10
"""Squared norm of a writer's output, relative to the stream's, at or below which it has no projection ratio."""

CHUNK_BYTES = 48 * 2**20
"""Bound on the vectors and products of a chunk of tokens: beyond a CPU's caches nothing is gained by more."""


class PromptProducts(NamedTuple):
    """One prompt of a trace, at its measured tokens."""

    trace: Trace
    prompt: int
    """Index of the prompt in the trace."""
    corpus_prompt: int
    """Index of the prompt in the corpus."""
    ratios: Float[Tensor, "writer term token"]
    """PR of every term onto every writer of the block; 0 where the writer has none."""
    inverse_norm_sq: Float[Tensor, "writer token"]
    """1 / |w|², and 0 where the writer has no projection ratio."""
    valid: Bool[Tensor, "writer token"]
    dla: Float[Tensor, "term token"]
    """Direct logit attribution of every term."""
    parts: PromptParts
    """V-composed parts of all later heads."""

    @property
    def n_tokens(self) -> int:
        return self.valid.shape[1]


class ProductReader:
    """Forms the products of one shard's prompts, and sums those that pooled coefficients need.

    The pooled sums are of vectors from which a reference vector of each term (its mean over the shard's first tokens) is
    taken: components share large constant parts, and float32 products that held them would leave nothing of the centred
    coefficients.

    Args:
        model: on its device.
        writers, options: of the shard.
        first: the first position at which a writer's output is a source.
    """

    def __init__(self, model: LeanModel, writers: WriterBlock, options: ScanOptions, first: int = 1) -> None:
        layout, device = model.config.layout, model.device
        labels = writers.labels(layout)
        self.model, self.options, self.first = model, options, first
        self.composer = Composer(model, writers, options)
        self.terms = torch.tensor([layout.term_index[label] for label in labels], device=device)
        self.written_states = torch.tensor([layout.written_state(label) for label in labels], device=device)
        n_terms, d_model = len(layout.terms), model.config.d_model
        self.reference: Float[Tensor, "term 1 d_model"] | None = None
        self.offset_sum = torch.zeros(n_terms, d_model, dtype=torch.float64, device=device)
        self.product_sum = torch.zeros(len(labels), n_terms, dtype=torch.float64, device=device)
        self.n_tokens = 0
        self.chunk = max(16, CHUNK_BYTES // (4 * n_terms * (d_model + len(labels))))

    @torch.inference_mode()
    def read(self, trace: Trace, prompt: int, corpus_prompt: int) -> PromptProducts:
        """Products of one prompt of a trace, which is prompt ``corpus_prompt`` of the corpus."""
        n_tokens = trace.positions.shape[1]
        chunks = [
            self._read_chunk(trace, prompt, slice(start, min(start + self.chunk, n_tokens)))
            for start in range(0, n_tokens, self.chunk)
        ]
        gram, dla = (torch.cat(chunk, dim=-1) for chunk in zip(*chunks, strict=True))
        norm_sq = gram[torch.arange(len(gram), device=gram.device), self.terms]
        valid = norm_sq > NEGLIGIBLE * trace.state_norm_sq[self.written_states, prompt]
        inverse = valid / norm_sq.masked_fill(~valid, 1.0)
        self.n_tokens += n_tokens
        ratios, parts = gram.mul_(inverse.unsqueeze(1)), self.composer.parts(trace, prompt, self.first)
        return PromptProducts(trace, prompt, corpus_prompt, ratios, inverse, valid, dla, parts)

    def _read_chunk(self, trace: Trace, prompt: int, tokens: slice) -> tuple[Tensor, Tensor]:
        """The Gram matrix [writer, term, token] and the attribution [term, token] of some tokens."""
        positions = trace.positions[prompt, tokens]
        vectors = term_vectors(self.model, trace, prompt, positions)
        by_token = vectors.transpose(0, 1)
        gram = torch.bmm(by_token[:, self.terms], by_token.transpose(1, 2)).permute(1, 2, 0)
        dla = torch.bmm(by_token, trace.logit_direction[prompt, tokens].unsqueeze(-1)).squeeze(-1).T
        self._add_products(vectors)
        return gram, dla

    def _add_products(self, vectors: Float[Tensor, "term token d_model"]) -> None:
        """Products of writers with terms, summed over tokens; overwrites ``vectors``."""
        if self.reference is None:
            self.reference = vectors.mean(dim=1, keepdim=True)
        flat = vectors.sub_(self.reference).flatten(1)
        self.offset_sum += vectors.sum(dim=1)
        self.product_sum += flat[self.terms] @ flat.T

    def means(self) -> Float[Tensor, "term d_model"]:
        """Mean vector of every term over the shard's tokens, float64."""
        assert self.reference is not None
        return self.reference.squeeze(1).double() + self.offset_sum / self.n_tokens

    def comoments(self) -> Float[Tensor, "writer term"]:
        """Σ (o_w − mean)·(o_c − mean) over the shard's tokens, float64."""
        offset = self.offset_sum / self.n_tokens
        return self.product_sum - self.n_tokens * offset[self.terms] @ offset.T


def term_vectors(
    model: LeanModel, trace: Trace, prompt: int, positions: Int[Tensor, "token"]
) -> Float[Tensor, "term token d_model"]:
    """Every term's output vector at some positions of a prompt, in the layout's order."""
    config = model.config
    vectors = trace.embed.new_empty(len(config.layout.terms), len(positions), config.d_model)
    vectors[0] = trace.embed[prompt, positions]
    if trace.pos_embed is not None:
        vectors[1] = trace.pos_embed[prompt, positions]
    for layer, attention in enumerate(config.layout.attention_slices):
        heads = vectors[attention.start : attention.start + config.n_heads]
        torch.matmul(trace.z[layer, prompt, positions].transpose(0, 1), model.w_o(layer), out=heads)
        if config.attn_bias:
            vectors[attention.stop - 1] = model.b_o(layer)
        if not config.attn_only:
            vectors[attention.stop] = trace.mlp_out[layer, prompt, positions]
    return vectors


def _n_writers(size: ShardSize) -> int:
    assert isinstance(size.work, ScanWork)
    return size.work.writers.stop - size.work.writers.start


def _traced(size: ShardSize) -> Cost:
    return Cost(passes=size.n_prompts, flops=2 * size.n_tokens * size.shape["d_model"] * size.shape["d_vocab"])


def _multiplied(size: ShardSize) -> Cost:
    n_layers, n_heads, d_head, d_model = (size.shape[key] for key in ("n_layers", "n_heads", "d_head", "d_model"))
    n_terms = len(size.layout.terms)
    return Cost(flops=2 * size.n_tokens * d_model * (n_layers * n_heads * d_head + _n_writers(size) * n_terms))


def _read(size: ShardSize) -> Cost:
    n_layers, n_heads, d_head = (size.shape[key] for key in ("n_layers", "n_heads", "d_head"))
    pairs = _n_writers(size) * n_layers * n_heads / 2
    return Cost(flops=size.n_tokens * pairs * (size.seq_len * d_head + 4 * d_head**2))


TRACE = SharedProduct("trace", _traced)
"""Forward passes, and the two most likely next tokens."""
TERMS = SharedProduct("products of terms", _multiplied)
"""Ratios and attributions of all terms."""
PARTS = SharedProduct("V-composed parts", _read)
"""What later heads write because they read a writer."""
