"""MLPs erase too: how an MLP's output along a writer changes when the writer is taken out of the MLP's input."""

from __future__ import annotations

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, next_sublayer, own_sublayer
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder


def later_mlps(layout: Layout, writer: str) -> tuple[str, ...]:
    """MLPs that can read a writer, that of a head's own layer included."""
    first = next_sublayer(layout, own_sublayer(writer))
    labels = () if layout.attn_only else tuple(f"MLP{layer}" for layer in range(layout.n_layers))
    return tuple(label for label in labels if own_sublayer(label) >= first)


def record_mlps(ratios: RatioRecorder, view: PromptView, writer: str) -> None:
    """Every later MLP, clean, with the writer taken out of its input, and the difference."""
    model, at = view.model, view.positions
    written = view.written(writer)
    norm_sq, valid = written.square().sum(dim=-1), view.valid(writer)[at]
    for label in later_mlps(model.config.layout, writer):
        layer = int(label.removeprefix("MLP"))
        stream = view.input_of(Sublayer(layer, True))[at]
        clean = (view.written(label) * written).sum(dim=-1)
        patched = (model.mlp(layer, stream - written) * written).sum(dim=-1)
        for name, product in (("clean", clean), ("patched", patched), ("read", clean - patched)):
            ratios.add(("mlp", writer, label, name), product, norm_sq, valid)
