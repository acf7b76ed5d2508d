"""What a processed model is made of: its sizes, the kinds of its sublayers, and names and shapes of its weights.

Everything that can be folded into a weight is folded, so that a family of models is few choices here: how the stream is
normalized, how positions enter, how many value heads there are, what bends scores, whether the MLP is gated, whether both
sublayers of a block read the same stream, whether a norm stands behind them. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from erasure_sweep.workers.labels import Layout

Norm = Literal["layer", "rms"]
"""LayerNorm takes the mean away and divides by the standard deviation, RMSNorm divides by the root of the mean square."""
Positions = Literal["learned", "rotary", "alibi", "none"]
"""Vectors added to the embeddings, queries and keys turned by an angle, scores lowered with distance, or nothing."""
QKNorm = Literal["none", "head", "layer"]
"""Whether queries and keys are normalized (RMS), each head by itself or all heads of a layer together."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a processed model, in TransformerLens' words where it has them."""

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
    """What attention scores are divided by; sqrt(d_head) in most models."""
    n_key_value_heads: int = 0
    """Heads of keys and values; 0 where every query head has its own."""
    norm: Norm = "layer"
    norm_before: bool = True
    """Whether sublayers read the stream through a norm; if not, they read it as it is."""
    norm_behind: bool = False
    """Whether what a sublayer writes goes through an RMSNorm of its own."""
    positions: Positions = "learned"
    rotary_dim: int = 0
    """Leading coordinates of queries and keys that are turned, the first half of them with the second."""
    rotary_scale: float = 1.0
    """What cosines and sines are multiplied by."""
    qk_norm: QKNorm = "none"
    gated_mlp: bool = False
    """Whether what enters the neurons is multiplied by a second reading of the input."""
    n_experts: int = 0
    """MLPs of a layer, of which each token goes through few; 0 where there is one for all."""
    experts_per_token: int = 0
    weigh_to_one: bool = False
    """Whether the weights of the experts that a token goes through are made to add up to one."""
    parallel: bool = False
    """Whether attention and MLP of a block read the same stream."""
    attn_bias: bool = True
    """Whether attention layers write a constant beside what their heads write."""
    score_cap: float = 0.0
    """c of c·tanh(score / c); 0 where scores are not capped."""
    logit_cap: float = 0.0
    """The same of the logits."""
    windows: tuple[int, ...] = ()
    """How many tokens, itself included, a token attends to in each layer, 0 for all; empty where that holds for all layers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON gives a list
        for name, kind in (("norm", Norm), ("positions", Positions), ("qk_norm", QKNorm)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(get_args(kind))}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} query heads cannot share {self.n_kv_heads} value heads")

    @cached_property
    def layout(self) -> Layout:
        return Layout(
            self.n_layers,
            self.n_heads,
            self.attn_only,
            pos_embed=self.positions == "learned",
            attn_bias=self.attn_bias,
            parallel=self.parallel,
        )

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_key_value_heads or self.n_heads

    @property
    def n_params(self) -> int:
        """Weights of attention and MLPs; like TransformerLens, without embeddings, biases and norms."""
        mlp = 0 if self.attn_only else (2 + self.gated_mlp) * self.d_model * self.d_mlp * max(1, self.n_experts)
        return self.n_layers * (2 * self.d_model * (self.n_heads + self.n_kv_heads) * self.d_head + mlp)

    def window(self, layer: int) -> int:
        """How many tokens a token attends to in a layer; 0 for all."""
        return self.windows[layer] if self.windows else 0

    def to_json(self) -> dict[str, Any]:
        """All fields but those that are as in the first models measured."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = {field.name: field.default for field in fields(self)}
        found = {name: value for name, value in said.items() if value != usual[name]}
        return found | {"windows": list(self.windows)} if self.windows else found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """What ``to_json`` gave; what else there is (sizes that follow) is left out.

        Raises:
            TypeError, ValueError: it is no such thing.
        """
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a processed model's weights, layers stacked first."""
    layers, heads, d_model, d_head = config.n_layers, config.n_heads, config.d_model, config.d_head
    shapes: dict[str, tuple[int, ...]] = {"W_E": (config.d_vocab, d_model)}
    if config.positions == "learned":
        shapes |= {"W_pos": (config.n_ctx, d_model)}
    if config.positions == "rotary":
        shapes |= {"inverse_frequency": (layers, config.rotary_dim // 2)}
    if config.positions == "alibi":
        shapes |= {"alibi_slope": (heads,)}
    for name, n in (("Q", heads), ("K", config.n_kv_heads), ("V", config.n_kv_heads)):
        shapes |= {f"W_{name}": (layers, n, d_model, d_head)}
    shapes |= {"b_Q": (layers, heads, d_head), "b_K": (layers, config.n_kv_heads, d_head)}
    if config.qk_norm != "none":
        shapes |= {"Q_gain": (layers, heads, d_head), "K_gain": (layers, config.n_kv_heads, d_head)}
    shapes |= {"W_O": (layers, heads, d_head, d_model)}
    if config.attn_bias:
        shapes |= {"b_O": (layers, d_model)}
    if config.norm_behind:
        shapes |= {"attn_gain": (layers, d_model)}
    if not config.attn_only:
        shapes |= _mlp_shapes(config)
    return shapes | {"W_U": (d_model, config.d_vocab), "b_U": (config.d_vocab,)}


def weights_bytes(config: ModelConfig) -> int:
    """What the processed weights take in float32."""
    return 4 * sum(math.prod(shape) for shape in weight_shapes(config).values())


def _mlp_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    layers, d_model, d_mlp = config.n_layers, config.d_model, config.d_mlp
    if config.n_experts:
        into, out = (layers, config.n_experts, d_model, d_mlp), (layers, config.n_experts, d_mlp, d_model)
        return {"W_router": (layers, d_model, config.n_experts), "W_in": into, "W_gate": into, "W_out": out}
    shapes: dict[str, tuple[int, ...]] = {"W_in": (layers, d_model, d_mlp), "b_in": (layers, d_mlp)}
    if config.gated_mlp:
        shapes |= {"W_gate": (layers, d_model, d_mlp)}
    shapes |= {"W_out": (layers, d_mlp, d_model), "b_out": (layers, d_model)}
    return shapes | ({"mlp_gain": (layers, d_model)} if config.norm_behind else {})
