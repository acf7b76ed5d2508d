"""The models and corpora of the study, in small: random weights under the names and in the layout of the real repositories."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.models.random_models import random_config, tl_state_dict, write_hf_gpt2_directory, write_tl_directory
from tests.support.servers.hub import Hub

NANDA_TOKENIZER = "NeelNanda/gpt-neox-tokenizer-digits"
SMALL_MODELS = [f"{family}-{n}l" for family in ("gelu", "attn-only") for n in range(1, 5)]
GPT2 = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
N_CTX = 32
CHECKPOINTS = (0, 1_000_000, 4_000_000, 16_000_000)
"""Tokens at which gelu-2l was kept while it was trained."""
_REPOS = {"gelu": "GELU", "attn-only": "Attn_Only", "solu": "SoLU"}
_SENTENCE = "the stream of what was written and read by heads in later layers is erased where room is short"


def add_study(hub: Hub, folder: Path) -> None:
    """Serve the eight small models, GPT-2 in four sizes, their tokenizers, and pile-10k; files are made in ``folder``."""
    texts = study_texts()
    hub.add_text_dataset("NeelNanda/pile-10k", texts, shards=2)
    hub.add_text_dataset("stas/openwebtext-10k", texts[::-1])
    draw = random.Random(1)
    for name, rows in (("c4-tokenized-2b", 260), ("code-tokenized", 70)):
        ready = [[0, *(draw.randrange(1, 300) for _ in range(N_CTX))] for _ in range(rows)]
        hub.add_token_dataset(f"NeelNanda/{name}", ready)
    hub.add("models", NANDA_TOKENIZER, _tokenizer_files(texts, 300, "<|BOS|>"))
    for seed, name in enumerate(SMALL_MODELS):
        family, n_layers = name.rpartition("-")[0], int(name[-2])
        shape = {"n_layers": n_layers, "attn_only": family == "attn-only", "n_ctx": N_CTX, "d_vocab": 300}
        made = write_tl_directory(
            folder / name, seed, weights_file="model_final.pth", tokenizer_name=NANDA_TOKENIZER, **shape
        )
        for i, tokens in enumerate(CHECKPOINTS if name == "gelu-2l" else ()):
            state = tl_state_dict(random_config(**shape), seed=100 + i)
            (made / "checkpoints").mkdir(exist_ok=True)
            torch.save(state, made / "checkpoints" / f"tokens_{tokens:012d}.pth")
        hub.add_model(f"NeelNanda/{_REPOS[family]}_{n_layers}L512W_C4_Code", made)
    for seed, name in enumerate(GPT2):
        made = write_hf_gpt2_directory(
            folder / name, seed, n_layers=1 + seed, d_model=32 + 8 * seed, n_ctx=N_CTX, d_vocab=280
        )
        repo = hub.add_model(name, made)
        repo.files |= _tokenizer_files(texts, 280, "<|endoftext|>")
        earlier = write_hf_gpt2_directory(folder / f"{name}-earlier", 50 + seed, n_ctx=N_CTX, d_vocab=280)
        repo.revisions["step100"] = repo.files | {path.name: path.read_bytes() for path in earlier.iterdir()}


def study_texts(n: int = 400) -> list[str]:
    """Texts of some hundred words, the same every time."""
    draw, words = random.Random(0), _SENTENCE.split()
    return [" ".join(draw.choices(words, k=draw.randint(60, 200))) for _ in range(n)]


def _tokenizer_files(texts: list[str], size: int, bos: str) -> dict[str, bytes]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[bos], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    config = {"bos_token": bos, "eos_token": bos, "tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}
