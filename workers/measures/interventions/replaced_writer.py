"""A writer's output replaced and everything behind it computed anew: what that does to the logit difference, and who does it.

With g the direction of the clean run's two most likely next tokens a and b over the clean final scale σ, and L the difference
of their logits without the unembedding's biases:

- direct: d = (o − õ)·g, what direct logit attribution (DLA) says of the change from o to õ;
- effect: e = L(clean) − L(replaced), the final scale σ̃ its own run's;
- mediated: m_c = (o_c − õ_c)·g of every later head and MLP c, and of the final norm n = L(replaced) (σ̃ / σ − 1), so that
  e = d + Σ m_c + n at every token, whatever patterns and MLPs do.

A head's m_c needs no output: its change of z goes along W_O g, which is folded once for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, own_sublayer, reader_behind, run_on
from erasure_sweep.workers.measures.scan.composition import output
from erasure_sweep.workers.tables.facts.trust import FINAL_NORM

RERUN_BYTES = 256 * 2**20
"""Bound on the widest activations of the reruns that go together."""


class Replacement(NamedTuple):
    """Writers, each in a run of its own with something else in its place."""

    attribution: Float[Tensor, "writer token"]
    """DLA of the clean output."""
    direct: Float[Tensor, "writer token"]
    effect: Float[Tensor, "writer token"]
    mediated: Float[Tensor, "writer mediator"]
    """Σ d·m over the measured tokens, or Σ m; float64, in the order of ``mediators``."""


def mediators(layout: Layout) -> tuple[str, ...]:
    """All that can change a writer's DLA on its way: heads, MLPs, and last the final norm."""
    return (*(label for label in layout.writers if label not in layout.embeddings), FINAL_NORM)


def mediators_of(layout: Layout, writer: str) -> tuple[str, ...]:
    """Those behind a writer: the last of all."""
    later = [term for index in layout.later_terms(writer) if not (term := layout.terms[index]).startswith("b_O")]
    return (*later, FINAL_NORM)


def together(view: PromptView, writers: Sequence[str], n_bytes: int = RERUN_BYTES) -> Iterator[list[str]]:
    """Writers in the order of the stream, as many at once as memory allows.

    Args:
        n_bytes: bound on the widest activations of the reruns that go together.
    """
    config = view.model.config
    width = max(config.d_mlp, 3 * config.n_heads * config.d_head)
    most = max(1, n_bytes // (4 * view.seq_len * width))
    for first in range(0, len(writers), most):
        yield list(writers[first : first + most])


def written(view: PromptView, labels: Sequence[str]) -> Float[Tensor, "writer pos d_model"]:
    """Outputs of some writers, which are not kept: all writers' together would be as large as so many streams."""
    return torch.stack([output(view.model, view.trace, view.index, label) for label in labels])


class Replacer:
    """Runs one prompt again with other outputs in the place of writers' own."""

    def __init__(self, view: PromptView) -> None:
        self.view, self.model = view, view.model
        contiguous = len(view.positions) == view.seq_len - view.first
        self._at = slice(view.first, None) if contiguous else view.positions
        self._along: dict[int, Float[Tensor, "token head d_head"]] = {}

    def replace(
        self,
        writers: Sequence[str],
        own: Float[Tensor, "writer pos d_model"],
        other: Float[Tensor, "writer pos d_model"],
        *,
        weigh: Callable[[Tensor], Tensor] | None,
    ) -> Replacement:
        """Put other outputs in the place of writers' own where these are a source.

        Args:
            writers: in the order of the stream, each with a run of its own; later ones join where they write.
            own, other: of each writer.
            weigh: from d, at each token, what m counts in the sums of who changes the effect; without it these are all zero.
        """
        view, g = self.view, self.view.logit_direction
        edits = other - own
        edits[:, : view.first] = 0.0
        direct = -_along(edits[:, self._at], g)
        sums = torch.zeros(len(own), len(mediators(self.model.config.layout)), dtype=torch.float64, device=own.device)
        weights = direct.double() if weigh is None else weigh(direct.double())
        resid = self._rerun(writers, edits, weights, None if weigh is None else sums)
        left = _along(resid, g)
        by_norm = left * (1.0 - view.final_scale / self.model.scale(resid))
        sums[:, -1] = (weights * by_norm.double()).sum(dim=-1)
        effect = _along(view.final[self._at] - resid, g) + by_norm
        return Replacement(_along(own[:, self._at], g), direct, effect, sums)

    def _rerun(
        self,
        writers: Sequence[str],
        edits: Float[Tensor, "writer pos d_model"],
        weights: Float[Tensor, "writer token"],
        sums: Float[Tensor, "writer mediator"] | None,
    ) -> Float[Tensor, "writer token d_model"]:
        """The final state at the measured positions; adds the weighted Σ m of every sublayer on the way."""
        layout, at = self.model.config.layout, self._at
        last, end = Sublayer(layout.n_layers - 1, layout.has_middle), Sublayer(layout.n_layers, False)
        streams = self._edited(writers, edits)
        start = min(streams)
        resid = streams.pop(start)
        for step in run_on(self.model, resid, start, stop=last if last.mlp else None, joining=streams):
            resid = step.resid
            if sums is not None:
                self._mediate(step.sublayer, step.output[:, at], weights, sums)
        if last.mlp and start <= last:  # it reads every position by itself: it is needed at the measured ones alone
            resid = torch.cat([resid, streams.pop(last)]) if last in streams else resid
            written = self.model.mlp(last.layer, resid[:, at])
            if sums is not None:
                self._mediate(last, written, weights, sums)
            resid = resid[:, at] + written
        else:
            resid = resid[:, at]
        return torch.cat([resid, streams[end][:, at]]) if end in streams else resid

    def _edited(self, writers: Sequence[str], edits: Float[Tensor, "writer pos d_model"]) -> dict[Sublayer, Tensor]:
        """The clean stream behind each writer, edited, by the sublayer from which it runs on."""
        starts = [reader_behind(self.model.config.layout, own_sublayer(writer)) for writer in writers]
        sizes = {start: len(list(equal)) for start, equal in groupby(starts)}
        parts = zip(sizes, torch.split(edits, list(sizes.values())), strict=True)
        return {start: self.view.input_of(start) + part for start, part in parts}

    def _mediate(
        self, sublayer: Sublayer, output: Tensor, weights: Float[Tensor, "writer token"], sums: Tensor
    ) -> None:
        """Add the weighted Σ m of what a sublayer writes, z of an attention layer or an MLP's output, for the first writers."""
        config, trace, (layer, is_mlp) = self.model.config, self.view.trace, sublayer
        weights, sums = weights[: len(output)], sums[: len(output)]
        first = layer * (config.n_heads + (not config.attn_only))
        if is_mlp:
            change = _along(trace.mlp_out[layer, self.view.index, self._at] - output, self.view.logit_direction)
            sums[:, first + config.n_heads] += (weights * change.double()).sum(dim=-1)
            return
        change = ((trace.z[layer, self.view.index, self._at] - output) * self._folded(layer)).sum(dim=-1)
        sums[:, first : first + config.n_heads] += torch.einsum("nt,nth->nh", weights, change.double())

    def _folded(self, layer: int) -> Float[Tensor, "token head d_head"]:
        """W_O g of every head of a layer."""
        if layer not in self._along:
            self._along[layer] = torch.einsum("td,hed->the", self.view.logit_direction, self.model.w_o(layer))
        return self._along[layer]


def _along(
    vectors: Float[Tensor, "writer token d_model"], direction: Float[Tensor, "token d_model"]
) -> Float[Tensor, "writer token"]:
    return torch.einsum("ntd,td->nt", vectors, direction)
