"""What the heads of many fields' own groups read: the same in one product of a layer as head by head, and by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.interventions import value_reading
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView, lone_views
from erasure_sweep.workers.measures.interventions.value_reading import read_by_groups
from erasure_sweep.workers.measures.scan.composition import head_of
from erasure_sweep.workers.records import ShardTask, TrustWork, WriterBlock
from tests.support.models.random_models import KINDS, random_lean

N_TOKENS, N_FIELDS = 11, 5


def view_of(kind: str) -> PromptView:
    """A random prompt through a random model in float64."""
    sizes = {"n_layers": 3, "n_heads": 4, "d_model": 32, **KINDS.get(kind, {})}
    model = random_lean(2, dtype=torch.float64, **sizes).model
    place = ("id", "trust", "", "", "", 0, 1, None, 0)
    task = ShardTask(*place, TrustWork(WriterBlock(0, 1), N_TOKENS), batch=1, device="cpu", dtype="float64")
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, model.config.d_vocab, (1, N_TOKENS)))
    return next(iter(lone_views(model, task, tokens, 1)))


def literally(view: PromptView, field: torch.Tensor, group: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of a group's clean outputs, and of what it writes because it reads the field, with the field."""
    model, trace, at = view.model, view.trace, view.positions
    clean, read, left = torch.zeros(len(at)), torch.zeros(len(at)), field
    for layer in range(model.config.n_layers):
        written = torch.zeros_like(field)
        for head in [head_of(label) for label in group if layer_of(label) == layer]:
            values = left / trace.ln1_scale[layer, view.index, :, None] @ model.w_v(layer)[:, head]
            output = view.patterns(layer, [head])[0] @ values @ model.w_o(layer)[head]
            own = trace.z[layer, view.index, :, head] @ model.w_o(layer)[head]
            clean = clean + (own * field).sum(dim=-1)[at]
            read = read + (output * field).sum(dim=-1)[at]
            written += output
        left = left + written
    return clean, read


@pytest.mark.parametrize("most", [0, value_reading.MOST_TOGETHER], ids=["head by head", "together"])
@pytest.mark.parametrize("kind", ["GPT-2", "Llama", "Gemma"])
def test_groups_read_their_own_fields(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_reading, "MOST_TOGETHER", most)
    view, generator = view_of(kind), np.random.default_rng(7)
    heads = [f"L{layer}H{head}" for layer in (1, 2) for head in range(4)]
    groups = [[head for head in heads if generator.random() < 0.8] for _ in range(N_FIELDS)]
    fields = torch.from_numpy(generator.normal(size=(N_FIELDS, N_TOKENS, view.model.config.d_model)))
    with torch.inference_mode():
        found = torch.zeros(2, N_FIELDS, len(view.positions), dtype=torch.float64)
        steps = list(read_by_groups(view, fields, groups))
        for step in steps:
            found[0, step.fields] += step.clean
            found[1, step.fields] += step.read
        expected = [literally(view, field, group) for field, group in zip(fields, groups, strict=True)]
    assert len(steps) == (2 if most else len({head for group in groups for head in group}))
    for side in range(2):
        torch.testing.assert_close(found[side], torch.stack([each[side] for each in expected]), rtol=1e-9, atol=1e-10)
