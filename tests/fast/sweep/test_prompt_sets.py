"""Sets of prompts from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasure_sweep.sweep.prompt_sets import read_prompt_set
from erasure_sweep.workers.errors import DataError, UsageError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "set"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "a b", "answer": " c"}\n\n{"prompt": "d", "pos": 3}\n',
        '[{"prompt": "a b", "answer": " c"}, {"prompt": "d", "pos": 3}]',
        "prompt,answer,pos\na b, c,\nd,,3\n",
        "\ufeffprompt,answer,pos\r\na b, c,\r\nd,,3\r\n",
    ],
)
def test_rows(tmp_path: Path, text: str) -> None:
    assert read_prompt_set(written(tmp_path, text)) == [{"prompt": "a b", "answer": " c"}, {"prompt": "d", "pos": 3}]


def test_cells_of_several_lines(tmp_path: Path) -> None:
    assert read_prompt_set(written(tmp_path, 'prompt,answer\n"def f(x):\n  return", x\n')) == [
        {"prompt": "def f(x):\n  return", "answer": " x"}
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column 'prompt'"),
        ("[]", "holds no prompts"),
        ("prompt,answer\n", "holds no prompts"),
        ("text,answer\na,b\n", "has no column 'prompt'"),
        ("prompt,answer\na,b,c\n", "line 2 has not as many cells"),
        ("prompt,answer\na\n", "line 2 has not as many cells"),
        ("prompt,pos\na,last\n", "has pos 'last'"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
        ('{"prompt": "a"}\n["b"]', "line 2 has no 'prompt'"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfeprompt", "cannot be read"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 5\n", "Git LFS"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as error:
        read_prompt_set(written(tmp_path, text))
    assert said in str(error.value)


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no set of prompts"):
        read_prompt_set(tmp_path / "set.csv")
