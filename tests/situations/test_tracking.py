"""Where runs are logged"""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from erasure_sweep.sweep.tracking.store_address import sqlite_uri
from tests.support.bad_input import Bench, Ran, assert_refused


def run(bench: Bench, out: Path, database: Path | str, **changes: object) -> Ran:
    """A short run that is logged to this file, or to the store of this address."""
    uri = sqlite_uri(database) if isinstance(database, Path) else database
    return bench.run(out, tracking_uri=uri, **{"stage": "scan", "prompts": 8, **changes})


def compare(bench: Bench, out: Path, uri: str, experiment: str) -> Ran:
    """``compare`` of an experiment; its page beside OUT."""
    arguments = ["compare", "--experiment", experiment, "--tracking-uri", uri, "--to", str(out.parent / "page.html")]
    return bench.call(out, arguments)


def places(database: Path) -> list[str]:
    """Where the file says that the artifacts of its runs lie."""
    with closing(sqlite3.connect(database)) as store:
        return [place for (place,) in store.execute("SELECT artifact_uri FROM runs")]


def tables(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as store:
        return [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]


@pytest.fixture(scope="module")
def project(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its results and the file that they were logged to, which was empty before."""
    project = tmp_path_factory.mktemp("projects") / "project"
    project.mkdir()
    (project / "mlflow.db").touch()
    ran = run(bench, project / "out", project / "mlflow.db", experiment="moved")
    assert ran.code == 0, ran.stderr
    return project


@pytest.mark.nightly
def test_an_empty_file(project: Path):
    """An empty file as the store

    It becomes one.
    """
    assert {"experiments", "runs"} <= set(tables(project / "mlflow.db"))


def test_an_address_with_a_coded_blank(bench: Bench, out: Path, tmp_path: Path, project: Path):
    """`--tracking-uri sqlite:////…/my%20project/mlflow.db`

    `%20` is a blank, as MLflow reads it: database, lock and artifacts are in `my project`, and `compare --experiment` finds
    them by the same address.
    """
    (tmp_path / "my project").mkdir()
    shutil.copy(project / "mlflow.db", tmp_path / "my project")  # making a store takes seconds
    uri = f"sqlite:///{tmp_path}/my%20project/mlflow.db"
    ran = run(bench, out, uri, experiment="blank")
    assert ran.code == 0, ran.stderr
    assert {path.name for path in (tmp_path / "my project").iterdir()} >= {"mlflow.db", "mlartifacts"}
    assert not (tmp_path / "my%20project").exists()
    assert compare(bench, out, uri, "blank").code == 0
    assert "good" in (tmp_path / "page.html").read_text()


def test_a_folder_with_a_percent_sign(bench: Bench, out: Path, tmp_path: Path, project: Path):
    """A folder really called `lr%3D0.1`

    `%3D` is read as `=` in an address of a database. Where only the folder as it is written exists, the run says how to write
    its address, and with that address everything is in that folder.
    """
    (tmp_path / "lr%3D0.1").mkdir()
    shutil.copy(project / "mlflow.db", tmp_path / "lr%3D0.1")
    refused = run(bench, out, f"sqlite:///{tmp_path}/lr%3D0.1/mlflow.db", experiment="percent")
    assert_refused(refused, 2, "a % begins a coded character", f"sqlite:///{tmp_path}/lr%253D0.1/mlflow.db")
    uri = refused.line.rpartition(" ")[2]
    ran = run(bench, out, uri, experiment="percent")
    assert ran.code == 0, ran.stderr
    artifacts = tmp_path / "lr%3D0.1" / "mlartifacts" / "percent"
    assert list(artifacts.glob("*/artifacts/tables/writers.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir() if "lr" in path.name) == ["lr%3D0.1"]
    assert compare(bench, out, uri, "percent").code == 0


def test_an_experiment_with_a_blank_and_quotes(bench: Bench, out: Path, tmp_path: Path, project: Path):
    """An experiment called `it's "mine" $HOME`, an OUT with a blank

    Every command that is printed can be pasted: a shell reads back the names as they were given.
    """
    shutil.copy(project / "mlflow.db", tmp_path)
    name, folder = """it's "mine" $HOME""", out / "my out"
    uri = sqlite_uri(tmp_path / "mlflow.db")
    ran = run(bench, folder, uri, experiment=name)
    assert ran.code == 0, ran.stderr
    printed = [
        line.partition("erasure-sweep ui ")[2] for line in ran.stdout.splitlines() if "erasure-sweep ui " in line
    ]
    assert [shlex.split(words) for words in printed] == [["--experiment", name, "--tracking-uri", uri]]
    status = bench.call(folder, ["status", str(folder)]).stdout
    assert shlex.split(status.partition("erasure-sweep ui ")[2]) == ["--experiment", name, "--tracking-uri", uri]
    assert compare(bench, folder, uri, name).code == 0


def test_own_models_under_the_default_preset(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch):
    """`erasure-sweep run --model ./mine --corpus notes.txt`, without a name

    Experiment and OUT are called after what was asked, not `demo`, and the next such run finds them.
    """
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path)  # whose helper process begins in this folder
    bench.model.rename("mine")
    bench.tokens.rename("notes.npy")
    shutil.copy(project / "mlflow.db", tmp_path)
    own = {"model": "./mine", "corpus": "notes.npy", "experiment": None}
    flags = bench.flags(tmp_path, **own, tracking_uri=sqlite_uri(tmp_path / "mlflow.db"), stage="scan")
    del flags[flags.index("--out") : flags.index("--out") + 2]
    with closing(bench):
        ran = bench.call(tmp_path / "runs" / "mine-notes", ["run", *flags])
    assert ran.code == 0, ran.stderr
    assert (ran.out / "compare.html").exists() and not (tmp_path / "runs" / "demo").exists()
    assert "erasure-sweep ui --experiment mine-notes " in ran.stdout
    with closing(sqlite3.connect("mlflow.db")) as store:
        notes = store.execute("SELECT value FROM experiment_tags WHERE key = 'mlflow.note.content'").fetchall()
    assert any("From the newest sweep, mine-notes" in note for (note,) in notes)


def test_what_a_killed_run_left(bench: Bench, tmp_path: Path, project: Path):
    """Half-written files of a run that was killed, in OUT

    The next run removes them and logs none of them.
    """
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    for name in ("good/tables/.writers.parquet", "good/figures/.causal.html", ".manifest.json"):
        (copy / "out" / f"{name}.0a1b2c3d.tmp").write_text("half")
    (copy / "out" / "good" / "tables" / ".mine.tmp").write_text("not of a run")
    ran = run(bench, copy / "out", copy / "mlflow.db", experiment="moved")
    assert ran.code == 0, ran.stderr
    assert [path.name for path in copy.rglob("*.tmp")] == [".mine.tmp"] * len([*copy.rglob(".mine.tmp")])
    assert (copy / "out" / "good" / "tables" / ".mine.tmp").exists()


class TestMoved:
    """A project's folder, somewhere else."""

    @pytest.fixture(autouse=True)
    def _another_process(self) -> None:
        """MLflow remembers for its process where a run's artifacts are."""
        from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

        _artifact_repos_cache.clear()

    @pytest.fixture
    def copy(self, project: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(project, tmp_path / "copy"))

    @pytest.fixture
    def moved(self, project: Path, copy: Path) -> Path:
        """A copy whose file names a place that is gone, as after a move."""
        gone = str(project.parent / "gone")
        with closing(sqlite3.connect(copy / "mlflow.db")) as store, store:
            store.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (str(project), gone))
            store.execute(
                "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", (str(project), gone)
            )
        return copy

    def test_compare(self, bench: Bench, project: Path, moved: Path):
        """A project's folder that was moved, with `mlflow.db` and `mlartifacts`

        The file names the old place of its artifacts. `compare --experiment` finds them beside it, and says so.
        """
        before = (moved / "mlflow.db").read_bytes()
        ran = compare(bench, moved / "out", sqlite_uri(moved / "mlflow.db"), "moved")
        assert ran.code == 0, ran.stderr
        assert f"its artifacts were found beside it in {moved}/mlartifacts" in ran.stdout
        assert "good" in (moved / "page.html").read_text()
        assert (moved / "mlflow.db").read_bytes() == before

    def test_another_run(self, bench: Bench, project: Path, moved: Path):
        """Another run in a project's folder that was moved

        It says that the store was moved, puts the places right in it, logs there, and the old path is not made again.
        """
        ran = run(bench, moved / "out", moved / "mlflow.db", experiment="moved")
        assert ran.code == 0, ran.stderr
        assert f"was moved or copied here: MLflow now looks for its artifacts in {moved}/mlartifacts" in ran.stdout
        assert not (project.parent / "gone").exists()
        assert all(place.startswith(f"{moved.as_uri()}/mlartifacts/moved/") for place in places(moved / "mlflow.db"))
        again = run(bench, moved / "out", moved / "mlflow.db", experiment="moved")
        assert again.code == 0 and "was moved" not in again.stdout

    def test_a_run_in_a_copy(self, bench: Bench, project: Path, copy: Path):
        """A project's folder that was copied, while the original is still there

        A run in the copy logs beside the copy's file; the original's artifacts stay as they are.
        """
        before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()}
        ran = run(bench, copy / "out", copy / "mlflow.db", experiment="moved")
        assert ran.code == 0, ran.stderr
        assert {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()} == before
        assert all(place.startswith(copy.as_uri()) for place in places(copy / "mlflow.db"))


def test_another_applications_file(bench: Bench, out: Path, tmp_path: Path):
    """`--tracking-uri` of another application's SQLite file

    One line, and nothing is changed in it: MLflow would add its 66 tables.
    """
    notes = tmp_path / "notes.db"
    with closing(sqlite3.connect(notes)) as store, store:
        store.execute("CREATE TABLE notes (text)")
    before = notes.read_bytes()
    assert_refused(run(bench, out, notes), 2, "another application's database", "such as notes", "--tracking-uri")
    for command in (["ui", "--experiment", "x"], ["ui"], ["compare", "--experiment", "x"]):
        ran = bench.call(out, [*command, "--tracking-uri", sqlite_uri(notes)])
        assert ran.code == 2 and "another application's database" in ran.line, ran.stderr
    assert notes.read_bytes() == before


def test_a_store_of_a_newer_mlflow(bench: Bench, out: Path, tmp_path: Path):
    """A store that a newer MLflow has written

    One line that says so, and nothing is changed in it.
    """
    newer = tmp_path / "newer.db"
    with closing(sqlite3.connect(newer)) as store, store:
        for name in ("experiments", "runs", "metrics", "params", "tags", "brand_new"):
            store.execute(f"CREATE TABLE {name} (x)")
        store.execute("CREATE TABLE alembic_version (version_num)")
        store.execute("INSERT INTO alembic_version VALUES ('ffff00001111')")
    before = newer.read_bytes()
    assert_refused(run(bench, out, newer), 2, "newer version of MLflow (schema ffff00001111)", "install that one")
    assert newer.read_bytes() == before
