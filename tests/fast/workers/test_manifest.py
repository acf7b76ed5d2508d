"""The manifest as it is written and read: by this version, and what 0.1.0 left."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from erasure_sweep.workers.manifest import Manifest, ManifestConfig, ManifestEntry, ManifestHead, NewerError
from tests.support.paths import ROOT

LEFT = ROOT / "tests" / "support" / "data" / "manifest-0.1.0.json"
"""As 0.1.0 wrote it, of two finished models; it says no version of itself."""
MODEL = {"name": "a", "folder": "a", "state": "FINISHED"}


def manifest(**values: object) -> Manifest:
    return Manifest.model_validate({"config": {}, "models": [MODEL], **values})


class TestWhat010Left:
    def test_is_read(self) -> None:
        read = Manifest.parse(LEFT.read_bytes())
        assert (read.manifest_version, read.version, read.schema_version, read.name) == (1, "0.1.0", "2", "every")
        assert (read.config.prompts, read.config.positions, read.config.corpus) == (24, 48, "stdlib")
        first, second = read.models
        assert (first.name, first.n_layers, first.stages, first.is_finished) == (
            "toy-gelu-2l",
            2,
            ("scan", "verify"),
            True,
        )
        assert first.targets[0].erasers == ("L1H0", "L1H1", "L1H2", "L1H3") and first.targets[0].chosen == "rule"
        assert (second.base, second.training_tokens, second.folder) == ("toy-gelu-4l", 2**21, "toy-gelu-4l_2097152")

    def test_keeps_every_key_and_value(self) -> None:
        """Also those that nothing here reads again."""
        read = Manifest.parse(LEFT.read_bytes())
        written = json.loads(read.to_bytes())
        assert len(written.pop("checksum")) == 32
        assert written == json.loads(LEFT.read_bytes())
        assert read.models[0].to_json()["attn_scale"] == 4.0


class TestAManifest:
    def test_is_never_changed_in_place(self) -> None:
        before = manifest()
        with pytest.raises(ValidationError):
            before.name = "other"  # type: ignore[misc]
        after = before.with_entry("a", state="FAILED", reason="no memory")
        assert (before.entry("a").state, after.entry("a").state) == ("FINISHED", "FAILED")
        assert after.to_json()["models"] == [{**MODEL, "state": "FAILED", "reason": "no memory"}]

    def test_writes_what_it_was_given(self) -> None:
        assert manifest(run_url=None).to_json() == {"config": {}, "models": [MODEL], "run_url": None}

    @pytest.mark.parametrize(
        "changes",
        [
            {"config": None},
            {"config": {"prompts": [8]}},
            {"models": {}},
            {"models": [1]},
            {"models": [{"name": "a", "folder": "a"}]},
            {"models": [{**MODEL, "folder": 3}]},
            {"models": [{**MODEL, "folder": ""}]},
            {"models": [{**MODEL, "n_layers": "many"}]},
            {"models": [{**MODEL, "stages": "scan"}]},
            {"sweep_id": 3},
        ],
    )
    def test_of_other_types_is_damaged(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="validation error"):
            manifest(**changes)

    def test_of_a_newer_version_is_refused_in_one_line(self) -> None:
        for key, newer in (("manifest_version", 2), ("schema_version", "99")):
            values = json.dumps({key: newer, "version": "9.9", "models": "said in another way"}).encode()
            with pytest.raises(
                NewerError, match=rf"^OUT was written by erasure-sweep 9\.9 \({key.replace('_', ' ')} {newer}\)"
            ):
                Manifest.parse(values, "OUT")

    def test_of_odd_versions_is_damaged_at_most(self) -> None:
        for odd in ("", "two", [3], {"a": 1}, -1, 2.5):
            with pytest.raises(ValueError, match=r"."):
                Manifest.parse(json.dumps({"manifest_version": odd, "schema_version": odd, "models": 3}).encode())

    def test_every_flipped_bit_is_seen(self) -> None:
        whole = manifest(name="trial", sweep_id="ab", schema_version="2", version="1")
        content = whole.to_bytes()
        assert Manifest.parse(content) == whole
        for place in range(0, 8 * len(content), 5):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            try:
                read = Manifest.parse(bytes(flipped))
            except (ValueError, NewerError):
                continue
            noted = whole.to_json()  # white space was flipped, or the name of the checksum
            assert {key: value for key, value in read.to_json().items() if key in noted} == noted, place

    def test_of_sweeps_that_differ_says_so_in_words(self) -> None:
        assert ManifestConfig(prompts="8 / 16", seq_len=16).to_json() == {"prompts": "8 / 16", "seq_len": 16}


class TestTheHead:
    @pytest.mark.parametrize(
        ("models", "names"),
        [([{"name": "a"}, {}, 3, {"name": "b"}], ["a", "b"]), ("said in another way", []), (None, []), ({"a": 1}, [])],
    )
    def test_names_the_models_that_can_be_told(self, models: object, names: list[str]) -> None:
        assert ManifestHead(schema_version=9, models=models).model_names == names


def test_an_entry_needs_no_more_than_its_name_folder_and_state() -> None:
    assert ManifestEntry.model_validate(MODEL).n_layers is None
