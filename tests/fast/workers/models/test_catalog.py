"""The catalog: which names there are, what they stand for, and what a listing says of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from erasure_sweep.workers.models import catalog
from erasure_sweep.workers.models.catalog import find_entry, locate, model_entries
from tests.support.models.random_models import write_tl_directory
from tests.support.paths import ROOT


def test_catalog(tmp_path, monkeypatch):
    write_tl_directory(tmp_path / "toy", n_layers=3)
    write_tl_directory(tmp_path / "unfinished", weights_file="step.safetensors")
    monkeypatch.setattr(catalog, "BUNDLED", tmp_path)
    entries = model_entries()
    assert [entry.name for entry in entries] == [
        "toy", "gelu-1l", "gelu-2l", "gelu-3l", "gelu-4l", "attn-only-1l", "attn-only-2l", "attn-only-3l",
        "attn-only-4l", "solu-1l", "solu-2l", "solu-3l", "solu-4l", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
        "pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b", "smollm2-135m", "smollm2-360m",
        "smollm2-1.7b", "tinyllama-1.1b", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b-base",
    ]  # fmt: skip
    toy = entries[0]
    assert toy[:3] == ("toy", "bundled", str(tmp_path / "toy"))
    assert (toy.config.n_layers, toy.config.d_model, toy.config.n_heads) == (3, 32, 4)
    assert find_entry("NeelNanda/GELU_4L512W_C4_Code") == find_entry("gelu-4l")
    xl = find_entry("openai-community/gpt2-xl").config
    assert (xl.n_layers, xl.d_model, xl.n_heads, xl.d_head, xl.d_mlp) == (48, 1600, 25, 64, 6400)
    assert find_entry("solu-3l").config.act_fn == "solu_ln"
    assert find_entry("gelu") is None


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2", 124), ("gpt2-xl", 1558), ("pythia-160m", 162), ("pythia-1.4b", 1415), ("smollm2-135m", 135),
     ("smollm2-1.7b", 1711), ("tinyllama-1.1b", 1100), ("qwen2.5-0.5b", 494), ("qwen2.5-1.5b", 1544), ("qwen3-0.6b-base", 596)],
)  # fmt: skip
def test_sizes_are_those_that_are_known_of_the_models(name: str, millions: int):
    """As their makers count: what is tied once, norms included, which are folded here."""
    entry = find_entry(name)
    tied = not name.startswith(("pythia", "tinyllama"))
    found = entry.weights_bytes / 4 - tied * entry.config.d_vocab * entry.config.d_model
    assert found / 1e6 == pytest.approx(millions, rel=0.004)


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

    ours = {entry.location for entry in model_entries() if entry.kind == "hub"}
    assert {repo for repo in ours if repo.startswith(("NeelNanda", "gpt2", "EleutherAI"))} <= set(OFFICIAL_MODEL_NAMES)


def test_catalog_imports_nothing_heavy():
    code = (
        "import sys, erasure_sweep.workers.models.catalog as c\n"
        "c.model_entries(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "False"]
