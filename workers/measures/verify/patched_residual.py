"""The patched forward pass: a writer taken from the value inputs of its erasers, everything behind them recomputed.

Only value inputs change, by the writer's clean output over the layer's clean LayerNorm scale; patterns and scales behind the
patch are those of the patched run. Once for the group, once for every head of its layers, as the paper's authors patched.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Step, Sublayer, run_on
from erasure_sweep.workers.measures.scan.composition import head_of, head_output
from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder
from erasure_sweep.workers.records import Target

PATCHES = ("group", "layer")


def value_shifts(view: PromptView, target: Target) -> dict[int, Float[Tensor, "patch pos head d_head"]]:
    """What each patch takes from the values of the erasing layers: of the group's heads, and of all."""
    shifts = {}
    for layer in sorted({layer_of(label) for label in target.erasers}):
        heads = [head_of(label) for label in target.erasers if layer_of(label) == layer]
        scaled = view.output(target.writer) / view.trace.ln1_scale[layer, view.index, :, None]
        whole = torch.einsum("pd,dhe->phe", scaled, view.model.w_v(layer))
        group = torch.zeros_like(whole)
        group[:, heads] = whole[:, heads]
        shifts[layer] = torch.stack([group, whole])
    return shifts


def record_patched(ratios: RatioRecorder, view: PromptView, target: Target, index: int) -> None:
    """Presence of the writer in every state, and what is written along it later, clean and under each patch.

    Args:
        index: of the target, for the keys.
    """
    name, writer = str(index), view.written(target.writer)
    norm_sq, valid = writer.square().sum(dim=-1), view.valid(target.writer)[view.positions]
    layout = view.model.config.layout
    erasing = [layer_of(label) for label in target.erasers]
    for state, stream in _clean_states(view, layout):
        present = _dot(stream[view.positions], writer)
        ratios.add(("state", name, "clean", state), present, norm_sq, valid)
        if layout.states.index(state) < _state_behind(layout, Sublayer(min(erasing), False)):
            for patch in PATCHES:  # what comes before the patch is as it was
                ratios.add(("state", name, patch, state), present, norm_sq, valid)
    for label in later_components(layout, target):
        ratios.add(("later", name, "clean", label), _clean_product(view, label, writer), norm_sq, valid)
    start = Sublayer(min(erasing), False)
    resid = view.input_of(start).expand(len(PATCHES), -1, -1)
    for step in run_on(view.model, resid, start, value_shifts(view, target)):
        state = layout.states[_state_behind(layout, step.sublayer)]
        for patch, stream in zip(PATCHES, step.resid, strict=True):
            ratios.add(("state", name, patch, state), _dot(stream[view.positions], writer), norm_sq, valid)
        if step.sublayer > Sublayer(max(erasing), False):
            for label, product in _products(view, step, writer):
                ratios.add(("later", name, "patched", label), product, norm_sq, valid)


def later_components(layout: Layout, target: Target) -> tuple[str, ...]:
    """Terms that are added after the last erasing layer's attention."""
    last = max(layer_of(label) for label in target.erasers)
    return layout.terms[layout.term_index[f"b_O{last}"] + 1 :]


def _state_behind(layout: Layout, sublayer: Sublayer) -> int:
    """Index of the state right behind a sublayer."""
    if layout.attn_only:
        return sublayer.layer + 1
    return 2 * sublayer.layer + 1 + int(sublayer.mlp)


def _clean_states(view: PromptView, layout: Layout) -> Iterator[tuple[str, Float[Tensor, "pos d_model"]]]:
    """Every state of the clean run."""
    yield layout.states[0], view.input_of(Sublayer(0, False))
    for layer in range(layout.n_layers):
        if not layout.attn_only:
            yield f"resid_mid{layer}", view.input_of(Sublayer(layer, True))
        yield f"resid_post{layer}", view.input_of(Sublayer(layer + 1, False))


def _clean_product(view: PromptView, label: str, writer: Float[Tensor, "token d_model"]) -> Float[Tensor, "token"]:
    if label.startswith("b_O"):
        return writer @ view.model.weights["b_O"][layer_of(label)]
    return _dot(view.written(label), writer)


def _products(
    view: PromptView, step: Step, writer: Float[Tensor, "token d_model"]
) -> Iterator[tuple[str, Float[Tensor, "token"]]]:
    """Products with the writer of what a sublayer of the rerun under the first patch writes, by component."""
    layer, output = step.sublayer.layer, step.output[0][view.positions]
    if step.sublayer.mlp:
        yield f"MLP{layer}", _dot(output, writer)
        return
    for head in range(output.shape[1]):
        label = f"L{layer}H{head}"
        yield label, _dot(output[:, head], writer @ head_output(view.model, label).T)
    yield f"b_O{layer}", writer @ view.model.weights["b_O"][layer]


def _dot(a: Float[Tensor, "token d"], b: Float[Tensor, "token d"]) -> Float[Tensor, "token"]:
    return (a * b).sum(dim=-1)
