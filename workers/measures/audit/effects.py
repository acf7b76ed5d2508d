"""One prompt: what direct logit attribution (DLA) says of every component, and what ablating it does to the logit difference.

At the last token, with u the mean unembedding of the answers less that of what is against them, σ the clean final scale,
g = u / σ and L(run) = centred final state · u / σ of that run, before any cap:

- DLA: o·g of every term of the stream; with b_U·(answers − against) they add up to the logit difference exactly;
- direct d = (o − õ)·g, what DLA says of ablating it, õ what takes its place; kept = õ·g;
- effect e = L(clean) − L(ablated), everything behind it computed anew;
- mediated m_c of each later component and of the final norm: e = d + Σ m_c exactly (``interventions.replaced_writer``);
- net = δ·g with δ = o − õ carried through all later attention, patterns, scales and MLPs at their clean values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.audit.baselines import Baseline, view_of
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.interventions.attention_paths import propagate
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.replaced_writer import (
    RERUN_BYTES,
    Replacer,
    together,
    written,
)
from erasure_sweep.workers.measures.scan.composition import output
from erasure_sweep.workers.models.forward import LeanModel, top_two


class Effects(NamedTuple):
    """One prompt's numbers, float64, in logits."""

    answers: tuple[int, ...]
    against: tuple[int, ...]
    logit_difference: float
    """Biases of the unembedding included, before any cap."""
    attribution: Float[Tensor, "term"]
    """DLA of every term of the stream, biases of attention layers among them."""
    unembedding_bias: float
    direct: Float[Tensor, "donor writer"]
    effect: Float[Tensor, "donor writer"]
    mediated: Float[Tensor, "donor writer mediator"]
    """In the order of ``mediators``; zero of what is not behind the writer."""
    net: Float[Tensor, "donor writer"]


class Asked(NamedTuple):
    """A question and the clean pass of its prompt, seen along its own logit difference."""

    question: Question
    """With the tokens that count."""
    view: PromptView

    @property
    def direction(self) -> Float[Tensor, "d_model"]:
        """g."""
        return self.view.logit_direction[0]


@torch.inference_mode()
def ask(model: LeanModel, question: Question, first: int) -> Asked:
    """Run a prompt.

    Args:
        first: the first position at which outputs are to be replaced.
    """
    view = view_of(model, torch.tensor(question.tokens), first)
    logits = model.unembed(model.normalize(view.final[-1:]))
    answers, against = _chosen(logits, question)
    view.logit_direction = (direction_of(model, answers, against) / view.final_scale[0])[None]
    view.trace = view.trace._replace(logit_direction=view.logit_direction[None])
    return Asked(question._replace(answers=answers, against=against), view)


@torch.inference_mode()
def measure(model: LeanModel, asked: Asked, baseline: Baseline, n_bytes: int = RERUN_BYTES) -> Effects:
    """All numbers of one prompt: a rerun of every writer for each donor.

    Args:
        n_bytes: bound on the widest activations of the reruns that go together.
    """
    question, view = asked.question, asked.view
    replacer, writers = Replacer(view), model.config.layout.writers
    runs: list[tuple[Tensor, ...]] = []
    for other in baseline.replacements(view, question):
        parts = []
        for labels in together(view, writers, n_bytes):
            own, replaced = written(view, labels), other(labels)
            found = replacer.replace(labels, own, replaced, weigh=torch.ones_like)
            net = net_over_attention(view, labels, own - replaced)
            parts.append((found.direct[:, 0], found.effect[:, 0], found.mediated, net))
        runs.append(tuple(torch.cat(values).double() for values in zip(*parts, strict=True)))
    direct, effect, mediated, net = (torch.stack(values) for values in zip(*runs, strict=True))
    attribution, bias = attributions(model, asked)
    total = float(attribution.sum()) + bias
    return Effects(question.answers, question.against, total, attribution, bias, direct, effect, mediated, net)


def attributions(model: LeanModel, asked: Asked) -> tuple[Float[Tensor, "term"], float]:
    """DLA of every term, and of the unembedding's biases."""
    view, layout = asked.view, model.config.layout
    last = [
        model.b_o(layer_of(term)) if term.startswith("b_O") else output(model, view.trace, 0, term)[-1]
        for term in layout.terms
    ]
    found = torch.stack(last).double() @ asked.direction.double()
    return found, unembedding_bias(model, asked.question)


def unembedding_bias(model: LeanModel, question: Question) -> float:
    """What the unembedding's biases add to the logit difference."""
    bias = model.weights["b_U"].double()
    return float(bias[list(question.answers)].mean() - bias[list(question.against)].mean())


def direction_of(model: LeanModel, answers: Sequence[int], against: Sequence[int]) -> Float[Tensor, "d_model"]:
    """The direction in which the mean logit of some tokens grows over that of others, over a final scale of one."""
    rows = [model.logit_row(torch.tensor(ids, device=model.device)).mean(dim=0) for ids in (answers, against)]
    return rows[0] - rows[1]


def net_over_attention(
    view: PromptView, writers: Sequence[str], change: Float[Tensor, "writer pos d_model"]
) -> Float[Tensor, "writer"]:
    """What is left of d when later heads have read it, over all attention paths, each layer as it was."""
    fields = change.clone()
    fields[:, : view.first] = 0.0
    model, at, left = view.model, view.positions, torch.zeros_like(fields[:, -1])
    for hop in propagate(model, view.trace, view.index, fields, [layer_of(writer) + 1 for writer in writers]):
        if hop.is_last:
            w_o = model.w_o(hop.layer)[hop.heads]
            left[hop.fields] = torch.einsum("fhe,hed->fd", hop.mixed[:, -1], w_o)
    return (fields[:, at[-1]] + left) @ view.logit_direction[0]


def _chosen(logits: Float[Tensor, "1 d_vocab"], question: Question) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that count: where none are named, the most likely ones."""
    if question.answers and question.against:
        return question.answers, question.against
    named: Int[Tensor, "_"] = torch.tensor([*question.answers, *question.against], dtype=torch.int64)
    free = logits.clone()
    free[0, named.to(free.device)] = -torch.inf
    first, second = top_two(free)[0].tolist()
    answers = question.answers or (first,)
    return answers, question.against or ((first,) if question.answers else (second,))
