"""One forward pass of a decoder-only transformer, keeping what the measures read.

TransformerLens is the source of names, weights and processing (LayerNorm folded, writing weights and unembedding
centred, value biases folded into ``b_O``); the forward here runs over those processed weights without hooks, with
fused attention and without the unembedding, because the hooked forward costs two to three times as much.
``workers.models`` refuses a model on which the two disagree.

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

from workers.components import Layout

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


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
    """What one forward pass leaves for the measures, at the measured tokens alone (prompts and positions flattened)."""

    embed: Float[Tensor, "token d_model"]
    pos_embed: Float[Tensor, "token d_model"]
    z: Float[Tensor, "layer token head d_head"]
    mlp_out: Float[Tensor, "mlp_layer token d_model"]
    """Empty along ``mlp_layer`` for attention-only models."""
    state_norm_sq: Float[Tensor, "state token"]
    """Squared norm of the residual stream at each state."""

    @property
    def n_tokens(self) -> int:
        return self.embed.shape[0]


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
        self.weights = {name: weights[name].to(self.device, dtype) for name in weight_shapes(config)}
        # One matrix product instead of three per head: [layer, d_model, (q k v) head d_head].
        stacked = torch.stack([self.weights.pop(f"W_{name}") for name in "QKV"], dim=2)
        self._w_qkv = stacked.permute(0, 3, 2, 1, 4).flatten(2).contiguous()
        biases = [
            self.weights.pop("b_Q"),
            self.weights.pop("b_K"),
            torch.zeros(stacked.shape[0], config.n_heads, config.d_head),
        ]
        self._b_qkv = torch.stack([b.to(self.device, dtype) for b in biases], dim=1).flatten(1).contiguous()
        self._activation = ACTIVATIONS.get(config.act_fn, functional.gelu)

    def normalize(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """LayerNorm without its affine part, which is folded into the weights that read it."""
        return functional.layer_norm(resid, (self.config.d_model,), eps=self.config.eps)

    def _attend(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Pattern-weighted values of every head of a layer."""
        config = self.config
        qkv = torch.addmm(self._b_qkv[layer], self.normalize(resid).flatten(0, 1), self._w_qkv[layer])
        q, k, v = qkv.view(*resid.shape[:2], 3, config.n_heads, config.d_head).permute(2, 0, 3, 1, 4)
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0 / config.attn_scale)
        return z.transpose(1, 2)

    def _mlp(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        w = self.weights
        hidden = torch.addmm(w["b_in"][layer], self.normalize(resid).flatten(0, 1), w["W_in"][layer])
        return torch.addmm(w["b_out"][layer], self._activation(hidden), w["W_out"][layer]).view_as(resid)

    def _embed(self, tokens: Int[Tensor, "batch pos"]) -> tuple[Tensor, Tensor]:
        return self.weights["W_E"][tokens], self.weights["W_pos"][: tokens.shape[1]].expand(*tokens.shape, -1)

    @torch.inference_mode()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits, for the check against TransformerLens and as the bare forward in benchmarks."""
        resid = sum(self._embed(tokens))
        assert isinstance(resid, Tensor)
        for layer in range(self.config.n_layers):
            resid = resid + self._attention_out(layer, self._attend(layer, resid))
            if not self.config.attn_only:
                resid = resid + self._mlp(layer, resid)
        return self.normalize(resid) @ self.weights["W_U"] + self.weights["b_U"]

    def _attention_out(
        self, layer: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        w_o = self.weights["W_O"][layer].flatten(0, 1)
        return torch.addmm(self.weights["b_O"][layer], z.flatten(2).flatten(0, 1), w_o).view(*z.shape[:2], -1)

    @torch.inference_mode()
    def trace(self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch measured"] | None = None) -> Trace:
        """Run the model and keep what the measures read.

        Args:
            tokens: token ids on the model's device. positions: the positions of each prompt that are measured;
            ``None`` measures all. The forward always runs on all.

        Returns:
            The trace, its token axis prompt by prompt and within a prompt in the order of ``positions``.
        """
        select = partial(_select, positions=positions)
        embed, pos_embed = self._embed(tokens)
        resid = embed + pos_embed
        norms, z_kept, mlp_kept = [_norm_sq(select(resid))], [], []
        for layer in range(self.config.n_layers):
            z = self._attend(layer, resid)
            z_kept.append(select(z))
            resid = resid + self._attention_out(layer, z)
            norms.append(_norm_sq(select(resid)))
            if not self.config.attn_only:
                mlp_out = self._mlp(layer, resid)
                mlp_kept.append(select(mlp_out))
                resid = resid + mlp_out
                norms.append(_norm_sq(select(resid)))
        mlp = torch.stack(mlp_kept) if mlp_kept else resid.new_zeros(0, z_kept[0].shape[0], self.config.d_model)
        return Trace(select(embed), select(pos_embed), torch.stack(z_kept), mlp, torch.stack(norms))


def _select(values: Tensor, positions: Int[Tensor, "batch measured"] | None) -> Tensor:
    """Values at the measured positions, prompts and positions flattened: [batch, pos, …] → [token, …]."""
    if positions is None:
        return values.flatten(0, 1)
    return values[torch.arange(len(values), device=values.device)[:, None], positions].flatten(0, 1)


def _norm_sq(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    return values.square().sum(dim=-1)


def default_attn_scale(d_head: int) -> float:
    """sqrt(d_head), what attention scores are divided by in GPT-2 and its kin."""
    return math.sqrt(d_head)
