"""Models in memory: the same weights as from their files, the model left as it was, and what is no such model refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.files.staged_weights import content_hash
from erasure_sweep.workers.models.model_in_memory import hold
from erasure_sweep.workers.models.processing.bridge import quiet
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.sources import find_model_files
from tests.support.models.bridges import boot_bridge, bridge_to
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.random_models import random_config, tl_config_json, tl_state_dict, write_tl_directory
from tests.support.models.transformers_models import random_transformer

BRIDGED = ("llama", "pythia", "qwen 3", "gemma 2", "gpt-2")


def model_of(kind: str) -> Any:
    """A model of transformers that TransformerLens takes; it reads a number of key-value heads where it is of no meaning."""
    _, model_type, settings = MODELS[kind]
    return random_transformer(model_type, 1, **settings, **({"num_key_value_heads": 4} if kind == "pythia" else {}))


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_transformers_is_what_its_files_are(kind: str, tmp_path: Path) -> None:
    source, model = files_of(tmp_path, kind)
    config, exact = float64_weights(MODELS[kind][0], source)
    held = hold(model)
    assert held.config == config
    assert held.hash == content_hash(config, {name: values.float() for name, values in exact.items()})
    assert held.tokenizer is None


@pytest.mark.parametrize("kind", BRIDGED)
def test_a_bridge_is_the_model_that_it_stands_around(kind: str) -> None:
    held, bridged = hold(model_of(kind)), hold(bridge_to(model_of(kind)))
    assert (bridged.hash, bridged.name) == (held.hash, "held")


@pytest.mark.parametrize("kind", [kind for kind in BRIDGED if kind != "pythia"])
def test_a_bridge_that_was_processed_is_read_all_the_same(kind: str) -> None:
    held, bridge = hold(model_of(kind)), bridge_to(model_of(kind))
    with quiet():
        bridge.enable_compatibility_mode(disable_warnings=True)
    found = hold(bridge)
    tokens = check_tokens(held.config)
    assert torch.allclose(found.lean.logits(tokens), held.lean.logits(tokens), atol=1e-4)


def test_a_processed_bridge_that_cannot_be_read_back_is_refused_with_the_way_out() -> None:
    bridge = bridge_to(model_of("pythia"))
    with quiet():
        bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(DataError, match="enable_compatibility_mode: give the bridge as it was before"):
        hold(bridge)


@pytest.mark.parametrize("processed", [False, True])
def test_native_bridges(processed: bool, tmp_path: Path) -> None:
    directory = write_tl_directory(tmp_path / "m", 3, 2, 2, 16)
    with quiet():
        bridge = boot_bridge(find_model_files(str(directory)))
        expected = hold(bridge)
        if processed:
            bridge.enable_compatibility_mode(disable_warnings=True)
    tokens = check_tokens(expected.config)
    assert torch.allclose(hold(bridge).lean.logits(tokens), expected.lean.logits(tokens), atol=1e-5)


class Hooked(nn.Module):
    """What has HookedTransformer's ``cfg`` and parameters, and gives the logits of a model."""

    def __init__(self, cfg: object, state: dict[str, torch.Tensor], runs: Any) -> None:
        super().__init__()
        self.cfg, self._state, self._runs = cfg, state, runs

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self._state

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._runs(tokens, return_type="logits"))


def test_what_has_the_attributes_of_a_hooked_transformer(tmp_path: Path) -> None:
    config = random_config(2, 2, 16)
    directory = write_tl_directory(tmp_path / "m", 3, 2, 2, 16)
    with quiet():
        bridge = boot_bridge(find_model_files(str(directory)))
    values = SimpleNamespace(**tl_config_json(config), model_name="mine/toy")
    held = hold(Hooked(values, tl_state_dict(config, 3), bridge))
    assert (held.name, held.hash) == ("toy", hold(bridge).hash)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_precisions(dtype: torch.dtype, expected: torch.dtype) -> None:
    model = random_transformer("llama", 1).to(dtype)
    held = hold(model)
    assert (held.lean.dtype, held.lean.weights["W_E"].dtype) == (expected, expected)
    tokens = check_tokens(held.config)
    whole = hold(random_transformer("llama", 1)).lean.logits(tokens)
    assert torch.allclose(held.lean.logits(tokens).float(), whole, atol=1e-4 if dtype == torch.float64 else 0.1)
    assert hold(model, torch.bfloat16).lean.dtype == torch.float32


def test_the_model_stays_as_it_is() -> None:
    model = random_transformer("gpt2", 1, resid_pdrop=0.4).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    held = hold(model)
    assert model.training
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    held.lean.weights["W_E"].zero_()
    assert torch.equal(before["transformer.wte.weight"], model.state_dict()["transformer.wte.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hooks_are_refused_however_little_they_change(dtype: torch.dtype) -> None:
    model = random_transformer("llama", 1).to(dtype)
    handle = model.model.layers[0].mlp.register_forward_hook(lambda _module, _inputs, output: output * 1.0001)
    with pytest.raises(DataError, match=r"has hooks at model.layers.0.mlp, .*: take them off"):
        hold(model)
    handle.remove()
    hold(model)


def test_a_hook_of_a_bridge_is_refused() -> None:
    bridge = bridge_to(model_of("gpt-2"))
    bridge.blocks[1].hook_out.add_hook(lambda values, hook: values)
    with pytest.raises(DataError, match=r"has hooks at blocks\.1"):
        hold(bridge)
    bridge.reset_hooks()
    hold(bridge)


def test_a_patch_is_noticed_by_what_the_model_says() -> None:
    model = random_transformer("llama", 1)
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda values: 1.5 * forward(values)
    with pytest.raises(DataError, match=r"differ from the model's own .*: take them off"):
        hold(model)


def test_what_is_half_in_training_stays_so() -> None:
    model = random_transformer("gpt2", 1).train()
    model.transformer.h[1].eval()
    hold(model)
    assert model.training and model.transformer.h[0].training and not model.transformer.h[1].training


def test_a_model_without_its_unembedding_is_refused() -> None:
    with pytest.raises(DataError, match=r"no next-token logits: give the one with its unembedding"):
        hold(random_transformer("gpt2", 1, tie_word_embeddings=True).transformer)


def test_a_compiled_model_is_what_was_compiled() -> None:
    model = random_transformer("llama", 1)
    assert hold(torch.compile(model)).hash == hold(model).hash


def test_a_processed_bridge_in_16_bits_is_measured_in_float32() -> None:
    bridge = bridge_to(model_of("gpt-2"))
    with quiet():
        bridge.enable_compatibility_mode(disable_warnings=True)
    assert hold(bridge.to(torch.float16)).lean.dtype == torch.float32


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"torch\.float16 is no precision that models are measured in"):
        hold(random_transformer("llama", 1), torch.float16)


@pytest.mark.parametrize("value", [nn.Linear(3, 3), "toy-gelu-2l", object()])
def test_what_is_no_model_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="no model that can be read"):
        hold(value)


def test_models_of_other_kinds_are_refused_by_their_config() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tiny = T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(DataError, match="they have an encoder"):
        hold(T5ForConditionalGeneration(tiny))
