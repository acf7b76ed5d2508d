"""Where artifacts lie of a store that moved."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from erasure_sweep.sweep.tracking.artifact_places import found_beside, local_folder, of_experiment, put_right


@pytest.mark.parametrize(
    ("experiment", "folder"),
    [("demo", "demo"), ("it's mine", "it_s_mine"), ("../..", "_.."), ("..", "experiment"), ("x" * 300, "x" * 100)],
)
def test_every_experiment_has_a_folder_of_its_own_below(tmp_path: Path, experiment: str, folder: str):
    assert local_folder(of_experiment(tmp_path / "m.db", experiment)) == tmp_path / "mlartifacts" / folder


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/mlartifacts/demo/1/artifacts",
        "mlflow-artifacts:/1/2/artifacts",
        "file:///elsewhere/chosen/1/artifacts",
        "./mlruns/0",
        "",
    ],
)
def test_what_was_logged_elsewhere_has_not_moved(tmp_path: Path, address: str):
    assert found_beside(tmp_path / "m.db", address) is None


def test_a_folder_of_another_name_that_is_the_same(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    address = of_experiment(tmp_path / "link" / "m.db", "demo")
    assert found_beside(tmp_path / "real" / "m.db", address) is None


def test_names_of_folders_that_addresses_code(tmp_path: Path):
    place = tmp_path / "my 50%25 ü"
    address = of_experiment(Path("/gone/a b%20c/m.db"), "demo")
    assert found_beside(place / "m.db", address) == place / "mlartifacts" / "demo"


class TestPutRight:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        """Two experiments, the second in a bucket, and a run in each; the first was logged in /gone."""
        (tmp_path / "here").mkdir()
        with closing(sqlite3.connect(tmp_path / "here" / "m.db")) as file, file:
            file.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
            file.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
            for key, place in ((1, "file:///gone/mlartifacts/demo"), (2, "s3://bucket/mlartifacts/other"), (3, None)):
                file.execute("INSERT INTO experiments VALUES (?, ?)", (key, place))
                file.execute("INSERT INTO runs VALUES (?, ?)", (str(key), place and f"{place}/{key}/artifacts"))
        return tmp_path / "here" / "m.db"

    def places(self, store: Path) -> dict[str, str]:
        with closing(sqlite3.connect(store)) as file:
            return dict(file.execute("SELECT run_uuid, artifact_uri FROM runs"))

    def test_what_came_along_and_what_is_gone(self, store: Path):
        news = put_right(store)
        assert news is not None and "the artifacts of 1 run are not there" in news
        assert self.places(store) == {
            "1": f"{store.parent.as_uri()}/mlartifacts/demo/1/artifacts",
            "2": "s3://bucket/mlartifacts/other/2/artifacts",
            "3": None,
        }
        assert put_right(store) is None

    def test_a_file_that_was_copied_alone_still_finds_them(self, store: Path, tmp_path: Path):
        old = tmp_path / "old" / "mlartifacts" / "demo"
        (old / "1" / "artifacts").mkdir(parents=True)
        with closing(sqlite3.connect(store)) as file, file:
            file.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 1", (old.as_uri(),))
            file.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = '1'", (f"{old.as_uri()}/1/artifacts",))
        assert put_right(store) is None
