"""Tables as parquet files: what is written is checked against its declaration, what is read against the version.

Nothing undeclared is written: a column that is missing, that nobody declared, of another type, or null where it may not be,
is an error that names it. A file carries a checksum of all values, names and meanings, which is verified whenever it is read:
parquet's own checksums cover its pages alone. Tables that 0.1.0 left are read as they are: their columns are the same, their
schemas bare and without a checksum.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from erasure_sweep.workers.errors import DataError, SweepError, one_line
from erasure_sweep.workers.fingerprint import digest
from erasure_sweep.workers.storage.whole_file import whole_file, write_error
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.columns import ARROW, Column, Columns, Stage, Table
from erasure_sweep.workers.tables.registry import TABLES, tables_of

_CHECKSUM = b"checksum"
"""Key of the checksum in a file's metadata."""


class SchemaError(DataError):
    """A manifest or a table of another schema; ``found`` is the version that it names, None where it names none."""

    found: str | None = None
    writer: str | None = None
    """The version that wrote it, where it is known."""

    @property
    def told(self) -> str | None:
        """The schema with the version that is needed to read it."""
        return f"{self.found} (erasure-sweep {self.writer})" if self.found and self.writer else self.found


class DeclarationError(SweepError):
    """A measure made a table that is not as declared: a fault of the code, not of what was measured."""


def write_tables(
    made: Mapping[str, Columns],
    model: str,
    stage: Stage,
    folder: Path,
    notes: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write what a stage made of a model; its tables without rows are not there, nor is one of an earlier run.

    A table that several stages write keeps the rows of the others, in the order of the stages.

    Args:
        made: tables by name, without ``model``.
        notes: by table what else its metadata hold.

    Raises:
        DeclarationError: a table is not as declared.
        SweepError: a table cannot be written, or not read where it has rows of another stage.
    """
    if undeclared := sorted(set(made) - set(tables_of(stage))):
        raise DeclarationError(
            f"table {', '.join(undeclared)} of {stage} is not declared: add it in workers/tables/declarations"
        )
    for name in tables_of(stage):
        path, table = folder / f"{name}.parquet", TABLES[name]
        columns = made.get(name, {})
        n_rows = len(next(iter(columns.values()), ()))
        parts = {stage: as_arrow(table, {"model": np.full(n_rows, model, dtype=object), **columns})} if n_rows else {}
        if len(table.stages) > 1:
            parts |= _of_other_stages(table, stage, path)
        if parts:
            rows = pa.concat_tables([parts[each] for each in table.stages if each in parts])
            noted = {**rows.schema.metadata, **(notes or {}).get(name, {})}
            write_table(rows.combine_chunks().replace_schema_metadata(noted), path)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _of_other_stages(table: Table, stage: Stage, path: Path) -> dict[Stage, pa.Table]:
    if not path.exists():
        return {}
    kept = _read(path).select(table.schema.names).cast(table.schema)
    others = {each: kept.filter(pc.equal(kept["stage"], each)) for each in table.stages if each != stage}
    return {each: rows for each, rows in others.items() if len(rows)}


def as_arrow(table: Table, columns: Mapping[str, npt.ArrayLike]) -> pa.Table:
    """A table in its declared schema, every value as it is; NaN becomes null.

    Raises:
        DeclarationError: it is not as declared.
    """
    declared = table.schema.names
    wrong = {
        "is missing": [name for name in declared if name not in columns],
        "is not declared": [name for name in columns if name not in declared],
    }
    for what, names in wrong.items():
        if names:
            raise DeclarationError(f"table {table.name}: column {', '.join(names)} {what}")
    arrays = [_as_array(table, column, columns[column.name]) for column in table.columns]
    if len({len(array) for array in arrays}) > 1:
        raise DeclarationError(f"table {table.name}: its columns differ in length")
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _as_array(table: Table, column: Column, values: npt.ArrayLike) -> pa.Array:
    where = f"table {table.name}: column {column.name}"
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DeclarationError(f"{where} holds values of several types ({error})") from error
    # None alone has a type of its own, and strings come with short offsets
    if pa.types.is_null(array.type) or (column.type == "text" and pa.types.is_string(array.type)):
        array = array.cast(ARROW[column.type])
    # numbers that all happen to be whole, and single precision: nothing is lost
    if column.type == "number" and (pa.types.is_integer(array.type) or pa.types.is_float32(array.type)):
        array = array.cast(pa.float64())
    if array.type != ARROW[column.type]:
        raise DeclarationError(f"{where} is {array.type}, declared is {column.type} ({ARROW[column.type]})")
    if array.null_count and not column.nullable:
        raise DeclarationError(f"{where} lacks {array.null_count} of {len(array)} values and is not declared nullable")
    return array


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table that ``as_arrow`` made; the file is whole or absent.

    Raises:
        SweepError: it cannot be written.
    """
    content = pa.BufferOutputStream()
    noted = table.replace_schema_metadata({**(table.schema.metadata or {}), _CHECKSUM: checksum(table)})
    pq.write_table(noted, content, compression="zstd", write_page_checksum=True)
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content.getvalue())
    except OSError as error:
        raise write_error(path, error) from error


def carries_checksum(path: Path) -> bool:
    """Whether a table carries a checksum, as those of version 0.1.0 do not."""
    return _CHECKSUM in (pq.read_schema(path).metadata or {})


def checksum(table: pa.Table) -> str:
    """Hash of everything in a table: names, types, meanings and every value, however it is laid out."""
    described = [str((each.name, str(each.type), each.nullable, _sorted(each.metadata))) for each in table.schema]
    own = {key: value for key, value in (table.schema.metadata or {}).items() if key != _CHECKSUM}
    columns = (piece for column in table.columns for piece in _pieces(column.combine_chunks()))
    return digest([str(_sorted(own)), *described, *columns]).hex()


def _sorted(metadata: Mapping[bytes, bytes] | None) -> list[tuple[bytes, bytes]]:
    return sorted((key, value) for key, value in (metadata or {}).items() if not key.startswith(b"PARQUET:"))


def _pieces(array: pa.Array) -> Iterator[bytes | memoryview]:
    """Which values are null, and the others one behind the other."""
    yield array.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_null(array.type):
        return
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    filled = array.fill_null("" if text else pa.scalar(0).cast(array.type)) if array.null_count else array
    if not text:
        yield filled.to_numpy(zero_copy_only=False).tobytes()
        return
    yield pc.binary_length(filled).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
    filled = filled.cast(pa.large_string())
    _, places, content = filled.buffers()
    ends = np.frombuffer(places, "<i8", len(filled) + 1, 8 * filled.offset) if len(filled) else np.zeros(1, "<i8")
    yield memoryview(content or b"")[ends[0] : ends[-1]]


def read_table(path: Path) -> pd.DataFrame:
    """A table that a sweep wrote; what its metadata hold beside the declaration is in its ``attrs``.

    Raises:
        SchemaError: it is of another schema version.
        DataError: it is damaged.
    """
    table = _read(path)
    frame: pd.DataFrame = table.to_pandas()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    frame.attrs |= {key: value for key, value in metadata.items() if key not in ("schema_version", "table", "meaning")}
    return frame


def read_tables(folder: Path, names: Container[str] | None = None) -> dict[str, pd.DataFrame]:
    """A model's tables by name, from the folder that holds them; empty where it holds none.

    Args:
        names: of the tables that are read; ``None`` for all.

    Raises:
        SchemaError: a table is of another schema version.
        DataError: a table is damaged.
    """
    paths = [path for path in sorted(folder.glob("*.parquet")) if names is None or path.stem in names]
    return {path.stem: read_table(path) for path in paths}


def check_version(path: Path, found: object, writer: object = None) -> None:
    """Refuse a manifest or a table of another schema.

    Args:
        writer: the version that wrote it, where it is known.

    Raises:
        SchemaError: it is of another version.
    """
    if found != SCHEMA_VERSION:
        with_it = f"erasure-sweep {writer}, which wrote it" if writer else "the one that wrote it"
        error = SchemaError(
            f"{path} has schema_version {found!r}, this version reads {SCHEMA_VERSION!r}: "
            f"run the sweep again with this version, or read it with {with_it}"
        )
        error.found, error.writer = None if found is None else str(found), str(writer) if writer else None
        raise error


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path.absolute(), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        noted = metadata.get(_CHECKSUM)
        is_bare = noted is None and b"table" not in metadata
        differs = not is_bare and (noted is None or noted.decode("utf-8", "replace") != checksum(table))
    # whatever a library makes of bytes that are no table: one that lies in a folder of tables is damaged
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}): run the sweep again to write it anew") from error
    version = metadata.get(b"schema_version")
    if noted is None or not differs:
        check_version(path, None if version is None else version.decode("utf-8", "replace"))
    if differs:
        said = "its checksum differs" if noted else "it lacks its checksum"
        raise DataError(f"{path} is damaged ({said}): run the sweep again to write it anew")
    return table.replace_schema_metadata({key: value for key, value in metadata.items() if key != _CHECKSUM})
