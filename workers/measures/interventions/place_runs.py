"""What the measures of the stage ``adversarial`` take in: the clean run at every place, then runs of other prompts, the donors.

The clean runs are made anew by every shard, each of a block of donors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.models.forward import LeanModel, Trace
from erasure_sweep.workers.records import AdversarialWork, Place


class CleanRun(NamedTuple):
    """The prompt of a place, up to the place, which is its one measured position; the stream is kept."""

    place: Place
    ids: Int[Tensor, "pos"]
    trace: Trace
    first: int
    """The first position at which a writer's output is a source."""


class DonorRun(NamedTuple):
    """Some donors, cut behind the last place; the stream is kept."""

    first: int
    """Index of the first of them among the shard's donors."""
    donors: tuple[int, ...]
    """Indices in the corpus."""
    trace: Trace


def place_runs(
    model: LeanModel, work: AdversarialWork, tokens: Integer[np.ndarray, "prompt pos"], batch: int, first: int
) -> Iterator[CleanRun | DonorRun]:
    """All runs of a shard, those of the places first and in their order.

    Args:
        tokens: of the whole corpus.
        batch: donors in one forward pass.
        first: the first position at which a writer's output is a source.
    """
    for place in work.places:
        prompt = work.given[place.prompt] if place.source == "given" else tokens[place.prompt]
        ids = torch.from_numpy(np.array(prompt[: place.position + 1], dtype=np.int64))
        last = torch.tensor([[place.position]], device=model.device)
        yield CleanRun(place, ids, model.trace(ids.to(model.device)[None], last, keep_resid=True), first)
    longest = max(place.position for place in work.places) + 1
    for start in range(0, len(work.donors), batch):
        donors = work.donors[start : start + batch]
        ids = torch.from_numpy(np.ascontiguousarray(tokens[list(donors), :longest], dtype=np.int64)).to(model.device)
        yield DonorRun(start, donors, model.trace(ids, torch.zeros_like(ids[:, :1]), keep_resid=True))


def adversarial_work(size: ShardSize) -> AdversarialWork:
    """What a shard of the stage ``adversarial`` measures."""
    assert isinstance(size.work, AdversarialWork)
    return size.work


CLEAN_RUNS = SharedProduct("runs at the places", lambda size: Cost(passes=len(adversarial_work(size).places)))
DONOR_RUNS = SharedProduct("runs of the donors", lambda size: Cost(passes=len(adversarial_work(size).donors)))
