"""Tables as files: what is not as declared is refused, what is written comes back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erasure_sweep.workers.errors import DataError, SweepError
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.columns import WRITER, Columns, Table, count, flag, number, text
from erasure_sweep.workers.tables.files import (
    DeclarationError,
    SchemaError,
    as_arrow,
    checksum,
    read_table,
    read_tables,
    write_tables,
)
from erasure_sweep.workers.tables.registry import TABLES
from tests.support.fakes.tables import write_frame

TINY = Table(
    "tiny",
    "For a test.",
    ("scan",),
    ("writer",),
    (WRITER, number("beta", "β"), count("n", "n", "tokens"), flag("held_out", "so", nullable=True), text("word", "w")),
)


def columns(**changes: object) -> dict[str, object]:
    """A table as declared, but for ``changes``; a column that is None is left out."""
    made: dict[str, object] = {
        "model": np.array(["m", "m"], dtype=object),
        "writer": np.array(["embed", "L0H1"], dtype=object),
        "beta": np.array([0.1, np.nan]),
        "n": np.array([3, 0]),
        "held_out": np.array([True, None], dtype=object),
        "word": np.array(["", "a"], dtype=object),
    }
    return {name: values for name, values in (made | changes).items() if values is not None}


def values_of(table: str, n: int = 2, **changes: object) -> Columns:
    """Columns of a declared table with values of their types."""
    plain = {"text": "a", "whole number": 1, "number": 0.5, "yes or no": True}
    types = {column.name: column.type for column in TABLES[table].own_columns}
    made = {name: np.array([plain[kind]] * n, dtype=object if kind == "text" else None) for name, kind in types.items()}
    return made | {name: np.array([value] * n, dtype=object) for name, value in changes.items()}


class TestChecks:
    def test_values_stay_as_they_are_and_nan_is_null(self) -> None:
        table = as_arrow(TINY, columns())
        assert table.schema.equals(TINY.schema, check_metadata=True)
        assert table.to_pydict() == {
            "model": ["m", "m"], "writer": ["embed", "L0H1"], "beta": [0.1, None], "n": [3, 0],
            "held_out": [True, None], "word": ["", "a"],
        }  # fmt: skip

    def test_columns_stand_in_the_declared_order(self) -> None:
        table = as_arrow(TINY, dict(reversed(columns().items())))
        assert table.column_names == TINY.schema.names

    def test_a_column_without_values_has_its_type(self) -> None:
        table = as_arrow(TINY, columns(held_out=np.array([None, None], dtype=object)))
        assert table["held_out"].type == pa.bool_() and table["held_out"].null_count == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"beta": None}, "table tiny: column beta is missing"),
            ({"gamma": np.zeros(2)}, "table tiny: column gamma is not declared"),
            (
                {"beta": np.array(["1", "2"], dtype=object)},
                r"column beta is (large_)?string, declared is number \(double\)",
            ),
            ({"beta": np.array([True, False])}, r"column beta is bool, declared is number \(double\)"),
            ({"n": np.array([1.0, 2.0])}, r"column n is double, declared is whole number \(int64\)"),
            ({"n": np.array([1, None], dtype=object)}, "column n lacks 1 of 2 values and is not declared nullable"),
            ({"word": np.array([None, None], dtype=object)}, "column word lacks 2 of 2 values"),
            ({"word": np.array(["a", 1], dtype=object)}, "column word holds values of several types"),
            ({"n": np.array([1, 2, 3])}, "table tiny: its columns differ in length"),
        ],
    )
    def test_what_is_not_as_declared_is_refused(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(DeclarationError, match=message) as caught:
            as_arrow(TINY, columns(**change))
        assert "\n" not in str(caught.value)


class TestWriting:
    def test_what_is_written_comes_back(self, tmp_path: Path) -> None:
        made = values_of("writers", erasers=None)
        write_tables({"writers": made}, "toy", "scan", tmp_path)
        found = read_tables(tmp_path)
        assert list(found) == ["writers"]
        assert found["writers"]["model"].tolist() == ["toy", "toy"]
        assert found["writers"]["erasers"].isna().all()
        np.testing.assert_array_equal(found["writers"]["rank"], made["rank"])

    def test_what_is_noted_of_a_table_comes_back_with_it(self, tmp_path: Path) -> None:
        made = {"carries": values_of("carries"), "nulls": values_of("nulls")}
        write_tables(
            made, "toy", "verify", tmp_path, {"carries": {"thresholds": "0.5"}, "later_use": {"thresholds": "1"}}
        )
        found = read_tables(tmp_path)
        assert {name: table.attrs for name, table in found.items()} == {"carries": {"thresholds": "0.5"}, "nulls": {}}

    def test_a_table_that_nobody_declared_for_the_stage_is_refused(self, tmp_path: Path) -> None:
        for stage, name in (("scan", "guessed"), ("scan", "carries"), ("verify", "writers")):
            with pytest.raises(DeclarationError, match=f"table {name} of {stage} is not declared"):
                write_tables({name: {}}, "toy", stage, tmp_path)

    def test_a_stage_leaves_no_table_of_an_earlier_run(self, tmp_path: Path) -> None:
        write_tables({"carries": values_of("carries"), "nulls": values_of("nulls")}, "toy", "verify", tmp_path)
        write_tables({"writers": values_of("writers")}, "toy", "scan", tmp_path)
        write_tables({"nulls": values_of("nulls"), "carries": {}}, "toy", "verify", tmp_path)
        assert set(read_tables(tmp_path)) == {"nulls", "writers"}
        assert set(read_tables(tmp_path, ("nulls", "carries"))) == {"nulls"}

    def test_a_shared_table_keeps_the_rows_of_the_other_stage(self, tmp_path: Path) -> None:
        def stages() -> list[str]:
            return read_table(tmp_path / "dla_correlation.parquet")["stage"].tolist()

        def write(stage: str, n: int) -> None:
            write_tables({"dla_correlation": values_of("dla_correlation", n, stage=stage)}, "toy", stage, tmp_path)

        write("verify", 1)
        write("scan", 2)
        assert stages() == ["scan", "scan", "verify"]
        write("verify", 2)
        write("scan", 1)
        assert stages() == ["scan", "verify", "verify"]
        write_tables({}, "toy", "verify", tmp_path)
        assert stages() == ["scan"]
        write_tables({}, "toy", "scan", tmp_path)
        assert read_tables(tmp_path) == {}

    def test_rows_that_0_1_0_left_are_kept(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"model": "toy", **values_of("dla_correlation", stage="scan")})
        write_frame(frame, tmp_path / "dla_correlation.parquet")
        made = values_of("dla_correlation", 1, stage="verify")
        write_tables({"dla_correlation": made}, "toy", "verify", tmp_path)
        kept = pq.read_table(tmp_path / "dla_correlation.parquet")
        metadata = {key: value for key, value in kept.schema.metadata.items() if key != b"checksum"}
        declared = TABLES["dla_correlation"].schema
        assert kept.replace_schema_metadata(metadata).schema.equals(declared, check_metadata=True)
        assert kept["stage"].to_pylist() == ["scan", "scan", "verify"]

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        with pytest.raises(SweepError, match=r"\.parquet cannot be written"):
            write_tables({"writers": values_of("writers")}, "toy", "scan", tmp_path / "taken")


class TestReading:
    def test_another_schema_version_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "writers.parquet"
        pq.write_table(pa.table({"writer": ["embed"]}).replace_schema_metadata({"schema_version": "1"}), path)
        with pytest.raises(
            SchemaError, match=rf"has schema_version '1', this version reads '{SCHEMA_VERSION}'"
        ) as caught:
            read_table(path)
        assert caught.value.found == "1"

    def test_a_file_that_is_no_table_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "writers.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"writers\.parquet is damaged") as caught:
            read_tables(tmp_path)
        assert "\n" not in str(caught.value)


class TestDamage:
    """A flipped bit is an error, or changes nothing that is read."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        rows = 40
        made = values_of("writers", rows, erasers=None) | {"written": np.linspace(-1, 1, rows)}
        write_tables({"writers": made}, "toy", "scan", tmp_path)
        return tmp_path / "writers.parquet"

    def test_bits_all_over_the_file(self, path: Path) -> None:
        content, whole = path.read_bytes(), read_table(path)
        seen = 0
        for place in range(0, 8 * len(content), 8 * len(content) // 300):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            try:
                pd.testing.assert_frame_equal(read_table(path), whole, obj=str(place))
            except DataError as error:
                assert "\n" not in str(error)
                seen += 1
        assert seen > 50

    def test_other_values_with_the_old_checksum(self, path: Path) -> None:
        table = pq.read_table(path)
        values = table["written"].to_numpy().copy()
        values[3] += 1e-9
        changed = table.set_column(table.column_names.index("written"), table.schema.field("written"), pa.array(values))
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(DataError, match=r"writers\.parquet is damaged \(its checksum differs\)"):
            read_table(path)

    def test_without_its_checksum(self, path: Path) -> None:
        table = pq.read_table(path)
        metadata = {key: value for key, value in table.schema.metadata.items() if key != b"checksum"}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(DataError, match=r"writers\.parquet is damaged \(it lacks its checksum\)"):
            read_table(path)

    def test_a_checksum_is_of_values_however_they_are_laid_out(self) -> None:
        table = as_arrow(TINY, columns())
        chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
        assert checksum(chunked) == checksum(table) != checksum(table.slice(0, 1))
        assert checksum(table) != checksum(as_arrow(TINY, columns(beta=np.array([0.1, 0.0]))))
        assert checksum(table) != checksum(as_arrow(TINY, columns(word=np.array(["a", ""], dtype=object))))


@pytest.mark.parametrize("values", [np.array([1, 2]), np.array([0.5, np.nan], dtype=np.float32)])
def test_numbers_that_happen_to_be_whole_or_of_single_precision_are_numbers(values: np.ndarray):
    table = as_arrow(TINY, columns(beta=values))
    assert table["beta"].type == pa.float64()
    np.testing.assert_array_equal(table["beta"].to_numpy(), values.astype(np.float64))
