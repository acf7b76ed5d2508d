"""The patched forward pass: a writer taken from the value inputs of its erasers, everything behind them recomputed.

Only value inputs change, by the writer's clean output over the layer's clean LayerNorm scale; patterns and scales behind the
patch are those of the patched run. Once for the group, once for every head of its layers, as the paper's authors patched.
By how much the patched run predicts the next token worse is what erasing is worth to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView, loss_flops
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, SublayerStep, reader_behind, run_on
from erasure_sweep.workers.measures.interventions.verified_prompt import TargetPrompt, WriterPrompt, targets_of
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of
from erasure_sweep.workers.measures.scan.composition import head_of, head_output
from erasure_sweep.workers.measures.statistics.ratios import (
    STORED_BYTES_PER_RATIO,
    RatioRecorder,
    Ratios,
    interval_columns,
    merge_ratios,
)
from erasure_sweep.workers.measures.verify.ablation_loss import increase
from erasure_sweep.workers.records import GroupWork, State, Target
from erasure_sweep.workers.tables.columns import Columns

CLEAN = "clean"
PATCHES = ("group", "layer")
RESPONSE = "response"
"""Of a later component, how much more it writes in the clean run than with the group patched: because the group erases."""
LOSS = "loss"
"""Beside the states: of the clean run the loss of the next token, of each patch how much it rises."""


class WrittenRow(NamedTuple):
    """How much of a target's writer is in a state, or in what a later component writes."""

    target: int
    run: str
    """``clean``, or the patch; of components the first patch alone, and ``response``."""
    label: str
    """Of the state or the component, or ``LOSS``."""


def value_shifts(view: PromptView, target: Target) -> dict[int, Float[Tensor, "patch pos head d_head"]]:
    """What each patch takes from the values of the erasing layers: of the group's heads, and of all."""
    shifts = {}
    for layer in sorted({layer_of(label) for label in target.erasers}):
        heads = [head_of(label) for label in target.erasers if layer_of(label) == layer]
        scaled = view.source(target.writer) / view.trace.ln1_scale[layer, view.index, :, None]
        whole = torch.einsum("pd,dhe->phe", scaled, view.model.w_v(layer))
        group = torch.zeros_like(whole)
        group[:, heads] = whole[:, heads]
        shifts[layer] = torch.stack([group, whole])
    return shifts


class PatchedResidualAccumulator:
    """Presence of each writer in every state, and what is written along it later, clean and under each patch."""

    def __init__(self) -> None:
        self._ratios: RatioRecorder[WrittenRow] = RatioRecorder()

    def update(self, products: WriterPrompt) -> None:
        """Take in one writer at one prompt."""
        for target in products.targets:
            self._record(target)

    def _record(self, products: TargetPrompt) -> None:
        view, target, index = products.view, products.target, products.index
        writer = view.written(target.writer)
        norm_sq, valid = writer.square().sum(dim=-1), view.valid(target.writer)[view.positions]
        layout = view.model.config.layout
        erasing = [layer_of(label) for label in target.erasers]
        start = Sublayer(min(erasing), False)
        for state, stream in _clean_states(view, layout):
            present = _dot(stream[view.positions], writer)
            self._ratios.add(WrittenRow(index, CLEAN, state), present, norm_sq, valid)
            if layout.states.index(state) < _state_behind(layout, start):
                for patch in PATCHES:  # what comes before the patch is as it was
                    self._ratios.add(WrittenRow(index, patch, state), present, norm_sq, valid)
        written = {label: _clean_product(view, label, writer) for label in later_components(layout, target)}
        for label, product in written.items():
            self._ratios.add(WrittenRow(index, CLEAN, label), product, norm_sq, valid)
        resid = view.input_of(start).expand(len(PATCHES), -1, -1)
        for step in run_on(view.model, resid, start, value_shifts(view, target)):
            for patch, stream in zip(PATCHES, step.resid, strict=True) if _ends_in_state(layout, step.sublayer) else ():
                state = layout.states[_state_behind(layout, step.sublayer)]
                self._ratios.add(WrittenRow(index, patch, state), _dot(stream[view.positions], writer), norm_sq, valid)
            if step.sublayer >= reader_behind(layout, Sublayer(max(erasing), False)):
                for label, product in _products(view, step, writer):
                    self._ratios.add(WrittenRow(index, PATCHES[0], label), product, norm_sq, valid)
                    self._ratios.add(WrittenRow(index, RESPONSE, label), written[label] - product, norm_sq, valid)
            resid = step.resid
        self._ratios.add_values(WrittenRow(index, CLEAN, LOSS), view.clean_loss)
        for patch, final in zip(PATCHES, resid, strict=True):
            self._ratios.add_values(WrittenRow(index, patch, LOSS), view.loss_of(final) - view.clean_loss)

    def export(self) -> State:
        """The rows."""
        return self._ratios.export()


class PatchedResidual(Measure[GroupWork, Block[GroupWork], WriterPrompt]):
    """What remains of a writer, what is written along it, and what the loss is, once its erasers no longer read it."""

    stage, name = "group", "patched_residual"
    needs = (CLEAN_PASS,)
    tables = ("patched_residual_projection", "later_use", "patched_loss")

    def start(self, shard: Block[GroupWork]) -> PatchedResidualAccumulator:
        """An empty state for one shard."""
        return PatchedResidualAccumulator()

    def merge(self, block: Block[GroupWork], states: Iterable[State]) -> State:
        """Rows of all shards."""
        return merge_ratios(states)

    def columns(self, block: Block[GroupWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """States and losses under each patch, and later components with the group patched."""
        ratios = Ratios(WrittenRow, states[self.name])
        rows: dict[str, list[Row]] = {name: [] for name in self.tables}
        for index, target in enumerate(block.work.targets):
            about = {"writer": target.writer, "eraser": target.label}
            for patch in PATCHES:
                rows["patched_residual_projection"] += [
                    about | {"patch": patch} | _state(ratios, index, patch, state) for state in block.layout.states
                ]
            later = later_components(block.layout, target)
            rows["later_use"] += [about | _component(ratios, index, label) for label in later]
            rows["patched_loss"] += [about | _loss(ratios, index, patch) for patch in PATCHES]
        return columns_of(rows)

    def cost(self, size: ShardSize) -> Cost:
        """A rerun for each patch of each target, and the loss at its end."""
        targets = targets_of(size)
        states, later = len(size.layout.states), [len(later_components(size.layout, target)) for target in targets]
        n_rows = (1 + len(PATCHES)) * (states + 1) * len(targets) + 3 * sum(later)
        passes = size.n_prompts * len(PATCHES) * len(targets) / 2
        losses = loss_flops(size, len(PATCHES) * len(targets))
        return Cost(passes, losses, STORED_BYTES_PER_RATIO * n_rows)


def _state(ratios: Ratios[WrittenRow], index: int, patch: str, state: str) -> Row:
    clean, patched = (WrittenRow(index, run, state) for run in (CLEAN, patch))
    return {
        "state": state,
        **ratios.quantiles(clean, "clean_"),
        **ratios.quantiles(patched, "patched_"),
        "clean_beta": ratios.beta(clean),
        "patched_beta": ratios.beta(patched),
        "n": ratios.n(clean),
    }


def _component(ratios: Ratios[WrittenRow], index: int, label: str) -> Row:
    clean, patched, response = (WrittenRow(index, run, label) for run in (CLEAN, PATCHES[0], RESPONSE))
    return {
        "component": label,
        **ratios.quantiles(clean, "clean_"),
        **ratios.quantiles(patched, "patched_"),
        "clean_beta": ratios.beta(clean),
        **interval_columns("clean_beta", ratios.beta_interval(clean)),
        "patched_beta": ratios.beta(patched),
        "response": ratios.beta(response),
        **interval_columns("response", ratios.beta_interval(response)),
        "n": ratios.n(clean),
    }


def _loss(ratios: Ratios[WrittenRow], index: int, patch: str) -> Row:
    return {"patch": patch, **increase(ratios, WrittenRow(index, CLEAN, LOSS), WrittenRow(index, patch, LOSS))}


def later_components(layout: Layout, target: Target) -> tuple[str, ...]:
    """Terms that are added after the last erasing layer's attention."""
    last = max(target.erasers, key=layer_of)
    return tuple(layout.terms[index] for index in layout.later_terms(last))


def _state_behind(layout: Layout, sublayer: Sublayer) -> int:
    """Index of the first state that holds what a sublayer writes."""
    if not layout.has_middle:
        return sublayer.layer + 1
    return 2 * sublayer.layer + 1 + int(sublayer.mlp)


def _ends_in_state(layout: Layout, sublayer: Sublayer) -> bool:
    """Whether the stream right behind a sublayer is one of the states: not between the two of a parallel block."""
    return sublayer.mlp or not layout.parallel


def _clean_states(view: PromptView, layout: Layout) -> Iterator[tuple[str, Float[Tensor, "pos d_model"]]]:
    """Every state of the clean run."""
    yield layout.states[0], view.input_of(Sublayer(0, False))
    for layer in range(layout.n_layers):
        if layout.has_middle:
            yield f"resid_mid{layer}", view.input_of(Sublayer(layer, True))
        yield f"resid_post{layer}", view.input_of(Sublayer(layer + 1, False))


def _clean_product(view: PromptView, label: str, writer: Float[Tensor, "token d_model"]) -> Float[Tensor, "token"]:
    if label.startswith("b_O"):
        return writer @ view.model.b_o(layer_of(label))
    return _dot(view.written(label), writer)


def _products(
    view: PromptView, step: SublayerStep, writer: Float[Tensor, "token d_model"]
) -> Iterator[tuple[str, Float[Tensor, "token"]]]:
    """Products with the writer of what a sublayer of the rerun under the first patch writes, by component."""
    layer, output = step.sublayer.layer, step.output[0][view.positions]
    if step.sublayer.mlp:
        yield f"MLP{layer}", _dot(output, writer)
        return
    for head in range(output.shape[1]):
        label = f"L{layer}H{head}"
        yield label, _dot(output[:, head], writer @ head_output(view.model, label).T)
    if view.model.config.attn_bias:
        yield f"b_O{layer}", writer @ view.model.b_o(layer)


def _dot(a: Float[Tensor, "token d"], b: Float[Tensor, "token d"]) -> Float[Tensor, "token"]:
    return (a * b).sum(dim=-1)
