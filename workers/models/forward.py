"""One forward pass of a decoder-only transformer, keeping what the measures read.

TransformerLens is the source of names, weights and processing (LayerNorm folded, writing weights and unembedding
centred, value biases folded into ``b_O``); the forward here runs over those processed weights without hooks, with
fused attention and without the unembedding, because the hooked forward costs two to three times as much.
``workers.models.conversion`` refuses a model on which the two disagree.

The output of head h is ``z_h W_O^h`` with ``z_h`` the pattern-weighted sum of values, so a trace keeps ``z`` and
measures multiply where they need the vectors (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from erasure_sweep.workers.labels import Layout


def solu(hidden: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
    """x · softmax(x) over the neurons (Elhage et al. 2022, "Softmax Linear Units")."""
    return hidden * hidden.softmax(dim=-1)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "solu_ln": solu,
}
"""The nonlinearity of the MLPs; behind that of ``solu_ln`` comes a LayerNorm, its affine part folded into ``W_out``."""

ALIGNMENT = 64
"""Bytes that the addresses of torch's own CPU tensors are multiples of."""

LOGITS_BYTES = 64 * 2**20
"""Bound on the logits that are in memory at a time."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a processed model, in TransformerLens' words."""

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    act_fn: str
    attn_only: bool
    eps: float
    attn_scale: float
    """What attention scores are divided by; sqrt(d_head) in every model of the study."""

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.n_layers, self.n_heads, self.attn_only)

    @property
    def n_params(self) -> int:
        """Weights of attention and MLPs; like TransformerLens, without embeddings, biases and norms."""
        mlp = 0 if self.attn_only else 2 * self.d_model * self.d_mlp
        return self.n_layers * (4 * self.d_model * self.n_heads * self.d_head + mlp)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a processed model's weights, layers stacked first."""
    layers, heads, d_model, d_head = config.n_layers, config.n_heads, config.d_model, config.d_head
    shapes: dict[str, tuple[int, ...]] = {"W_E": (config.d_vocab, d_model), "W_pos": (config.n_ctx, d_model)}
    shapes |= {f"W_{name}": (layers, heads, d_model, d_head) for name in "QKV"}
    shapes |= {"b_Q": (layers, heads, d_head), "b_K": (layers, heads, d_head)}
    shapes |= {"W_O": (layers, heads, d_head, d_model), "b_O": (layers, d_model)}
    if not config.attn_only:
        shapes |= {"W_in": (layers, d_model, config.d_mlp), "b_in": (layers, config.d_mlp)}
        shapes |= {"W_out": (layers, config.d_mlp, d_model), "b_out": (layers, d_model)}
    return shapes | {"W_U": (d_model, config.d_vocab), "b_U": (config.d_vocab,)}


class Trace(NamedTuple):
    """What one forward pass over a batch of prompts leaves for the measures."""

    positions: Int[Tensor, "prompt measured"]
    """The measured positions of each prompt, ascending."""
    embed: Float[Tensor, "prompt pos d_model"]
    pos_embed: Float[Tensor, "prompt pos d_model"]
    z: Float[Tensor, "layer prompt pos head d_head"]
    mlp_out: Float[Tensor, "mlp_layer prompt pos d_model"]
    """Empty along ``mlp_layer`` for attention-only models."""
    state_norm_sq: Float[Tensor, "state prompt measured"]
    """Squared norm of the residual stream at each state."""
    state_scale: Float[Tensor, "state prompt measured"]
    """What a norm that reads the state divides it by."""
    q: Float[Tensor, "layer prompt pos head d_head"]
    k: Float[Tensor, "layer prompt pos head d_head"]
    ln1_scale: Float[Tensor, "layer prompt pos"]
    """What the attention layer's input is divided by, after its mean is removed."""
    logit_direction: Float[Tensor, "prompt measured d_model"]
    """Direct logit attribution is the product with this: (u_a − u_b), centred, over the final LayerNorm's scale, with a
    and b the two most likely next tokens."""
    resid_pre: Float[Tensor, "layer_or_end prompt pos d_model"] | None
    """Inputs of the attention layers and, last, the final state; kept where the forward is to be continued otherwise."""


class Attention(NamedTuple):
    """One attention layer's inner values."""

    z: Float[Tensor, "batch pos head d_head"]
    q: Float[Tensor, "batch pos head d_head"]
    k: Float[Tensor, "batch pos head d_head"]
    scale: Float[Tensor, "batch pos"]


class LeanModel:
    """A processed model on one device.

    Args:
        config: the architecture.
        weights: as ``weight_shapes`` names them; value biases already folded into ``b_O``.
        device, dtype: where and how the forward runs.

    Raises:
        ValueError: a weight is missing or of another shape, or the activation is unknown.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if config.act_fn not in ACTIVATIONS and not config.attn_only:
            raise ValueError(f"activation {config.act_fn!r} is not one of {', '.join(sorted(ACTIVATIONS))}")
        for name, shape in weight_shapes(config).items():
            if name not in weights or tuple(weights[name].shape) != shape:
                found = tuple(weights[name].shape) if name in weights else "nothing"
                raise ValueError(f"weight {name} should have shape {shape}, found {found}")
        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype
        self.weights = {name: _aligned(weights[name].to(self.device, dtype)) for name in weight_shapes(config)}
        # Columns of W_U are gathered for every token: they should lie together in memory.
        self.weights["W_U"] = self.weights["W_U"].T.contiguous().T
        # One matrix product instead of three per head: [layer, d_model, (q k v) head d_head].
        n_layers, heads = config.n_layers, (config.n_heads, config.d_head)
        w_qkv = torch.empty(n_layers, config.d_model, 3, *heads, device=self.device, dtype=dtype)
        for index, name in enumerate("QKV"):
            w_qkv[:, :, index] = self.weights.pop(f"W_{name}").transpose(1, 2)
        self._w_qkv = w_qkv.flatten(2)
        biases = [self.weights.pop("b_Q"), self.weights.pop("b_K"), torch.zeros(n_layers, *heads)]
        self._b_qkv = torch.stack([b.to(self.device, dtype) for b in biases], dim=1).flatten(1).contiguous()
        self.compositions: dict[tuple[int, int], Tensor] = {}
        """Matrices of ``workers.measures.scan.composition``, computed once per model."""
        self._activation = ACTIVATIONS.get(config.act_fn, functional.gelu)

    def w_v(self, layer: int) -> Float[Tensor, "d_model head d_head"]:
        """Value weights, centred along d_model: LayerNorm removes the mean of what they read."""
        config = self.config
        weights = self._w_qkv[layer].view(config.d_model, 3, config.n_heads, config.d_head)[:, 2]
        return weights - weights.mean(dim=0)

    def normalize(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """LayerNorm without its affine part, which is folded into the weights that read it."""
        return functional.layer_norm(resid, (self.config.d_model,), eps=self.config.eps)

    def scale(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What ``normalize`` divides by, once the mean is removed."""
        return torch.sqrt(resid.var(dim=-1, unbiased=False) + self.config.eps)

    def attend(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        value_shift: Float[Tensor, "batch pos head d_head"] | None = None,
    ) -> Attention:
        """One attention layer up to the heads' pattern-weighted values.

        Args:
            value_shift: what is taken from the heads' values.
        """
        config = self.config
        normalized, _, inverse_scale = torch.native_layer_norm(resid, (config.d_model,), None, None, config.eps)
        qkv = torch.addmm(self._b_qkv[layer], normalized.flatten(0, 1), self._w_qkv[layer])
        q, k, v = qkv.view(*resid.shape[:2], 3, config.n_heads, config.d_head).permute(2, 0, 3, 1, 4)
        if value_shift is not None:
            v = v - value_shift.transpose(1, 2)
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0 / config.attn_scale)
        return Attention(
            z.transpose(1, 2), q.transpose(1, 2), k.transpose(1, 2), inverse_scale.squeeze(-1).reciprocal()
        )

    def mlp(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Output of an MLP layer whose input is ``resid``, before LayerNorm."""
        return self.mlp_of_normalized(layer, self.normalize(resid))

    def mlp_of_normalized(
        self, layer: int, normalized: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Output of an MLP layer from its input behind LayerNorm."""
        w = self.weights
        hidden = torch.addmm(w["b_in"][layer], normalized.flatten(0, -2), w["W_in"][layer])
        hidden = self._activation(hidden)
        if self.config.act_fn == "solu_ln":
            hidden = functional.layer_norm(hidden, (self.config.d_mlp,), eps=self.config.eps)
        return torch.addmm(w["b_out"][layer], hidden, w["W_out"][layer]).view_as(normalized)

    def _embed(self, tokens: Int[Tensor, "batch pos"]) -> tuple[Tensor, Tensor]:
        return self.weights["W_E"][tokens], self.weights["W_pos"][: tokens.shape[1]].expand(*tokens.shape, -1)

    @torch.inference_mode()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits, for the check against TransformerLens and as the bare forward in benchmarks."""
        resid = sum(self._embed(tokens))
        assert isinstance(resid, Tensor)
        for layer in range(self.config.n_layers):
            resid = resid + self.attention_out(layer, self.attend(layer, resid).z)
            if not self.config.attn_only:
                resid = resid + self.mlp(layer, resid)
        return self.normalize(resid) @ self.weights["W_U"] + self.weights["b_U"]

    def attention_out(
        self, layer: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Output of an attention layer, its bias included."""
        w_o = self.weights["W_O"][layer].flatten(0, 1)
        return torch.addmm(self.weights["b_O"][layer], z.flatten(2).flatten(0, 1), w_o).view(*z.shape[:2], -1)

    @torch.inference_mode()
    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        positions: Int[Tensor, "batch measured"] | None = None,
        keep_resid: bool = False,
    ) -> Trace:
        """Run the model and keep what the measures read.

        Args:
            tokens: token ids on the model's device.
            positions: the measured positions of each prompt; ``None`` measures all. The forward always runs on all.
            keep_resid: keep the inputs of the attention layers and the final state as well.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=self.device).expand(tokens.shape)
        embed, pos_embed = self._embed(tokens)
        resid = embed + pos_embed
        sizes, attention, mlp_kept, resid_kept = [self._size(select(resid, positions))], [], [], []
        for layer in range(self.config.n_layers):
            attended = self.attend(layer, resid)
            attention.append(attended)
            resid_kept += [resid] if keep_resid else []
            resid = resid + self.attention_out(layer, attended.z)
            sizes.append(self._size(select(resid, positions)))
            if not self.config.attn_only:
                mlp_kept.append(self.mlp(layer, resid))
                resid = resid + mlp_kept[-1]
                sizes.append(self._size(select(resid, positions)))
        norms, scales = zip(*sizes, strict=True)
        return Trace(
            positions=positions,
            embed=embed,
            pos_embed=pos_embed,
            z=torch.stack([attended.z for attended in attention]),
            mlp_out=torch.stack(mlp_kept) if mlp_kept else resid.new_zeros(0, *resid.shape),
            state_norm_sq=torch.stack(norms),
            state_scale=torch.stack(scales),
            q=torch.stack([attended.q for attended in attention]),
            k=torch.stack([attended.k for attended in attention]),
            ln1_scale=torch.stack([attended.scale for attended in attention]),
            logit_direction=self.logit_direction(select(resid, positions)),
            resid_pre=torch.stack([*resid_kept, resid]) if keep_resid else None,
        )

    def _size(self, resid: Float[Tensor, "*batch d_model"]) -> tuple[Tensor, Tensor]:
        """Squared norm and scale of a state."""
        return resid.square().sum(dim=-1), self.scale(resid)

    def logit_direction(
        self, resid: Float[Tensor, "batch measured d_model"]
    ) -> Float[Tensor, "batch measured d_model"]:
        """Direction of the two most likely next tokens' logit difference, over the final scale; few logits at a time."""
        config = self.config
        flat = resid.flatten(0, 1)
        normalized, _, inverse_scale = torch.native_layer_norm(flat, (config.d_model,), None, None, config.eps)
        pairs = [
            top_two(torch.addmm(self.weights["b_U"], part, self.weights["W_U"]))
            for part in torch.split(normalized, max(1, LOGITS_BYTES // (4 * config.d_vocab)))
        ]
        first, second = torch.cat(pairs).unbind(dim=1)
        rows = self.weights["W_U"].T
        difference = rows[first] - rows[second]
        return ((difference - difference.mean(dim=-1, keepdim=True)) * inverse_scale).view_as(resid)


def _aligned(weight: Tensor) -> Tensor:
    """A weight at an address as torch allocates it.

    Weights that are mapped from a file or a buffer can lie anywhere, and products of matrices with vectors differ in the
    last digits with the address: the same model would measure differently when it was staged under another path.
    """
    return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()


def top_two(logits: Float[Tensor, "token d_vocab"]) -> Int[Tensor, "token 2"]:
    """The two largest logits' token ids, the lower id first among equals; overwrites ``logits``."""
    first = logits.argmax(dim=1, keepdim=True)
    logits.scatter_(1, first, -math.inf)
    return torch.cat([first, logits.argmax(dim=1, keepdim=True)], dim=1)


def select(
    values: Float[Tensor, "batch pos *rest"], positions: Int[Tensor, "batch measured"]
) -> Float[Tensor, "batch measured *rest"]:
    """Values at the measured positions."""
    if positions.shape[1] == values.shape[1]:
        return values
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def default_attn_scale(d_head: int) -> float:
    """sqrt(d_head), what attention scores are divided by in GPT-2 and its kin."""
    return math.sqrt(d_head)
