"""How much of an ablated head's effect on the correct next token later components give back (Rushing and Nanda 2024).

At every token but the last, g is the direction of the logit of the token that really follows, over the clean final scale. A
head's output is replaced, at every position, by what it writes at the same position of the next prompt. Of the tokens with the
largest direct effect of each head (two in a hundred), or of all:

    total change = −(direct − direct after ablation) + repair by the final norm + by heads + by MLPs

exactly, with changes and repairs those of the correct token's logit in the ablated run over the clean one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.replaced_writer import Replacer, mediators, together, written
from erasure_sweep.workers.models.forward import LeanModel

TOP_SHARE = 0.02
"""Of all tokens, those with the largest direct effect of a head."""


class SelfRepair(NamedTuple):
    """Means over some tokens, of each head; in logits."""

    direct: Float[np.ndarray, "head"]
    direct_after_ablation: Float[np.ndarray, "head"]
    total_change: Float[np.ndarray, "head"]
    repair_by_final_norm: Float[np.ndarray, "head"]
    repair_by_heads: Float[np.ndarray, "head"]
    repair_by_mlps: Float[np.ndarray, "head"]


@torch.inference_mode()
def measure_self_repair(
    model: LeanModel,
    prompts: Int[np.ndarray, "prompt pos"],
    share: float,
    progress: Callable[[int], None] = lambda done: None,
) -> SelfRepair:
    """Self-repair of every head.

    Args:
        prompts: token ids; two prompts or more.
        share: of all tokens, those with the largest direct effect of each head; 1 takes all.
        progress: told after each prompt how many are done.
    """
    tokens = torch.from_numpy(np.array(prompts, dtype=np.int64))
    heads, places = model.config.layout.heads, mediators(model.config.layout)
    effects = torch.stack([_direct(_view(model, row)) for row in tokens])
    chosen = _largest(effects, share)
    sums = torch.zeros(len(heads), 3 + len(places), dtype=torch.float64, device=model.device)
    for at in range(len(tokens)):
        view, partner = _view(model, tokens[at]), _view(model, tokens[(at + 1) % len(tokens)])
        replacer = Replacer(view)
        wanted = [head for index, head in enumerate(heads) if chosen[at, index].any()]
        for labels in together(view, wanted):
            rows = [heads.index(label) for label in labels]
            mask = chosen[at, rows].double()
            found = replacer.replace(
                labels, written(view, labels), written(partner, labels), weigh=lambda _, mask=mask: mask
            )
            parts = (found.attribution, found.attribution - found.direct, -found.effect)
            sums[rows, :3] += torch.stack([(part.double() * mask).sum(dim=1) for part in parts], dim=1)
            sums[rows, 3:] -= found.mediated
        progress(at + 1)
    means = (sums / chosen.sum(dim=(0, 2))[:, None]).cpu().numpy()
    of_heads = [3 + index for index, place in enumerate(places) if is_head(place)]
    of_mlps = [3 + index for index, place in enumerate(places) if place.startswith("MLP")]
    direct, after, total = means[:, :3].T
    repairs = means[:, -1], means[:, of_heads].sum(axis=1), means[:, of_mlps].sum(axis=1)
    return SelfRepair(direct, after, total, *repairs)


def _view(model: LeanModel, tokens: Int[Tensor, "pos"]) -> PromptView:
    """A prompt, seen at every token but the last along the logit of the token that follows."""
    ids, at = tokens.to(model.device), torch.arange(len(tokens) - 1, device=model.device)
    view = PromptView(model, model.trace(ids[None], at[None], keep_resid=True), 0, 0, 0, ids, first=0)
    view.logit_direction = model.logit_row(ids[1:]) / view.final_scale[:, None]
    view.trace = view.trace._replace(logit_direction=view.logit_direction[None])
    return view


def _direct(view: PromptView) -> Float[Tensor, "head token"]:
    outputs = written(view, view.model.config.layout.heads)[:, view.positions]
    return torch.einsum("htd,td->ht", outputs, view.logit_direction)


def _largest(effects: Float[Tensor, "prompt head token"], share: float) -> Bool[Tensor, "prompt head token"]:
    """The tokens of all prompts with each head's largest direct effects; of equals the first."""
    n_prompts, n_heads, n_tokens = effects.shape
    flat = effects.transpose(0, 1).reshape(n_heads, -1)
    n = max(1, round(share * flat.shape[1]))
    order = flat.sort(dim=1, descending=True, stable=True).indices[:, :n]
    found = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    return found.view(n_heads, n_prompts, n_tokens).transpose(0, 1)
