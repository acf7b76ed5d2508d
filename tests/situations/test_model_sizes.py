"""Models that promise more than they hold: sizes are checked before anything is built, and nothing waits for a pipe"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.resolve_model import resolve_model
from tests.support.bad_input import Bench, assert_refused, edit_json
from tests.support.models.random_models import write_hf_gpt2_directory, write_tl_directory

SHAPE = {"n_layers": 1, "n_heads": 2, "d_model": 8, "n_ctx": 16, "d_vocab": 97}
ROOM_BYTES = 2 * 2**30
"""Address space beside what is taken already; what is refused here would ask for many times as much."""


@pytest.fixture
def bounded() -> Iterator[None]:
    """This process may take no more than a little memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(model: Path) -> str:
    with pytest.raises(DataError) as caught:
        resolve_model(str(model), model.parent / "staging")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and "memory" not in message
    return message


def assert_refused_by_size(model: Path) -> None:
    message = refusal(model)
    said = ("weights do not fit config.json", "no model has so many", "transformers cannot load it")
    assert any(part in message for part in said), message


def test_a_config_of_a_billion_layers(bench: Bench, out: Path, tmp_path: Path):
    """A config.json that says a billion layers

    Refused by the config alone, in one line; nothing is built.
    """
    model = write_tl_directory(tmp_path / "m", **SHAPE)
    edit_json(model / "config.json", n_layers=10**9)
    assert_refused(
        bench.run(out, model=model), 1, "config.json says n_layers = 1,000,000,000, and no model has so many"
    )


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("key", ["n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab"])
@pytest.mark.parametrize("value", [5_000, 10**12])
def test_sizes_beyond_the_files(tmp_path: Path, key: str, value: int):
    """A config.json whose layers, heads, widths or vocabulary are absurd

    Refused by what the weights' file holds, before anything of such a size is made.
    """
    model = write_tl_directory(tmp_path / "m", **SHAPE)
    edit_json(model / "config.json", **{key: value})
    assert_refused_by_size(model)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size"])
@pytest.mark.parametrize("value", [5_000, 10**12])
def test_sizes_of_a_gpt2_beyond_its_files(tmp_path: Path, key: str, value: int):
    """The same of GPT-2 in Hugging Face's layout

    Refused in one line, before anything of such a size is made.
    """
    model = write_hf_gpt2_directory(tmp_path / "m", **SHAPE)
    edit_json(model / "config.json", **{key: value})
    assert_refused_by_size(model)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "vocab_size", "ffn_dim", "max_position_embeddings"]
)
@pytest.mark.parametrize("value", [5_000, 10**12])
def test_sizes_of_another_family_beyond_its_files(tmp_path: Path, key: str, value: int):
    """The same of another family in Hugging Face's layout

    Refused in one line, before transformers makes what the files do not hold.
    """
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"hidden_size": 8, "num_attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": 16, "vocab_size": 97}
    OPTForCausalLM(OPTConfig(num_hidden_layers=1, word_embed_proj_dim=8, **shape)).save_pretrained(tmp_path / "m")
    keys = [key, "word_embed_proj_dim"] if key == "hidden_size" else [key]  # one without the other is refused by itself
    edit_json(tmp_path / "m" / "config.json", **dict.fromkeys(keys, value))
    assert_refused_by_size(tmp_path / "m")


def pack(path: Path) -> None:
    """Write the records of a torch file anew, packed."""
    with ZipFile(path) as archive:
        records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in records:
            archive.writestr(name, content)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["packed", "repeated"])
def test_a_file_that_unfolds_to_a_thousand_times_its_size(tmp_path: Path, kind: str):
    """A .pth of kilobytes that asks for gigabytes: packed records, or one value shown as a billion

    Refused by its size, without unfolding it.
    """
    model = write_tl_directory(tmp_path / "m", weights_file="model_final.pth", **SHAPE)
    path, width = model / "model_final.pth", 10**9 if kind == "repeated" else 10**7
    zeros = torch.zeros(1, 1).expand(8, width) if kind == "repeated" else torch.zeros(8, width)
    state = torch.load(path, weights_only=True)
    torch.save(state | {"unembed.W_U": zeros}, path)
    del state, zeros
    if kind == "packed":
        pack(path)
    message = refusal(model)
    assert ("would unfold to 320," in message) if kind == "packed" else ("asks for 32,000," in message)


def test_tied_weights_are_no_repetition(tmp_path: Path):
    """A torch file in which embedding and unembedding are one tensor

    Measured as if each had its own.
    """
    model = write_tl_directory(tmp_path / "m", weights_file="model_final.pth", **SHAPE)
    state = torch.load(model / "model_final.pth", weights_only=True)
    tied = state | {"unembed.W_U": state["embed.W_E"].T}
    torch.save(tied, model / "model_final.pth")
    first = resolve_model(str(model), tmp_path / "staging").hash
    torch.save({name: tensor.clone() for name, tensor in tied.items()}, model / "model_final.pth")
    assert resolve_model(str(model), tmp_path / "staging").hash == first


def header(change: Callable[[dict[str, dict[str, object]]], None]) -> Callable[[bytes], bytes]:
    """A safetensors file whose header is changed, its length noted rightly."""

    def changed(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return changed


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a longer header": lambda content: (2**40).to_bytes(8, "little") + content[8:],
    "a larger shape": header(lambda entries: entries["embed.W_E"].update(shape=[10**6, 10**6])),
    "places beyond the end": header(lambda entries: entries["embed.W_E"].update(data_offsets=[0, 2**40])),
    "another kind": header(lambda entries: entries["embed.W_E"].update(dtype="F128")),
    "metadata alone": lambda _: (26).to_bytes(8, "little") + b'{"__metadata__":{"a":"b"}}',
    "nothing": lambda _: b"",
    "nesting": lambda _: (10**5).to_bytes(8, "little") + b"[" * 10**5,
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies(tmp_path: Path, lie: str):
    """A safetensors file whose header says other than what follows

    Refused as damaged, in one line.
    """
    model = write_tl_directory(tmp_path / "m", **SHAPE)
    path = model / "model.safetensors"
    path.write_bytes(LIES[lie](path.read_bytes()))
    message = refusal(model)
    assert "is damaged or cut short" in message or "weights do not fit config.json: " in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training_log.json"])
def test_a_pipe_in_the_place_of_a_file(tmp_path: Path, name: str):
    """A pipe in the place of weights or config.json

    Refused with its name; nothing waits for what it might hold.
    """
    model = write_tl_directory(tmp_path / "m", **SHAPE)
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert f"{model / name} is no regular file" in refusal(model)


@pytest.mark.parametrize("write", [write_tl_directory, write_hf_gpt2_directory])
def test_quantized_weights(bench: Bench, out: Path, tmp_path: Path, write: Callable[..., Path]):
    """A model whose config.json has a quantization_config

    Refused with the method and the way out, before weights are read or fetched.
    """
    model = write(tmp_path / "m", **SHAPE)
    edit_json(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert_refused(
        bench.run(out, model=model), 1, "its weights are quantized (gptq)", "the model that they were made from"
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_nested_without_end(tmp_path: Path, name: str):
    """A config.json or an index of shards that is nested 100,000 deep

    Refused in one line that names the file.
    """
    model = write_hf_gpt2_directory(tmp_path / "m", **SHAPE)
    if name != "config.json":
        (model / "model.safetensors").unlink()
    (model / name).write_text("[" * 100_000 + "]" * 100_000)
    assert refusal(model) == f"{model / name} cannot be read as JSON: it is nested too deep"
