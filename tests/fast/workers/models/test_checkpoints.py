"""Checkpoints of a training: what they are labelled with, which one a point names, and which ones stand for many."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.models.catalog import BUNDLED, locate
from erasure_sweep.workers.models.checkpoints import (
    expand,
    find_checkpoint,
    find_training,
    names_several,
    revision_steps,
    split_point,
)
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.models.sources import find_model_files
from tests.support.models.random_models import random_config, tl_state_dict, write_hf_gpt2_directory, write_tl_directory

BUNDLED_TOKENS = (0, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304, 8388608)
TINY = {"n_layers": 1, "n_heads": 2, "d_model": 8, "n_ctx": 12, "d_vocab": 11}


def write_model(path: Path, *files: str, overrides: dict[str, object] | None = None, log: object = None) -> Path:
    """A tiny model with checkpoint files, which are empty unless they are to be read."""
    write_tl_directory(path, **TINY, overrides=overrides)
    (path / "checkpoints").mkdir()
    for name in files:
        (path / "checkpoints" / name).touch()
    if log is not None:
        (path / "training_log.json").write_text(log if isinstance(log, str) else json.dumps(log))
    return path


def log_of(tokens_per_step: object, *entries: dict[str, object]) -> dict[str, object]:
    return {"settings": {"tokens_per_step": tokens_per_step}, "log": list(entries)}


def counts(path: Path) -> list[tuple[int, int | None, int | None]]:
    training = find_training(locate(str(path)))
    assert training is not None
    return [(checkpoint.label, checkpoint.tokens, checkpoint.steps) for checkpoint in training.checkpoints]


def refusal(spec: object) -> str:
    with pytest.raises(UsageError) as caught:
        find_model_files(str(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSpecs:
    def test_the_last_at_sign_counts(self, tmp_path):
        assert split_point("gelu-4l") == ("gelu-4l", None)
        assert split_point("gelu-4l@-1") == ("gelu-4l", "-1")
        assert split_point("user@host/model@step100") == ("user@host/model", "step100")
        (tmp_path / "me@home").mkdir()
        assert split_point(str(tmp_path / "me@home")) == (str(tmp_path / "me@home"), None)
        assert split_point(f"{tmp_path}/me@home@all") == (f"{tmp_path}/me@home", "all")

    @pytest.mark.parametrize("spec", ["gelu-4l@", "@all", "@"])
    def test_half_a_spec(self, spec):
        with pytest.raises(UsageError, match="write NAME@POINT, or NAME alone"):
            split_point(spec)

    def test_several(self):
        assert [names_several(spec) for spec in ("a@all", "a@log:8", "a@7", "a", "a@log")] == [
            True, True, False, False, False,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("revision", "steps"),
        [
            ("step100", 100), ("step-7", 7), ("checkpoint-400000", 400000), ("main", None), ("step", None),
            ("steps100", None), ("v1-step100", None), ("607a30d783dfa663caf39e06633721c8d4cfcd7e", None),
        ],
    )  # fmt: skip
    def test_steps_that_a_revision_says(self, revision, steps):
        assert revision_steps(revision) == steps


class TestLabels:
    def test_steps_become_tokens_where_the_log_says_how_many(self, tmp_path):
        path = write_model(tmp_path / "m", "000010.safetensors", "000000.pth", "model_step_2.pth", log=log_of(64))
        assert counts(path) == [(0, 0, 0), (2, 128, 2), (10, 640, 10)]

    def test_the_config_may_say_it(self, tmp_path):
        path = write_model(tmp_path / "m", "5.pth", overrides={"tokens_per_step": 2.0**20})
        assert counts(path) == [(5, 5 * 2**20, 5)]

    def test_nobody_says_it(self, tmp_path):
        assert counts(write_model(tmp_path / "m", "5.pth", log="{")) == [(5, None, 5)]

    def test_labels_beyond_a_billion_are_tokens(self, tmp_path):
        at, beyond = 10**9, 10**9 + 1
        assert counts(write_model(tmp_path / "steps", "m_5.pth", f"m_{at}.pth"))[-1] == (at, None, at)
        assert counts(write_model(tmp_path / "tokens", "m_5.pth", f"m_{beyond}.pth")) == [
            (5, 5, None),
            (beyond, beyond, None),
        ]

    def test_names_that_begin_with_tokens(self, tmp_path):
        path = write_model(tmp_path / "m", "tokens_128.pth", "tokens_64.pth", log=log_of(64))
        assert counts(path) == [(64, 64, 1), (128, 128, 2)]

    def test_other_files_and_doubles(self, tmp_path):
        path = write_model(tmp_path / "m", "v2_7.pth", "v2_7.safetensors", "final.pth", "notes_3.txt")
        training = find_training(locate(str(path)))
        assert [checkpoint.file for checkpoint in training.checkpoints] == ["checkpoints/v2_7.safetensors"]

    @pytest.mark.parametrize("said", [True, "many", -4, 1.5, None, 0])
    def test_what_is_no_count_is_not_believed(self, said, tmp_path):
        assert counts(write_model(tmp_path / "m", "3.pth", log=log_of(said))) == [(3, None, 3)]


class TestFinalWeights:
    @pytest.mark.parametrize(
        ("overrides", "log", "tokens", "steps"),
        [
            ({}, None, None, None),
            ({"max_tokens": 640}, None, 640, None),
            ({"max_tokens": 640, "tokens_per_step": 64}, None, 640, 10),
            ({"max_tokens": 640}, log_of(64, {"step": 1, "tokens": 64}, {"step": 9, "tokens": 576}), 576, 9),
            ({}, log_of(64, {"step": 9}), None, 9),
            ({}, {"log": "none"}, None, None),
        ],
    )
    def test_where_the_training_ended(self, overrides, log, tokens, steps, tmp_path):
        source = find_model_files(str(write_model(tmp_path / "m", overrides=overrides, log=log)))
        assert (source.name, source.base, source.remote) == ("m", "m", False)
        assert (source.training_tokens, source.training_steps) == (tokens, steps)


class TestPoints:
    @pytest.fixture
    def path(self, tmp_path):
        return write_model(tmp_path / "m", "0.pth", "1.pth", "4.pth", "64.pth", log=log_of(16))

    @pytest.mark.parametrize(
        ("point", "label"),
        [
            ("0", 0), ("16", 1), ("64", 4), ("1024", 64),  # tokens
            ("4", 4),  # a label
            ("3", 64), ("-1", 64), ("-4", 0), ("2", 4),  # an index
        ],
    )  # fmt: skip
    def test_tokens_then_label_then_index(self, point, label, path):
        source = find_model_files(f"{path}@{point}")
        assert source.weights == (path / "checkpoints" / f"{label}.pth",)
        assert (source.name, source.base) == (f"m@{label * 16}", "m")
        assert (source.training_tokens, source.training_steps) == (label * 16, label)
        assert source.origin == f"{path} checkpoints/{label}.pth"

    def test_a_label_names_what_has_no_tokens(self, tmp_path):
        path = write_model(tmp_path / "m", "5.pth", "70.pth")
        assert find_model_files(f"{path}@-1").name == "m@70"

    def test_unknown_point_says_what_there_is(self, path):
        message = refusal(f"{path}@17")
        assert message.endswith(f"there is no such checkpoint; {path} has checkpoints at 0, 16, 64, 1024 tokens")
        assert "give a count of tokens, a label, an index, all or log:N" in refusal(f"{path}@last")

    def test_of_many_the_nearest_are_shown(self, tmp_path):
        path = write_model(tmp_path / "m", *(f"{1000 * step}.pth" for step in range(40)))
        assert refusal(f"{path}@12345").endswith("has checkpoints at 0, 1000, … 12000, 13000, … 39000 steps")

    def test_none(self, tmp_path):
        message = refusal(f"{write_tl_directory(tmp_path / 'm', **TINY)}@3")
        assert "has no checkpoints (files checkpoints/*.pth or *.safetensors): name it without @" in message

    def test_folders_of_hugging_faces_layout(self, tmp_path):
        path = write_hf_gpt2_directory(tmp_path / "m")
        assert "are folders of their own: give that folder" in refusal(f"{path}@3")
        with pytest.raises(UsageError, match="are folders of their own: name each of them"):
            expand(f"{path}@all", str(tmp_path))

    def test_each_has_a_fingerprint_of_its_own(self, tmp_path):
        path = write_model(tmp_path / "m", "1.pth", "2.pth")
        (path / "checkpoints" / "2.pth").write_bytes(b"2")
        prints = {find_model_files(spec).fingerprint for spec in (str(path), f"{path}@1", f"{path}@2")}
        assert len(prints) == 3


class TestExpand:
    def test_other_specs_stand_for_themselves(self, tmp_path):
        for spec in ("gelu-4l", "gelu-4l@-1", "gpt2@main", "no-such-model"):
            assert expand(spec, str(tmp_path)) == (spec,)

    def test_all_of_a_bundled_model(self, tmp_path):
        specs = expand("toy-gelu-4l@all", str(tmp_path))
        assert specs == (*(f"toy-gelu-4l@{tokens}" for tokens in BUNDLED_TOKENS), "toy-gelu-4l")
        sources = [find_model_files(spec) for spec in specs]
        assert [source.training_tokens for source in sources] == [*BUNDLED_TOKENS, 16777216]
        assert [source.name for source in sources] == list(specs)
        assert {source.base for source in sources} == {"toy-gelu-4l"}

    @pytest.mark.parametrize(
        ("final", "included"),
        [({}, False), ({"max_tokens": 63}, False), ({"max_tokens": 64}, False), ({"max_tokens": 65}, True)],
    )
    def test_final_weights_are_there_if_they_are_known_to_be_later(self, final, included, tmp_path):
        path = write_model(tmp_path / "m", "tokens_8.pth", "tokens_64.pth", overrides=final)
        expected = (f"{path}@8", f"{path}@64", *([str(path)] if included else []))
        assert expand(f"{path}@all", str(tmp_path)) == expected

    def test_evenly_spaced_in_the_logarithm(self, tmp_path):
        path = write_model(tmp_path / "m", "0.pth", *(f"{2**k}.pth" for k in range(17)))
        assert expand(f"{path}@log:5", str(tmp_path)) == tuple(f"{path}@{2**k}" for k in (0, 4, 8, 12, 16))
        assert expand(f"{path}@log:2", str(tmp_path)) == (f"{path}@1", f"{path}@{2**16}")
        assert expand(f"{path}@log:1", str(tmp_path)) == (f"{path}@{2**16}",)

    @pytest.mark.parametrize("n", range(1, 25))
    def test_as_many_as_asked_for_distinct_and_in_order(self, n, tmp_path):
        labels = [0, *range(10, 100, 10), 1000, 2000, 3000, 10**6]
        path = write_model(tmp_path / "m", *(f"{label}.pth" for label in labels))
        points = [int(spec.rpartition("@")[2]) for spec in expand(f"{path}@log:{n}", str(tmp_path))]
        assert points == sorted(set(points))
        assert set(points) <= set(labels[1:])
        assert len(points) == min(n, len(labels) - 1)
        if n > 1:
            assert (points[0], points[-1]) == (10, 10**6)

    def test_each_is_the_nearest_where_there_is_room(self, tmp_path):
        labels = [math.ceil(1.3**k) for k in range(4, 50)]
        path = write_model(tmp_path / "m", *(f"{label}.pth" for label in labels))
        points = [int(spec.rpartition("@")[2]) for spec in expand(f"{path}@log:6", str(tmp_path))]
        for i, point in enumerate(points):
            wanted = math.log(labels[0]) + (math.log(labels[-1]) - math.log(labels[0])) * i / 5
            assert abs(math.log(point) - wanted) == min(abs(math.log(label) - wanted) for label in labels)

    @pytest.mark.parametrize("n", ["0", "-3", "many", ""])
    def test_what_is_no_number(self, n, tmp_path):
        with pytest.raises(UsageError, match="log:N takes a number of checkpoints, as in log:8"):
            expand(f"toy-gelu-4l@log:{n}", str(tmp_path))

    def test_nothing_to_expand(self, tmp_path):
        with pytest.raises(UsageError, match="toy-gelu-2l has no checkpoints"):
            expand("toy-gelu-2l@all", str(tmp_path))
        with pytest.raises(UsageError, match="unknown model 'toy-gelu-9l'"):
            expand("toy-gelu-9l@all", str(tmp_path))


class TestResolved:
    def test_checkpoint_is_the_same_model_as_a_directory_of_its_weights(self, tmp_path):
        """Half precision on the disk, float32 as staged, beside the base's config and tokenizer."""
        found = resolve_model("toy-gelu-4l@65536", tmp_path / "staging")
        assert (found.name, found.base, found.training_tokens, found.training_steps) == (
            "toy-gelu-4l@65536", "toy-gelu-4l", 65536, 16,
        )  # fmt: skip
        assert found.tokenizer == str(BUNDLED / "tokenizer" / "tokenizer.json")
        stored = load_file(BUNDLED / "toy-gelu-4l" / "checkpoints" / "000016.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        assert {tensor.dtype for tensor in load_file(found.weights).values()} == {torch.float32}

        alone = tmp_path / "alone"
        write_tl_directory(alone, **TINY, state={name: tensor.float() for name, tensor in stored.items()})
        (alone / "config.json").write_bytes((BUNDLED / "toy-gelu-4l" / "config.json").read_bytes())
        assert resolve_model(str(alone), tmp_path / "staging").hash == found.hash

    def test_checkpoints_differ(self, tmp_path):
        path = write_model(tmp_path / "m")
        for seed in (1, 2):
            torch.save(tl_state_dict(random_config(**TINY), seed), path / "checkpoints" / f"{seed}.pth")
        found = [resolve_model(spec, tmp_path / "staging") for spec in (str(path), f"{path}@1", f"{path}@2")]
        assert len({model.hash for model in found}) == 3
        for seed, model in zip((1, 2), found[1:], strict=True):
            same = write_tl_directory(tmp_path / str(seed), seed, **TINY)
            assert resolve_model(str(same), tmp_path / "staging").hash == model.hash
            assert load_model(model.weights)[0] == model.config

    def test_find_checkpoint_says_the_name_as_typed(self):
        training = find_training(locate("toy-gelu-4l"))
        with pytest.raises(UsageError, match=r"^toy-gelu-4l@77: there is no such checkpoint; toy-gelu-4l has"):
            find_checkpoint(training, "77", "toy-gelu-4l")
