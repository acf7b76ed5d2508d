"""A writer's attribution token by token, up to a place: as DLA says, and net of what later heads take back.

At every token the difference is that of its own two most likely next tokens, over the final scale there. Net, the
V-composed parts of all later heads from the writer are added, as in ``dla_trust``. The clean run of the place serves: it
kept the stream, from which the queries and logits of more tokens than the last one are had without another pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.scan.composition import Composer, output
from erasure_sweep.workers.models.forward import LeanModel, Trace
from erasure_sweep.workers.records import Place, ScanOptions, State, WriterBlock

SHOWN = 128
"""How many tokens of a prompt, the last."""


class TokenDla(NamedTuple):
    """The last tokens of a place's prompt, DLA in logits."""

    position: Int[np.ndarray, "token"]
    token_id: Int[np.ndarray, "token"]
    dla: Float[np.ndarray, "token"]
    net_dla: Float[np.ndarray, "token"]


def token_dla(model: LeanModel, trace: Trace, place: Place, ids: Int[Tensor, "pos"]) -> TokenDla:
    """A place's tokens.

    Args:
        trace: of the prompt that ends at the place, which is its one measured position, with the stream kept.
        ids: of that prompt.
    """
    start = max(0, place.position + 1 - SHOWN)
    shown = _measured_from(model, trace, start)
    writer = model.config.layout.writers.index(place.writer)
    composer = Composer(model, WriterBlock(writer, writer + 1), ScanOptions())
    direct = (output(model, trace, 0, place.writer)[start:] * shown.logit_direction[0]).sum(dim=-1)
    taken_back = composer.parts(shown, 0).dla[composer.rows.later(0)]
    values = (shown.positions[0], ids[start:], direct.double(), (direct + taken_back).double())
    return TokenDla(*(value.cpu().numpy() for value in values))


def _measured_from(model: LeanModel, trace: Trace, start: int) -> Trace:
    """What of the trace the V-composed parts need, with all positions from ``start`` on measured."""
    assert trace.resid_pre is not None
    stream = trace.resid_pre[:, :, start:]
    queries = torch.stack([model.attend(layer, stream[layer]).q for layer in range(model.config.n_layers)])
    # Near ties at the place itself must not be decided otherwise here than where its attribution was tested.
    direction = torch.cat([model.logit_direction(stream[-1])[:, :-1], trace.logit_direction], dim=1)
    positions = torch.arange(start, trace.resid_pre.shape[2], device=model.device)[None]
    return trace._replace(positions=positions, q=queries, logit_direction=direction)


def tokens_state(found: Sequence[TokenDla]) -> State:
    """The tokens of all places behind one another, each with the index of its place."""
    lengths = [len(tokens.position) for tokens in found]
    joined = {name: np.concatenate([getattr(tokens, name) for tokens in found]) for name in TokenDla._fields}
    return {"place": np.repeat(np.arange(len(found)), lengths), **joined}
