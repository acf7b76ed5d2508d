"""What the measures of the stage ``adversarial`` take in: the clean run at every place, then runs of other prompts, the donors.

The clean runs are made anew by every shard, each of a block of donors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import run_on
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.positions import prompt_lengths
from erasure_sweep.workers.records import AdversarialWork, Place


class CleanRun:
    """The prompt of a place, up to the place, which is its one measured position; the stream is kept.

    Args:
        view: the prompt.
        means: of every term over the scan.
    """

    def __init__(self, place: Place, view: PromptView, means: Float[Tensor, "term d_model"] | None) -> None:
        self.place, self.view, self.trace = place, view, view.trace
        self._means = means
        self._ablated: dict[str, Tensor] = {}

    def mean(self, label: str) -> Float[Tensor, "d_model"]:
        """A component's mean output over the scan."""
        assert self._means is not None, "the scan comes first"
        return self._means[self.view.model.config.layout.term_index[label]]

    def total(self, label: str, direction: Float[Tensor, "token d_model"], start: int) -> Float[Tensor, "token"]:
        """What of a component's attribution arrives at the tokens from ``start`` on.

        Its output is replaced by its mean at every position at which it is a source, and everything behind it computed anew:
        by how much the difference of the logits along each token's ``direction`` is smaller then. NaN before the first source.
        """
        view, model = self.view, self.view.model
        if label not in self._ablated:
            edit = self.mean(label) - view.output(label)
            edit[: view.first] = 0.0
            resid = (view.written_stream(label) + edit)[None]
            for step in run_on(model, resid, view.reader_of(label)):
                resid = step.resid
            self._ablated[label] = resid[0]
        clean, ablated = view.final[start:], self._ablated[label][start:]
        left = (ablated * direction).sum(dim=-1) * model.scale(clean) / model.scale(ablated)
        lost = (clean * direction).sum(dim=-1) - left
        lost[: max(0, view.first - start)] = torch.nan
        return lost


class DonorRun(NamedTuple):
    """Some donors, cut behind the last place; the stream is kept."""

    first: int
    """Index of the first of them among the shard's donors."""
    donors: tuple[int, ...]
    """Indices in the corpus."""
    lengths: tuple[int, ...]
    """Tokens of each; nothing is lent at positions behind them."""
    trace: Trace


def place_runs(
    model: LeanModel,
    work: AdversarialWork,
    tokens: Integer[np.ndarray, "prompt pos"],
    batch: int,
    first: int,
    means: Float[Tensor, "term d_model"] | None,
) -> Iterator[CleanRun | DonorRun]:
    """All runs of a shard, those of the places first and in their order.

    Args:
        tokens: of the whole corpus.
        batch: donors in one forward pass.
        first: the first position at which a writer's output is a source.
        means: of every term over the scan.
    """
    for place in work.places:
        prompt = work.given[place.prompt] if place.source == "given" else tokens[place.prompt]
        ids = torch.from_numpy(np.array(prompt[: place.position + 1], dtype=np.int64)).to(model.device)
        trace = model.trace(ids[None], torch.tensor([[place.position]], device=model.device), keep_resid=True)
        yield CleanRun(place, PromptView(model, trace, 0, place.prompt, 0, ids, first), means)
    longest = max(place.position for place in work.places) + 1
    for start in range(0, len(work.donors), batch):
        donors = work.donors[start : start + batch]
        padded = np.ascontiguousarray(tokens[list(donors), :longest], dtype=np.int64)
        ids = torch.from_numpy(padded).clamp(min=0).to(model.device)
        trace = model.trace(ids, torch.zeros_like(ids[:, :1]), keep_resid=True)
        yield DonorRun(start, donors, tuple(prompt_lengths(padded).tolist()), trace)


def adversarial_work(size: ShardSize) -> AdversarialWork:
    """What a shard of the stage ``adversarial`` measures."""
    assert isinstance(size.work, AdversarialWork)
    return size.work


CLEAN_RUNS = SharedProduct("runs at the places", lambda size: Cost(passes=len(adversarial_work(size).places)))
DONOR_RUNS = SharedProduct("runs of the donors", lambda size: Cost(passes=len(adversarial_work(size).donors)))
