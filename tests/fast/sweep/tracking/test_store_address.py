"""Which file or server an address of a store means."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from erasure_sweep.sweep.tracking.store_address import refuse_unusable, sqlite_path, sqlite_uri, store_uri
from erasure_sweep.workers.errors import UsageError


def test_the_given_one_then_the_environment_then_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri() == "http://127.0.0.1:5000"
    assert store_uri("SQLite:///My.db") == "sqlite:///My.db"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite+pysqlite:///runs/mlflow.db", Path("runs/mlflow.db")),
        ("SQLITE:////data/mlflow.db", Path("/data/mlflow.db")),
        ("sqlite:////data/mlflow.db?timeout=3", Path("/data/mlflow.db")),
        ("sqlite:////data/my%20project/a+b.db", Path("/data/my project/a+b.db")),
        ("sqlite:////data/my project/mlflow.db", Path("/data/my project/mlflow.db")),
        ("sqlite:////data/lr%253D0.1/mlflow.db", Path("/data/lr%3D0.1/mlflow.db")),
        ("sqlite:///file:/data/my%20x.db?uri=true&mode=rwc", Path("/data/my x.db")),
        ("postgresql://u:p@host/db", None),
        ("http://127.0.0.1:5000", None),
        ("databricks", None),
        ("mlruns", None),
    ],
)
def test_the_file_of_an_address(uri: str, path: Path | None):
    assert sqlite_path(uri) == path


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_what_keeps_nothing_is_refused(uri: str):
    with pytest.raises(UsageError, match=r"keeps nothing: pass --tracking-uri sqlite:///mlflow\.db"):
        sqlite_path(uri)


@pytest.mark.parametrize(
    "name", ["mlflow.db", "my project/m.db", "lr%3D0.1/m.db", "a#b/m.db", "a?b=c/m.db", "a+b&c/ü.db"]
)
def test_an_address_that_is_made_here_means_that_file(tmp_path: Path, name: str):
    """As SQLAlchemy, and so MLflow, opens it."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    assert sqlite_path(sqlite_uri(path)) == path
    with create_engine(sqlite_uri(path)).connect() as connection:
        connection.exec_driver_sql("CREATE TABLE here (x)")
        connection.commit()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("here",)]


class TestRefused:
    @pytest.mark.parametrize("uri", ["mlruns", "./my runs", "file:///tmp/mlruns"])
    def test_folders(self, uri: str):
        with pytest.raises(UsageError, match="is a folder, which MLflow no longer writes"):
            refuse_unusable(uri)

    def test_a_percent_sign_that_stands_for_itself(self, tmp_path: Path):
        (tmp_path / "lr%3D0.1").mkdir()
        with pytest.raises(
            UsageError, match=rf"for {tmp_path}/lr%3D0.1/m.db pass --tracking-uri sqlite:///{tmp_path}/lr%253D"
        ):
            refuse_unusable(f"sqlite:///{tmp_path}/lr%3D0.1/m.db")
        refuse_unusable(f"sqlite:///{tmp_path}/lr%253D0.1/m.db")

    def test_a_home_folder_that_nothing_expands(self):
        with pytest.raises(
            UsageError, match=rf"means a folder called ~.*pass --tracking-uri sqlite:///{Path.home()}/m.db"
        ):
            refuse_unusable("sqlite:///~/m.db")

    @pytest.mark.parametrize("uri", ["http://host", "databricks", "sqlite:///my%20project/m.db", "postgresql://h/d"])
    def test_nothing_else(self, uri: str):
        refuse_unusable(uri)
