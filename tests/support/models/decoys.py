"""Decoys: heads that look like erasers of a planted writer in one number or another, and are none.

In quiet models (``tests.support.models.planting``), so that nothing but the decoy reads what the writer wrote:

- *constant*: writes −fraction times the writer's mean output, from the carrier; negative onto the writer at nearly every
  token, and deaf to it.
- *correlated*: computes −fraction times the writer's output itself, from the same code; in full output
  indistinguishable from an eraser.
- *reinforcing*: reads the writer, and writes fraction times what it read.
- *shared*: every head and MLP writes a constant along one direction, with either sign.

And the opposite, erasers that do not look like ones:

- *masked*: reads the writer and takes fraction of it away, and writes a little more than that from the code.
- *amplified* writers: one head takes fraction away, and two others add more than that, each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import CARRIER, STORE_DIM, Builder, Source, small_config

FRACTION = 0.8
MASK = 0.1
"""What a masked eraser's full output is, in units of the writer's."""
SHARED = 5.0
"""Length of the shared constant; what else a component writes stays near 1."""


class Decoy(NamedTuple):
    """A model with a decoy, and what the tables must say of it."""

    config: ModelConfig
    weights: dict[str, Tensor]
    writer: str
    head: str
    erasers: str
    opposing: str
    erased: float
    beta_full: float | None
    """β of the head's full output onto the writer; None where it depends on the tokens."""


class Amplified(NamedTuple):
    """A model with amplified writers, each with one eraser."""

    config: ModelConfig
    weights: dict[str, Tensor]
    erasers: dict[str, str]
    """By writer."""


class Shared(NamedTuple):
    """A model whose components share a constant direction, and the sign with which each writes along it."""

    config: ModelConfig
    weights: dict[str, Tensor]
    signs: dict[str, int]

    def opposing(self, writer: str) -> list[str]:
        """Later heads that write along the direction with the sign that the writer has not."""
        heads = [label for label in self.config.layout.heads if layer_of(label) > layer_of(writer)]
        return [head for head in heads if self.signs[head] == -self.signs[writer]]


def plant_decoy(kind: str, seed: int, *, attn_only: bool = False) -> Decoy:
    """A model with one writer at a random place in its first two layers and one decoy in a later one.

    Args:
        kind: one of ``DECOYS``.
        seed: of the places and of all weights.
        attn_only: whether the model has no MLPs.
    """
    rng = np.random.default_rng(seed)
    config = small_config(3, 3, attn_only=attn_only)
    builder = Builder(config, rng, quiet=True)
    layer = int(rng.integers(0, 2))
    writer = f"L{layer}H{rng.integers(0, 3)}"
    head = f"L{rng.integers(layer + 1, 3)}H{rng.integers(0, 3)}"
    table = builder.plant_writer(writer)
    sources, says = DECOYS[kind](builder, table)
    builder.plant_head(head, "self", sources)
    return Decoy(
        config,
        builder.tensors(),
        writer,
        head,
        head if says.erases else "",
        head if says.opposes else "",
        says.erased,
        says.beta_full,
    )


def plant_amplified(seed: int) -> Amplified:
    """A quiet model in which two writers of the first layer are erased by one head each and amplified by two.

    Args:
        seed: of all weights.
    """
    config = small_config(2, 6)
    builder = Builder(config, np.random.default_rng(seed), 2, quiet=True)
    erasers = {"L0H0": "L1H0", "L0H1": "L1H3"}
    for store, (writer, eraser) in enumerate(erasers.items()):
        builder.plant_writer(writer, store)
        first = int(eraser[-1])
        for head, amount in ((first, -FRACTION), (first + 1, 1.2 * FRACTION), (first + 2, 1.2 * FRACTION)):
            builder.plant_reader(f"L1H{head}", "self", amount, store)
    return Amplified(config, builder.tensors(), erasers)


class _Says(NamedTuple):
    erases: bool
    opposes: bool
    erased: float
    beta_full: float | None


def _read_store(builder: Builder, amount: float) -> Source:
    return Source(builder.bases.stores[0], amount * np.eye(STORE_DIM))


def _read_code(builder: Builder, table: np.ndarray, amount: float) -> Source:
    """What the writer itself makes of the code, which is linear in it."""
    code, written = builder.weights["W_E"] @ builder.bases.code.T, table @ builder.bases.stores[0].T
    return Source(builder.bases.code, amount * np.linalg.lstsq(code, written, rcond=None)[0])


def _constant(builder: Builder, table: np.ndarray) -> tuple[list[Source], _Says]:
    mean = (table @ builder.bases.stores[0].T).mean(axis=0)
    return [Source(builder.bases.carrier, -FRACTION * mean[None] / CARRIER)], _Says(False, True, 0.0, None)


def _correlated(builder: Builder, table: np.ndarray) -> tuple[list[Source], _Says]:
    return [_read_code(builder, table, -FRACTION)], _Says(False, True, 0.0, -FRACTION)


def _reinforcing(builder: Builder, table: np.ndarray) -> tuple[list[Source], _Says]:
    return [_read_store(builder, FRACTION)], _Says(False, False, -FRACTION, FRACTION)


def _masked(builder: Builder, table: np.ndarray) -> tuple[list[Source], _Says]:
    sources = [_read_store(builder, -FRACTION), _read_code(builder, table, FRACTION + MASK)]
    return sources, _Says(True, False, FRACTION, MASK)


DECOYS: Mapping[str, Callable[[Builder, np.ndarray], tuple[list[Source], _Says]]] = {
    "constant": _constant,
    "correlated": _correlated,
    "reinforcing": _reinforcing,
    "masked": _masked,
}


def plant_shared_constant(seed: int, *, attn_only: bool = False) -> Shared:
    """A model in which every head and MLP writes, beside what it computes, a constant along one direction of the rest.

    Each head reads the constant from the carrier through the last dimension of its values.
    """
    rng = np.random.default_rng(seed)
    config = small_config(3, 3, attn_only=attn_only)
    builder = Builder(config, rng, quiet=True)
    labels = [label for label in config.layout.writers if layer_of(label) >= 0]
    signs = dict(zip(labels, rng.choice([-1, 1], len(labels)).tolist(), strict=True))
    direction, w = builder.bases.rest[0], builder.weights
    for label, sign in signs.items():
        layer = layer_of(label)
        if label.startswith("MLP"):
            w["b_out"][layer] += sign * SHARED * direction
            continue
        head = int(label.split("H")[1])
        w["W_V"][layer, head, :, -1] = builder.scale * builder.bases.carrier[0] / CARRIER
        w["W_O"][layer, head, -1] = sign * SHARED * direction
    return Shared(config, builder.tensors(), signs)
