"""Valid inputs of a small sweep, and ways to damage or disguise them, drawn by hypothesis.

A mutation changes the files of a ``Place`` or the environment and returns whether it means nothing: then the run has to
end in the tables of the undisturbed one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.support.models.random_models import write_tl_directory

PROMPTS, SEQ_LEN, D_VOCAB = 4, 8, 97
SIZES = ("cpus_per_worker", "workers")
"""Keys that would start threads or processes: mutated among small values by other tests."""

Draw = Callable[[Any], Any]


class Place:
    """A model, tokens and a config in a folder.

    Args:
        root: the folder, which is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.model = write_tl_directory(root / "good", 0, 1, 2, 16)
        self.tokens = root / "tokens.npy"
        self.save_tokens(np.random.default_rng(0).integers(0, D_VOCAB, (PROMPTS, SEQ_LEN)))
        self.config = root / "mine.yaml"
        self.values = {
            "models": [str(self.model)],
            "corpus": str(self.tokens),
            "prompts": PROMPTS,
            "seq_len": SEQ_LEN,
            "positions": "all",
            "stage": "scan",
        }
        self.config.write_text(yaml.safe_dump(self.values))

    def save_tokens(self, tokens: np.ndarray) -> None:
        np.save(self.tokens, tokens)

    def arguments(self, out: Path, tracking_uri: str) -> list[str]:
        """The command line of a run, which keeps what it leaves in ``out``."""
        places = {"--out": out, "--tracking-uri": tracking_uri, "--experiment": out.parent.name, "--workers": "0"}
        return ["run", str(self.config), *(str(part) for pair in places.items() for part in pair)]


ODD = st.one_of(
    st.sampled_from(
        [None, True, False, "", " ", "all", "auto", [], {}, [[]], 0, -1, 1, 2, 3, 10**12, -(10**30), 1e300, 0.5]
    ),
    st.sampled_from(
        [float("nan"), float("inf"), "\x1b[2J", "a\nb", "é" * 300, "../..", "/dev/null", "s3://", "hf:", "x" * 5000]
    ),
    st.text(max_size=8),
    st.lists(st.sampled_from(["L0H0", "L0H9", "MLP0", "embed", 3, None]), max_size=3),
)
"""Values that a key of a config or a JSON file might hold by mistake."""


def config_value(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """One key of the config holds something odd."""
    from erasure_sweep.sweep.config import SweepConfig

    key = draw(st.sampled_from([key for key in SweepConfig.model_fields if key not in SIZES]))
    place.config.write_text(yaml.safe_dump(place.values | {key: draw(ODD)}), encoding="utf-8", errors="replace")
    return False


def config_text(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """The config's text is damaged."""
    place.config.write_bytes(damaged(place.config.read_bytes(), draw))
    return False


def config_disguised(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """The config's text says the same in another way."""
    text = place.config.read_text()
    changes: dict[str, Callable[[], str]] = {
        "mark": lambda: "\ufeff" + text,
        "line ends": lambda: text.replace("\n", "\r\n"),
        "comments": lambda: "# mine\n" + text.replace("\n", "  # said\n"),
        "JSON": lambda: json.dumps(place.values),
        "order": lambda: yaml.safe_dump(dict(reversed(place.values.items())), sort_keys=False),
        "start and end": lambda: f"---\n{text}...\n",
        "defaults": lambda: text + "seed: 0\nln: frozen\ntau: 0.05\n",
        "alias": lambda: (
            f"corpus: &it {place.tokens}\nstaging: null\n"
            + yaml.safe_dump(place.values | {"corpus": None}).replace("corpus: null\n", "")
        ),
    }
    place.config.write_bytes(changes[draw(st.sampled_from(sorted(changes)))]().encode("utf-8"))
    return True


def model_config(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """One key of config.json holds something odd, or is gone."""
    path = place.model / "config.json"
    values = json.loads(path.read_text())
    key = draw(st.sampled_from(sorted(values)))
    if draw(st.booleans()):
        del values[key]
    else:
        values[key] = draw(ODD)
    path.write_text(json.dumps(values))
    return False


def model_config_disguised(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """config.json says the same in another way, or more, or another file lies beside it."""
    path = place.model / "config.json"
    values = json.loads(path.read_text())
    kind = draw(st.sampled_from(["order", "indent", "more", "notes", "folder"]))
    if kind == "order":
        path.write_text(json.dumps(dict(reversed(values.items()))))
    elif kind == "indent":
        path.write_text(json.dumps(values, indent=4) + "\n")
    elif kind == "more":
        path.write_text(json.dumps(values | {"_mine": [1, {"a": None}]}))
    elif kind == "notes":
        (place.model / "README.md").write_text("# mine")
    else:
        (place.model / "logs").mkdir()
    return True


def model_tensor(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """One tensor of the weights is gone, has another shape or type, or holds what is no number."""
    path = place.model / "model.safetensors"
    tensors = load_file(path)
    name = draw(st.sampled_from(sorted(tensors)))
    values = tensors[name]
    changes: dict[str, Callable[[], torch.Tensor | None]] = {
        "gone": lambda: None,
        "longer": lambda: torch.cat([values, values]),
        "flat": lambda: values.reshape(-1),
        "turned": lambda: values.mT.contiguous() if values.ndim > 1 else values[None],
        "empty": lambda: values[:0],
        "scalar": lambda: torch.tensor(1.0),
        "NaN": lambda: torch.full_like(values, float("nan")),
        "infinite": lambda: torch.full_like(values, float("inf")),
        "large": lambda: values * 1e38,
        "zero": lambda: torch.zeros_like(values),
        "int64": lambda: values.to(torch.int64),
        "bool": lambda: values > 0,
        "float16": lambda: values.to(torch.float16),
        "complex": lambda: values.to(torch.complex64),
    }
    change = changes[draw(st.sampled_from(sorted(changes)))]()
    tensors = {**tensors, name: change} if change is not None else {key: x for key, x in tensors.items() if key != name}
    save_file(tensors, path)
    return False


def model_names(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """Two tensors have each other's name."""
    path = place.model / "model.safetensors"
    tensors = load_file(path)
    first, second = draw(st.lists(st.sampled_from(sorted(tensors)), min_size=2, max_size=2, unique=True))
    save_file({**tensors, first: tensors[second], second: tensors[first]}, path)
    return False


def model_disguised(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """The weights say the same in another way: in another order or precision, with metadata, through a link."""
    path = place.model / "model.safetensors"
    tensors = load_file(path)
    kind = draw(st.sampled_from(["float64", "metadata", "link", "name", "pth"]))
    if kind == "float64":
        save_file({name: values.double() for name, values in tensors.items()}, path)
    elif kind == "metadata":
        save_file(tensors, path, {"format": "pt", "mine": "\x1b[2J"})
    elif kind == "link":
        path.symlink_to(path.rename(place.root / "elsewhere"))
    elif kind == "name":
        path.rename(place.model / "weights of mine.safetensors")
    else:
        torch.save(tensors, place.model / "model_final.pth")
        path.unlink()
    return True


def a_file(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """A file is cut short, damaged in its first bytes, empty, a folder, a pipe, a device, a loop of links, or not there."""
    path = draw(
        st.sampled_from([place.config, place.model / "config.json", place.model / "model.safetensors", place.tokens])
    )
    content = path.read_bytes()
    path.unlink()
    kind = draw(
        st.sampled_from(["cut", "damaged", "empty", "folder", "pipe", "device", "loop", "gone", "pointer", "deep"])
    )
    if kind == "cut":
        path.write_bytes(content[: place_in(content, draw)])
    elif kind == "damaged":
        path.write_bytes(damaged(content[:64], draw) + content[64:])
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pointer":
        path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    elif kind == "deep":
        path.write_text("[" * 100_000)
    return False


def tokens_disguised(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """The same tokens in another type or order of memory, or behind a link."""
    tokens = np.load(place.tokens)
    kind = draw(st.sampled_from(["uint8", "int16", "uint16", ">i4", "uint64", "fortran", "link"]))
    if kind == "fortran":
        place.save_tokens(np.asfortranarray(tokens))
    elif kind == "link":
        place.tokens.symlink_to(place.tokens.rename(place.root / "elsewhere.npy"))
    else:
        place.save_tokens(tokens.astype(kind))
    return True


def tokens_odd(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """Tokens of another shape, type or range."""
    tokens = np.load(place.tokens)
    changes: dict[str, Callable[[], np.ndarray]] = {
        "float": lambda: tokens.astype(float),
        "half": lambda: tokens.astype(np.float16),
        "bool": lambda: tokens > 3,
        "text": lambda: tokens.astype(str),
        "complex": lambda: tokens.astype(complex),
        "dates": lambda: tokens.astype("datetime64[s]"),
        "record": lambda: np.zeros((4, 8), dtype=[("a", int), ("b", float)]),
        "scalar": lambda: tokens[0, 0],
        "row": lambda: tokens[0],
        "deep": lambda: tokens[None],
        "none": lambda: tokens[:0],
        "no positions": lambda: tokens[:, :0],
        "few": lambda: tokens[:2],
        "short": lambda: tokens[:, :4],
        "id": lambda: np.where(tokens == tokens[1, 1], draw(st.integers(-(2**63), 2**63 - 1)), tokens),
        "same": lambda: np.zeros_like(tokens),
        "wide": lambda: np.tile(tokens, (1, 20)),
    }
    place.save_tokens(changes[draw(st.sampled_from(sorted(changes)))]())
    return False


def text_corpus(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """A bundled model reads a file of any bytes under any name."""
    name = draw(
        st.sampled_from(
            ["a.txt", "a.json", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.py", "a", "a.csv", "a.bin", "a.npy"]
        )
    )
    line = "the quick brown fox jumps over the lazy dog, again and again; "
    contents: dict[str, Callable[[], bytes]] = {
        "text": (line * 30).encode,
        "huge line": (line * 3000).encode,
        "UTF-16": lambda: (line * 30).encode("utf-16"),
        "bytes": lambda: draw(st.binary(max_size=200)),
        "zeros": lambda: bytes(5000),
        "random": lambda: random.Random(draw(st.integers(0, 99))).randbytes(5000),
        "rows": lambda: "".join(json.dumps({"text": line * 5}) + "\n" for _ in range(20)).encode(),
        "broken rows": lambda: damaged("".join(json.dumps({"text": line}) + "\n" for _ in range(50)).encode(), draw),
        "other rows": lambda: "".join(json.dumps(draw(ODD)) + "\n" for _ in range(3)).encode(),
        "deep row": lambda: b"[" * 100_000,
        "blank": lambda: b"\n" * 3000,
        "same letter": lambda: b"a" * 30_000,
    }
    path = place.root / name
    path.write_bytes(contents[draw(st.sampled_from(sorted(contents)))]())
    place.config.write_text(yaml.safe_dump(place.values | {"models": ["toy-attn-1l"], "corpus": str(path)}))
    return False


def environment(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """A variable of the environment, the current folder or the mask of new files is odd."""
    kind = draw(st.sampled_from(["variable", "folder", "gone folder", "mask"]))
    if kind == "variable":
        names = (
            "OMP_NUM_THREADS",
            "HOME",
            "LANG",
            "COLUMNS",
            "TERM",
            "NO_COLOR",
            "HF_HOME",
            "TZ",
            "PYTHONIOENCODING",
            "USER",
            "RAY_ADDRESS",
            "HF_ENDPOINT",
        )
        patch.setenv(draw(st.sampled_from(names)), draw(st.sampled_from(["", "abc", "-1", "/nowhere", "é", "0", "C"])))
    elif kind == "folder":
        patch.chdir("/")
    elif kind == "gone folder":
        (place.root / "gone").mkdir()
        patch.chdir(place.root / "gone")
        shutil.rmtree(place.root / "gone")
    else:
        os.umask(draw(st.sampled_from([0, 0o077, 0o027])))
    return kind != "gone folder"


def out_taken(place: Place, draw: Draw, patch: pytest.MonkeyPatch) -> bool:
    """Something lies where the results are to go."""
    out = place.root / "out"
    kind = draw(st.sampled_from(["empty folder", "other files", "file", "loop", "manifest", "pipe"]))
    if kind == "file":
        out.write_text("mine")
    elif kind == "loop":
        out.symlink_to(out)
    elif kind == "pipe":
        os.mkfifo(out)
    else:
        out.mkdir()
        if kind == "other files":
            (out / "notes.txt").write_text("mine")
        elif kind == "manifest":
            (out / "manifest.json").write_text(
                draw(st.sampled_from(["", "{", "[]", "[" * 100_000, '{"models": 3}', "\x00"]))
            )
    return kind in ("empty folder", "other files")


MUTATIONS: dict[str, list[Callable[[Place, Draw, pytest.MonkeyPatch], bool]]] = {
    "configs": [config_value, config_text, config_disguised],
    "models": [model_config, model_config_disguised, model_tensor, model_names, model_disguised],
    "corpora": [tokens_disguised, tokens_odd, text_corpus],
    "files": [a_file],
    "environments": [environment, out_taken],
}


def damaged(content: bytes, draw: Draw) -> bytes:
    """Bytes of which a piece is gone, doubled, moved or another."""
    at, length = place_in(content, draw), draw(st.integers(1, 20))
    piece, rest = content[at : at + length], content[at + length :]
    kind = draw(st.sampled_from(["gone", "doubled", "turned", "other", "put in"]))
    new = {"gone": b"", "doubled": piece * 2, "turned": piece[::-1], "other": bytes(byte ^ 0x15 for byte in piece)}
    return content[:at] + (new[kind] if kind in new else draw(st.binary(min_size=1, max_size=6)) + piece) + rest


def place_in(content: bytes, draw: Draw) -> int:
    """An index of a byte, drawn alike for contents of any length: a folder's name is part of some."""
    return draw(st.integers(0, 9999)) * len(content) // 10_000
