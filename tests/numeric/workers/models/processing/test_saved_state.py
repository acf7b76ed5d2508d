"""State dicts of either of TransformerLens' layouts: the logits of a staged model beside those of the bridge that saved it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.processing.bridge import bridge_logits, quiet
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.models.sources import find_model_files
from tests.support.models.bridges import boot_bridge
from tests.support.models.random_models import (
    random_config,
    tl_config_json,
    tl_state_dict,
    write_hf_gpt2_directory,
    write_tl_directory,
)

SHAPE: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 8, "n_ctx": 12, "d_vocab": 11}
GPT2_CONFIG = random_config(act_fn="gelu_new", **SHAPE)


def boot(directory: Path) -> Any:
    with quiet():
        return boot_bridge(find_model_files(str(directory)))


def save(directory: Path, state: Mapping[str, Tensor], config: Mapping[str, object], file: str = "model.pth") -> Path:
    directory.mkdir()
    torch.save(dict(state), directory / file)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def assert_gives(directory: Path, expected: Tensor, staging: Path) -> None:
    config, model = load_model(resolve_model(str(directory), staging).weights)
    torch.testing.assert_close(model.logits(check_tokens(config)), expected, atol=1e-4, rtol=0)


def refusal(directory: Path) -> str:
    with pytest.raises(DataError) as caught:
        resolve_model(str(directory), directory / "staging")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=[False, True], ids=["as-loaded", "compatibility-mode"])
def processed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


KINDS = [{}, {"act_fn": "solu_ln"}, {"attn_only": True}]


class TestNativeBridges:
    @pytest.mark.parametrize("kind", KINDS, ids=["gelu", "solu_ln", "attn_only"])
    def test_of_the_same_logits(self, kind: dict[str, Any], processed: bool, tmp_path: Path):
        bridge = boot(write_tl_directory(tmp_path / "m", **SHAPE, **kind))
        if processed:
            bridge.enable_compatibility_mode(disable_warnings=True)
        saved = save(tmp_path / "saved", bridge.state_dict(), tl_config_json(random_config(**SHAPE, **kind)))
        assert_gives(saved, bridge_logits(bridge, check_tokens(bridge.cfg)), tmp_path / "staging")

    def test_the_same_weights_in_both_layouts_are_the_same_model(self, tmp_path: Path):
        model = write_tl_directory(tmp_path / "m", **SHAPE)
        saved = save(tmp_path / "saved", boot(model).state_dict(), tl_config_json(random_config(**SHAPE)))
        first, second = (resolve_model(str(each), tmp_path / "staging") for each in (model, saved))
        assert first.hash == second.hash


class TestGpt2Bridges:
    @pytest.fixture
    def bridge(self, processed: bool, tmp_path: Path) -> Any:
        bridge = boot(write_hf_gpt2_directory(tmp_path / "m", **SHAPE))
        if processed:
            bridge.enable_compatibility_mode(disable_warnings=True)
        return bridge

    @pytest.mark.parametrize("architecture", [{}, {"architecture": "GPT2LMHeadModel"}], ids=["by shape", "by config"])
    def test_with_a_config_of_transformer_lens(self, architecture: dict[str, str], bridge: Any, tmp_path: Path):
        saved = save(tmp_path / "saved", bridge.state_dict(), tl_config_json(GPT2_CONFIG) | architecture)
        assert_gives(saved, bridge_logits(bridge, check_tokens(bridge.cfg)), tmp_path / "staging")

    def test_with_a_config_of_transformers(self, bridge: Any, tmp_path: Path):
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        saved = save(tmp_path / "saved", bridge.state_dict(), config, "pytorch_model.bin")
        assert_gives(saved, bridge_logits(bridge, check_tokens(bridge.cfg)), tmp_path / "staging")

    def test_an_mlp_as_wide_as_the_stream_does_not_tell_how_matrices_lie(self, tmp_path: Path):
        bridge = boot(write_hf_gpt2_directory(tmp_path / "m", d_mlp=8, overrides={"n_inner": 8}, **SHAPE))
        config = tl_config_json(random_config(act_fn="gelu_new", d_mlp=8, **SHAPE))
        assert "add architecture = TransformerLensNative or GPT2LMHeadModel to config.json" in refusal(
            save(tmp_path / "saved", bridge.state_dict(), config)
        )

    def test_a_bridge_to_another_model(self, bridge: Any, tmp_path: Path):
        config = tl_config_json(GPT2_CONFIG) | {"architecture": "OPTForCausalLM"}
        assert "TransformerBridge to OPTForCausalLM cannot be read" in refusal(
            save(tmp_path / "saved", bridge.state_dict(), config)
        )


@pytest.fixture
def state() -> dict[str, Tensor]:
    return tl_state_dict(random_config(act_fn="solu_ln", **SHAPE))


CONFIG = tl_config_json(random_config(act_fn="solu_ln", **SHAPE))


def is_norm(name: str) -> bool:
    return ".ln" in name or name.startswith("ln_final")


class TestFoldedNorms:
    def test_left_out_or_ones_and_zeros_are_the_same(self, state: dict[str, Tensor], tmp_path: Path):
        config = CONFIG | {"normalization": "LNPre"}
        without = {name: tensor for name, tensor in state.items() if not is_norm(name)}
        neutral = {
            name: torch.ones_like(t) if name.endswith("w") else t * 0 for name, t in state.items() if is_norm(name)
        }
        hashes = {
            resolve_model(str(save(tmp_path / name, saved, config)), tmp_path / "staging").hash
            for name, saved in (("without", without), ("neutral", without | neutral))
        }
        full = resolve_model(str(save(tmp_path / "LN", without | neutral, CONFIG)), tmp_path / "staging")
        assert len(hashes) == 1
        _, lean = load_model(resolve_model(str(tmp_path / "without"), tmp_path / "staging").weights)
        _, same = load_model(full.weights)
        tokens = check_tokens(full.config)
        torch.testing.assert_close(lean.logits(tokens), same.logits(tokens))

    def test_some_that_are_not(self, state: dict[str, Tensor], tmp_path: Path):
        message = refusal(save(tmp_path / "m", state, CONFIG | {"normalization": "LNPre"}))
        assert "blocks.0.ln1.b is not folded away, and config.json says that norms are (LNPre) (and 9 more)" in message

    def test_missing_without_a_word_of_it(self, state: dict[str, Tensor], tmp_path: Path):
        without = {name: tensor for name, tensor in state.items() if not is_norm(name)}
        message = refusal(save(tmp_path / "m", without, CONFIG))
        assert "ln1.w is missing; if norms are folded into what reads them, say normalization = LNPre" in message


BUFFERS = {"blocks.0.attn.mask": torch.ones(12, 12).tril().bool(), "blocks.0.attn.IGNORE": torch.tensor(-torch.inf)}


def wrappings(state: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "buffers of HookedTransformer", state | BUFFERS
    yield "a training", {"model_state_dict": state, "optimizer_state_dict": {"lr": 1.0}, "step": 7}
    yield "lightning", {"state_dict": state, "epoch": 1}
    yield "several devices", {f"module.{name}": tensor for name, tensor in state.items()}
    yield "compiled", {"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}}


def test_what_is_beside_the_weights_changes_nothing(state: dict[str, Tensor], tmp_path: Path):
    plain = resolve_model(str(save(tmp_path / "plain", state, CONFIG)), tmp_path / "staging").hash
    for name, content in wrappings(state):
        found = resolve_model(str(save(tmp_path / name, content, CONFIG)), tmp_path / "staging")
        assert found.hash == plain, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_other_precisions_are_read_as_what_they_hold(dtype: torch.dtype, state: dict[str, Tensor], tmp_path: Path):
    rounded = {name: tensor.to(dtype) for name, tensor in state.items()}
    single = {name: tensor.to(torch.float32) for name, tensor in rounded.items()}
    saved = (save(tmp_path / str(i), each, CONFIG) for i, each in enumerate((rounded, single)))
    assert len({resolve_model(str(each), tmp_path / "staging").hash for each in saved}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.int8), "embed.W_E holds torch.int8, not floating-point numbers"),
        (lambda t: t.to(torch.complex64), "embed.W_E holds torch.complex64, not floating-point numbers"),
        (lambda t: t.to_sparse(), "embed.W_E is sparse, quantized or without values"),
        (lambda t: t.to("meta"), "embed.W_E is sparse, quantized or without values"),
        (lambda t: t * torch.nan, "embed.W_E holds NaN or infinity"),
    ],
)
def test_weights_that_are_no_plain_numbers(
    change: Callable[[Tensor], Tensor], said: str, state: dict[str, Tensor], tmp_path: Path
):
    assert said in refusal(save(tmp_path / "m", state | {"embed.W_E": change(state["embed.W_E"])}, CONFIG))
