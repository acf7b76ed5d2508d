"""The substage ``adversarial``: is a high attribution a contribution, or there whatever the text says?

At a place of high attribution the writer's LayerNorm-ed input is replaced by that of unrelated prompts (donors) cut to the
same length, and the attribution on the clean logit difference, over the clean final scale, is taken again: with the input
replaced at the last position, as the paper's authors did, and at all positions. A component that is at work there should
lose its attribution; one whose attribution stays as it is writes the same whatever it reads (Janiak et al. 2024, section
3.5). The same is done for the other head whose attribution is highest there.

With all inputs replaced, a head's output is the donor's own at that position, so that a donor costs one forward pass
whatever the number of places. The clean runs are made anew by every shard; the attributions token by token
(``workers.measures.verify.token_dla``), which need no donors, come from one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn import functional

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.scan.composition import head_of, output
from erasure_sweep.workers.measures.verify.token_dla import TokenDla, token_dla, tokens_state
from erasure_sweep.workers.models.forward import LeanModel, Trace, top_two
from erasure_sweep.workers.records import AdversarialWork, Place, ShardTask, State

INPUTS = ("last", "all")
ROLES = ("writer", "other")


class _Head(NamedTuple):
    """A head's clean keys and values before the place, and what a product with its output goes through."""

    layer: int
    head: int
    keys: Float[Tensor, "source d_head"]
    values: Float[Tensor, "source d_head"]
    direction: Float[Tensor, "d_head"]


class _Tested(NamedTuple):
    """One component at one place."""

    label: str
    clean: float
    head: _Head | None


class _Scene(NamedTuple):
    """A place on the clean run of its prompt."""

    place: Place
    top: Int[Tensor, "2"]
    logit_diff: float
    direction: Float[Tensor, "d_model"]
    """Of the top two tokens' logit difference, over the final scale."""
    tested: tuple[_Tested, ...]
    """In the order of ``ROLES``; the writer alone where no other head is there."""
    tokens: TokenDla | None
    """Where they are asked for."""


@torch.inference_mode()
def measure_adversarial(
    model: LeanModel, task: ShardTask, tokens: Integer[np.ndarray, "prompt pos"], batch: int
) -> dict[str, State]:
    """States of one shard: a block of donors.

    Args:
        tokens: of the whole corpus.
        batch: donors in one forward pass.
    """
    work = task.work
    assert isinstance(work, AdversarialWork)
    scenes = [_scene(model, place, _ids(place, work, tokens), work.tokens) for place in work.places]
    patched = np.full((len(scenes), len(ROLES), len(INPUTS), len(work.donors)), np.nan)
    longest = max(place.position for place in work.places) + 1
    for start in range(0, len(work.donors), batch):
        donors = work.donors[start : start + batch]
        ids = torch.from_numpy(np.ascontiguousarray(tokens[list(donors), :longest], dtype=np.int64)).to(model.device)
        trace = model.trace(ids, torch.zeros_like(ids[:, :1]), keep_resid=True)
        for row, scene in enumerate(scenes):
            own = [scene.place.source == "found" and donor == scene.place.prompt for donor in donors]
            for role, tested in enumerate(scene.tested):
                values = _replaced(model, trace, scene, tested).cpu().numpy().astype(np.float64)
                values[:, own] = np.nan
                patched[row, role, :, start : start + len(donors)] = values
    states = {"places": _export(scenes), "patched": {"patched": patched}}
    shown = [scene.tokens for scene in scenes if scene.tokens is not None]
    return {**states, "tokens": tokens_state(shown)} if shown else states


def _ids(place: Place, work: AdversarialWork, tokens: Integer[np.ndarray, "prompt pos"]) -> Int[Tensor, "cut"]:
    """A place's prompt, up to the place."""
    prompt = work.given[place.prompt] if place.source == "given" else tokens[place.prompt]
    return torch.from_numpy(np.array(prompt[: place.position + 1], dtype=np.int64))


def _scene(model: LeanModel, place: Place, ids: Int[Tensor, "pos"], with_tokens: bool) -> _Scene:
    """The clean run at a place."""
    last = torch.tensor([[place.position]], device=model.device)
    trace = model.trace(ids.to(model.device)[None], last, keep_resid=True)
    assert trace.resid_pre is not None
    final = trace.resid_pre[-1, 0, -1:]
    # The very product that the trace takes its top two from: near ties must not be decided otherwise here.
    logits = torch.addmm(model.weights["b_U"], model.normalize(final), model.weights["W_U"])
    top = top_two(logits.clone())[0]
    direction = trace.logit_direction[0, 0]
    dla = torch.einsum("lhe,lhed,d->lh", trace.z[:, 0, -1], model.weights["W_O"], direction)
    labels = [place.writer, *_strongest_other(model, dla, place.writer)]
    tested = tuple(_tested(model, trace, direction, label) for label in labels)
    shown = token_dla(model, trace, place, ids) if with_tokens else None
    return _Scene(place, top, float(logits[0, top[0]] - logits[0, top[1]]), direction, tested, shown)


def _strongest_other(model: LeanModel, dla: Float[Tensor, "layer head"], writer: str) -> list[str]:
    """The head with the highest attribution that is not the writer; none in a model with one head."""
    n_heads = model.config.n_heads
    heads = [label for label in model.config.layout.heads if label != writer]
    values = dla.flatten().tolist()
    return [max(heads, key=lambda label: values[layer_of(label) * n_heads + head_of(label)])] if heads else []


def _tested(model: LeanModel, trace: Trace, direction: Float[Tensor, "d_model"], label: str) -> _Tested:
    clean = float(output(model, trace, 0, label)[-1] @ direction)
    if not label.startswith("L"):
        return _Tested(label, clean, None)
    layer, head = layer_of(label), head_of(label)
    assert trace.resid_pre is not None
    values = model.normalize(trace.resid_pre[layer, 0]) @ model.w_v(layer)[:, head]
    through = model.weights["W_O"][layer, head] @ direction
    # a copy, or the keys of all heads would stay with it
    return _Tested(label, clean, _Head(layer, head, trace.k[layer, 0, :-1, head].clone(), values[:-1], through))


def _replaced(model: LeanModel, trace: Trace, scene: _Scene, tested: _Tested) -> Float[Tensor, "input donor"]:
    """A component's attribution with each donor's input, at the last position alone and at all."""
    position, head = scene.place.position, tested.head
    if head is None:
        vectors = [output(model, trace, donor, tested.label)[position] for donor in range(trace.z.shape[1])]
        return (torch.stack(vectors) @ scene.direction).expand(len(INPUTS), -1)
    everywhere = trace.z[head.layer, :, position, head.head] @ head.direction
    return torch.stack([_last_replaced(model, trace, position, head) @ head.direction, everywhere])


def _last_replaced(model: LeanModel, trace: Trace, position: int, head: _Head) -> Float[Tensor, "donor d_head"]:
    """A head's z with query, key and value of the last position from each donor, all earlier keys and values clean."""
    assert trace.resid_pre is not None
    stream = trace.resid_pre[head.layer, :, position]
    attended = model.attend(head.layer, stream[:, None])
    query, key = attended.q[:, 0, head.head], attended.k[:, 0, head.head]
    value = model.normalize(stream) @ model.w_v(head.layer)[:, head.head]
    scores = torch.cat([query @ head.keys.T, (query * key).sum(dim=-1, keepdim=True)], dim=1)
    weights = functional.softmax(scores / model.config.attn_scale, dim=-1)
    return weights[:, :-1] @ head.values + weights[:, -1:] * value


def _export(scenes: Sequence[_Scene]) -> State:
    """The clean runs, the same in every shard."""
    return {
        "top": np.array([scene.top.tolist() for scene in scenes]),
        "logit_diff": np.array([scene.logit_diff for scene in scenes]),
        "clean": np.array([[t.clean for t in scene.tested] + [np.nan] * (2 - len(scene.tested)) for scene in scenes]),
        "component": np.array([[t.label for t in scene.tested] + [""] * (2 - len(scene.tested)) for scene in scenes]),
    }
