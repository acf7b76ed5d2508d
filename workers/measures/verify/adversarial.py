"""The substage ``adversarial``: does a high attribution arrive, and does it come from this text?

At a place of high attribution the writer's output is replaced by its mean over the scan, everything behind it computed anew,
and what is lost of the logit difference set beside the attribution: where far less of it arrives, DLA is fooled. An attribution
that is the mean's own, an offset that no prompt changes, says nothing of this: what is beyond the mean has to be large as well.

At a place of high attribution the writer's LayerNorm-ed input is replaced by that of unrelated prompts (donors) cut to the
same length, and the attribution on the clean logit difference, over the clean final scale, is taken again: with the input
replaced at the last position, as the paper's authors did, and at all positions. A component that is at work there should
lose its attribution; one whose attribution stays as it is writes the same whatever it reads (Janiak et al. 2024, section
3.5); it does not follow that it does not arrive. The same is done for the other head whose attribution is highest there.

With all inputs replaced, a head's output is the donor's own at that position, so that a donor costs one forward pass
whatever the number of places. The clean runs are made anew by every shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.place_runs import (
    CLEAN_RUNS,
    DONOR_RUNS,
    CleanRun,
    DonorRun,
    adversarial_work,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, Texts, columns_of
from erasure_sweep.workers.measures.scan.composition import head_of, output
from erasure_sweep.workers.models.forward import LeanModel, top_two
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import AdversarialWork, Place, State
from erasure_sweep.workers.tables.columns import QUANTILES, Columns
from erasure_sweep.workers.tables.declarations.adversarial import ARRIVES, LARGE

INPUTS = ("last", "all")
ROLES = ("writer", "other")

DECIMALS = 4
"""Changes that are alike up to these go by the attribution, the higher first: what is left is rounding."""

STORED_BYTES_PER_TRIAL = 16
"""For each place and donor, on disk."""


class _Head(NamedTuple):
    """A head's clean keys and values before the place, and what a product with its output goes through."""

    layer: int
    head: int
    keys: Float[Tensor, "source d_head"]
    values: Float[Tensor, "source d_head"]
    direction: Float[Tensor, "d_head"]
    """W_O times the logit direction, over the scale of a norm behind the layer."""


class _Tested(NamedTuple):
    """One component at one place."""

    label: str
    clean: float
    direct: float
    """Of the output without its mean."""
    total: float
    """What arrives; NaN, as ``direct``, where it is not asked for."""
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


class AdversarialAccumulator:
    """Attributions at every place, clean and with the inputs of each donor of the shard."""

    def __init__(self, block: Block[AdversarialWork]) -> None:
        self._model, work = block.model, block.work
        self._with_totals = work.tokens
        self._scenes: list[_Scene] = []
        self._patched = np.full((len(work.places), len(ROLES), len(INPUTS), len(work.donors)), np.nan)

    def update(self, products: CleanRun | DonorRun) -> None:
        """Take in the clean run of a place, or donors once all places are there."""
        if isinstance(products, CleanRun):
            self._scenes.append(_scene(products, self._with_totals))
            return
        first, donors, lengths, trace = products
        for row, scene in enumerate(self._scenes):
            place = scene.place
            # neither the place's own prompt nor one that ends before it
            left_out = [
                (place.source == "found" and donor == place.prompt) or length <= place.position
                for donor, length in zip(donors, lengths, strict=True)
            ]
            for role, tested in enumerate(scene.tested):
                values = _replaced(self._model, trace, scene, tested).cpu().numpy().astype(np.float64)
                values[:, left_out] = np.nan
                self._patched[row, role, :, first : first + len(donors)] = values

    def export(self) -> State:
        """The clean runs, the same in every shard, and what its donors did: [place, role, input, donor]."""
        nothing = _Tested("", np.nan, np.nan, np.nan, None)
        tested = [[*scene.tested, *[nothing] * (2 - len(scene.tested))] for scene in self._scenes]
        return {
            "top": np.array([scene.top.tolist() for scene in self._scenes]),
            "logit_diff": np.array([scene.logit_diff for scene in self._scenes]),
            **{
                name: np.array([[getattr(each, name) for each in row] for row in tested])
                for name in ("clean", "direct", "total")
            },
            "component": np.array([[each.label for each in row] for row in tested]),
            "patched": self._patched,
        }


def _scene(run: CleanRun, with_totals: bool) -> _Scene:
    """The clean run at a place."""
    place, trace, model = run.place, run.trace, run.view.model
    assert trace.resid_pre is not None
    final = trace.resid_pre[-1, 0, -1:]
    # The very product that the trace takes its top two from: near ties must not be decided otherwise here.
    logits = model.unembed(model.normalize(final))
    top = top_two(logits.clone())[0]
    direction = trace.logit_direction[0, 0]
    outputs = torch.stack([model.w_o(layer) for layer in range(model.config.n_layers)])
    dla = torch.einsum("lhe,lhed,d->lh", trace.z[:, 0, -1], outputs, direction)
    labels = [place.writer, *_strongest_other(model, dla, place.writer)]
    tested = tuple(_tested(run, direction, label, with_totals) for label in labels)
    return _Scene(place, top, float(logits[0, top[0]] - logits[0, top[1]]), direction, tested)


def _strongest_other(model: LeanModel, dla: Float[Tensor, "layer head"], writer: str) -> list[str]:
    """The head with the highest attribution that is not the writer; none in a model with one head."""
    n_heads = model.config.n_heads
    heads = [label for label in model.config.layout.heads if label != writer]
    values = dla.flatten().tolist()
    return [max(heads, key=lambda label: values[layer_of(label) * n_heads + head_of(label)])] if heads else []


def _tested(run: CleanRun, direction: Float[Tensor, "d_model"], label: str, with_totals: bool) -> _Tested:
    trace, model, written = run.trace, run.view.model, run.view.output(label)[-1]
    clean, direct, total = float(written @ direction), np.nan, np.nan
    if with_totals and run.place.position >= run.view.first:
        direct = float((written - run.mean(label)) @ direction)
        total = float(run.total(label, direction[None], run.place.position)[0])
    if not label.startswith("L"):
        return _Tested(label, clean, direct, total, None)
    layer, head = layer_of(label), head_of(label)
    assert trace.resid_pre is not None
    values = model.read(trace.resid_pre[layer, 0]) @ model.w_v(layer)[:, head]
    through = model.w_o(layer)[head] @ direction
    if trace.write_scale is not None:
        through = through / trace.write_scale[layer, 0, -1]
    # a copy, or the keys of all heads would stay with it
    return _Tested(
        label, clean, direct, total, _Head(layer, head, trace.k[layer, 0, :-1, head].clone(), values[:-1], through)
    )


def _replaced(model: LeanModel, trace: Trace, scene: _Scene, tested: _Tested) -> Float[Tensor, "input donor"]:
    """A component's attribution with each donor's input, at the last position alone and at all."""
    position, head = scene.place.position, tested.head
    if head is None:
        vectors = [output(model, trace, donor, tested.label)[position] for donor in range(trace.z.shape[1])]
        return (torch.stack(vectors) @ scene.direction).expand(len(INPUTS), -1)
    everywhere = trace.z[head.layer, :, position, head.head] @ (model.w_o(head.layer)[head.head] @ scene.direction)
    return torch.stack([_last_replaced(model, trace, position, head) @ head.direction, everywhere])


def _last_replaced(model: LeanModel, trace: Trace, position: int, head: _Head) -> Float[Tensor, "donor d_head"]:
    """A head's values weighted, with query, key and value of the last position from each donor, all earlier ones clean."""
    assert trace.resid_pre is not None
    stream = trace.resid_pre[head.layer, :, position]
    attended = model.attend(head.layer, stream[:, None], first=position)
    query, key = attended.q[:, 0, head.head], attended.k[:, 0, head.head]
    value = model.read(stream) @ model.w_v(head.layer)[:, head.head]
    scores = torch.cat([query @ head.keys.T, (query * key).sum(dim=-1, keepdim=True)], dim=1)
    at = torch.full((len(scores),), position, device=scores.device)
    weights = model.attention_weights(head.layer, scores[None], at, [head.head])[0]
    return weights[:, :-1] @ head.values + weights[:, -1:] * value


class Adversarial(Measure[AdversarialWork, Block[AdversarialWork], CleanRun | DonorRun]):
    """Which high attributions are there whatever the component reads."""

    stage, name = "adversarial", "adversarial"
    needs = (CLEAN_RUNS, DONOR_RUNS)
    tables = ("adversarial",)

    def start(self, shard: Block[AdversarialWork]) -> AdversarialAccumulator:
        """An empty state for one shard."""
        return AdversarialAccumulator(shard)

    def merge(self, block: Block[AdversarialWork], states: Iterable[State]) -> State:
        """The clean runs of the first shard, and the donors of all."""
        parts = list(states)
        return parts[0] | {"patched": np.concatenate([state["patched"] for state in parts], axis=-1)}

    def columns(
        self, block: Block[AdversarialWork], states: Mapping[str, State], setting: Setting
    ) -> dict[str, Columns]:
        """Every place, its writer and the strongest other head, with the last and with all inputs replaced."""
        return columns_of({self.name: list(_rows(block.work.places, states[self.name], setting.texts))})

    def cost(self, size: ShardSize) -> Cost:
        """In one shard a rerun of each place for the writer and one for the other head; next to nothing beside the runs."""
        work = adversarial_work(size)
        reruns = len(ROLES) * len(work.places) * work.tokens
        return Cost(reruns / 2, stored_bytes=STORED_BYTES_PER_TRIAL * len(work.places) * len(work.donors))


def _rows(places: Sequence[Place], state: State, texts: Texts) -> Iterator[Row]:
    """Places are ranked among those of one writer, source and half: first is the one whose attribution the last position's
    input changes least."""
    spread, clean = _quantiles(state["patched"]), state["clean"]
    change = _change(clean[..., None], spread[..., list(QUANTILES).index("median")])
    ranks = _ranks(places, np.round(change[:, 0, 0], DECIMALS), clean[:, 0])
    donors = np.isfinite(state["patched"]).sum(axis=-1)
    for index, place in enumerate(places):
        about = _about(place, index, state, texts) | {"rank": ranks[index]}
        for role, name in enumerate(ROLES):
            label = str(state["component"][index, role])
            of_role = [float(state[column][index, role]) for column in ("clean", "direct", "total")]
            tested = about | {"component": label, "role": name, **_arrival(*of_role)}
            for number, inputs in enumerate(INPUTS if label else ()):
                at = (index, role, number)
                values = dict(zip(QUANTILES, spread[at].tolist(), strict=True))
                yield tested | {"inputs": inputs, **values, "change": float(change[at]), "n": int(donors[at])}


def _quantiles(patched: Float[np.ndarray, "place role input donor"]) -> Float[np.ndarray, "place role input q"]:
    """Quantiles over the donors that count; NaN where none does."""
    found = np.full((*patched.shape[:-1], len(QUANTILES)), np.nan)
    for at in np.ndindex(patched.shape[:-1]):
        known = patched[at][np.isfinite(patched[at])]
        if len(known):
            found[at] = np.quantile(known, list(QUANTILES.values()))
    return found


def _arrival(clean: float, direct: float, total: float) -> Row:
    """What of an attribution arrives, and whether DLA is fooled."""
    large = min(abs(clean), abs(direct)) >= LARGE and clean * direct > 0
    return {
        "clean": clean,
        "direct": direct,
        "total": total,
        "total_share": total / clean if clean else np.nan,
        "fools": None if np.isnan(total) else large and max(total / clean, total / direct) < ARRIVES,
    }


def _about(place: Place, index: int, state: State, texts: Texts) -> Row:
    first, second = (int(token) for token in state["top"][index])
    return {
        "writer": place.writer,
        "source": place.source,
        "half": place.half or None,
        "prompt": place.prompt,
        "position": place.position,
        "text": texts.text(place),
        "top_id": first,
        "top": texts.token(first),
        "second_id": second,
        "second": texts.token(second),
        "logit_diff": float(state["logit_diff"][index]),
    }


def _change(
    clean: Float[np.ndarray, "place role one"], median: Float[np.ndarray, "place role input"]
) -> Float[np.ndarray, "place role input"]:
    """How far the replaced input moves an attribution, relative to it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(median - clean) / np.abs(clean))


def _ranks(places: Sequence[Place], change: Float[np.ndarray, "place"], clean: Float[np.ndarray, "place"]) -> list[int]:
    ranks = [0] * len(places)
    groups = [(place.writer, place.source, place.half) for place in places]
    for group in dict.fromkeys(groups):
        members = [i for i, own in enumerate(groups) if own == group]
        order = sorted(members, key=lambda i: (np.isnan(change[i]), change[i], -clean[i], i))
        for rank, index in enumerate(order, start=1):
            ranks[index] = rank
    return ranks
