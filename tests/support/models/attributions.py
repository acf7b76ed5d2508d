"""Models in which one head's direct logit attribution (DLA) is worth what it was built to be worth: one for each word of trust.

Head L0H0 writes into a store that nothing reads but head L1H0. What that head makes of it decides what arrives:

- *holds*: nothing; *partly cancelled*, *cancelled*, *reversed*: −½, −1 and −1.7 times; *amplified*: +1 times;
- *unrelated*: ten times what stood at the position before, into a store of its own: DLA arrives whole, under a hundred times
  its power that it says nothing of;
- *constant*: nothing, and what L0H0 writes hardly differs from token to token.

*Turning*: L0H0 writes a function of the position that turns once over the prompt, and L1H0 takes a fraction of what stood at
the position before, which is nearly the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import CARRIER, CODE_DIM, STORE_DIM, Attend, Builder, Source, small_config

WRITER, READER = "L0H0", "L1H0"
FAINT = 0.015
"""Size of what a writer writes that should decide no token, beside a code of about one."""


class Attributed(NamedTuple):
    """A model, and what is true of its writer."""

    config: ModelConfig
    weights: dict[str, Tensor]
    word: str
    share: float
    r_sq: float
    mediated: float
    """The share of its DLA that ``READER`` adds."""


class Reading(NamedTuple):
    """What the later head makes of what it reads."""

    attend: Attend
    amount: float
    store: int = 0


READINGS = {
    "holds": Reading("self", 0.0),
    "partly cancelled": Reading("self", -0.5),
    "cancelled": Reading("self", -1.0),
    "reversed": Reading("self", -1.7),
    "amplified": Reading("self", 1.0),
    "unrelated": Reading("previous", 10.0, store=1),
    "constant": Reading("self", 0.0),
}


def plant_word(word: str, seed: int = 0) -> Attributed:
    """A model whose writer's attribution has a word."""
    reading, builder = READINGS[word], _builder(seed)
    own = builder.normal(CODE_DIM, STORE_DIM, std=FAINT)
    sources = [Source(builder.bases.code, own)]
    if word == "constant":
        sources.append(Source(builder.bases.carrier, builder.normal(1, STORE_DIM, std=2.0) / CARRIER))
    builder.plant_head(WRITER, "self", sources)
    _plant_reader(builder, reading)
    apart = reading.store != 0
    share = 1.0 if apart else 1.0 + reading.amount
    r_sq = 1.0 / (1.0 + reading.amount**2) if apart else 1.0
    return Attributed(builder.config, builder.tensors(), word, share, r_sq, 0.0 if apart else reading.amount)


def plant_turning(fraction: float, seed: int = 0) -> Attributed:
    """A positional writer of which a fraction is erased by a head that attends to the position before."""
    builder = _builder(seed)
    circles = len(builder.bases.clock) // 2
    builder.plant_head(WRITER, "self", [Source(builder.bases.clock[[0, circles]], np.eye(2, STORE_DIM))])
    _plant_reader(builder, Reading("previous", -fraction))
    turn = math.cos(2.0 * math.pi / builder.config.n_ctx)
    word = "holds" if fraction == 0.0 else "cancelled" if fraction > 0.75 else "partly cancelled"
    return Attributed(builder.config, builder.tensors(), word, 1.0 - fraction * turn, math.nan, -fraction * turn)


def _builder(seed: int) -> Builder:
    """Two layers of attention, of which no head but planted ones reads a store."""
    config = small_config(2, 3, d_model=56, n_ctx=64, attn_only=True)
    builder = Builder(config, np.random.default_rng(seed), n_stores=2, quiet=True)
    builder.deafen()
    return builder


def _plant_reader(builder: Builder, reading: Reading) -> None:
    source = Source(builder.bases.stores[0], reading.amount * np.eye(STORE_DIM))
    builder.plant_head(READER, reading.attend, [source], reading.store)
