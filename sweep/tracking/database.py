"""Whether a database is MLflow's: its client makes its own tables in whatever database it is given."""

from __future__ import annotations

from pathlib import Path

from erasure_sweep.workers.errors import UsageError

_OF_EVERY_STORE = {"experiments", "runs", "metrics", "params", "tags"}
_OF_MIGRATIONS = "alembic_"
_SHOWN = 4


def is_store(uri: str) -> bool:
    """Whether a database holds MLflow's tables; ``False`` of an empty one, in which they can be made.

    Raises:
        UsageError: it is another application's, or of another version of MLflow.
    """
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
    from sqlalchemy import inspect, text

    engine = create_sqlalchemy_engine(uri)
    try:
        with engine.connect() as connection:
            names = set(inspect(connection).get_table_names())
            has_revision = f"{_OF_MIGRATIONS}version" in names
            query = text("SELECT version_num FROM alembic_version")
            revisions = set(connection.scalars(query)) if has_revision else set()
    finally:
        engine.dispose()
    tables = {name for name in names if not name.startswith(_OF_MIGRATIONS)}
    is_whole = tables >= _OF_EVERY_STORE
    # A process that was killed while it made them leaves a part of MLflow's own.
    if not is_whole and not tables <= {*Base.metadata.tables, *InitialBase.metadata.tables}:
        raise UsageError(
            f"MLflow at {uri} is another application's database, with tables such as {', '.join(sorted(tables)[:_SHOWN])}: "
            "nothing was changed there; pass --tracking-uri of a database of its own"
        )
    if is_whole and (unknown := revisions - _known_revisions()):
        raise UsageError(
            f"MLflow at {uri} was written by another, most likely newer version of MLflow (schema {', '.join(unknown)}): "
            "install that one, or pass another --tracking-uri"
        )
    return is_whole


def _known_revisions() -> set[str]:
    """Versions of the schema that the installed MLflow can read or bring up to its own."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return {script.revision for script in scripts.walk_revisions()}
