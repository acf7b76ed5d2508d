"""Experts that files keep one by one, as the two tensors of a layer that transformers has of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from erasure_sweep.workers.models.files.stored_tensors import StoredTensor

_ROUTER = re.compile(r"(.*)\.block_sparse_moe\.gate\.weight")
_EXPERT = re.compile(r"(.*)\.(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(\w+)\.weight")
_GATE, _ENTER, _LEAVE = ("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")
"""What Mixtral's files and all others' call the matrices of an expert."""


def with_fused_experts(found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of files under transformers' names, those of experts stacked; what is no part of experts as it is.

    Experts are left as they are where some are missing or differ in shape: then they are no part of any model.
    """
    rest, experts = dict[str, StoredTensor](), defaultdict[str, dict[tuple[int, str], str]](dict)
    for name, tensor in found.items():
        if match := _EXPERT.fullmatch(name):
            experts[match[1]][int(match[2]), match[3]] = name
        else:
            rest[_ROUTER.sub(r"\1.mlp.gate.weight", name)] = tensor
    for layer, names in experts.items():
        rest |= _fused(f"{layer}.mlp.experts.", names, found) or {name: found[name] for name in names.values()}
    return rest


def _fused(
    prefix: str, names: Mapping[tuple[int, str], str], found: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor] | None:
    n_experts = 1 + max(expert for expert, _ in names)
    if len(names) != 3 * n_experts:  # before so many are counted through: a name may say any number
        return None

    def of(kind: tuple[str, ...]) -> list[StoredTensor]:
        keys = [(expert, name) for expert in range(n_experts) for name in kind if (expert, name) in names]
        return [found[names[key]] for key in keys]

    gate, enter, leave = of(_GATE), of(_ENTER), of(_LEAVE)
    same = all(len(kind) == n_experts and len({tensor.shape for tensor in kind}) == 1 for kind in (gate, enter, leave))
    if not same or gate[0].shape != enter[0].shape:
        return None
    wide, deep = gate[0].shape
    both = StoredTensor((n_experts, 2 * wide, deep), partial(_stack, [gate, enter]))
    return {
        f"{prefix}gate_up_proj": both,
        f"{prefix}down_proj": StoredTensor((n_experts, *leave[0].shape), partial(_stack, [leave])),
    }


def _stack(kinds: list[list[StoredTensor]]) -> Tensor:
    """One matrix an expert, those of several kinds one below the other."""
    return torch.stack([torch.cat([tensor.read() for tensor in of_one]) for of_one in zip(*kinds, strict=True)])
