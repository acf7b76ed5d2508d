"""A writer's attribution token by token, up to a place: as DLA says, net of what later heads take back, and what arrives.

At every token the difference is that of its own two most likely next tokens, over the final scale there. Net, what all later
heads write because the writer, or what earlier ones made of it, is in their values is added. The clean run of the place serves:
it kept the stream, from which the queries and logits of more tokens than the last one are had without another pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.interventions.place_runs import CLEAN_RUNS, CleanRun, DonorRun
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.measures.measure import Block, Measure, Setting, columns_of
from erasure_sweep.workers.measures.verify.group_rule import later_heads
from erasure_sweep.workers.records import AdversarialWork, State, Target
from erasure_sweep.workers.tables.columns import Columns

SHOWN = 128
"""How many tokens of a prompt, the last."""


class TokenDla(NamedTuple):
    """The last tokens of a place's prompt, DLA in logits."""

    position: Int[np.ndarray, "token"]
    token_id: Int[np.ndarray, "token"]
    dla: Float[np.ndarray, "token"]
    net_dla: Float[np.ndarray, "token"]
    total: Float[np.ndarray, "token"]
    """What arrives; NaN before the first position at which the writer is a source."""


def token_dla(run: CleanRun) -> TokenDla:
    """A place's tokens."""
    writer, view = run.place.writer, run.view
    start = max(0, run.place.position + 1 - SHOWN)
    shown = _measured_from(view, start)
    direct = (shown.written(writer) * shown.logit_direction).sum(dim=-1)
    total, net = run.total(writer, shown.logit_direction, start), direct
    if heads := later_heads(view.model.config.layout, writer):
        reader = GroupReader(shown, Target(writer, heads, "all"))
        parts = reader.read(shown.source(writer)[None])
        net = direct + reader.along(parts, shown.logit_direction[None]).sum(dim=(0, 1))
    values = (shown.positions, view.tokens[start:], *(value.double() for value in (direct, net, total)))
    return TokenDla(*(value.cpu().numpy() for value in values))


def _measured_from(view: PromptView, start: int) -> PromptView:
    """The prompt with all positions from ``start`` on measured."""
    trace, model = view.trace, view.model
    assert trace.resid_pre is not None
    # Near ties at the place itself must not be decided otherwise here than where its attribution was tested.
    before = model.logit_direction(trace.resid_pre[-1][:, start:])[:, :-1]
    direction = torch.cat([before, trace.logit_direction], dim=1)
    positions = torch.arange(start, view.seq_len, device=model.device)[None]
    trace = trace._replace(positions=positions, logit_direction=direction)
    return PromptView(model, trace, 0, view.corpus_prompt, view.seed, view.tokens, view.first)


class AdversarialTokensAccumulator:
    """The tokens of every place, in the one shard of a model that is asked for them."""

    def __init__(self, block: Block[AdversarialWork]) -> None:
        self._asked = block.work.tokens
        self._places: list[TokenDla] = []

    def update(self, products: CleanRun | DonorRun) -> None:
        """Take in the clean run of a place."""
        if self._asked and isinstance(products, CleanRun):
            self._places.append(token_dla(products))

    def export(self) -> State:
        """The tokens of all places behind one another, each with the index of its place; nothing in other shards."""
        if not self._asked:
            return {}
        lengths = [len(tokens.position) for tokens in self._places]
        joined = {name: np.concatenate([getattr(tokens, name) for tokens in self._places]) for name in TokenDla._fields}
        return {"place": np.repeat(np.arange(len(lengths)), lengths), **joined}


class AdversarialTokens(Measure[AdversarialWork, Block[AdversarialWork], CleanRun | DonorRun]):
    """A writer's attribution at the tokens up to a place."""

    stage, name = "adversarial", "adversarial_tokens"
    needs = (CLEAN_RUNS,)
    tables = ("adversarial_tokens",)

    def start(self, shard: Block[AdversarialWork]) -> AdversarialTokensAccumulator:
        """An empty state for one shard."""
        return AdversarialTokensAccumulator(shard)

    def merge(self, block: Block[AdversarialWork], states: Iterable[State]) -> State:
        """That of the one shard that has the tokens."""
        return next(state for state in states if state)

    def columns(
        self, block: Block[AdversarialWork], states: Mapping[str, State], setting: Setting
    ) -> dict[str, Columns]:
        """Every place's tokens, up to the place."""
        state, places = states[self.name], block.work.places
        texts = setting.texts.tokens(state["token_id"].tolist())
        numbers = [state[name].tolist() for name in ("place", *TokenDla._fields)]
        rows = [
            {
                **{"writer": places[index].writer, "source": places[index].source, "half": places[index].half or None},
                **{"prompt": places[index].prompt, "place": places[index].position},
                **{"position": position, "token_id": token_id, "token": text},
                **{"dla": dla, "net_dla": net_dla, "total": total},
            }
            for index, position, token_id, dla, net_dla, total, text in zip(*numbers, texts, strict=True)
        ]
        return columns_of({self.name: rows})

    def cost(self, size: ShardSize) -> Cost:
        """Next to nothing beside the runs."""
        return Cost()
