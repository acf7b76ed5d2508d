"""Which direct logit attributions (DLA) to trust: every writer's, beside what replacing the writer really does to the logits.

The writer's output at the source positions is replaced by its mean over the scan, and everything behind it recomputed
(``interventions.replaced_writer`` has d, e and who changes the one into the other). With another prompt's output at shuffled
positions instead, erasure that reads another position shows up halved, and a wholly erased positional head is called partly
cancelled. Beside it, on fewer prompts, stands the partner's output, turned by one offset along the positions: where that gives
another word, the word is not settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.replaced_writer import (
    Replacement,
    Replacer,
    mediators,
    mediators_of,
    together,
    written,
)
from erasure_sweep.workers.measures.measure import Block, Measure, Row, Setting, columns_of, stack
from erasure_sweep.workers.measures.statistics.effect_sums import STATISTICS, TokenSums, judge, numbers_of
from erasure_sweep.workers.measures.statistics.jackknife import jackknife
from erasure_sweep.workers.measures.statistics.prompt_sums import STORED_BYTES_PER_SUM, deal
from erasure_sweep.workers.records import State, TrustWork
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.trust import trust_word

MEAN, ROTATED, MEDIATED = "mean", "rotated", "mediated"
"""What a state holds: ``TokenSums`` where writers are replaced by means, or by rotated outputs, and Σ d·m of each mediator."""


class TrustAccumulator:
    """Sums of each writer and prompt, [prompt, sum, writer], and of its mediators, [prompt, writer, mediator]."""

    def __init__(self, block: Block[TrustWork]) -> None:
        self._block = block
        self._writers = block.work.writers.labels(block.layout)
        self._sums: list[Tensor] = []
        self._mediated: list[Tensor] = []

    def update(self, products: PromptView) -> None:
        """Take in one prompt."""
        replacer, found = Replacer(products), []
        for labels in together(products, self._writers):
            own = written(products, labels)
            other = self._others(products, labels)
            found.append(replacer.replace(labels, own, other, weigh=None if self._block.work.rotated else by_direct))
        self._sums.append(torch.cat([_sums(one) for one in found], dim=1))
        if not self._block.work.rotated:
            self._mediated.append(torch.cat([one.mediated for one in found]))

    def _others(self, view: PromptView, labels: list[str]) -> Float[Tensor, "writer pos d_model"]:
        """What takes the place of some writers' outputs."""
        if self._block.work.rotated:
            return written(view.partner, labels)[:, view.of_partner[view.rotated]]
        index = self._block.layout.term_index
        assert self._block.means is not None, "the stage is handed the scan's means"
        return self._block.means[[index[label] for label in labels], None].expand(-1, view.seq_len, -1)

    def export(self) -> State:
        """Sums prompt by prompt."""
        sums = torch.stack(self._sums).cpu().numpy()
        if self._block.work.rotated:
            return {ROTATED: sums}
        return {MEAN: sums, MEDIATED: torch.stack(self._mediated).cpu().numpy()}


def by_direct(direct: Float[Tensor, "writer token"]) -> Float[Tensor, "writer token"]:
    """Mediators are summed as Σ d·m, so that a writer's shares are of Σ d²."""
    return direct


def _sums(found: Replacement) -> Float[Tensor, "sum writer"]:
    x, d, e = (values.double() for values in (found.attribution, found.direct, found.effect))
    n = torch.full_like(x[:, 0], x.shape[1])
    return torch.stack(TokenSums(n, *(of.sum(dim=1) for of in (x * x, d * d, e * e, d * e, x.abs(), e.abs()))))


def trusted_passes(size: ShardSize) -> float:
    """Forward passes that reading the beginnings of a shard's prompts is worth."""
    assert isinstance(size.work, TrustWork)
    return size.n_prompts * min(1.0, size.work.tokens / size.seq_len)


BEGINNINGS = SharedProduct("clean pass of beginnings", lambda size: Cost(passes=trusted_passes(size)))


class DlaTrust(Measure[TrustWork, Block[TrustWork], PromptView]):
    """What a writer's attribution is worth, and who changes it."""

    stage, name = "trust", "trust"
    needs = (BEGINNINGS,)
    tables = ("dla_trust", "dla_mediation")

    def start(self, shard: Block[TrustWork]) -> TrustAccumulator:
        """An empty state for one shard."""
        return TrustAccumulator(shard)

    def merge(self, block: Block[TrustWork], states: Iterable[State]) -> State:
        """Sums of all prompts, those of each kind of shard together."""
        parts = list(states)
        kinds = {kind: [state[kind] for state in parts if kind in state] for kind in (MEAN, ROTATED, MEDIATED)}
        return {kind: deal(sums) for kind, sums in kinds.items() if sums}

    def columns(self, block: Block[TrustWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """One row for each writer, and one for each of its mediators."""
        state, writers = states[self.name], block.work.writers.labels(block.layout)
        rotated = state.get(ROTATED, np.zeros((0, len(TokenSums._fields), len(writers))))
        rows = [
            _row(writer, state[MEAN][:, :, index], rotated[:, :, index].sum(axis=0), setting)
            for index, writer in enumerate(writers)
        ]
        mediation = [
            _mediation(block.layout, writer, state[MEAN][:, :, index], state[MEDIATED][:, index])
            for index, writer in enumerate(writers)
        ]
        return columns_of({"dla_trust": rows}) | {"dla_mediation": stack(mediation)}

    def cost(self, size: ShardSize) -> Cost:
        """A rerun of each writer, of as many tokens as are trusted."""
        assert isinstance(size.work, TrustWork)
        start, stop = size.work.writers
        mediated = 0 if size.work.rotated else len(mediators(size.layout))
        stored = STORED_BYTES_PER_SUM * size.n_prompts * (stop - start) * (len(TokenSums._fields) + mediated / 2)
        return Cost(trusted_passes(size) * (stop - start) / 2, stored_bytes=stored)


def _mediation(
    layout: Layout,
    writer: str,
    sums: Float[np.ndarray, "prompt sum"],
    mediated: Float[np.ndarray, "prompt mediator"],
) -> Columns:
    """Everything behind a writer."""
    later = mediators_of(layout, writer)
    products = mediated[:, len(mediated[0]) - len(later) :]
    whole = np.repeat(sums[:, :, None], len(later), axis=2)
    whole[:, TokenSums._fields.index("product")] = products
    found = jackknife(whole, *STATISTICS["share"])
    columns: Columns = {"writer": np.full(len(later), writer, dtype=object), "mediator": np.array(later, dtype=object)}
    return columns | found.columns("share")


def _row(
    writer: str, sums: Float[np.ndarray, "prompt sum"], rotated: Float[np.ndarray, "sum"], setting: Setting
) -> Row:
    found, word, settled = judge(sums, setting.trust)
    of, turned = TokenSums(*sums.sum(axis=0)), numbers_of(rotated)
    other = trust_word(turned, setting.trust)
    return {
        "writer": writer,
        "trust": word,
        "settled": settled if word is None or other in (None, word) else False,
        **{column: value for name, estimate in found.items() for column, value in estimate.columns(name).items()},
        "dla_mean_abs": of.dla_abs / of.n,
        "effect_mean_abs": of.effect_abs / of.n,
        "n": int(of.n),
        "rotated_share": turned.share,
        "rotated_r": turned.r,
        "rotated_size": turned.size,
        "rotated_trust": other,
        "n_rotated": int(TokenSums(*rotated).n),
    }
