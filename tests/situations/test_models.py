"""Models: names, folders and files in every form, damaged, foreign or enormous"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer

from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.processing.bridge import bridge_logits, quiet
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.models.sources import find_model_files
from erasure_sweep.workers.records import Resolved
from erasure_sweep.workers.resolve import resolve
from tests.support.bad_input import Bench, assert_refused
from tests.support.models.bridges import boot_bridge
from tests.support.models.random_models import write_hf_gpt2_directory, write_tl_directory
from tests.support.privileges import of_another_user, permissions_count
from tests.support.servers.hub import Hub

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 548118077\n"


class TestNames:
    def test_a_folder_that_is_called_like_a_known_model(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A folder that is called like a bundled model or one of the hub

        The known model is measured, and a line says that the folder was passed over and how to mean it (`./NAME`).
        """
        write_tl_directory(tmp_path / "toy-gelu-2l", 3, 1, 2, 16)
        monkeypatch.chdir(tmp_path)
        known = bench.run(out, "--dry-run", model="toy-gelu-2l", seq_len=8)
        assert known.code == 0 and known.stdout.startswith(
            "toy-gelu-2l is the bundled model toy-gelu-2l; the folder toy-gelu-2l here is passed over: write "
            "./toy-gelu-2l to mean it"
        )
        meant = bench.run(out, model="./toy-gelu-2l", stage="scan", prompts=2, seq_len=8)
        assert meant.code == 0 and meant.states == {"toy-gelu-2l": "FINISHED"} and "passed over" not in meant.stdout
        assert json.loads((out / "manifest.json").read_text())["models"][0]["n_layers"] == 1

    def test_a_folder_that_is_called_like_a_known_corpus(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A folder that is called like a known corpus

        The known corpus is read, and a line says that the folder was passed over and how to mean it.
        """
        (tmp_path / "stdlib").mkdir()
        monkeypatch.chdir(tmp_path)
        ran = bench.run(out, "--dry-run", model="toy-gelu-2l", prompts=2, seq_len=8, corpus="stdlib")
        assert ran.code == 0 and ran.stdout.startswith(
            "stdlib is a known corpus; the folder stdlib here is passed over: write ./stdlib to mean it"
        )

    def test_a_config_that_is_called_like_a_preset(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A config file that is called like a preset, `demo`

        The preset is taken, and a line says that the file was passed over and how to mean it.
        """
        (tmp_path / "demo").write_text("models: [toy-gelu-1l]\nprompts: 7\n")
        monkeypatch.chdir(tmp_path)
        known, meant = (bench.call(out, ["config", name]) for name in ("demo", "./demo"))
        assert known.stderr == "demo is a preset; the file demo here is passed over: write ./demo to mean it\n"
        assert "prompts: 7" not in known.stdout and "prompts: 7" in meant.stdout and not meant.stderr

    def test_a_folder_of_several_weights(self, bench: Bench, out: Path, tmp_path: Path):
        """A folder with weights in two files, `model.safetensors` and `model_final.pth`

        The first is measured, as transformers would, and a line says that the other was passed over.
        """
        model = write_tl_directory(tmp_path / "m", 0, 1, 2, 8)
        write_tl_directory(model, 1, 1, 2, 8, weights_file="model_final.pth")
        ran = bench.run(out, "--dry-run", model=model, prompts=2, seq_len=8)
        assert ran.code == 0, ran.stderr
        assert "m: the weights are those of model.safetensors: passed over is model_final.pth" in ran.stdout

    def test_two_folders_that_are_called_the_same(self, bench: Bench, tmp_path: Path):
        """Two folders called `checkpoint-500`, one of them behind a link

        Both are measured, under names with as many parent folders as tell them apart, in tables, folders and MLflow; a
        later run of one of them finds its results again.
        """
        models = [write_tl_directory(tmp_path / run / "checkpoint-500", i, 1, 2, 8) for i, run in enumerate("ab")]
        (tmp_path / "latest").symlink_to(models[1])
        out, quick = tmp_path / "two" / "out", {"stage": "scan", "prompts": 2, "seq_len": 8}
        ran = bench.run(out, "--model", str(tmp_path / "latest"), model=models[0], **quick)
        both = {"a/checkpoint-500": "FINISHED", "b/checkpoint-500": "FINISHED"}
        assert ran.code == 0 and ran.states == both, ran.stderr
        assert ran.runs.keys() >= both.keys()
        for name in both:
            tables = out / name.replace("/", "_") / "tables"
            assert set(pd.read_parquet(tables / "writers.parquet")["model"]) == {name}
        again = bench.run(out, model=models[0], **quick)
        assert again.code == 0 and again.states == both, again.stderr
        assert "a/checkpoint-500: scan: 1 shards, 1 already measured" in (out / "run.log").read_text()

    def test_models_that_the_user_names(self, bench: Bench, tmp_path: Path):
        """Models that should be called otherwise than their folders

        `NAME=DIR`, on the command line as in a config, is called NAME in tables, folders and MLflow; a later run that calls it
        otherwise goes on from the same shards, and it is listed once.
        """
        models = [write_tl_directory(tmp_path / run / "checkpoint-500", i, 1, 2, 8) for i, run in enumerate("ab")]
        out, quick = tmp_path / "named" / "out", {"stage": "scan", "prompts": 2, "seq_len": 8}
        ran = bench.run(out, "--model", f"late={models[1]}", model=f"early={models[0]}", **quick)
        assert ran.code == 0 and ran.states == {"early": "FINISHED", "late": "FINISHED"}, ran.stderr
        assert ran.runs.keys() >= {"early", "late"} and (out / "early" / "tables").is_dir()
        again = bench.run(out, model=f"first={models[0]}", **quick)
        assert again.code == 0 and again.states == {"first": "FINISHED", "late": "FINISHED"}, again.stderr


class TestGitLfs:
    @pytest.mark.parametrize(
        "name", ["model.safetensors", "model_final.pth", "config.json", "tokenizer.json", "pytorch_model.bin"]
    )
    def test_a_model_whose_files_git_lfs_left_as_pointers(self, bench: Bench, out: Path, tmp_path: Path, name: str):
        """A model of whose files Git LFS left a pointer

        Refused before anything is measured, with the file's name and `git lfs pull`.
        """
        write = write_hf_gpt2_directory if name.endswith(".bin") else write_tl_directory
        model = write(tmp_path / "m", 0, 1, 2, 8)
        if name.endswith((".pth", ".bin")):
            (model / "model.safetensors").unlink()
        (model / name).write_text(POINTER)
        text = tmp_path / "text.txt"
        text.write_text("Some text. " * 100)
        ran = bench.run(out, model=model, corpus=text)
        assert_refused(ran, 1, f"{model / name} is a pointer of Git LFS", "git lfs pull")


class TestStateDicts:
    def test_a_state_dict_of_hooked_transformer(self, bench: Bench, tmp_path: Path):
        """A state dict that was saved from HookedTransformer, masks and its IGNORE of −∞ included

        Measured as the weights alone.
        """
        state = load_file(bench.model / "model.safetensors")
        masks = {f"blocks.{i}.attn.mask": torch.ones(64, 64).tril().bool() for i in range(2)}
        ignored = {f"blocks.{i}.attn.IGNORE": torch.tensor(-torch.inf) for i in range(2)}
        saved = save_state(tmp_path / "saved", bench.model, state | masks | ignored)
        assert hash_of(saved, tmp_path) == hash_of(bench.model, tmp_path)

    def test_a_state_dict_of_a_bridge(self, bench: Bench, tmp_path: Path):
        """A state dict that was saved from TransformerLens 4's TransformerBridge

        Measured as the model that was saved.
        """
        state = bridge_to(bench.model).state_dict()
        assert hash_of(save_state(tmp_path / "saved", bench.model, state), tmp_path) == hash_of(bench.model, tmp_path)

    def test_a_state_dict_of_a_bridge_to_gpt2(self, tmp_path: Path):
        """A state dict that was saved from a TransformerBridge to GPT-2, whose matrices lie the other way

        Measured as the model that was saved: a forward pass over its weights gives the logits of the bridge.
        """
        model = write_hf_gpt2_directory(tmp_path / "gpt-2", 0, 2, 2, 16)
        bridge = bridge_to(model)
        saved = save_state(tmp_path / "saved", model, bridge.state_dict(), "pytorch_model.bin")
        config, lean = load_model(resolve_model(str(saved), tmp_path / "staging").weights)
        tokens = check_tokens(config)
        torch.testing.assert_close(lean.logits(tokens), bridge_logits(bridge, tokens), atol=1e-4, rtol=0)

    def test_folded_norms(self, bench: Bench, out: Path, tmp_path: Path):
        """A SoLU model whose norms were folded (LNPre), so that its state dict has none

        Measured, with ones and zeros for the norms, that behind the activation included.
        """
        model = write_tl_directory(tmp_path / "m", 0, 2, 2, 16, act_fn="solu_ln", overrides={"normalization": "LNPre"})
        state = load_file(model / "model.safetensors")
        kept = {name: tensor for name, tensor in state.items() if ".ln" not in name and "ln_" not in name}
        save_file(kept, model / "model.safetensors")
        ran = bench.run(out, model=model, stage="scan", prompts=4, seq_len=8)
        assert ran.code == 0 and ran.states == {"m": "FINISHED"}, ran.stderr

    def test_a_checkpoint_of_a_training_script(self, bench: Bench, tmp_path: Path):
        """A checkpoint with the optimizer beside the weights, saved from several devices (`module.`)

        Measured as the weights alone.
        """
        state = {f"module.{name}": t for name, t in load_file(bench.model / "model.safetensors").items()}
        content = {"model_state_dict": state, "optimizer_state_dict": {"state": {0: torch.ones(3)}}, "step": 1000}
        saved = save_state(tmp_path / "saved", bench.model, content)
        assert hash_of(saved, tmp_path) == hash_of(bench.model, tmp_path)


class TestTransformersFiles:
    def test_shards_of_pytorch_model_bin(self, tmp_path: Path):
        """Weights in shards of pytorch_model.bin with their index

        Measured as the same weights in one file.
        """
        one = write_hf_gpt2_directory(tmp_path / "one", 0, 2, 2, 16)
        state = load_file(one / "model.safetensors")
        names = sorted(state)
        shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
        for shard, held in shards.items():
            several = save_state(tmp_path / "several", one, {name: state[name] for name in held}, shard)
        weight_map = {name: shard for shard, held in shards.items() for name in held}
        (several / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        assert hash_of(several, tmp_path) == hash_of(one, tmp_path)

    def test_a_tokenizer_of_vocab_and_merges(self, bench: Bench, out: Path, tmp_path: Path):
        """A tokenizer of vocab.json and merges.txt, without tokenizer.json

        Text is read through it, as transformers does.
        """
        model = write_hf_gpt2_directory(tmp_path / "m", 0, 1, 2, 8, d_vocab=300)
        text = tmp_path / "text.txt"
        text.write_text("hello world, hello tokens " * 200)
        byte_level = ByteLevelBPETokenizer()
        byte_level.train_from_iterator([text.read_text()], vocab_size=300, special_tokens=["<|endoftext|>"])
        byte_level.save_model(str(model))
        ran = bench.run(out, model=model, corpus=text, stage="scan", prompts=2, seq_len=8)
        assert ran.code == 0 and ran.states == {"m": "FINISHED"}, ran.stderr


class TestSharedFolders:
    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
    def test_staged_files_and_the_umask(self, tmp_path: Path, umask: int):
        """A staging folder that several users share, and a umask that lets them

        Weights, tokens and tables can be read by whom the umask allows.
        """
        before = os.umask(umask)
        try:
            staging = tmp_path / "staging"
            for write in (write_tl_directory, write_hf_gpt2_directory):
                resolve_with_tokens(write(tmp_path / write.__name__, 0, 1, 2, 8), tmp_path, staging)
        finally:
            os.umask(before)
        modes = {oct(path.stat().st_mode & 0o777) for path in staging.rglob("*") if path.is_file()}
        assert modes == {oct(0o666 & ~umask)}

    def test_a_staging_folder_and_a_cache_that_cannot_be_written(self, hub: Hub, cache: Path, tmp_path: Path):
        """A staging folder and a Hugging Face cache of another user, which can only be read

        What is there is measured; no lock is asked for.
        """
        hub.add_model("gpt2", write_hf_gpt2_directory(tmp_path / "gpt2", 1, 1, 2, 8))
        own = write_tl_directory(tmp_path / "own", 0, 1, 2, 8)
        staging = tmp_path / "staging"
        first = [resolve_with_tokens(spec, tmp_path, staging) for spec in ("gpt2", own)]
        with of_another_user(staging), of_another_user(cache), permissions_count():
            assert [resolve_with_tokens(spec, tmp_path, staging) for spec in ("gpt2", own)] == first
            anew = resolve_with_tokens("gpt2", tmp_path, tmp_path / "another")
        assert anew.hash == first[0].hash

    def test_staged_weights_of_another_user(self, tmp_path: Path):
        """Staged weights that only another user may read

        Refused with their name and what their owner can do.
        """
        model, staging = write_tl_directory(tmp_path / "m", 0, 1, 2, 8), tmp_path / "staging"
        weights = resolve_model(str(model), staging).weights
        weights.chmod(0)
        with of_another_user(staging), permissions_count(), pytest.raises(DataError) as caught:
            resolve_model(str(model), staging)
        assert str(caught.value) == (
            f"staged weights {weights} cannot be read (Permission denied): let their owner `chmod a+r` them, or choose "
            "another --staging"
        )


def save_state(folder: Path, like: Path, content: Mapping[str, object], file: str = "model_final.pth") -> Path:
    """A model with the config of another, whose weights file holds this."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((like / "config.json").read_bytes())
    torch.save(dict(content), folder / file)
    return folder


def bridge_to(model: Path) -> Any:
    with quiet():
        return boot_bridge(find_model_files(str(model)))


def hash_of(model: Path, root: Path) -> str:
    """Of a model's processed weights, which determine what is measured."""
    return resolve_model(str(model), root / "staging").hash


def resolve_with_tokens(spec: object, root: Path, staging: Path) -> Resolved:
    """A model and its tokens, staged."""
    tokens = root / "tokens.npy"
    if not tokens.exists():
        np.save(tokens, np.arange(64).reshape(8, 8))
    return resolve(str(spec), CorpusRequest(str(tokens), 4, 8, 0), str(staging))
