"""Experts that files keep one by one: stacked where all are there, else left as they are, which no model expects."""

from __future__ import annotations

import torch

from erasure_sweep.workers.models.files.stored_tensors import StoredTensor
from erasure_sweep.workers.models.processing.fused_experts import with_fused_experts

LAYER = "model.layers.0.block_sparse_moe.experts"


def expert(number: int, name: str) -> dict[str, StoredTensor]:
    values = torch.full((3, 2) if name != "w2" else (2, 3), float(number))
    return {f"{LAYER}.{number}.{name}.weight": StoredTensor(tuple(values.shape), lambda: values)}


def test_all_are_stacked() -> None:
    files = {key: of for number in (0, 1) for name in ("w1", "w2", "w3") for key, of in expert(number, name).items()}
    found = with_fused_experts(files)
    assert {name.rsplit(".", 1)[1]: tensor.shape for name, tensor in found.items()} == {
        "gate_up_proj": (2, 6, 2),
        "down_proj": (2, 2, 3),
    }
    assert [tensor.read()[1].unique().tolist() for tensor in found.values()] == [[1.0], [1.0]]


def test_a_number_beyond_all_others_is_not_counted_up_to() -> None:
    files = expert(0, "w1") | expert(10**12, "w1")
    assert with_fused_experts(files) == files
