"""What a user can get wrong before anything is measured: one clear line, the right exit code, nothing that looks finished."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.bad_input import (
    D_VOCAB,
    PROMPTS,
    SEQ_LEN,
    Bench,
    Ran,
    assert_finished,
    assert_refused,
    edit_json,
    environment,
)
from tests.support.models.random_models import (
    random_config,
    tl_state_dict,
    write_hf_gpt2_directory,
    write_tl_directory,
)

Build = Callable[[Path], Any]

CLOSED = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def test_a_run_that_goes_well_says_nothing_on_stderr(measured: Ran):
    assert measured.stderr == ""
    assert "good" in measured.stdout


# names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "gelu-4"}, ["unknown model 'gelu-4'", "did you mean gelu-4l"]),
        ({"model": "./nowhere/at-all"}, ["./nowhere/at-all does not exist"]),
        ({"model": ""}, ["models", "line of text"]),
        ({"corpus": "stdlb"}, ["corpus stdlb", "did you mean stdlib?"]),
        ({"corpus": "tokens-of-mine.npy"}, ["tokens-of-mine.npy is neither a known name nor a file"]),
        ({"corpus": ""}, ["corpus", "line of text"]),
        ({"corpus": "hf:"}, ["hf:REPO"]),
        ({"tracking_uri": "./mlruns"}, ["./mlruns", "is a folder", "sqlite:///"]),
        ({"device": "cuda"}, ["no GPU"]),
    ],
)
def test_unknown_names(bench: Bench, out: Path, changes: dict[str, str], said: list[str]):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert_refused(bench.run(out, **changes), 2, *said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("papr", "did you mean paper?"),
        ("missing.yaml", "no preset and no file"),
        ("gelu-4l", "write --model gelu-4l"),
    ],
)
def test_unknown_preset_or_file(bench: Bench, out: Path, source: str, said: str):
    assert_refused(bench.run(out, source), 2, repr(source) if "no preset" in said else source, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [a]\nprompt: 3", ["unknown key 'prompt'", "did you mean prompts"]),
        ("models: [a]\ntop: many", ["top = 'many'", "valid integer"]),
        ("models: a", ["models = 'a'", "valid list"]),
        ("models: [a\nseed: 1", ["not valid YAML", "line 2"]),
        ("models: !!python/object/apply:os.abort []", ["not valid YAML", "line 1"]),
    ],
)
def test_config_files_with_mistakes(bench: Bench, out: Path, tmp_path: Path, text: str, said: list[str]):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    ran = bench.call(out, ["run", str(path), "--out", str(out)])
    assert_refused(ran, 2, str(path), *said)
    assert not out.exists()


# models


def state(**changes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    values = dict(tl_state_dict(random_config(2, 2, 16)))
    return values | {name: change(values[name].clone()) for name, change in changes.items()}


def with_nan(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[7] = float("nan")
    return values


class Unsafe:
    """Leaves a file where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def no_weights(path: Path) -> None:
    (write_tl_directory(path, 0, 2, 2, 16) / "model.safetensors").unlink()


def too_few_layers(path: Path) -> None:
    edit_json(write_tl_directory(path, 0, 2, 2, 16) / "config.json", n_layers=3)


def other_width(path: Path) -> None:
    edit_json(write_tl_directory(path, 0, 2, 2, 16) / "config.json", d_model=32)


def config_of_another_kind(path: Path) -> None:
    edit_json(write_tl_directory(path, 0, 2, 2, 16) / "config.json", d_model="wide")


def broken_config(path: Path) -> None:
    (write_tl_directory(path, 0, 2, 2, 16) / "config.json").write_text('{"n_layers": ')


def cut_short(path: Path) -> None:
    weights = write_tl_directory(path, 0, 2, 2, 16) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def pickled_pth(path: Path) -> None:
    write_tl_directory(path, 0, 2, 2, 16, weights_file="model.pth")
    torch.save({"embed.W_E": Unsafe(path / "witness")}, path / "model.pth")


def raw_pickle(path: Path) -> None:
    write_tl_directory(path, 0, 2, 2, 16, weights_file="model.pth")
    (path / "model.pth").write_bytes(pickle.dumps(Unsafe(path / "witness")))


def pickled_bin(path: Path) -> None:
    write_hf_gpt2_directory(path, 0, 1, 2, 16, weights_file="pytorch_model.bin")
    torch.save({"wte.weight": Unsafe(path / "witness")}, path / "pytorch_model.bin")


MODELS: dict[str, tuple[Build, list[str]]] = {
    "empty": (lambda path: path.mkdir(), ["holds no config.json"]),
    "no-weights": (no_weights, ["config.json but no weights"]),
    "broken-config": (broken_config, ["cannot be read as JSON"]),
    "config-of-another-kind": (config_of_another_kind, ["d_model = 'wide'", "positive integer"]),
    "too-few-layers": (too_few_layers, ["do not fit config.json", "blocks.2.ln1.w is missing"]),
    "other-width": (other_width, ["do not fit config.json", "embed.W_E has shape (97, 16), expected (97, 32)"]),
    "nan": (
        lambda path: write_tl_directory(path, 0, 2, 2, 16, state=state(**{"blocks.1.attn.W_O": with_nan})),
        ["blocks.1.attn.W_O holds NaN or infinity at 1 of 256 places"],
    ),
    "infinite-once-folded": (
        lambda path: write_tl_directory(path, 0, 2, 2, 16, state=state(**{"embed.W_E": lambda values: values * 3e38})),
        ["holds NaN or infinity"],
    ),
    "cut-short": (cut_short, ["model.safetensors is damaged or cut short"]),
    "pickled-pth": (pickled_pth, ["model.pth is not a safe weights file"]),
    "raw-pickle": (raw_pickle, ["model.pth is not a safe weights file"]),
    "pickled-bin": (pickled_bin, ["pickled-bin"]),
    "hf-too-few-layers": (
        lambda path: write_hf_gpt2_directory(path, 0, 1, 2, 16, overrides={"n_layer": 2}),
        ["do not fit config.json", "h.1.", "is missing"],
    ),
    "hf-unknown-kind": (
        lambda path: write_hf_gpt2_directory(path, 0, 1, 2, 16, overrides={"model_type": "gpt9"}),
        ["models of the kind gpt9 are not read"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used(bench: Bench, out: Path, tmp_path: Path, name: str):
    build, said = MODELS[name]
    build(tmp_path / name)
    assert_refused(bench.run(out, model=tmp_path / name), 1, *said)
    assert not (tmp_path / name / "witness").exists(), "the pickle was run"


def test_a_good_model_beside_a_bad_one_is_not_begun(bench: Bench, out: Path, tmp_path: Path):
    no_weights(tmp_path / "bad")
    ran = bench.run(out, "--model", str(tmp_path / "bad"))
    assert_refused(ran, 1, "no weights")
    assert ran.shards() == [] and ran.states == {} and ran.runs == {}


# tokens


def tokens(**changes: Any) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, D_VOCAB, (PROMPTS, SEQ_LEN))
    values[3, 5] = changes.get("id", 0)
    return values


BEYOND = f"ids go from 0 to {D_VOCAB - 1}"
TOKENS: dict[str, tuple[int, np.ndarray, list[str]]] = {
    "beyond": (1, tokens(id=D_VOCAB), [f"token id {D_VOCAB} at prompt 3, position 5", BEYOND]),
    "negative": (1, tokens(id=-1), ["token id -1 at prompt 3, position 5", BEYOND]),
    "wraps-in-32-bits": (1, tokens(id=2**32 + 1), [f"token id {2**32 + 1}", BEYOND]),
    "float": (1, tokens().astype(float), ["float64", "not integer token ids"]),
    "bool": (1, tokens() > 50, ["bool", "not integer token ids"]),
    "one-dimension": (1, tokens()[0], ["shape (16,), not [prompt, position]"]),
    "three-dimensions": (1, tokens()[None], ["shape (1, 16, 16), not [prompt, position]"]),
    "no-prompts": (2, tokens()[:0], ["has 0 prompts", "16 were asked for"]),
    "too-few-prompts": (2, tokens()[:12], ["has 12 prompts", "16 were asked for", "--prompts 12"]),
    "too-short": (2, tokens()[:, :10], ["10 tokens per prompt", "--seq-len is 16"]),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_do_not_suit(bench: Bench, out: Path, tmp_path: Path, name: str):
    code, values, said = TOKENS[name]
    np.save(tmp_path / f"{name}.npy", values)
    assert_refused(bench.run(out, corpus=tmp_path / f"{name}.npy"), code, f"{name}.npy", *said)


def test_tokens_that_are_no_array(bench: Bench, out: Path, tmp_path: Path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.array([[Unsafe(tmp_path / "witness")]], dtype=object), allow_pickle=True)
    assert_refused(bench.run(out, corpus=path), 1, "tokens.npy is damaged or no .npy file")
    path.write_bytes(pickle.dumps(Unsafe(tmp_path / "witness")))
    assert_refused(bench.run(out, corpus=path), 1, "tokens.npy is damaged or no .npy file")
    assert not (tmp_path / "witness").exists(), "the pickle was run"
    np.save(path, tokens())
    os.truncate(path, path.stat().st_size - 8)
    assert_refused(bench.run(out, corpus=path), 1, "tokens.npy is damaged or no .npy file")


def test_prompts_longer_than_the_models_context(bench: Bench, out: Path, tmp_path: Path):
    np.save(tmp_path / "long.npy", np.zeros((PROMPTS, 100), dtype=int))
    ran = bench.run(out, corpus=tmp_path / "long.npy", seq_len=65)
    assert_refused(ran, 2, "--seq-len 65 is beyond the model's context", "64 or less")


def test_text_for_a_model_without_tokenizer(bench: Bench, out: Path):
    assert_refused(bench.run(out, corpus="stdlib"), 2, "no tokenizer", "--corpus FILE.npy")


# what cannot be reached


def test_a_hub_out_of_reach_is_said_in_seconds(bench: Bench, out: Path):
    command = bench.command(out, model="gelu-1l")
    done = subprocess.run(command, capture_output=True, text=True, env=environment(HF_ENDPOINT=CLOSED), check=False)
    ran = bench.ran(done.returncode, done.stdout, done.stderr, out)
    assert_refused(ran, 1, f"{CLOSED} cannot be reached", "config.json of NeelNanda/GELU_1L512W_C4_Code", "hf download")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (CLOSED, "Connection refused"),
        ("postgresql://me:secret@127.0.0.1:9/runs", "postgresql://me:***@127.0.0.1:9/runs"),
        ("sqlite:///{root}/tokens.npy", "file is not a database"),
        ("sqlite:///{root}/tokens.npy/mlflow.db", "tokens.npy"),
    ],
)
def test_a_tracking_store_out_of_reach(bench: Bench, out: Path, uri: str, said: str):
    ran = bench.run(out, tracking_uri=uri.format(root=bench.root))
    assert_refused(ran, 1, "MLflow at", said, "--tracking-uri")
    assert "secret" not in ran.stderr + (out / "run.log").read_text()
    assert ran.shards() == [] and ran.states == {}


@pytest.mark.parametrize("flag", ["store", "staging"])
def test_folders_that_cannot_be_written(bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch, flag: str):
    below_a_file = str(bench.tokens / "folder")
    monkeypatch.setenv(
        "ERASURE_SWEEP_STAGING", below_a_file if flag == "staging" else os.environ["ERASURE_SWEEP_STAGING"]
    )
    assert_refused(bench.run(out, store=below_a_file if flag == "store" else None), 1, below_a_file)


def test_out_that_is_a_file_or_below_one(bench: Bench, out: Path):
    out.write_text("mine")
    assert_refused(bench.run(out), 1, f"{out} cannot be written", "--out")
    assert_refused(bench.run(out / "deeper"), 1, f"{out}/deeper cannot be written", "--out")
    assert out.read_text() == "mine"


# an OUT that is not what it should be


def test_out_of_another_sweep_is_refused_and_left_alone(bench: Bench, measured: Ran):
    before = measured.tables()
    for more in ([], ["--fresh"]):
        ran = bench.run(measured.out, *more, prompts=8)
        assert (ran.code, len(ran.stderr.splitlines())) == (2, 1)
        assert ran.line.startswith(f"erasure-sweep: {measured.out} holds another sweep (prompts 16)")
    assert ran.tables() == before
    assert ran.states == {"good": "FINISHED"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"models": []}', '{"config": {}, "models": [{"name": "good"}]}'])
def test_a_damaged_manifest_without_a_copy_is_refused_until_fresh(bench: Bench, out: Path, measured: Ran, text: str):
    out.mkdir()
    (out / "manifest.json").write_text(text)
    assert_refused(bench.run(out), 2, f"{out}/manifest.json is damaged", "--fresh")
    assert (out / "manifest.json").read_text() == text
    if text == "{":
        ran = bench.run(out, "--fresh")
        assert_finished(ran, "good")
        assert ran.tables() == measured.tables()


def test_dry_run_refuses_as_run_does_and_leaves_nothing(bench: Bench, out: Path):
    assert_refused(bench.run(out, "--dry-run", prompts=PROMPTS + 1), 2, "17 were asked for")
    ran = bench.run(out, "--dry-run")
    assert (ran.code, ran.stderr) == (0, "")
    assert not out.exists() and ran.runs == {}
