"""GGUF files: the same model as from a folder, quantized ones said to be that, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.files.file_formats import is_gguf
from erasure_sweep.workers.models.processing.conversion import convert
from erasure_sweep.workers.models.resolve_model import resolve_model
from erasure_sweep.workers.models.sources import find_model_files
from erasure_sweep.workers.models.tokenizer import load_tokenizer, stage_tokenizer
from tests.support.models.gguf_models import write_gguf
from tests.support.models.transformers_models import random_transformer, write_transformer

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.fixture
def model() -> object:
    return random_transformer("llama", 3, **SHAPE)


def test_the_same_model_as_from_a_folder(model: object, tmp_path: Path) -> None:
    path, folder = write_gguf(tmp_path / "tiny.gguf", model), write_transformer(tmp_path / "folder", model)
    staged = [convert(find_model_files(str(of)), tmp_path / f"{i}.safetensors") for i, of in enumerate((path, folder))]
    eps = staged[0].config.eps  # the header's is float32
    assert eps == pytest.approx(staged[1].config.eps, rel=1e-7)
    assert staged[0].config == replace(staged[1].config, eps=eps)
    for name, values in staged[1].weights.items():
        torch.testing.assert_close(staged[0].weights[name], values, rtol=0, atol=0)


def test_quantized_weights_are_said_to_be_that(model: object, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model, "Q8_0")
    found = find_model_files(str(path))
    assert (found.name, found.origin) == ("tiny", f"{path} (quantized: Q8_0)")
    assert resolve_model(str(path), tmp_path / "staging").name == "tiny"
    exact = find_model_files(str(write_gguf(tmp_path / "exact.gguf", model)))
    assert exact.origin == str(tmp_path / "exact.gguf")


def test_its_tokenizer_is_staged_once(model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    staged = stage_tokenizer(str(path), tmp_path / "staging")
    assert staged.endswith("tokenizer.json")
    text = "abba"
    ids = load_tokenizer(str(path)).encode_batch([text])
    assert load_tokenizer(staged).encode_batch([text]) == ids
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    assert stage_tokenizer(str(path), tmp_path / "staging") == staged


def test_what_cannot_be_read_is_refused_by_its_header(
    model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", model)
    content = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:200])
    (tmp_path / "text.gguf").write_text("no such thing, though it is called one")
    (tmp_path / "strange.gguf").write_bytes(content.replace(b"llama", b"nomad"))
    for name, said in (("cut", "is no GGUF file"), ("text", "is no GGUF file"), ("strange", "nomad is not supported")):
        with pytest.raises(DataError, match=said) as caught:
            find_model_files(str(tmp_path / f"{name}.gguf"))
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DataError, match=r"pip install 'erasure-sweep\[gguf\]'"):
        find_model_files(str(path))
    assert is_gguf(path)
