"""Models named by their hub names, against a loopback stand-in for the Hugging Face hub: every kind of name and layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erasure_sweep.workers.models.processing.bridge import quiet
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from tests.support.models.random_models import (
    random_config,
    write_hf_gpt2_directory,
    write_hf_gpt2_shards,
    write_tl_directory,
)
from tests.support.servers.hub import Served, refused_soon

TOKENIZER = "NeelNanda/gpt-neox-tokenizer-digits"
GELU = "NeelNanda/GELU_1L512W_C4_Code"
LEGACY = {
    "gelu-3l": ("NeelNanda/GELU_3L512W_C4_Code", {"n_layers": 3}),
    "attn-only-2l": ("NeelNanda/Attn_Only_2L512W_C4_Code", {"attn_only": True}),
    "solu-1l": ("NeelNanda/SoLU_1L512W_C4_Code", {"n_layers": 1, "act_fn": "solu_ln"}),
    "solu-2l-c4-code": ("NeelNanda/SoLU_2L512W_C4_Code", {"act_fn": "solu_ln"}),
    "NeelNanda/Another_Model": ("NeelNanda/Another_Model", {}),
}
"""Names of models in TransformerLens' layout, the repository that each means, and its shape."""


@pytest.fixture
def gelu(tmp_path):
    return write_tl_directory(tmp_path / "gelu", 1, weights_file="model_final.pth", tokenizer_name=TOKENIZER)


def refusal(spec: str, staging: Path) -> str:
    said = refused_soon(lambda: resolve_model(spec, staging))
    assert not staging.exists()
    return said


class TestTransformerLensLayout:
    def test_files_that_are_fetched(self, hub, cache, gelu, tmp_path):
        repo = hub.add_model(GELU, gelu)
        resolved = resolve_model("gelu-1l", tmp_path / "staging")
        assert (resolved.name, resolved.base, resolved.tokenizer) == ("gelu-1l", "gelu-1l", TOKENIZER)
        fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
        assert fetched == [f"GET /{GELU}/resolve/{at}" for at in ("main/config.json", f"{repo.sha}/model_final.pth")]
        assert resolved.hash == resolve_model(str(gelu), tmp_path / "other").hash

    @pytest.mark.parametrize("spec", ["gelu-1l", GELU, "gelu-1l-new"])
    def test_spellings_of_one_model(self, spec, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu)
        first = resolve_model("gelu-1l", tmp_path / "staging")
        hub.requests.clear()
        assert resolve_model(spec, tmp_path / "staging") == first._replace(spec=spec)
        assert not [request for request in hub.requests if TOKENIZER not in request]

    @pytest.mark.parametrize("spec", LEGACY)
    def test_agrees_with_transformer_lens_own_loader(self, spec, hub, cache, tmp_path):
        repo, shape = LEGACY[spec]
        hub.add_model(repo, write_tl_directory(tmp_path / "m", 2, weights_file="model_final.pth", **shape))
        config, model = load_model(resolve_model(spec, tmp_path / "staging").weights)
        from transformer_lens.model_bridge import TransformerBridge

        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            bridge = TransformerBridge.boot_tl_legacy(repo, device="cpu")
            bridge.enable_compatibility_mode(disable_warnings=True)
            expected = bridge(tokens, return_type="logits")
        assert config.act_fn == shape.get("act_fn", "gelu")
        torch.testing.assert_close(model.logits(tokens), expected, atol=1e-4, rtol=0)

    def test_weights_of_another_name(self, hub, cache, gelu, tmp_path):
        """TransformerLens takes the file that ends in final.pth."""
        repo = hub.add_model("NeelNanda/Attn-Only-2L", gelu, rename={"model_final.pth": "run_final.pth"})
        repo.files["run_step_8.pth"] = b"not this one"
        resolved = resolve_model("NeelNanda/Attn-Only-2L", tmp_path / "staging")
        assert resolved.hash == resolve_model(str(gelu), tmp_path / "other").hash

    def test_owner_of_his_own(self, hub, cache, tmp_path):
        directory = write_tl_directory(tmp_path / "m", 5)
        hub.add_model("someone/small.model-2", directory)
        resolved = resolve_model("someone/small.model-2", tmp_path / "staging")
        assert (resolved.name, resolved.base) == ("small.model-2", "small.model-2")
        assert resolved.hash == resolve_model(str(directory), tmp_path / "other").hash

    def test_directory_of_that_name_wins(self, hub, cache, tmp_path, monkeypatch):
        local = write_tl_directory(tmp_path / "here" / "someone" / "model", 1)
        hub.add_model("someone/model", write_tl_directory(tmp_path / "there", 2))
        remote = resolve_model("someone/model", tmp_path / "staging").hash
        monkeypatch.chdir(tmp_path / "here")
        found = resolve_model("someone/model", tmp_path / "staging").hash
        assert found == resolve_model(str(local), tmp_path / "staging").hash
        assert found != remote


class TestHuggingFaceLayout:
    @pytest.mark.parametrize(
        ("spec", "repo", "name"),
        [
            ("gpt2", "gpt2", "gpt2"),
            ("gpt2-small", "gpt2", "gpt2"),
            ("openai-community/gpt2-xl", "gpt2-xl", "gpt2-xl"),
            ("distilgpt2", "distilgpt2", "distilgpt2"),
            ("someone/gpt2-of-mine", "someone/gpt2-of-mine", "gpt2-of-mine"),
        ],
    )
    def test_is_what_transformers_computes(self, spec, repo, name, hub, cache, tmp_path):
        from transformers import AutoModelForCausalLM

        directory = write_hf_gpt2_directory(tmp_path / "m", 3)
        hub.add_model(repo, directory)
        resolved = resolve_model(spec, tmp_path / "staging")
        assert (resolved.name, resolved.tokenizer, resolved.config.act_fn) == (name, repo, "gelu_new")
        config, model = load_model(resolved.weights)
        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(directory).eval()(tokens).logits
        torch.testing.assert_close(model.logits(tokens).log_softmax(-1), expected.log_softmax(-1), atol=2e-4, rtol=0)

    def test_shards(self, hub, cache, tmp_path):
        config = random_config(2, act_fn="gelu_new")
        directory = write_hf_gpt2_shards(tmp_path / "m", config, dtype=torch.float32)
        repo = hub.add_model("someone/sharded", directory)
        repo.files["pytorch_model.bin"] = b"older"
        resolved = resolve_model("someone/sharded", tmp_path / "staging")
        whole = write_hf_gpt2_directory(tmp_path / "whole", n_layers=2)
        state = {}
        for shard in directory.glob("*.safetensors"):
            state |= load_file(shard)
        save_file(state, whole / "model.safetensors", {"format": "pt"})
        assert resolved.hash == resolve_model(str(whole), tmp_path / "staging").hash
        assert hub.served["someone/sharded", "pytorch_model.bin"] == Served()

    @pytest.mark.parametrize("names", ["../elsewhere.safetensors", "/etc/passwd", "sub/x.safetensors", 7])
    def test_shards_elsewhere(self, names, hub, cache, tmp_path):
        repo = hub.add_model("someone/sharded", write_hf_gpt2_directory(tmp_path / "m"))
        del repo.files["model.safetensors"]
        repo.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"wte.weight": names}}).encode()
        assert "is not an index of shards: it names no files beside it" in refusal("someone/sharded", tmp_path / "s")

    def test_torch_file(self, hub, cache, tmp_path):
        binary = write_hf_gpt2_directory(tmp_path / "bin", 4, weights_file="pytorch_model.bin")
        hub.add_model("someone/older", binary)
        resolved = resolve_model("someone/older", tmp_path / "staging")
        same = write_hf_gpt2_directory(tmp_path / "safe", 4)
        assert resolved.hash == resolve_model(str(same), tmp_path / "staging").hash

    def test_shards_of_torch_files(self, hub, cache, tmp_path):
        whole = write_hf_gpt2_directory(tmp_path / "whole", 4)
        repo, state = hub.add_model("someone/older", whole), load_file(whole / "model.safetensors")
        del repo.files["model.safetensors"]
        shards = {f"pytorch_model-0000{i + 1}-of-00002.bin": sorted(state)[i::2] for i in (0, 1)}
        for shard, names in shards.items():
            torch.save({name: state[name] for name in names}, tmp_path / shard)
            repo.files[shard] = (tmp_path / shard).read_bytes()
        weight_map = {name: shard for shard, names in shards.items() for name in names}
        repo.files["pytorch_model.bin.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        resolved = resolve_model("someone/older", tmp_path / "staging")
        assert resolved.hash == resolve_model(str(whole), tmp_path / "staging").hash

    def test_safetensors_are_preferred(self, hub, cache, tmp_path):
        repo = hub.add_model("gpt2", write_hf_gpt2_directory(tmp_path / "m", 4))
        repo.files["pytorch_model.bin"] = b"not asked for"
        resolve_model("gpt2", tmp_path / "staging")
        assert hub.served["gpt2", "pytorch_model.bin"] == Served()


class TestRefused:
    """By config.json alone: weights that cannot be measured are not fetched."""

    @pytest.mark.parametrize(
        ("repo", "overrides", "expected"),
        [
            ("NeelNanda/Soft", {"act_fn": "softplus"}, "model Soft cannot be measured: it has the activation softplus"),
            ("ArthurConmy/redwood", {"shortformer_pos": True}, "it has shortformer position embeddings"),
            ("NeelNanda/GELU_1L512W_C4_Code", {"normalization": None}, "model gelu-1l cannot be measured: it has no"),
            ("NeelNanda/SoLU_2L_v10_old", {}, "its weights are in a layout older than TransformerLens' own"),
            ("someone/adapter", {"n_heads": ..., "n_ctx": ...}, "config.json has no n_heads, n_ctx;"),
            ("someone/odd", {"d_mlp": "wide"}, "config.json says d_mlp = 'wide', not a positive integer"),
        ],
    )
    def test_transformer_lens_layout(self, repo, overrides, expected, hub, cache, tmp_path):
        made = write_tl_directory(tmp_path / "m", weights_file="model_final.pth", overrides=overrides)
        hub.add_model(repo, made)
        assert expected in refusal(repo, tmp_path / "staging")
        assert hub.served[repo, "model_final.pth"] == Served()

    @pytest.mark.parametrize(
        ("spec", "overrides", "expected"),
        [
            ("gpt2-large", {"scale_attn_by_inverse_layer_idx": True}, "it has attention not scaled by 1/sqrt(d_head = 8)"),
            ("gpt2", {"activation_function": "mish"}, "it has the activation mish"),
            ("someone/llama", {"model_type": "llama", "mlp_bias": True}, "it has a bias in its gated MLP"),
            ("pythia-70m", {"model_type": "gpt_neox", "hidden_act": "mish"}, "it has the activation mish"),
            ("someone/cohere", {"model_type": "cohere"}, "models of the kind cohere are not read: those that are"),
            ("someone/t5", {"model_type": "t5"}, "models of the kind t5 are not read"),
            ("someone/odd", {"model_type": "nonsense"}, "models of the kind nonsense are not read"),
            ("someone/code", {"model_type": "x", "auto_map": {"AutoConfig": "a.B"}}, "models of the kind x are not read"),
            ("someone/heads", {"n_head": "four"}, "transformers cannot load it"),
            ("someone/gptq", {"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized (gptq)"),
            ("someone/deep", {"n_layer": 10**9}, "n_layer = 1,000,000,000, and no model has so many"),
        ],
    )  # fmt: skip
    def test_hugging_face_layout(self, spec, overrides, expected, hub, cache, tmp_path):
        repo = {"pythia-70m": "EleutherAI/pythia-70m"}.get(spec, spec)
        hub.add_model(repo, write_hf_gpt2_directory(tmp_path / "m", overrides=overrides))
        assert expected in refusal(spec, tmp_path / "staging")
        assert hub.served[repo, "model.safetensors"] == Served()

    def test_no_weights(self, hub, cache, tmp_path):
        repo = hub.add_model("gpt2", write_hf_gpt2_directory(tmp_path / "m"))
        del repo.files["model.safetensors"]
        assert refusal("gpt2", tmp_path / "staging") == (
            "gpt2 holds a config.json but no weights: expected model.safetensors or pytorch_model.bin"
        )

    def test_several_weights(self, hub, cache, gelu, tmp_path):
        repo = hub.add_model("someone/model", gelu, rename={"model_final.pth": "a.pth"})
        repo.files["b.pth"] = b"other"
        assert "someone/model holds several weights (a.pth, b.pth)" in refusal("someone/model", tmp_path / "staging")

    def test_neither_on_the_hub_nor_a_directory(self, hub, cache, tmp_path):
        message = refusal("runs/my_model", tmp_path / "staging")
        assert message.startswith(f"{hub.url} has no repository runs/my_model, or it is private")
        assert message.endswith("(nor is there a directory runs/my_model here)")

    def test_what_to_fetch_elsewhere(self, hub, cache, tmp_path):
        hub.stop()
        assert f"`hf download {GELU} config.json model_final.pth`" in refusal("gelu-1l", tmp_path / "staging")
        assert "`hf download gpt2 config.json model.safetensors`" in refusal("gpt2-small", tmp_path / "staging")
        assert "`hf download someone/model`" in refusal("someone/model", tmp_path / "staging")
