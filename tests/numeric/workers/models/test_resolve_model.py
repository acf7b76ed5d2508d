"""Models: what a spec names, the weights it becomes, how they are kept, and every way in which a model is refused."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.models import catalog
from erasure_sweep.workers.models.files import staged_weights as staged
from erasure_sweep.workers.models.files.staged_weights import content_hash
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import weight_shapes
from erasure_sweep.workers.models.processing.bridge import process_bridge, quiet
from erasure_sweep.workers.models.processing.conversion import refuse_by_config
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.models.sources import find_model_files
from tests.support.models.bridges import boot_bridge
from tests.support.models.random_models import (
    random_config,
    random_lean,
    tl_state_dict,
    write_hf_gpt2_directory,
    write_tl_directory,
)
from tests.support.paths import ROOT

WRITERS = {
    "gelu": lambda path: write_tl_directory(path, 1, n_layers=3, n_heads=2, d_model=24),
    "attn-only": lambda path: write_tl_directory(path, 2, attn_only=True, weights_file="model_final.pth"),
    "wide-heads": lambda path: write_tl_directory(path, 3, n_heads=3, d_model=16, d_head=12, d_mlp=20, act_fn="relu"),
    "solu": lambda path: write_tl_directory(path, 6, n_layers=3, n_heads=2, d_model=24, d_mlp=40, act_fn="solu_ln"),
    "gpt2": lambda path: write_hf_gpt2_directory(path, 4),
    "gpt2-bin": lambda path: write_hf_gpt2_directory(path, 5, weights_file="pytorch_model.bin"),
}


@pytest.fixture
def staging(tmp_path):
    return tmp_path / "staging"


@pytest.fixture
def tl_directory(tmp_path):
    return write_tl_directory(tmp_path / "tiny", n_layers=1, n_heads=2, d_model=8, n_ctx=12, d_vocab=11)


def staged_files(staging: Path) -> list[Path]:
    return sorted(path for path in staging.rglob("*") if path.is_file())


def refusal(spec: object, staging: Path, kind: type[SweepError] = DataError) -> str:
    """The one line with which a model is refused; nothing may be left staged."""
    with pytest.raises(kind) as caught:
        resolve_model(str(spec), staging)
    message = str(caught.value)
    assert "\n" not in message
    assert staged_files(staging) == []
    return message


class TestAgainstTransformerLens:
    @pytest.mark.parametrize("kind", WRITERS)
    def test_logits_and_terms(self, kind, tmp_path, staging):
        directory = WRITERS[kind](tmp_path / kind)
        config, model = load_model(resolve_model(str(directory), staging).weights)
        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            bridge = boot_bridge(find_model_files(str(directory)))
            raw = bridge(tokens, return_type="logits")
            process_bridge(bridge)
            _, cache = bridge.run_with_cache(tokens)
        logits = model.logits(tokens)
        torch.testing.assert_close(logits.log_softmax(-1), raw.log_softmax(-1), atol=2e-4, rtol=0)
        assert logits.mean(dim=-1).abs().max() < 1e-4, "the unembedding is centred"

        trace, weights = model.trace(tokens), load_file(resolve_model(str(directory), staging).weights)
        total = trace.embed + trace.pos_embed + trace.mlp_out.sum(dim=0) + weights["b_O"].sum(dim=0)
        total = total + torch.einsum("lbthd,lhdm->btm", trace.z, weights["W_O"])
        final = cache[f"blocks.{config.n_layers - 1}.hook_resid_post"]
        torch.testing.assert_close(total, final, atol=1e-4, rtol=0)
        torch.testing.assert_close(trace.state_norm_sq[-1], final.square().sum(-1), atol=1e-2, rtol=1e-4)

    def test_writing_weights_are_centred(self, tmp_path, staging):
        weights = load_file(resolve_model(str(WRITERS["gelu"](tmp_path / "m")), staging).weights)
        for name in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            assert weights[name].mean(dim=-1).abs().max() < 1e-6, name

    def test_gpt2_is_what_transformers_computes(self, tmp_path, staging):
        from transformers import AutoModelForCausalLM

        directory = WRITERS["gpt2"](tmp_path / "m")
        config, model = load_model(resolve_model(str(directory), staging).weights)
        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(directory).eval()(tokens).logits
        torch.testing.assert_close(model.logits(tokens).log_softmax(-1), expected.log_softmax(-1), atol=2e-4, rtol=0)

    def test_opt_reads_positions_behind_an_offset(self, tmp_path, staging):
        from transformers import AutoModelForCausalLM, OPTConfig

        shape = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        opt = OPTConfig(**shape, word_embed_proj_dim=16, vocab_size=11, max_position_embeddings=20)
        with quiet(), torch.no_grad():
            reference = AutoModelForCausalLM.from_config(opt).eval()
            for parameter in reference.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
            reference.save_pretrained(tmp_path / "m")
        config, model = load_model(resolve_model(str(tmp_path / "m"), staging).weights)
        assert (config.n_ctx, config.d_mlp, config.act_fn) == (20, 24, "relu")
        tokens = check_tokens(config)
        with torch.no_grad():
            expected = reference(tokens).logits.log_softmax(-1)
        torch.testing.assert_close(model.logits(tokens).log_softmax(-1), expected, atol=2e-4, rtol=0)

    def test_normalization_without_parameters(self, tmp_path, staging):
        config = random_config(1, 2, 16)
        state = {name: v for name, v in tl_state_dict(config).items() if ".ln" not in name and "ln_final" not in name}
        shape = {"n_layers": 1, "n_heads": 2, "d_model": 16}
        directory = write_tl_directory(tmp_path / "m", **shape, state=state, overrides={"normalization": "LNPre"})
        assert resolve_model(str(directory), staging).config == config

    def test_absent_unembedding_bias_is_zero(self, tmp_path, staging):
        config = random_config(1, 2, 16)
        state = tl_state_dict(config)
        del state["unembed.b_U"]
        state["blocks.0.attn.mask"] = torch.ones(4, 4, dtype=torch.bool)
        state |= {name: torch.zeros_like(state[name]) for name in ("ln_final.b",)}
        directory = write_tl_directory(tmp_path / "m", n_layers=1, n_heads=2, d_model=16, state=state)
        assert load_file(resolve_model(str(directory), staging).weights)["b_U"].abs().max() == 0

    def test_half_precision_files_are_processed_in_float32(self, tmp_path, staging):
        state = {name: v.half() for name, v in tl_state_dict(random_config(1, 2, 16)).items()}
        directory = write_tl_directory(tmp_path / "m", n_layers=1, n_heads=2, d_model=16, state=state)
        weights = load_file(resolve_model(str(directory), staging).weights)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}

    def test_solu_norm_is_folded(self, tmp_path, staging):
        weights = load_file(resolve_model(str(WRITERS["solu"](tmp_path / "m")), staging).weights)
        assert weights["W_out"].mean(dim=1).abs().max() < 1e-6, "the activations have no mean over the neurons"

    @pytest.mark.parametrize("act_fn", ["gelu", "solu_ln"])
    def test_square_mlp_is_refused(self, act_fn, tmp_path, staging):
        """TransformerLens mistakes the sides of its weights, or says that it cannot tell them apart."""
        directory = write_tl_directory(tmp_path / "m", n_heads=2, d_model=16, d_mlp=16, act_fn=act_fn)
        expected = {
            "gelu": "the trace's logits differ from the unprocessed model's by",
            "solu_ln": "its weights cannot be processed: Cannot resolve the neuron axis",
        }
        assert expected[act_fn] in refusal(directory, staging)

    def test_disagreement_is_refused(self, tl_directory, staging, monkeypatch):
        def skewed(bridge):
            config, weights = process_bridge(bridge)
            return config, weights | {"W_O": weights["W_O"] * 1.5}

        monkeypatch.setattr("erasure_sweep.workers.models.processing.bridge.process_bridge", skewed)
        message = refusal(tl_directory, staging)
        assert "model tiny cannot be measured: the trace's logits differ from TransformerLens' by" in message

    def test_terminal_stays_quiet(self, tmp_path, staging, capfd):
        level = logging.root.manager.disable
        resolve_model(str(WRITERS["gpt2"](tmp_path / "m")), staging)
        assert capfd.readouterr() == ("", "")
        assert logging.root.manager.disable == level


class TestStaging:
    def test_resolved_model_describes_itself(self, tl_directory, staging):
        resolved = resolve_model(str(tl_directory), staging)
        assert (resolved.name, resolved.spec, resolved.tokenizer) == ("tiny", str(tl_directory), None)
        assert resolved.config == random_config(1, 2, 8, n_ctx=12, d_vocab=11)
        assert staged_files(staging) == [resolved.weights]
        assert resolved.weights.parent == staging / "models"
        with safe_open(resolved.weights, framework="pt") as file:
            metadata = file.metadata()
        assert json.loads(metadata["config"]) == resolved.config.to_json()
        assert metadata["hash"] == resolved.hash
        assert metadata["origin"] == str(tl_directory)
        assert {k: tuple(v.shape) for k, v in load_file(resolved.weights).items()} == weight_shapes(resolved.config)

    def test_what_a_killed_conversion_left_is_removed_by_the_next(self, tl_directory, staging):
        made = resolve_model(str(tl_directory), staging).weights
        made.unlink()
        left = made.with_name(f".{made.name}.0123abcd.tmp")
        another = made.with_name(".of-another-model.safetensors.0123abcd.tmp")
        for path in (left, another):
            path.write_bytes(b"half")
        assert resolve_model(str(tl_directory), staging).weights == made
        assert sorted(made.parent.iterdir()) == sorted([made, another])

    def test_second_resolve_needs_no_transformer_lens(self, tl_directory, staging):
        first = resolve_model(str(tl_directory), staging)
        code = (
            "import sys, pathlib; from erasure_sweep.workers.models.resolve_model import resolve_model, load_model\n"
            "r = resolve_model(sys.argv[1], pathlib.Path(sys.argv[2])); load_model(r.weights)\n"
            "print(r.hash, [m for m in ('transformer_lens', 'transformers', 'datasets', 'ray') if m in sys.modules])"
        )
        command = [sys.executable, "-c", code, str(tl_directory), str(staging)]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert output.strip() == f"{first.hash} []"

    def test_same_content_elsewhere_is_not_converted_again(self, tl_directory, tmp_path, staging, monkeypatch):
        first = resolve_model(str(tl_directory), staging)
        moved = tl_directory.rename(tmp_path / "moved")
        monkeypatch.setattr("erasure_sweep.workers.models.resolve_model.convert", None)
        second = resolve_model(str(moved), staging)
        assert (second.name, second.hash, second.weights) == ("moved", first.hash, first.weights)

    def test_other_weights_have_another_hash(self, tl_directory, staging):
        first = resolve_model(str(tl_directory), staging)
        state = load_file(tl_directory / "model.safetensors")
        save_file(
            state | {"embed.W_E": state["embed.W_E"] + 1e-3 * torch.eye(11, 8)}, tl_directory / "model.safetensors"
        )
        second = resolve_model(str(tl_directory), staging)
        assert second.hash != first.hash
        assert second.weights != first.weights

    def test_hash_covers_config_names_and_values(self):
        config, weights, _ = random_lean(n_layers=1, n_heads=2, d_model=8)
        same = content_hash(config, dict(reversed(weights.items())))
        assert content_hash(config, weights) == same
        changed = weights | {"b_Q": weights["b_K"], "b_K": weights["b_Q"]}
        other_config = random_lean(n_layers=1, n_heads=2, d_model=8, eps=1e-6).config
        assert len({same, content_hash(config, changed), content_hash(other_config, weights)}) == 3

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "no-metadata"])
    def test_damaged_file_is_found_and_made_anew(self, damage, tl_directory, staging):
        first = resolve_model(str(tl_directory), staging)
        content = first.weights.read_bytes()
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        damaged = {"flipped": flipped, "truncated": content[: len(content) // 2], "empty": b""}
        if damage == "no-metadata":
            save_file(load_file(first.weights), first.weights)
        else:
            first.weights.write_bytes(damaged[damage])
        for weights in (first.weights, first.weights.read_bytes()):
            with pytest.raises(DataError, match=r"staged weights .* damaged .*: run again, they are made anew"):
                load_model(weights)
        assert resolve_model(str(tl_directory), staging).hash == first.hash
        assert load_model(first.weights)[0] == first.config

    def test_missing_staged_file(self, tmp_path):
        with pytest.raises(DataError, match="missing or damaged"):
            load_model(tmp_path / "nowhere.safetensors")

    def test_load_from_bytes_is_load_from_file(self, tl_directory, staging):
        path = resolve_model(str(tl_directory), staging).weights
        (config, from_file), (same_config, from_bytes) = load_model(path), load_model(path.read_bytes())
        assert config == same_config
        tokens = check_tokens(config)
        assert torch.equal(from_file.logits(tokens), from_bytes.logits(tokens))
        double = load_model(path, dtype=torch.float64)[1]
        assert double.logits(tokens).dtype == torch.float64

    def test_full_disk_leaves_nothing(self, tl_directory, staging, monkeypatch):
        def full(weights, path, metadata):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(staged, "save_file", full)
        message = refusal(tl_directory, staging)
        assert message.startswith(f"cannot stage model tiny in {staging / 'models'}")
        assert "No space left on device" in message


class TestSpecs:
    def test_unknown_name_offers_the_nearest(self, staging):
        message = refusal("gelu-5l", staging, UsageError)
        assert message.startswith("unknown model 'gelu-5l': did you mean ")
        assert "gelu-4l" in message

    def test_missing_directory_and_file(self, tl_directory, staging):
        for spec in ("./some/where", "some/where/else", "~/nowhere", str(tl_directory / "deeper"), "some\\where"):
            assert refusal(spec, staging, UsageError) == f"model directory {spec} does not exist"
        weights = tl_directory / "model.safetensors"
        assert "is a file: give the directory" in refusal(weights, staging, UsageError)

    def test_name_wins_over_directory(self, tmp_path, staging, monkeypatch):
        tiny = {"n_layers": 1, "n_heads": 2, "d_model": 8, "n_ctx": 8, "d_vocab": 11}
        write_tl_directory(tmp_path / "package" / "toy", seed=1, **tiny)
        write_tl_directory(tmp_path / "here" / "toy", seed=2, **tiny)
        write_tl_directory(tmp_path / "here" / "other", seed=2, **tiny)
        monkeypatch.setattr(catalog, "BUNDLED", tmp_path / "package")
        monkeypatch.chdir(tmp_path / "here")
        named, beside, other = (resolve_model(spec, staging) for spec in ("toy", "./toy", "other"))
        assert named.hash != beside.hash
        assert other.hash == beside.hash
        assert [model.name for model in (named, beside, other)] == ["toy", "toy", "other"]

    def test_preferred_weights(self, tl_directory):
        torch.save({}, tl_directory / "model_final.pth")
        assert find_model_files(str(tl_directory)).weights == (tl_directory / "model.safetensors",)
        (tl_directory / "model.safetensors").rename(tl_directory / "other.safetensors")
        assert find_model_files(str(tl_directory)).weights == (tl_directory / "model_final.pth",)

    def test_sharded_hugging_face_weights(self, tmp_path, staging):
        whole, split = (write_hf_gpt2_directory(tmp_path / name) for name in ("whole", "split"))
        state = load_file(split / "model.safetensors")
        (split / "model.safetensors").unlink()
        shards = {f"model-0000{i + 1}-of-00002.safetensors": sorted(state)[i::2] for i in range(2)}
        for file, names in shards.items():
            save_file({name: state[name] for name in names}, split / file, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, names in shards.items() for name in names}}
        (split / "model.safetensors.index.json").write_text(json.dumps(index))
        assert resolve_model(str(split), staging).hash == resolve_model(str(whole), staging).hash


class TestTokenizer:
    @pytest.mark.parametrize(
        ("files", "tokenizer_name", "expected"),
        [
            ([], None, None),
            (["m/tokenizer.json"], "NeelNanda/some-tokenizer", "m/tokenizer.json"),
            (["m/tokenizer_config.json"], None, "m"),
            (["tokenizer/tokenizer.json"], "../tokenizer", "tokenizer/tokenizer.json"),
            (["tokenizer/bpe.json"], "../tokenizer/bpe.json", "tokenizer/bpe.json"),
            ([], "../tokenizer", None),
        ],
    )
    def test_paths(self, files, tokenizer_name, expected, tmp_path):
        directory = write_tl_directory(tmp_path / "m", n_layers=1, tokenizer_name=tokenizer_name)
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("{}")
        assert find_model_files(str(directory)).tokenizer == (expected and str(tmp_path / expected))

    def test_hub_repository(self, tmp_path):
        name = "NeelNanda/gpt-neox-tokenizer-digits"
        directory = write_tl_directory(tmp_path / "m", n_layers=1, tokenizer_name=name)
        assert find_model_files(str(directory)).tokenizer == name


class TestRefusals:
    """One line each, and nothing staged."""

    def test_no_config(self, tl_directory, staging):
        (tl_directory / "config.json").unlink()
        assert f"{tl_directory} holds no config.json" in refusal(tl_directory, staging)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("{", "cannot be read as JSON"), ("[1]", "holds list where an object"), ("\xff{}", "cannot be read as JSON")],
    )
    def test_config_is_not_an_object(self, text, expected, tl_directory, staging):
        (tl_directory / "config.json").write_text(text, encoding="latin-1")
        assert expected in refusal(tl_directory, staging)

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ({"n_heads": ..., "d_vocab": ...}, "config.json has no n_heads, d_vocab; TransformerLens' layout needs"),
            ({"act_fn": None}, "config.json has no act_fn"),
            ({"n_layers": "two"}, "config.json says n_layers = 'two', not a positive integer"),
            ({"d_mlp": -1}, "config.json says d_mlp = -1, not a positive integer"),
            ({"eps": "small"}, "config.json says eps = 'small', not a positive number"),
            ({"attn_scale": "sqrt"}, "holds a value of another kind"),
            ({"positional_embedding_type": "rotary"}, "cannot be measured: it has rotary position embeddings"),
            ({"shortformer_pos": True}, "it has shortformer position embeddings"),
            ({"normalization": "RMS"}, "it has RMS normalization"),
            ({"normalization": None}, "it has no normalization"),
            ({"parallel_attn_mlp": True}, "it has attention and MLP in parallel"),
            ({"n_key_value_heads": 1}, "it has grouped-query attention (2 heads on 1 keys)"),
            ({"gated_mlp": True}, "it has a gated MLP"),
            ({"act_fn": "solu"}, "it has the activation solu"),
            ({"attn_scores_soft_cap": 50.0}, "it has soft-capped scores or logits"),
            ({"use_local_attn": True}, "it has local attention"),
            ({"attn_scale": 1.0}, "it has attention not scaled by 1/sqrt(d_head = 4)"),
            ({"use_attn_scale": False}, "it has attention not scaled"),
            ({"attention_dir": "bidirectional"}, "it has attention that is not causal"),
            ({"d_vocab_out": 3}, "it has a vocabulary of 3 for output alone"),
            ({"gated_mlp": True, "final_rms": True}, "it has RMS normalization before the unembedding, a gated MLP"),
            ({"n_layers": 2}, "weights do not fit config.json: blocks.1.ln1.w is missing (and 15 more)"),
            ({"d_head": 8}, "blocks.0.attn.W_Q has shape (2, 8, 4), expected (2, 8, 8) (and 6 more)"),
            ({"attn_only": True}, "blocks.0.ln2.b is not part of such a model (and 5 more)"),
        ],
    )
    def test_config(self, overrides, expected, tl_directory, staging):
        path = tl_directory / "config.json"
        config = json.loads(path.read_text()) | overrides
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
        assert expected in refusal(tl_directory, staging)

    def test_harmless_settings_are_accepted(self, tl_directory, staging):
        plain = resolve_model(str(tl_directory), staging)
        path = tl_directory / "config.json"
        settings = {"attn_scale": 2.0, "n_key_value_heads": 2, "d_vocab_out": 11, "attn_scores_soft_cap": -1.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        assert resolve_model(str(tl_directory), staging).hash == plain.hash

    def test_no_weights(self, tl_directory, tmp_path, staging):
        (tl_directory / "model.safetensors").unlink()
        assert "no weights: expected *.safetensors or *.pth" in refusal(tl_directory, staging)
        hugging_face = write_hf_gpt2_directory(tmp_path / "hf")
        (hugging_face / "model.safetensors").unlink()
        assert "no weights: expected model.safetensors or pytorch_model.bin" in refusal(hugging_face, staging)

    def test_several_weights(self, tl_directory, staging):
        for name in ("a.pth", "b.pth"):
            torch.save({}, tl_directory / name)
        (tl_directory / "model.safetensors").unlink()
        assert "holds several weights (a.pth, b.pth)" in refusal(tl_directory, staging)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_numbers(self, value, tl_directory, staging):
        state = load_file(tl_directory / "model.safetensors")
        state["blocks.0.mlp.W_in"][2, 3] = value
        save_file(state, tl_directory / "model.safetensors")
        expected = "model tiny: blocks.0.mlp.W_in holds NaN or infinity at 1 of 256 places"
        assert refusal(tl_directory, staging) == expected

    def test_pickle_is_not_run(self, tl_directory, tmp_path, staging):
        class Payload:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        (tl_directory / "model.safetensors").unlink()
        for write in (
            lambda path: torch.save({"a": Payload()}, path),
            lambda path: path.write_bytes(pickle.dumps(Payload())),
        ):
            write(tl_directory / "model_final.pth")
            assert "is not a safe weights file" in refusal(tl_directory, staging)
        hugging_face = write_hf_gpt2_directory(tmp_path / "hf", weights_file="pytorch_model.bin")
        torch.save({"a": Payload()}, hugging_face / "pytorch_model.bin")
        assert "is not a safe weights file" in refusal(hugging_face, staging)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["model.safetensors", "model_final.pth"])
    @pytest.mark.parametrize("kept", [0, 6, 0.5])
    def test_truncated(self, name, kept, tmp_path, staging):
        directory = write_tl_directory(tmp_path / "m", weights_file=name)
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
        message = refusal(directory, staging)
        assert str(directory / name) in message
        assert "damaged" in message

    @pytest.mark.parametrize("content", [[1, 2], {"a": [1]}, torch.ones(2)])
    def test_no_state_dict(self, content, tl_directory, staging):
        (tl_directory / "model.safetensors").unlink()
        torch.save(content, tl_directory / "model_final.pth")
        assert "holds no state dict" in refusal(tl_directory, staging)

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ({"scale_attn_weights": False}, "it has attention not scaled by 1/sqrt(d_head = 8)"),
            ({"scale_attn_by_inverse_layer_idx": True}, "it has attention not scaled by 1/sqrt(d_head = 8)"),
            ({"activation_function": "mish"}, "it has the activation mish"),
            (
                {"n_layer": 3},
                "weights do not fit config.json: transformer.h.2.attn.c_attn.bias is missing (and 11 more)",
            ),
            ({"n_layer": 1}, "fit config.json: h.1.attn.c_attn.bias is not part of such a model (and 11 more)"),
            ({"n_positions": 16}, "transformer.wpe.weight has shape (64, 32), expected (16, 32)"),
            ({"n_head": 5}, "transformers cannot load it: `embed_dim` must be divisible"),
            ({"n_head": "four"}, "transformers cannot load it"),
            ({"model_type": "nonsense"}, "models of the kind nonsense are not read"),
            ({"model_type": "nonsense", "auto_map": {"AutoConfig": "a.B"}}, "models of the kind nonsense are not read"),
            ({"model_type": "t5"}, "models of the kind t5 are not read"),
        ],
    )
    def test_hugging_face(self, overrides, expected, tmp_path, staging):
        directory = write_hf_gpt2_directory(tmp_path / "m", overrides=overrides)
        assert expected in refusal(directory, staging)

    @pytest.mark.parametrize("kept", [100, 0.5])
    def test_hugging_face_truncated(self, kept, tmp_path, staging):
        weights = write_hf_gpt2_directory(tmp_path / "m") / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
        assert f"{weights} is damaged or cut short: " in refusal(weights.parent, staging)

    def test_hugging_face_nan(self, tmp_path, staging):
        weights = write_hf_gpt2_directory(tmp_path / "m") / "model.safetensors"
        state = load_file(weights)
        state["h.1.ln_2.weight"][3] = float("nan")
        save_file(state, weights, {"format": "pt"})
        assert "transformer.h.1.ln_2.weight holds NaN or infinity at 1 of 32" in refusal(weights.parent, staging)

    def test_other_families(self, tmp_path, staging):
        """By the config alone: beside it lies no weight."""
        from transformers import CONFIG_MAPPING

        expected = {
            "mamba": "models of the kind mamba are not read: they are recurrent",
            "cohere": "models of the kind cohere are not read: those that are read are of the kinds Falcon, ",
            "bert": "models of the kind bert are not read",
            "t5": "models of the kind t5 are not read: they have an encoder",
        }
        for model_type, reason in expected.items():
            CONFIG_MAPPING[model_type]().save_pretrained(tmp_path / model_type)
            config = json.loads((tmp_path / model_type / "config.json").read_text())
            with pytest.raises(DataError, match=re.escape(reason)):
                refuse_by_config(model_type, tmp_path / model_type, config)


def test_random_lean_is_processed_like():
    config, weights, model = random_lean(seed=3, attn_only=True, dtype=torch.float64)
    assert isinstance(model, LeanModel)
    assert {name: tuple(value.shape) for name, value in weights.items()} == weight_shapes(config)
    assert weights["W_O"].mean(dim=-1).abs().max() < 1e-15
    assert model.trace(check_tokens(config)).mlp_out.shape[0] == 0


def test_measures_the_same_wherever_its_weights_lie(tmp_path: Path) -> None:
    """Staged files of different headers put weights at different addresses, and a buffer at another one still."""
    found = random_lean(3, n_layers=2, n_heads=4, d_model=32, d_head=16)
    weights = {name: weight.float() for name, weight in found.weights.items()}
    metadata = {"config": json.dumps(found.config.to_json()), "hash": content_hash(found.config, weights)}
    models = []
    for origin in ("a", "a longer path", "one that is longer still", "0123456"):
        path = tmp_path / f"{len(models)}.safetensors"
        save_file(weights, path, {**metadata, "origin": origin})
        models += [load_model(path)[1], load_model(path.read_bytes())[1]]
    assert all(weight.data_ptr() % 64 == 0 for model in models for weight in model.weights.values())
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    first, *others = [model.weights["W_O"][1, 2] @ direction for model in models]
    assert all(torch.equal(first, other) for other in others)
