"""Which architecture a config.json is of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models import architectures as folder
from erasure_sweep.workers.models.architectures import gpt_neox, llama, registry
from erasure_sweep.workers.models.architectures.gpt2 import ARCHITECTURE
from erasure_sweep.workers.models.architectures.registry import architectures, find_architecture
from erasure_sweep.workers.models.catalog import bundled_entries
from erasure_sweep.workers.models.files.file_formats import read_config
from erasure_sweep.workers.models.processing.stored_transformer import transformers_config

NEW_FAMILY = """
from dataclasses import replace

from erasure_sweep.workers.models.architectures.gpt2 import ARCHITECTURE as GPT2

ARCHITECTURE = replace(GPT2, name="Strange", recognizes=lambda config: config.get("model_type") == "strange")
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of another family in the folder of architectures."""
    (tmp_path / "strange_in_a_test.py").write_text(NEW_FAMILY)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    architectures.cache_clear()
    yield
    architectures.cache_clear()
    sys.modules.pop(f"{folder.__name__}.strange_in_a_test", None)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"n_layers": 1, "act_fn": "gelu"}, "TransformerLens"),
        ({"model_type": "gpt2"}, "GPT-2"),
        ({"model_type": "mistral"}, "Llama"),
        ({"model_type": "gemma3_text"}, "Gemma"),
        ({"model_type": "olmoe"}, "Mixture of experts"),
        ({"model_type": "gpt2", "n_layers": 1}, "GPT-2"),
    ],
)
def test_is_found_by_its_config(config: dict[str, object], name: str):
    assert find_architecture(config).name == name
    assert sum(each.recognizes(config) for each in architectures()) == 1


def test_bundled_models_are_of_three_kinds_and_their_entries_say_what_their_files_do():
    kinds = {entry.name: find_architecture(read_config(Path(entry.location))).name for entry in bundled_entries()}
    others = {"toy-llama-4l": "Llama", "toy-pythia-4l": "GPT-NeoX"}
    assert {name: kind for name, kind in kinds.items() if kind != "TransformerLens"} == others
    for entry in bundled_entries():
        if entry.name in others:
            family = {"Llama": llama.FAMILY, "GPT-NeoX": gpt_neox.FAMILY}[kinds[entry.name]]
            shape = family.shape(transformers_config(entry.name, read_config(Path(entry.location))))
            assert entry.config == replace(shape, eps=entry.config.eps)


def test_a_new_file_adds_a_family(strange: None):
    assert find_architecture({"model_type": "strange"}).name == "Strange"
    assert find_architecture({"model_type": "gpt2"}).name == "GPT-2"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "models of the kind t5 are not read: they have an encoder"),
        ({"model_type": "mamba"}, "models of the kind mamba are not read: they are recurrent"),
        (
            {"model_type": "cohere"},
            "models of the kind cohere are not read: those that are read are of the kinds GPT-2",
        ),
    ],
)
def test_what_none_recognizes_is_refused(config: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "architectures", lambda: (ARCHITECTURE,))
    with pytest.raises(DataError, match=said):
        find_architecture(config)
