"""How models are planted: weights whose components leave a few subspaces alone, and what is then put into these.

The residual stream is cut into orthogonal subspaces of the vectors whose entries sum to zero (so that LayerNorm's
centring leaves them alone):

- *carrier*, one direction that an embedding fills with a constant much larger than everything else, so that the
  LayerNorm scale is the same at every token of every layer to within 5e-4;
- *code*, written by ``embed``: a vector per token, with a part that all tokens share;
- *clock*, written by ``pos_embed``: positions on circles, from which planted heads attend to a chosen position;
- *stores*, in each of which one writer alone writes, and which its eraser and other planted heads read and write;
- *rest*, where all other heads, MLPs and biases write; they read everything but the carrier.

In a *quiet* model no head's values read the rest, so that none but planted heads can erase anything by reading it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.forward import default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes
from tests.support.oracle.sublayers import activate

Attend = Literal["self", "previous", "uniform"]
ATTENDS: tuple[Attend, ...] = ("self", "previous", "uniform")

CARRIER = 300.0
"""Length of the constant part of the stream; all else together stays near 5."""
CODE_DIM, STORE_DIM, CIRCLES = 6, 4, 4
VARIATION = 0.3
"""Size of what differs between tokens in each code dimension, beside a shared part (by default of length one)."""
SHARPNESS = 20.0
"""How far the score of the attended position lies above all others: e⁻²⁰ of the attention goes elsewhere."""


class Subspaces(NamedTuple):
    """Orthonormal bases, one direction per row."""

    carrier: np.ndarray
    code: np.ndarray
    clock: np.ndarray
    rest: np.ndarray
    stores: tuple[np.ndarray, ...]


def attended(attend: Attend, n: int) -> np.ndarray:
    """The eraser's attention pattern [query, key]; the first position has none before it and attends to itself."""
    if attend == "uniform":
        return np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    offset = 1 if attend == "previous" else 0
    return np.eye(n)[np.maximum(np.arange(n) - offset, 0)]


def small_config(
    n_layers: int,
    n_heads: int,
    *,
    d_model: int = 48,
    d_head: int = 8,
    n_ctx: int = 16,
    d_vocab: int = 40,
    attn_only: bool = False,
) -> ModelConfig:
    """The shape of a model to plant in."""
    return ModelConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=2 * d_model,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        act_fn="gelu",
        attn_only=attn_only,
        eps=1e-5,
        attn_scale=default_attn_scale(d_head),
    )


def head_index(label: str) -> tuple[int, int]:
    """Layer and number of a head."""
    return layer_of(label), int(label.split("H")[1])


class Source(NamedTuple):
    """Something that a planted head reads, and what it makes of it."""

    basis: np.ndarray
    """[source_dim, d_model]."""
    coordinates: np.ndarray
    """What it writes into its store for each direction read, [source_dim, STORE_DIM]."""


class Builder:
    """A random model whose components leave the stores alone, and what is then planted into it.

    Weights that read are multiplied by the LayerNorm scale, so that readers see the stream as it was written.

    Args:
        config: the shape.
        rng: of all that is random.
        n_stores: how many writers can be planted.
        quiet: no head's values read the rest.
        shared: length of the part of the code that all tokens share; the more, the more alike are a writer's outputs,
            and the more does a head that reads it at other positions take away here.

    Raises:
        ValueError: the widths leave no room for the subspaces.
    """

    def __init__(
        self,
        config: ModelConfig,
        rng: np.random.Generator,
        n_stores: int = 1,
        quiet: bool = False,
        shared: float = 1.0,
    ) -> None:
        self.config, self.rng, self.quiet, self.shared = config, rng, quiet, shared
        self.bases = _subspaces(config, rng, n_stores)
        self.scale = math.sqrt(CARRIER**2 / config.d_model + config.eps)
        self.weights = self._background()

    def vary_elsewhere(self) -> None:
        """Let most of what varies in the stream be outside of the stores, so that random directions hold little of these."""
        rest, tokens = self.bases.rest, self.config.d_vocab
        self.weights["W_E"] = self.weights["W_E"] + self.normal(tokens, len(rest), std=1.0) @ rest

    def normal(self, *shape: int, std: float) -> np.ndarray:
        return std * self.rng.standard_normal(shape)

    def reading(self, *shape: int, std: float) -> np.ndarray:
        """Random weights [*leading, d_model, width] that read everything but the carrier."""
        seen = np.eye(self.config.d_model) - self.bases.carrier.T @ self.bases.carrier
        return self.scale * seen @ self.normal(*shape, std=std)

    def _writing(self, *shape: int, std: float) -> np.ndarray:
        """Random weights [*leading, d_model] that write into the rest."""
        return self.normal(*shape[:-1], len(self.bases.rest), std=std) @ self.bases.rest

    def _background(self) -> dict[str, np.ndarray]:
        shapes, width = weight_shapes(self.config), 1.0 / math.sqrt(self.config.d_model)
        weights = {name: self.reading(*shapes[name], std=width) for name in ("W_Q", "W_K", "W_V")}
        if self.quiet:
            weights["W_V"] = weights["W_V"] - self.bases.rest.T @ (self.bases.rest @ weights["W_V"])
        weights |= {name: self.normal(*shapes[name], std=0.2) for name in ("b_Q", "b_K", "b_U")}
        weights |= {"W_O": self._writing(*shapes["W_O"], std=width), "b_O": self._writing(*shapes["b_O"], std=0.1)}
        if not self.config.attn_only:
            weights |= {
                "W_in": self.reading(*shapes["W_in"], std=width),
                "b_in": self.normal(*shapes["b_in"], std=0.2),
            }
            weights |= {"W_out": self._writing(*shapes["W_out"], std=width)}
            weights |= {"b_out": self._writing(*shapes["b_out"], std=0.1)}
        weights["W_U"] = self.reading(*shapes["W_U"], std=width)
        weights["W_E"] = self._code() @ self.bases.code
        weights["W_pos"] = self._clock() @ self.bases.clock + CARRIER * self.bases.carrier
        return weights

    def deafen(self) -> None:
        """Take the stores from all that reads so far, but for the logits."""
        for name in ("W_Q", "W_K", "W_V", "W_in"):
            for store in self.bases.stores if name in self.weights else ():
                self.weights[name] = self.weights[name] - store.T @ (store @ self.weights[name])

    def _code(self) -> np.ndarray:
        """Code of each token: one shared dimension, the others its own."""
        own = self.normal(self.config.d_vocab, CODE_DIM - 1, std=VARIATION)
        return np.concatenate([np.full((self.config.d_vocab, 1), self.shared), own], axis=1)

    def _angles(self, steps: np.ndarray) -> np.ndarray:
        """Angles [step, circle] of some steps along the positions."""
        circles = len(self.bases.clock) // 2
        return 2.0 * np.pi * steps[:, None] * np.arange(1, circles + 1) / self.config.n_ctx

    def _clock(self) -> np.ndarray:
        """Clock of each position: cosines, then sines, of one to four turns per context; length one."""
        angles = self._angles(np.arange(self.config.n_ctx))
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(angles.shape[1])

    def attend(self, layer: int, head: int, attend: Attend) -> None:
        """Make a head's attention what ``attended`` says: query and key are clocks, the query's turned back."""
        w = self.weights
        for name in ("W_Q", "W_K", "b_Q", "b_K"):
            w[name][layer, head] = 0.0
        if attend == "uniform":
            return
        overlap = np.cos(self._angles(np.arange(1, self.config.n_ctx))).mean(axis=1)
        gain = math.sqrt(SHARPNESS * self.config.attn_scale / (1.0 - overlap.max()))
        turn = self._angles(np.array([1.0 if attend == "previous" else 0.0]))[0]
        cosine, sine = np.diag(np.cos(turn)), np.diag(np.sin(turn))
        turned = np.block([[cosine, -sine], [sine, cosine]])
        width = len(self.bases.clock)
        w["W_Q"][layer, head, :, :width] = gain * self.scale * self.bases.clock.T @ turned
        w["W_K"][layer, head, :, :width] = gain * self.scale * self.bases.clock.T

    def plant_reader(self, head_label: str, attend: Attend, amount: float, store: int = 0) -> None:
        """Make a head write ``amount`` times what a store holds where it attends to."""
        self.plant_head(head_label, attend, [Source(self.bases.stores[store], amount * np.eye(STORE_DIM))], store)

    def plant_head(self, head_label: str, attend: Attend, sources: Sequence[Source], store: int = 0) -> None:
        """Make a head write into a store what it makes of its sources where it attends to."""
        layer, head = head_index(head_label)
        self.attend(layer, head, attend)
        inner = np.linalg.qr(self.normal(self.config.d_head, STORE_DIM, std=1.0))[0]
        read = sum(
            (source.basis.T @ source.coordinates for source in sources), np.zeros((self.config.d_model, STORE_DIM))
        )
        self.weights["W_V"][layer, head] = self.scale * read @ inner.T
        self.weights["W_O"][layer, head] = inner @ self.bases.stores[store]

    def plant_linear_mlp(self, layer: int, reads: np.ndarray, writes: np.ndarray) -> None:
        """Make an MLP write, for each direction read [n, d_model], as much of what stands beside it as the stream holds.

        Two neurons a direction, for gelu(x) − gelu(−x) = x; the others write nothing.
        """
        w, n = self.weights, len(reads)
        w["W_in"][layer], w["W_out"][layer] = 0.0, 0.0
        w["b_in"][layer], w["b_out"][layer] = 0.0, 0.0
        w["W_in"][layer, :, : 2 * n] = self.scale * np.concatenate([reads, -reads]).T
        w["W_out"][layer, : 2 * n] = np.concatenate([writes, -writes])

    def plant_writer(self, writer: str, store: int = 0) -> np.ndarray:
        """Make a component a store's only writer; its output by token id, by position for ``pos_embed``."""
        if writer in ("embed", "pos_embed"):
            return self._plant_embedding(writer, self.bases.stores[store])
        if writer.startswith("MLP"):
            return self._plant_mlp(layer_of(writer), self.bases.stores[store])
        return self._plant_writing_head(writer, self.bases.stores[store])

    def _plant_embedding(self, writer: str, store: np.ndarray) -> np.ndarray:
        own, other = ("W_E", "W_pos") if writer == "embed" else ("W_pos", "W_E")
        shared, varied = self.normal(STORE_DIM, std=1.0), self.normal(len(self.weights[own]), STORE_DIM, std=VARIATION)
        if writer == "pos_embed":
            self.weights[own] = self.weights[own] - CARRIER * self.bases.carrier
            self.weights[other] = self.weights[other] + CARRIER * self.bases.carrier
        self.weights[own] = self.weights[own] + (shared + varied) @ store
        return self.weights[own]

    def _plant_writing_head(self, writer: str, store: np.ndarray) -> np.ndarray:
        layer, head = head_index(writer)
        self.attend(layer, head, "self")
        into = self.normal(CODE_DIM, self.config.d_head, std=1.0 / math.sqrt(CODE_DIM))
        out = self.normal(self.config.d_head, STORE_DIM, std=1.0)
        self.weights["W_V"][layer, head] = self.scale * self.bases.code.T @ into
        self.weights["W_O"][layer, head] = out @ store
        return self.weights["W_E"] @ self.bases.code.T @ into @ out @ store

    def _plant_mlp(self, layer: int, store: np.ndarray) -> np.ndarray:
        w, hidden = self.weights, self.config.d_mlp
        into = self.normal(CODE_DIM, hidden, std=1.0)
        w["W_in"][layer] = self.scale * self.bases.code.T @ into
        w["W_out"][layer] = self.normal(hidden, STORE_DIM, std=2.0 / math.sqrt(hidden)) @ store
        w["b_out"][layer] = self.normal(STORE_DIM, std=0.5) @ store
        return (
            activate("gelu", w["W_E"] @ self.bases.code.T @ into + w["b_in"][layer]) @ w["W_out"][layer]
            + w["b_out"][layer]
        )

    def tensors(self) -> dict[str, Tensor]:
        """The weights as ``workers.models.forward.weight_shapes`` names them."""
        return {name: torch.from_numpy(self.weights[name]) for name in weight_shapes(self.config)}


def _subspaces(config: ModelConfig, rng: np.random.Generator, n_stores: int) -> Subspaces:
    """Cut the vectors whose entries sum to zero into orthogonal subspaces at random."""
    clock_dim = 2 * min(CIRCLES, config.d_head // 2)
    sizes = [1, CODE_DIM, clock_dim] + n_stores * [STORE_DIM]
    if config.d_model - 1 - sum(sizes) < 1 or config.d_head < STORE_DIM:
        raise ValueError(f"d_model {config.d_model} and d_head {config.d_head} are too small to plant in")
    ones = np.ones((config.d_model, 1))
    basis = np.linalg.qr(np.concatenate([ones, rng.standard_normal((config.d_model, config.d_model - 1))], axis=1))[0]
    carrier, code, clock, *stores, rest = np.split(basis.T[1:], np.cumsum(sizes))
    return Subspaces(carrier, code, clock, rest, tuple(stores))
