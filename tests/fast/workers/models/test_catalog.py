"""The catalog: which names there are, what they stand for, and what a listing says of them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from erasure_sweep.workers.models import catalog
from erasure_sweep.workers.models.catalog import find_entry, locate, model_entries
from erasure_sweep.workers.models.model_config import weight_shapes
from tests.support.models.random_models import random_config, write_tl_directory
from tests.support.paths import ROOT


def test_catalog(tmp_path, monkeypatch):
    write_tl_directory(tmp_path / "toy", n_layers=3)
    write_tl_directory(tmp_path / "unfinished", weights_file="step.safetensors")
    monkeypatch.setattr(catalog, "BUNDLED", tmp_path)
    entries = model_entries()
    assert [entry.name for entry in entries] == [
        "toy", "gelu-1l", "gelu-2l", "gelu-3l", "gelu-4l", "attn-only-1l", "attn-only-2l", "attn-only-3l",
        "attn-only-4l", "solu-1l", "solu-2l", "solu-3l", "solu-4l", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
    ]  # fmt: skip
    assert entries[0][:6] == ("toy", "bundled", str(tmp_path / "toy"), 3, 32, 4)
    assert find_entry("NeelNanda/GELU_4L512W_C4_Code") == find_entry("gelu-4l")
    assert find_entry("openai-community/gpt2-xl")[3:8] == (48, 1600, 25, 64, 6400)
    assert find_entry("solu-3l").act_fn == "solu_ln"
    assert find_entry("gelu") is None


def test_size_of_an_entry_is_that_of_its_staged_weights():
    for name in ("toy-gelu-4l", "attn-only-3l", "solu-2l", "gpt2-large"):
        entry = find_entry(name)
        shape = {key: getattr(entry, key) for key in ("n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab")}
        config = random_config(entry.n_layers, d_model=entry.d_model, attn_only=entry.attn_only, **shape)
        assert entry.weights_bytes == 4 * sum(math.prod(shape) for shape in weight_shapes(config).values())


def test_counts_the_checkpoints_of_bundled_models():
    assert find_entry("toy-gelu-4l").n_checkpoints == 9
    assert find_entry("toy-gelu-1l").n_checkpoints == find_entry("gelu-4l").n_checkpoints == 0


@pytest.mark.parametrize(
    ("name", "shown", "repo"),
    [
        ("gpt2-small", "gpt2", "gpt2"),
        ("GPT2-XL", "gpt2-xl", "gpt2-xl"),
        ("gelu-4l-c4-code", "gelu-4l", "NeelNanda/GELU_4L512W_C4_Code"),
        ("solu-6l", "SoLU_6L768W_C4_Code", "NeelNanda/SoLU_6L768W_C4_Code"),
        ("distilgpt2", "distilgpt2", "distilgpt2"),
        ("opt-125m", "opt-125m", "facebook/opt-125m"),
        ("stanford-crfm/alias-gpt2-small-x21", "alias-gpt2-small-x21", "stanford-crfm/alias-gpt2-small-x21"),
        ("openai-community/gpt2", "gpt2", "gpt2"),
        ("owner/name", "name", "owner/name"),
    ],
)
def test_names_of_the_hub(name, shown, repo):
    assert locate(name)[:3] == (shown, "hub", repo)


def test_names_that_transformer_lens_boots_are_its_own():
    from transformer_lens.supported_models import MODEL_ALIASES, get_official_model_name

    aliases = [alias for names in MODEL_ALIASES.values() for alias in names if "/" not in alias]
    assert len(aliases) > 100
    for alias in aliases:
        official = get_official_model_name(alias)
        assert locate(alias).place == official


def test_only_other_names_ask_transformer_lens(tmp_path):
    code = (
        "import sys; from erasure_sweep.workers.models.catalog import locate, model_entries\n"
        "for name in (*(e.name for e in model_entries()), sys.argv[1], 'owner/name', 'openai-community/gpt2'):\n"
        "    locate(name)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(write_tl_directory(tmp_path / "m", n_layers=1))]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"


def test_catalog_agrees_with_transformer_lens():
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    assert {entry.location for entry in model_entries() if entry.kind == "hub"} <= set(OFFICIAL_MODEL_NAMES)


def test_catalog_imports_nothing_heavy():
    code = (
        "import sys, erasure_sweep.workers.models.catalog as c\n"
        "c.model_entries(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "False"]
