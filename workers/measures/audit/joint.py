"""Several components ablated together: backup heads answer only when all that they stand in for is gone.

Every member's output is replaced at each position, whatever it would be by then. What the others do about it is mediation, as
of a single component: e = Σ d of the members + Σ m_c of everything else + the final norm, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.audit.baselines import Baseline
from erasure_sweep.workers.measures.audit.effects import Asked
from erasure_sweep.workers.measures.interventions.replaced_writer import mediators, written
from erasure_sweep.workers.measures.interventions.rerun import Sublayer, next_sublayer
from erasure_sweep.workers.models.forward import LeanModel


class Joint(NamedTuple):
    """One prompt, several components ablated together; float64, in logits."""

    direct: Float[Tensor, "donor member"]
    effect: Float[Tensor, "donor"]
    mediated: Float[Tensor, "donor mediator"]
    """In the order of ``mediators``; zero of members."""


@torch.inference_mode()
def ablate_together(model: LeanModel, asked: Asked, baseline: Baseline, members: Sequence[str]) -> Joint:
    """Run a prompt with some components ablated.

    Args:
        members: writers, in any order.
    """
    runs = [
        _run(model, asked, dict(zip(members, other(members), strict=True)))
        for other in baseline.replacements(asked.view, asked.question)
    ]
    return Joint(*(torch.stack(values) for values in zip(*runs, strict=True)))


def _run(model: LeanModel, asked: Asked, others: dict[str, Float[Tensor, "pos d_model"]]) -> Joint:
    view, g, layout = asked.view, asked.direction, model.config.layout
    own = written(view, [*others])
    replaced = {
        label: _from(view.first, clean, other) for (label, other), clean in zip(others.items(), own, strict=True)
    }
    direct = (own[:, -1] - torch.stack([*replaced.values()])[:, -1]) @ g
    places = mediators(layout)
    mediated = torch.zeros(len(places), dtype=torch.float64, device=g.device)
    outside = [label for label in layout.embeddings if label in replaced]
    resid = view.trace.embeddings(0) + sum(replaced[label] - view.output(label) for label in outside)
    block_input, sublayer = resid, Sublayer(0, False)
    while sublayer.layer < layout.n_layers:
        if not sublayer.mlp:
            block_input = resid
        reads = block_input if layout.parallel else resid
        outputs, bias = _outputs(model, sublayer, reads)
        labels = _labels(layout, sublayer)
        clean = written(view, labels)
        for index, label in enumerate(labels):
            if label in replaced:
                outputs[index] = replaced[label]
            else:
                mediated[places.index(label)] = float((clean[index, -1] - outputs[index, -1]) @ g)
        resid = resid + outputs.sum(dim=0) + bias
        sublayer = next_sublayer(layout, sublayer)
    left = resid[-1] @ g
    by_norm = left * (1.0 - view.final_scale[0] / model.scale(resid[-1]))
    mediated[-1] = float(by_norm)
    effect = (view.final[-1] - resid[-1]) @ g + by_norm
    return Joint(direct.double(), effect.double(), mediated)


def _from(first: int, clean: Float[Tensor, "pos d_model"], other: Float[Tensor, "pos d_model"]) -> Tensor:
    """Another output from a position on."""
    return torch.cat([clean[:first], other[first:]])


def _labels(layout: Layout, sublayer: Sublayer) -> list[str]:
    if sublayer.mlp:
        return [f"MLP{sublayer.layer}"]
    return [f"L{sublayer.layer}H{head}" for head in range(layout.n_heads)]


def _outputs(
    model: LeanModel, sublayer: Sublayer, resid: Float[Tensor, "pos d_model"]
) -> tuple[Float[Tensor, "component pos d_model"], Tensor]:
    """What the components of a sublayer write when they read a stream, and what it writes beside them."""
    nothing = resid.new_zeros(())
    if sublayer.mlp:
        return model.mlp(sublayer.layer, resid)[None].clone(), nothing
    z = model.attend(sublayer.layer, resid[None]).z[0]
    bias = model.b_o(sublayer.layer) if model.config.layout.attn_bias else nothing
    return torch.einsum("phe,hed->hpd", z, model.w_o(sublayer.layer)), bias
