"""The forward pass, continued from an edited residual stream: what every intervention of this stage is made of.

A clean pass has kept the inputs of the attention layers; a rerun starts at the first sublayer that can see the edit and
recomputes everything behind it, each layer with its own pattern and scale. Two kinds of edits are enough: another stream
to start from (a writer's output taken out, or another prompt's put in its place), and value shifts, what is taken from the
values of some heads while queries, keys and all other readers still see it (Janiak et al. 2024, section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.models.forward import LeanModel


class Sublayer(NamedTuple):
    """One place at which the stream is read and written; they compare in the order of the forward pass."""

    layer: int
    mlp: bool


class SublayerStep(NamedTuple):
    """One sublayer of a rerun."""

    sublayer: Sublayer
    output: Tensor
    """z [batch, pos, head, d_head] of an attention layer, the output [batch, pos, d_model] of an MLP."""
    resid: Float[Tensor, "batch pos d_model"]
    """The stream behind it."""


def own_sublayer(label: str) -> Sublayer:
    """Where a component writes; embeddings write before layer 0."""
    layer = layer_of(label)
    return Sublayer(layer, label.startswith("MLP") or layer < 0)


def next_sublayer(layout: Layout, sublayer: Sublayer) -> Sublayer:
    """The sublayer that runs after one, perhaps of a layer that the model does not have."""
    if not sublayer.mlp and not layout.attn_only:
        return Sublayer(sublayer.layer, True)
    return Sublayer(sublayer.layer + 1, False)


def reader_behind(layout: Layout, sublayer: Sublayer) -> Sublayer:
    """The first sublayer that reads what one writes: not the MLP of the same block where both read the same stream."""
    return next_sublayer(layout, sublayer) if layout.has_middle else Sublayer(sublayer.layer + 1, False)


def run_on(
    model: LeanModel,
    resid: Float[Tensor, "batch pos d_model"],
    start: Sublayer,
    value_shifts: Mapping[int, Float[Tensor, "batch pos head d_head"]] | None = None,
    stop: Sublayer | None = None,
    joining: Mapping[Sublayer, Float[Tensor, "_ pos d_model"]] | None = None,
) -> Iterator[SublayerStep]:
    """Run the model from a sublayer on.

    Args:
        resid: the input of ``start``; of a parallel block that of both sublayers, and ``start`` its attention.
        value_shifts: by layer, what is taken from its heads' values.
        stop: the sublayer before which to end; by default the end of the model.
        joining: further streams, which run on from later sublayers, behind those that are there; in parallel blocks these
            are attention layers.
    """
    layout, sublayer, shifts, joining = model.config.layout, start, value_shifts or {}, joining or {}
    stop, block_input = stop or Sublayer(layout.n_layers, False), resid
    while sublayer < stop:
        if sublayer in joining:
            resid = torch.cat([resid, joining[sublayer]])
        if sublayer.mlp:
            output = model.mlp(sublayer.layer, block_input if layout.parallel else resid)
            resid = resid + output
        else:
            block_input = resid
            output = model.attend(sublayer.layer, resid, shifts.get(sublayer.layer)).z
            resid = resid + model.attention_out(sublayer.layer, output)
        yield SublayerStep(sublayer, output, resid)
        sublayer = next_sublayer(layout, sublayer)
