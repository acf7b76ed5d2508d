"""Which heads take out what stands in a verified writer's place: shares of placebos and siblings, on the scan's prompts.

Each null is sent down all attention paths, with patterns and scales at their clean values, as every writer is for
``erased``; a head's share is −β of what it adds, onto the null. From the shares follow the nulls' groups. It makes no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.attention_paths import propagate
from erasure_sweep.workers.measures.interventions.placebos import Placebos
from erasure_sweep.workers.measures.interventions.prompt_view import CLEAN_PASS, PromptView
from erasure_sweep.workers.measures.interventions.value_reading import head_reading_flops
from erasure_sweep.workers.measures.interventions.verified_prompt import PLACEBO, SIBLINGS, siblings
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.verify.group_rule import later_heads, strongest_erasers
from erasure_sweep.workers.records import NullErasers, PlaceboWork, State, Target, writers_of
from erasure_sweep.workers.tables.columns import Columns


class NullPrompt(NamedTuple):
    """What stands in a verified writer's place at one prompt: its siblings, then its placebos."""

    view: PromptView
    writer: str
    fields: Float[Tensor, "null pos d_model"]


def null_prompts(views: Iterator[PromptView], work: PlaceboWork, placebos: Placebos) -> Iterator[NullPrompt]:
    """Every prompt, writer by writer."""
    for view in views:
        for writer in work.writers:
            kin = [view.source(label) for label in siblings(view.model.config.layout, writer)]
            turned = placebos.fields(view, writer)
            yield NullPrompt(view, writer, torch.cat([torch.stack(kin), turned]) if kin else turned)


def nulls_of(layout: Layout, writer: str, draws: int) -> list[tuple[str, str]]:
    """Kinds and directions of a writer's nulls, in the order of their fields."""
    kin = [(SIBLINGS, label) for label in siblings(layout, writer)]
    return kin + [(PLACEBO, str(draw)) for draw in range(1, draws + 1)]


class NullSharesAccumulator:
    """Σ of products with what heads add, and Σ of squares, of every null of every writer."""

    def __init__(self) -> None:
        self._products: dict[str, Float[Tensor, "null head"]] = {}
        self._power: dict[str, Float[Tensor, "null"]] = {}

    def update(self, products: NullPrompt) -> None:
        """Take in one writer's nulls at one prompt."""
        view, writer, fields = products
        heads = later_heads(view.model.config.layout, writer)
        found = torch.zeros(len(fields), len(heads), dtype=torch.float64, device=fields.device)
        own, first = fields[:, view.positions], layer_of(heads[0])
        for hop in propagate(view.model, view.trace, view.index, fields.clone(), [first] * len(fields)):
            w_o = view.model.w_o(hop.layer)[hop.heads]
            along = torch.einsum("ntd,hed->nthe", own[hop.fields], w_o)
            start = (hop.layer - first) * len(hop.heads)
            found[hop.fields, start : start + len(hop.heads)] = (hop.mixed * along).sum(dim=(1, 3)).double()
        power = fields[:, view.positions].double().square().sum(dim=(1, 2))
        self._products[writer] = self._products[writer] + found if writer in self._products else found
        self._power[writer] = self._power[writer] + power if writer in self._power else power

    def export(self) -> State:
        """Both, [writer_null] and [writer_null_head] in a row."""
        return {
            "product": torch.cat([values.flatten() for values in self._products.values()]).cpu().numpy(),
            "power": torch.cat(list(self._power.values())).cpu().numpy(),
        }


class NullShares(Measure[PlaceboWork, Block[PlaceboWork], NullPrompt]):
    """Shares of the heads in what is taken out of nulls."""

    stage, name = "placebo", "null_shares"
    needs = (CLEAN_PASS,)
    tables = ()

    def start(self, shard: Block[PlaceboWork]) -> NullSharesAccumulator:
        """An empty state for one shard."""
        return NullSharesAccumulator()

    def merge(self, block: Block[PlaceboWork], states: Iterable[State]) -> State:
        """Sums of all shards, in plan order."""
        return _add_up(states)

    def columns(self, block: Block[PlaceboWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """None."""
        return {}

    def cost(self, size: ShardSize) -> Cost:
        """Every later head reads every null."""
        assert isinstance(size.work, PlaceboWork)
        layout, draws = size.layout, size.work.draws
        readings = sum(len(nulls_of(layout, w, draws)) * len(later_heads(layout, w)) for w in size.work.writers)
        flops = size.n_prompts * readings * head_reading_flops(size)
        return Cost(flops=flops, stored_bytes=8.0 * readings)


def _add_up(states: Iterable[State]) -> State:
    parts = list(states)
    return {name: np.sum([state[name] for state in parts], axis=0) for name in ("product", "power")}


def null_erasers(
    layout: Layout, targets: Sequence[Target], draws: int, states: Iterable[State]
) -> tuple[NullErasers, ...]:
    """The erasers of every null of the targets' writers, from the states of all shards in plan order.

    Of each null as many as the largest of the writer's groups has.
    """
    merged, found, first, cell = _add_up(states), [], 0, 0
    for writer in writers_of(targets):
        most = max(len(target.erasers) for target in targets if target.writer == writer)
        heads = later_heads(layout, writer)
        for null, direction in nulls_of(layout, writer, draws):
            power, products = merged["power"][first], merged["product"][cell : cell + len(heads)]
            shares = dict(zip(heads, (-products / power if power > 0 else products * 0).tolist(), strict=True))
            found.append(NullErasers(writer, null, direction, strongest_erasers(shares)[:most]))
            first, cell = first + 1, cell + len(heads)
    return tuple(found)
