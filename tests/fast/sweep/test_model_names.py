"""What models are called: labels, folders that are called alike, and names of earlier runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasure_sweep.sweep.model_names import ListedModel, as_before, told_apart
from erasure_sweep.workers.records import Resolved


def resolved(spec: object, name: str, base: str | None = None) -> Resolved:
    """A model as staging finds it; its hash is its spec."""
    return Resolved(
        name=name, spec=str(spec), hash=str(spec), weights="", weights_bytes=0, architecture={}, n_params=0, sketches=(),
        tokens="", corpus_fingerprint="", corpus_description="", n_prompts=1, seq_len=2, lengths=((2, 1),), base=base or name,
    )  # fmt: skip


def folders(root: Path, *paths: str) -> list[Resolved]:
    for path in paths:
        (root / path).mkdir(parents=True)
    return [resolved(root / path, Path(path).name) for path in paths]


def names(models: list[Resolved]) -> list[str]:
    return [model.name for model in models]


class TestLabels:
    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ("mine=runs/x", ("mine", "runs/x")),
            ("mine=gpt2@step100", ("mine", "gpt2@step100")),
            ("a=b=c", ("a", "b=c")),
            ("gelu-4l@640", (None, "gelu-4l@640")),
            ("runs/lr=0.1", (None, "runs/lr=0.1")),
            ("=x", (None, "=x")),
            ("x=", (None, "x=")),
        ],
    )
    def test_taken_apart(self, entry: str, expected: tuple[str | None, str]):
        assert ListedModel.of(entry) == expected

    def test_a_folder_of_the_whole_name_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "lr=0.1").mkdir()
        assert ListedModel.of("lr=0.1") == (None, "lr=0.1") and ListedModel.of("lr=0.1@640") == (None, "lr=0.1@640")

    def test_one_model_and_several(self):
        final, point = resolved("m", "m"), resolved("m@640", "m@640", "m")
        assert [(m.name, m.base) for m in map(ListedModel("a", "m").named, [final])] == [("a", "a")]
        assert [(m.name, m.base) for m in map(ListedModel("a", "m@640").named, [point])] == [("a", "m")]
        several = [ListedModel("a", "m@all").named(model) for model in (point, final)]
        assert [(m.name, m.base) for m in several] == [("a@640", "a"), ("a", "a")]
        assert ListedModel(None, "m").named(final) is final


class TestAlike:
    def test_as_many_parents_as_it_takes(self, tmp_path: Path):
        models = folders(tmp_path, "x/run/final", "y/run/final", "z/other")
        assert names(told_apart(models, ())) == ["x/run/final", "y/run/final", "other"]
        models = folders(tmp_path / "deep", "x/final", "y/final")
        assert names(told_apart(models, ())) == ["x/final", "y/final"]

    def test_links_are_followed(self, tmp_path: Path):
        folders(tmp_path, "a/checkpoint-500", "b/checkpoint-500")
        for name in "ab":
            (tmp_path / f"latest-{name}").symlink_to(tmp_path / name / "checkpoint-500")
        models = [resolved(tmp_path / f"latest-{name}", "checkpoint-500") for name in "ab"]
        assert names(told_apart(models, ())) == ["a/checkpoint-500", "b/checkpoint-500"]

    def test_beside_a_model_of_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folders(tmp_path, "here/gpt2")
        monkeypatch.chdir(tmp_path / "here")
        assert names(told_apart([resolved("gpt2", "gpt2"), resolved("./gpt2", "gpt2")], ())) == ["gpt2", "here/gpt2"]

    def test_checkpoints_are_told_apart_by_their_trainings(self, tmp_path: Path):
        folders(tmp_path, "a/m", "b/m")
        models = [resolved(f"{tmp_path}/{name}/m@{i}", f"m@{i}", "m") for name in "ab" for i in (1, 2)]
        apart = told_apart(models, ())
        assert names(apart) == ["a/m@1", "a/m@2", "b/m@1", "b/m@2"]
        assert [model.base for model in apart] == ["a/m", "a/m", "b/m", "b/m"]

    def test_what_the_user_named_stays(self, tmp_path: Path):
        first, second = folders(tmp_path, "a/m", "b/m")
        mine = first._replace(name="mine", base="mine")
        assert told_apart([mine, second], {first.spec}) == [mine, second]


class TestBefore:
    def test_more_or_fewer_parents_are_the_same_name(self, tmp_path: Path):
        first, second = told_apart(folders(tmp_path, "a/m", "b/m"), ())
        assert names(as_before([first, second], (), {first.hash: "m"})) == ["m", "b/m"]
        alone = resolved(tmp_path / "a/m", "m")
        assert names(as_before([alone], (), {alone.hash: "a/m"})) == ["a/m"]

    def test_another_name_is_another(self, tmp_path: Path):
        (model,) = folders(tmp_path, "a/m")
        assert as_before([model], (), {model.hash: "other"}) == [model]
        assert as_before([model], {model.spec}, {model.hash: "a/m"}) == [model]

    def test_a_name_that_another_has_now_is_not_taken(self, tmp_path: Path):
        first, second = told_apart(folders(tmp_path, "a/m", "b/m"), ())
        mine = second._replace(name="m", base="m")
        assert as_before([first, mine], {second.spec}, {first.hash: "m"}) == [first, mine]
