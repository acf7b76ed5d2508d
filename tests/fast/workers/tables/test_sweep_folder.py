"""A sweep's folder as everybody reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.sweep_folder import ModelTables, read_out
from tests.support.fakes.tables import fake_model, model_tables, write_out

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestReadOut:
    def test_reads_what_a_sweep_leaves(self, model: ModelTables, attn_only: ModelTables, tmp_path: Path) -> None:
        write_out([model, attn_only], tmp_path)
        found = read_out(tmp_path)
        assert [one.about for one in found] == [model.about, attn_only.about]
        assert set(found[0].tables) == {"residual_projection", "component_projection", "writers"}
        pd.testing.assert_frame_equal(
            found[1].tables["residual_projection"], attn_only.tables["residual_projection"], check_dtype=False
        )

    def test_a_failed_model_has_no_tables(self, model: ModelTables, tmp_path: Path) -> None:
        failed = model_tables({**model.about.to_json(), "folder": "gone", "state": "FAILED"}, {})
        write_out([failed], tmp_path)
        assert read_out(tmp_path)[0].tables == {}

    def test_another_schema_version_is_named(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path, schema_version="1")
        with pytest.raises(
            DataError, match=rf"manifest\.json has schema_version '1', this version reads '{SCHEMA_VERSION}'"
        ):
            read_out(tmp_path)

    def test_a_table_without_version_is_named(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path)
        table = tmp_path / "four" / "tables" / "writers.parquet"
        model.tables["writers"].to_parquet(table)
        with pytest.raises(DataError, match=r"writers\.parquet has schema_version None"):
            read_out(tmp_path)

    def test_a_torn_table_is_named_in_one_line(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path)
        table = tmp_path / "four" / "tables" / "writers.parquet"
        table.write_bytes(table.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"writers\.parquet is damaged") as caught:
            read_out(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", ["{", "[]", f'{{"schema_version": "{SCHEMA_VERSION}", "models": 3}}'])
    def test_a_broken_manifest_is_named(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=r"manifest\.json"):
            read_out(tmp_path)

    @pytest.mark.parametrize("folder", ["../outside", "/etc", "..", ".", "a/b", "a\\b", ".store", "a\0b", "C:"])
    def test_a_manifest_does_not_lead_elsewhere(self, folder: str, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path / "out")
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        manifest["models"][0]["folder"] = folder
        del manifest["checksum"]
        (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match="is none of the sweep's own"):
            read_out(tmp_path / "out")

    @pytest.mark.parametrize("link", ["four", "four/tables", "four/figures"])
    def test_a_link_does_not_lead_elsewhere(self, link: str, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path / "out")
        linked = tmp_path / "out" / link
        if linked.exists():
            linked.rename(tmp_path / "elsewhere")
        linked.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DataError, match=rf"{link} leads to {tmp_path}/elsewhere, out of the sweep's folder"):
            read_out(tmp_path / "out")

    def test_the_sweeps_own_folder_may_be_a_link(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path / "out")
        (tmp_path / "linked").symlink_to("out")
        assert read_out(tmp_path / "linked")[0].about == model.about

    def test_a_folder_without_manifest_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"manifest\.json is missing"):
            read_out(tmp_path)

    def test_a_manifest_that_cannot_be_read_is_not_called_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").mkdir()
        with pytest.raises(DataError, match=r"manifest\.json cannot be read \(it is a folder, not a file\)"):
            read_out(tmp_path)
