"""Audits beside what other libraries say: TransformerLens' own attribution and hooks, transformers' hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erasure_sweep.sweep.audit import Audit, audit
from erasure_sweep.workers.models.model_in_memory import hold
from erasure_sweep.workers.models.processing.bridge import quiet
from tests.support.models.bridges import bridge_to
from tests.support.models.families import MODELS
from tests.support.models.hooked import Hooked
from tests.support.models.transformers_models import random_transformer

TOKENS = [3, 17, 4, 29, 11, 8, 23, 5]
ANSWER, AGAINST = 7, 12


def transformer(kind: str) -> Any:
    _, model_type, settings = MODELS[kind]
    return random_transformer(model_type, 1, **settings)


def audited(model: Any, **options: Any) -> Audit:
    return audit(model, TOKENS, ANSWER, AGAINST, **{"baseline": "zero", **options})


def test_bars_are_transformer_lens_direct_logit_attribution() -> None:
    from transformer_lens.tools.analysis import direct_logit_attribution

    bridge = bridge_to(transformer("gpt-2"))
    found = audited(bridge).table.set_index("component")["dla"]
    with quiet():
        bridge.enable_compatibility_mode()
        theirs = direct_logit_attribution(
            bridge, torch.tensor([TOKENS]), ANSWER, incorrect_tokens=AGAINST, unit="head", pos=-1
        )
    for label, value in zip(theirs.labels, theirs.attribution.flatten().tolist(), strict=True):
        if label in found.index:
            assert found[label] == pytest.approx(value, abs=1e-4), label
    assert sum(label in found.index for label in theirs.labels) == 8


def test_effects_are_those_of_transformer_lens_hooks() -> None:
    """A head's output zeroed behind position 0, by a hook on its values; biases of values are no part of a head here."""
    bridge = bridge_to(transformer("gpt-2"))
    found = audited(bridge).table.set_index("component")["effect"]
    with quiet():
        bridge.enable_compatibility_mode()
    tokens = torch.tensor([TOKENS])

    def reaches(hooks: list[Any]) -> float:
        with torch.no_grad(), quiet():
            logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        return float(logits[ANSWER] - logits[AGAINST])

    clean = reaches([])
    for layer in range(2):
        for head in range(4):

            def without(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:
                z = z.clone()
                z[:, 1:, head] = 0.0
                return z

            effect = clean - reaches([(f"blocks.{layer}.attn.hook_z", without)])
            assert found[f"L{layer}H{head}"] == pytest.approx(effect, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen 2"])
def test_effects_are_those_of_hooks_on_transformers_modules(kind: str) -> None:
    model = transformer(kind).double()
    found = audited(model).table.set_index("component")["effect"]
    hooked, tokens, layers = Hooked(model), torch.tensor([TOKENS]), range(model.config.num_hidden_layers)
    clean = hooked.run(tokens, layers)

    def reaches(run: dict[str, torch.Tensor]) -> float:
        return float(run["logits"][0, -1, ANSWER] - run["logits"][0, -1, AGAINST])

    for layer in layers:
        outputs = hooked.outputs(clean, clean, layer)
        for head, output in enumerate(outputs):
            gone = -output.clone()
            gone[:, 0] = 0.0
            run = hooked.run(tokens, layers, added=(f"model.layers.{layer}.self_attn.o_proj", gone))
            assert found[f"L{layer}H{head}"] == pytest.approx(reaches(clean) - reaches(run), abs=1e-8)


@pytest.mark.parametrize("around", [lambda model: model, bridge_to], ids=["transformers", "a bridge"])
def test_the_model_stays_as_it_is(around: Any) -> None:
    model = around(transformer("llama"))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    audited(model, baseline="zero").ablate("L0H0", "L1H1")
    with pytest.raises(Exception, match="no baseline"):
        audited(model, baseline="mode")
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert around is bridge_to or not any(hooks)


def test_a_model_that_is_held_is_read_once(tmp_path: Path) -> None:
    held = hold(transformer("llama"))
    again = audited(held)
    np.testing.assert_array_equal(
        again.table["effect"].to_numpy(float), audited(transformer("llama")).table["effect"].to_numpy(float)
    )
