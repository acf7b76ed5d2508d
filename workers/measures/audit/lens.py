"""How the logit difference of a prompt builds up along the stream, and what the stream would predict if it ended there.

*accumulated*: a state along g, the clean final scale for all, so that the steps are the DLA of what is added; *lens*: the state
behind the final norm of its own scale (nostalgebraist 2020, "interpreting GPT: the logit lens"). Biases of the unembedding
count in both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.audit.effects import Asked, direction_of, unembedding_bias
from erasure_sweep.workers.measures.interventions.rerun import Sublayer
from erasure_sweep.workers.measures.scan.composition import head_of
from erasure_sweep.workers.models.forward import LeanModel, top_two


class Lens(NamedTuple):
    """One prompt at its last token."""

    accumulated: Float[Tensor, "state"]
    lens: Float[Tensor, "state"]
    predicted: Int[Tensor, "state"]
    """The most likely next token."""


@torch.inference_mode()
def read_states(model: LeanModel, asked: Asked) -> Lens:
    """Every state of a prompt, in the order of the layout's ``states``."""
    view, question, layout = asked.view, asked.question, model.config.layout
    places = [Sublayer(0, False)]
    for layer in range(layout.n_layers):
        places += [Sublayer(layer, True)] if layout.has_middle else []
        places.append(Sublayer(layer + 1, False))
    states = torch.stack([view.input_of(place)[-1] for place in places])
    bias = unembedding_bias(model, question)
    normalized = model.normalize(states)
    along = direction_of(model, question.answers, question.against)
    predicted = top_two(model.unembed(normalized))[:, 0]
    return Lens((states @ asked.direction).double() + bias, (normalized @ along).double() + bias, predicted)


@torch.inference_mode()
def head_pattern(model: LeanModel, asked: Asked, head: str) -> Float[Tensor, "query key"]:
    """A head's attention over the tokens of a prompt."""
    layer, index, trace = layer_of(head), head_of(head), asked.view.trace
    positions = torch.arange(asked.view.seq_len, device=model.device)
    query, key = trace.q[layer, 0, :, [index]], trace.k[layer, 0, :, [index]]
    return model.pattern(layer, query, key, positions, [index])[0]
