"""The group and its nulls: what the erasers do to a writer, and what they seem to do to things they have no reason to erase.

Beside the projection of the group's output onto the writer stand those onto the partner's output of the writer at shuffled
positions, onto random directions with the stream's covariance, and onto the writer's siblings; beside its V-composed part
from the writer that part's projection onto the shuffled outputs, and the parts from random directions (a placebo patch) and
from siblings. The partner's output at the same position is no null: it is what position alone explains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder
from erasure_sweep.workers.records import Target

SUM = "sum"
"""Key of the group as a whole."""


class _Onto(NamedTuple):
    """What the group is projected onto, at the measured tokens."""

    vectors: Float[Tensor, "token d_model"]
    valid: Bool[Tensor, "token"]


def siblings(layout: Layout, writer: str) -> tuple[str, ...]:
    """Components of a writer's kind at its place: a head's layer, the other embedding; an MLP has none."""
    if writer in ("embed", "pos_embed"):
        return ("pos_embed" if writer == "embed" else "embed",)
    if writer.startswith("MLP"):
        return ()
    return tuple(label for label in layout.heads if layer_of(label) == layer_of(writer) and label != writer)


def bins(seq_len: int) -> list[tuple[int, int]]:
    """Bins of positions, first and last: 0, 1, 2–3, 4–7, …"""
    starts = [0, *(2**power for power in range((seq_len - 1).bit_length()))]
    return [
        (start, min(stop, seq_len) - 1)
        for start, stop in zip(starts, [*starts[1:], seq_len], strict=True)
        if start < seq_len
    ]


def record_group(ratios: RatioRecorder, view: PromptView, target: Target, index: int, reader: GroupReader) -> None:
    """Each eraser and their sum, clean, patched and read; the sum by position; its nulls.

    Args:
        index: of the target, for the keys.
    """
    writer, name = target.writer, str(index)
    kin = siblings(view.model.config.layout, writer)
    placebo = view.random_directions(writer)
    fields = torch.stack([view.output(writer), *(view.output(label) for label in kin), placebo])
    at = view.positions
    own = fields[:, at]
    norms, valid = own.square().sum(dim=-1), view.valid(writer)[at]
    # A placebo's part is still projected onto the writer.
    parts, outputs = reader.read(fields), reader.outputs()
    read = reader.along(parts, torch.cat([own[:-1], own[:1]]))
    clean = reader.along(outputs, own)
    for row, label in enumerate(target.erasers):
        _record(ratios, ("group", name, label), clean[0, row], read[0, row], norms[0], valid)
    whole, part = clean.sum(dim=1), read.sum(dim=1)
    _record(ratios, ("group", name, SUM), whole[0], part[0], norms[0], valid)
    _record_bins(ratios, view, name, whole[0], part[0], norms[0], valid)
    for row, label in enumerate(kin, start=1):
        there = view.valid(label)[at]
        ratios.add(("null", name, "siblings", label, "clean"), whole[row], norms[row], there)
        ratios.add(("null", name, "siblings", label, "v_composed"), part[row], norms[row], there)
    ratios.add(("null", name, "placebo", "", "v_composed"), part[-1], norms[0], valid)
    ratios.add(("null", name, "random_direction", "", "clean"), whole[-1], norms[-1], valid)
    for null, onto in _others(view, writer).items():
        for of, written in (("clean", outputs), ("v_composed", [part[:1] for part in parts])):
            product = reader.along(written, onto.vectors[None]).sum(dim=1)[0]
            ratios.add(("null", name, null, "", of), product, onto.vectors.square().sum(dim=-1), onto.valid)


def _others(view: PromptView, writer: str) -> dict[str, _Onto]:
    """The partner's output of the writer, at shuffled and at the same positions."""
    output, valid = view.partner.output(writer), view.partner.valid(writer)
    at, shuffled = view.positions, view.shuffled[view.positions]
    return {"shuffled": _Onto(output[shuffled], valid[shuffled]), "position": _Onto(output[at], valid[at])}


def _record(
    ratios: RatioRecorder, key: tuple[str, ...], clean: Tensor, read: Tensor, norm_sq: Tensor, valid: Tensor
) -> None:
    ratios.add((*key, "clean"), clean, norm_sq, valid)
    ratios.add((*key, "patched"), clean - read, norm_sq, valid)
    ratios.add((*key, "v_composed"), read, norm_sq, valid)


def _record_bins(
    ratios: RatioRecorder, view: PromptView, name: str, clean: Tensor, read: Tensor, norm_sq: Tensor, valid: Tensor
) -> None:
    for first, last in bins(view.seq_len):
        inside = (view.positions >= first) & (view.positions <= last)
        key = ("position", name, f"{first}-{last}")
        ratios.add((*key, "clean"), clean, norm_sq, valid, inside)
        ratios.add((*key, "patched"), clean - read, norm_sq, valid, inside)
        # |w|² per token of the bin, as a pooled coefficient.
        ratios.add((*key, "norm_sq"), norm_sq, torch.ones_like(norm_sq), torch.ones_like(valid), inside)
