"""GPT-2 converted a tensor at a time: the weights, whatever form the files have, the two checks, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.architectures.gpt2 import FAMILY
from erasure_sweep.workers.models.files.staged_weights import StagedModel, read_staged
from erasure_sweep.workers.models.files.weights_file import WeightsFile
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.processing import family as families
from erasure_sweep.workers.models.processing.block_weights import ProcessedWeight, processed
from erasure_sweep.workers.models.processing.bridge import process_bridge, quiet
from erasure_sweep.workers.models.processing.conversion import convert
from erasure_sweep.workers.models.processing.folding import ordered_sum
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer, transformers_config
from erasure_sweep.workers.models.sources import ModelFiles, find_model_files
from tests.support.models.bridges import boot_bridge
from tests.support.models.random_models import random_config, write_hf_gpt2_directory, write_hf_gpt2_shards

SHAPES = {
    "usual": {"n_layers": 3, "n_heads": 4, "d_model": 32},
    "odd": {"n_layers": 2, "n_heads": 3, "d_model": 21, "n_ctx": 13, "d_vocab": 31},
    "one head": {"n_layers": 1, "n_heads": 1, "d_model": 16},
}
AGREEMENT = 1e-6
"""Of weights with TransformerLens' float32 processing, relative to the largest of the tensor."""


@pytest.fixture
def source(tmp_path: Path) -> ModelFiles:
    return find_model_files(str(write_hf_gpt2_directory(tmp_path / "m", 7, n_layers=2)))


@pytest.fixture(params=["TransformerLens'", "transformers'"])
def checked_against(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose logits a conversion is held against: a model is small enough for TransformerLens, or is not."""
    if request.param == "transformers'":
        monkeypatch.setattr(families, "BRIDGE_BYTES", 0)
    return str(request.param)


def stage(directory: Path) -> StagedModel:
    return convert(find_model_files(str(directory)), directory / "staged" / "m.safetensors")


def refusal(directory: Path) -> str:
    """The one line with which a model is refused; nothing may be left staged."""
    with pytest.raises(DataError) as caught:
        stage(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(directory.rglob("staged/*"))
    return message


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Change the weights of a directory with one safetensors file."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return directory


def literal(state: Mapping[str, Tensor], n_layers: int, n_heads: int) -> dict[str, np.ndarray]:
    """Folding and centring in float64, one head and one layer at a time, from the definitions."""
    w = {name: values.double().numpy() for name, values in state.items()}
    d_model = w["wte.weight"].shape[1]
    project = np.eye(d_model) - 1.0 / d_model
    found: dict[str, list[np.ndarray]] = {}
    for layer in range(n_layers):
        block = {name.removeprefix(f"h.{layer}."): v for name, v in w.items() if name.startswith(f"h.{layer}.")}
        gain, shift = block["ln_1.weight"], block["ln_1.bias"]
        weights = np.split(block["attn.c_attn.weight"], 3 * n_heads, axis=1)
        biases = np.split(block["attn.c_attn.bias"], 3 * n_heads)
        outs = np.split(block["attn.c_proj.weight"], n_heads)
        read = {(i // n_heads, i % n_heads): (project @ np.diag(gain) @ m, b + shift @ m)
                for i, (m, b) in enumerate(zip(weights, biases, strict=True))}  # fmt: skip
        layers: dict[str, np.ndarray] = {}
        for index, name in enumerate("QKV"):
            layers[f"W_{name}"] = np.stack([read[index, head][0] for head in range(n_heads)])
            layers[f"b_{name}"] = np.stack([read[index, head][1] for head in range(n_heads)])
        layers["W_O"] = np.stack([out @ project for out in outs])
        from_values = sum(read[2, head][1] @ outs[head] for head in range(n_heads))
        del layers["b_V"]
        layers["b_O"] = (block["attn.c_proj.bias"] + from_values) @ project
        w_in = block["mlp.c_fc.weight"]
        layers["W_in"] = project @ np.diag(block["ln_2.weight"]) @ w_in
        layers["b_in"] = block["mlp.c_fc.bias"] + block["ln_2.bias"] @ w_in
        layers["W_out"], layers["b_out"] = block["mlp.c_proj.weight"] @ project, block["mlp.c_proj.bias"] @ project
        for name, values in layers.items():
            found.setdefault(name, []).append(values)
    unembed = project @ np.diag(w["ln_f.weight"]) @ w["wte.weight"].T
    bias = w["ln_f.bias"] @ w["wte.weight"].T
    ends = {"W_E": w["wte.weight"] @ project, "W_pos": w["wpe.weight"] @ project}
    ends |= {"W_U": unembed - unembed.mean(axis=1, keepdims=True), "b_U": bias - bias.mean()}
    return ends | {name: np.stack(values) for name, values in found.items()}


class TestWeights:
    @pytest.mark.parametrize("kind", SHAPES)
    def test_are_those_of_transformer_lens(self, kind: str, tmp_path: Path) -> None:
        directory = write_hf_gpt2_directory(tmp_path / "m", 11, **SHAPES[kind])
        found = stage(directory)
        with quiet():
            config, expected = process_bridge(boot_bridge(find_model_files(str(directory))))
        assert found.config == config
        assert found.weights.keys() == expected.keys()
        for name, values in expected.items():
            gap = (found.weights[name] - values).abs().max() / values.abs().max()
            assert gap < AGREEMENT, f"{name}: {gap:.1e}"

    @pytest.mark.parametrize("kind", SHAPES)
    def test_are_rounded_once(self, kind: str, tmp_path: Path) -> None:
        directory = write_hf_gpt2_directory(tmp_path / "m", 12, **SHAPES[kind])
        shape = SHAPES[kind]
        expected = literal(load_file(directory / "model.safetensors"), shape["n_layers"], shape["n_heads"])
        found = stage(directory).weights
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            gap = np.abs(found[name].double().numpy() - values)
            assert (gap <= 2.0**-24 * np.abs(values) + 1e-14).all(), name

    def test_square_mlp(self, tmp_path: Path) -> None:
        """TransformerLens mistakes the sides of such an MLP's weights: transformers is the judge."""
        directory = write_hf_gpt2_directory(tmp_path / "m", 13, d_mlp=32, overrides={"n_inner": 32})
        expected = literal(load_file(directory / "model.safetensors"), 2, 4)["W_in"]
        np.testing.assert_allclose(stage(directory).weights["W_in"].double().numpy(), expected, rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_processed_in_float64(self, dtype: torch.dtype, tmp_path: Path) -> None:
        halves = rewrite(write_hf_gpt2_directory(tmp_path / "a", 14), lambda s: {k: v.to(dtype) for k, v in s.items()})
        floats = rewrite(
            write_hf_gpt2_directory(tmp_path / "b", 14), lambda s: {k: v.to(dtype).float() for k, v in s.items()}
        )
        first, second = stage(halves), stage(floats)
        assert first.hash == second.hash
        assert {values.dtype for values in first.weights.values()} == {torch.float32}

    def test_sums_have_one_order(self) -> None:
        values = torch.randn(517, 33, dtype=torch.float64) * torch.logspace(-8, 8, 517, dtype=torch.float64)[:, None]
        first = ordered_sum(values, dim=0)
        torch.testing.assert_close(first[0], values.sum(dim=0), rtol=1e-12, atol=1e-12)
        torch.set_num_threads(2)
        transposed = values.T.contiguous()
        for other in (ordered_sum(values, 0), ordered_sum(transposed, 1).T, ordered_sum(transposed.T, 0)):
            assert torch.equal(first, other)


class TestForms:
    """One model, however its files are made: the same hash."""

    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        return write_hf_gpt2_directory(tmp_path / "whole", 21)

    @pytest.fixture
    def expected(self, whole: Path) -> str:
        return stage(whole).hash

    def test_names(self, whole: Path, expected: str) -> None:
        assert stage(rewrite(whole, lambda s: {f"transformer.{k}": v for k, v in s.items()})).hash == expected

    def test_masks_are_left_out(self, whole: Path, expected: str) -> None:
        def with_masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
            masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(2)}
            return state | masks | {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(2)}

        assert stage(rewrite(whole, with_masks)).hash == expected

    @pytest.mark.parametrize("kept", ["both", "unembedding alone"])
    def test_tied_unembedding_in_the_file(self, kept: str, whole: Path, expected: str) -> None:
        def with_unembedding(state: dict[str, Tensor]) -> dict[str, Tensor]:
            head = {"lm_head.weight": state["wte.weight"].clone()}
            return {k: v for k, v in state.items() if kept == "both" or k != "wte.weight"} | head

        assert stage(rewrite(whole, with_unembedding)).hash == expected

    @pytest.mark.parametrize("zipped", [True, False])
    def test_torch_file(self, zipped: bool, whole: Path, expected: str) -> None:
        state = load_file(whole / "model.safetensors")
        (whole / "model.safetensors").unlink()
        torch.save(state, whole / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        assert stage(whole).hash == expected

    def test_shards(self, tmp_path: Path) -> None:
        config = random_config(3, act_fn="gelu_new")
        split = write_hf_gpt2_shards(tmp_path / "split", config, 22)
        shards = sorted(split.glob("model-*.safetensors"))
        whole = write_hf_gpt2_directory(tmp_path / "whole", n_layers=3)
        rewrite(whole, lambda _: {name: v for shard in shards for name, v in load_file(shard).items()})
        assert len(shards) == 4
        assert stage(split).hash == stage(whole).hash

    @pytest.mark.usefixtures("checked_against")
    def test_own_unembedding(self, whole: Path, expected: str) -> None:
        directory = rewrite(whole, lambda s: s | {"lm_head.weight": s["wte.weight"].flip(0).contiguous()})
        config = json.loads((whole / "config.json").read_text())
        (whole / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        found = stage(directory)
        assert found.hash != expected
        other = literal(load_file(whole / "model.safetensors"), 2, 4)["W_U"][:, ::-1]
        np.testing.assert_allclose(found.weights["W_U"].double().numpy(), other, rtol=1e-6, atol=1e-12)


class TestChecks:
    def test_both_accept(self, source: ModelFiles, checked_against: str, tmp_path: Path) -> None:
        assert convert(source, tmp_path / "staged.safetensors").config.n_layers == 2

    def test_both_refuse_another_weight(
        self, source: ModelFiles, checked_against: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def skewed(*args: object) -> Iterator[ProcessedWeight]:
            for part in processed(*args):  # type: ignore[arg-type]
                yield part._replace(values=part.values * 1.05) if (part.name, part.layer) == ("W_K", 1) else part

        monkeypatch.setattr(families, "processed", skewed)
        assert f"model m cannot be measured: the trace's logits differ from {checked_against} by" in refusal(
            source.directory
        )

    def test_the_bound_is_of_processed_weights(self, source: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        n_bytes = sum(values.nbytes for values in stage(source.directory).weights.values())
        booted: list[str] = []

        def boot(model: ModelFiles) -> object:
            booted.append(model.name)
            return FAMILY.boot(model)  # type: ignore[misc]

        family, path = FAMILY._replace(boot=boot), source.directory / "again.safetensors"
        for bound, expected in ((n_bytes - 1, []), (n_bytes, ["m"])):
            monkeypatch.setattr(families, "BRIDGE_BYTES", bound)
            families.convert_family(family, source, path)
            assert booted == expected

    def test_logits_are_those_of_transformers(self, source: ModelFiles) -> None:
        from transformers import AutoModelForCausalLM

        hf = transformers_config("m", source.config)
        gpt2, tokens = StoredTransformer.of_files(source, hf), check_tokens(FAMILY.shape(hf))
        with quiet(), torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(source.directory).eval()(tokens).logits
        first = gpt2.logits(tokens)
        assert torch.equal(first, expected)
        assert torch.equal(gpt2.logits(tokens), first)
        assert all(parameter.is_meta for parameter in gpt2.model.parameters()), "nothing stays in memory"


class TestStaged:
    def test_file_says_what_it_is(self, source: ModelFiles, tmp_path: Path) -> None:
        path = tmp_path / "models" / "m.safetensors"
        made = convert(source, path)
        found = read_staged(path)
        assert (found.config, found.hash) == (made.config, made.hash)
        assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]

    def test_weights_are_used_where_they_lie(self, source: ModelFiles, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        convert(source, path)
        weights = read_staged(path).weights
        model = LeanModel(read_staged(path).config, weights)
        assert {name for name, values in weights.items() if values.data_ptr() % 64} <= {"b_U"}
        assert model.weights["W_in"].data_ptr() == weights["W_in"].data_ptr()

    def test_full_disk_leaves_nothing(self, source: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(WeightsFile, "write", full)
        message = refusal(source.directory)
        assert message.startswith("cannot stage model m in ")
        assert "No space left on device" in message

    def test_file_takes_only_what_fits(self, tmp_path: Path) -> None:
        with closing(WeightsFile(tmp_path / "f", {"W": (2, 3)}, {"hash": "00"})) as file:
            file.write("W", 1, torch.ones(3))
            for values in (torch.ones(4), torch.ones(3, dtype=torch.float64)):
                with pytest.raises(ValueError, match="W takes float32 of"):
                    file.write("W", 0, values)
            with pytest.raises(ValueError, match="another length"):
                file.replace_metadata({"hash": "much longer than before" * 4})
        assert load_file(tmp_path / "f")["W"].tolist() == [[0.0] * 3, [1.0] * 3]


class TestRefusals:
    def test_integers(self, source: ModelFiles) -> None:
        rewrite(source.directory, lambda s: s | {"wpe.weight": s["wpe.weight"].to(torch.int8)})
        assert (
            refusal(source.directory) == "model m: transformer.wpe.weight holds torch.int8, not floating-point numbers"
        )

    def test_overflow(self, source: ModelFiles) -> None:
        rewrite(source.directory, lambda s: s | {"h.0.ln_2.weight": s["h.0.ln_2.weight"] * 1e37})
        rewrite(source.directory, lambda s: s | {"h.0.mlp.c_fc.weight": s["h.0.mlp.c_fc.weight"] * 1e3})
        assert "W_in holds NaN or infinity at" in refusal(source.directory)

    def test_own_unembedding_is_missing(self, tmp_path: Path) -> None:
        directory = write_hf_gpt2_directory(tmp_path / "m", overrides={"tie_word_embeddings": False})
        assert "weights do not fit config.json: lm_head.weight is missing" in refusal(directory)

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            ({"n_head": 0}, "config.json cannot be used: "),
            ({"n_layer": 0}, "config.json says 0 layers, not a positive number"),
            ({"n_inner": 3}, "transformer.h.0.mlp.c_fc.bias has shape (128,), expected (3,) (and "),
            ({"add_cross_attention": True}, "it has cross-attention"),
            ({"layer_norm_epsilon": "small"}, "transformers cannot load it: "),
        ],
    )
    def test_config(self, overrides: dict[str, object], expected: str, tmp_path: Path) -> None:
        assert expected in refusal(write_hf_gpt2_directory(tmp_path / "m", overrides=overrides))

    def test_shard_without_a_tensor(self, tmp_path: Path) -> None:
        directory = write_hf_gpt2_shards(tmp_path / "m", random_config(1, act_fn="gelu_new"))
        shard = directory / "model-00001-of-00002.safetensors"
        save_file({name: values for name, values in load_file(shard).items() if name != "wpe.weight"}, shard)
        assert "weights do not fit config.json: transformer.wpe.weight is missing" in refusal(directory)
