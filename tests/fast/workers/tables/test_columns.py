"""Declarations of tables: what they refuse, and the schemas that they give."""

from __future__ import annotations

import pyarrow as pa
import pytest

from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.columns import (
    WRITER,
    Column,
    Table,
    collect,
    count,
    flag,
    interval,
    number,
    quantiles,
    text,
)
from erasure_sweep.workers.tables.reference import reference
from erasure_sweep.workers.tables.registry import TABLES, tables_of
from tests.support.paths import ROOT


def table(name: str, *columns: Column, key: tuple[str, ...] = ("writer",)) -> Table:
    return Table(name, "For a test.", ("scan",), key, (WRITER, *columns))


class TestTable:
    def test_its_schema_says_what_columns_are(self) -> None:
        schema = table("tiny", number("beta", "pooled coefficient"), count("n", "measured", "tokens")).schema
        assert schema.names == ["model", "writer", "beta", "n"]
        assert schema.types == [pa.large_string(), pa.large_string(), pa.float64(), pa.int64()]
        assert [field.nullable for field in schema] == [False, False, True, False]
        assert schema.metadata[b"schema_version"] == SCHEMA_VERSION.encode()
        assert schema.metadata[b"table"] == b"tiny"
        assert schema.field("n").metadata == {b"meaning": b"measured", b"unit": b"tokens"}
        assert b"unit" not in schema.field("writer").metadata

    def test_a_column_is_declared_once(self) -> None:
        with pytest.raises(ValueError, match="table tiny declares n twice"):
            table("tiny", count("n", "one", "tokens"), number("n", "two"))
        with pytest.raises(ValueError, match="table tiny declares model twice"):
            table("tiny", text("model", "again"))

    def test_a_key_names_columns(self) -> None:
        with pytest.raises(ValueError, match="the key of table tiny names no column: state"):
            table("tiny", key=("writer", "state"))


class TestFamilies:
    def test_quantiles(self) -> None:
        family = quantiles("PR over tokens", "clean_")
        assert [column.name for column in family] == [
            *("clean_q12_5", "clean_q25", "clean_median", "clean_q75", "clean_q87_5")
        ]
        assert family[0].meaning == "12.5% quantile of PR over tokens"
        assert {column.family for column in family} == {"quantiles of PR over tokens"}

    def test_intervals(self) -> None:
        assert [column.name for column in interval("beta", "β")] == ["beta_low", "beta_high"]
        assert [column.name for column in interval("", "`r`")] == ["low", "high"]


class TestRegistry:
    def test_a_name_is_declared_once(self) -> None:
        with pytest.raises(ValueError, match="two tables are declared as tiny"):
            collect([table("tiny"), table("other"), table("tiny", flag("held_out", "so"))])

    def test_every_declaration_is_found(self) -> None:
        files = {path.stem for path in (ROOT / "workers" / "tables" / "declarations").glob("*.py")}
        assert "v_composition" in files and len(TABLES) >= len(files - {"__init__"})
        assert "writers" in tables_of("scan") and "writers" not in tables_of("verify")
        assert "dla_correlation" in tables_of("scan") and "dla_correlation" in tables_of("verify")

    def test_every_column_says_what_it_is(self) -> None:
        for declared in TABLES.values():
            for column in declared.columns:
                assert column.meaning, f"{declared.name}.{column.name}"
                assert bool(column.unit) == (column.type in ("number", "whole number")), (
                    f"{declared.name}.{column.name}"
                )

    def test_tables_of_several_stages_say_which_row_is_whose(self) -> None:
        for declared in TABLES.values():
            assert len(declared.stages) == 1 or "stage" in declared.key


class TestReference:
    def test_the_page_is_what_the_declarations_say(self) -> None:
        page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
        assert page == reference(), "docs/tables.md is stale: make docs"

    def test_a_family_is_one_row(self) -> None:
        row = "| `clean_q12_5`, `clean_q25`, `clean_median`, `clean_q75`, `clean_q87_5` | quantiles of PR of the eraser's "
        assert row in reference()

    def test_bars_do_not_end_a_cell(self) -> None:
        lines = [line for line in reference().splitlines() if line.startswith("| `")]
        assert {line.replace("\\|", "").count("|") for line in lines} == {5}
