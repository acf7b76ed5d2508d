"""Each model's own training mix: which is known, and what the user says of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasure_sweep.workers.corpora import resolve_corpus as corpora
from erasure_sweep.workers.corpora.resolve_corpus import own_corpus
from erasure_sweep.workers.errors import UsageError


class TestOwn:
    @pytest.mark.parametrize(
        ("name", "base", "spec", "corpus"),
        [
            ("gelu-4l", "gelu-4l", "gelu-4l", "gelu-mix"),
            ("gelu-4l@65536", "gelu-4l", "gelu-4l@65536", "gelu-mix"),
            ("attn-only-2l", "attn-only-2l", "NeelNanda/Attn_Only_2L512W_C4_Code", "gelu-mix"),
            ("SoLU_6L768W_C4_Code", "SoLU_6L768W_C4_Code", "NeelNanda/SoLU_6L768W_C4_Code", "gelu-mix"),
            ("solu-1l", "solu-1l", "solu-1l", "gelu-mix"),
            ("gpt2", "gpt2", "gpt2", "openwebtext-10k"),
            ("gpt2-xl", "gpt2-xl", "openai-community/gpt2-xl", "openwebtext-10k"),
            ("gpt2", "gpt2", "gpt2-small", "openwebtext-10k"),
            ("toy-gelu-4l", "toy-gelu-4l", "toy-gelu-4l", "stdlib"),
            ("toy-gelu-4l-w128@5", "toy-gelu-4l-w128", "toy-gelu-4l-w128@-1", "stdlib"),
        ],
    )
    def test_training_mixes(self, name: str, base: str, spec: str, corpus: str) -> None:
        assert own_corpus(name, base, spec, {}) == corpus
        assert corpus in corpora.KNOWN_CORPORA

    @pytest.mark.parametrize(
        ("model", "spec"),
        [
            ("pythia-70m", "EleutherAI/pythia-70m"),
            ("gpt2", "someone/gpt2"),
            ("SoLU_1L_v9_old", "NeelNanda/SoLU_1L_v9_old"),
            ("gpt2-chinese", "gpt2-chinese@main"),
        ],
    )
    def test_unknown_ones(self, model: str, spec: str) -> None:
        with pytest.raises(UsageError) as caught:
            own_corpus(model, model, spec, {"other": "stdlib"})
        told = f"corpus = own: no training mix is known for {model}: add own_corpora: {{{model}: CORPUS}}"
        assert str(caught.value) == told

    def test_a_folder_is_not_the_model_that_it_is_called_like(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "toy-mine").mkdir()
        (tmp_path / "gpt2").mkdir()
        monkeypatch.chdir(tmp_path)
        for model, spec in (("gpt2", str(tmp_path / "gpt2")), ("gpt2", "./gpt2@5"), ("toy-mine", "toy-mine")):
            with pytest.raises(UsageError, match=f"no training mix is known for {model}"):
                own_corpus(model, model, spec, {})
        assert own_corpus("gpt2", "gpt2", "gpt2", {}) == "openwebtext-10k", "a known name goes before a folder"

    def test_the_user_goes_first_and_the_nearer_name(self) -> None:
        given = {"gelu-4l": "c4-10k", "gelu-4l@64": "code-10k", "gelu-4l@-1": "pile-10k", "mine": "x.npy"}
        assert own_corpus("gelu-4l@64", "gelu-4l", "gelu-4l@-1", given) == "pile-10k"
        assert own_corpus("gelu-4l@64", "gelu-4l", "gelu-4l@1", given) == "code-10k"
        assert own_corpus("gelu-4l@32", "gelu-4l", "gelu-4l@0", given) == "c4-10k"
        assert own_corpus("mine", "mine", "/some/mine", given) == "x.npy"
        assert own_corpus("gelu-1l", "gelu-1l", "gelu-1l", given) == "gelu-mix"
