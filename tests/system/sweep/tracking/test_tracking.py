"""Runs in real MLflow stores: a SQLite file, and a server on loopback that keeps its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pandas as pd
import pytest

from erasure_sweep.sweep.tracking import ui_server as ui
from erasure_sweep.sweep.tracking.saved_view import runs_page
from erasure_sweep.sweep.tracking.tracker import ModelResults, Tracker, TrackingError
from erasure_sweep.sweep.tracking.ui_server import serve
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.manifest import Manifest, ManifestConfig
from tests.support.fakes.tables import write_frame
from tests.support.paths import ROOT
from tests.support.servers.cluster import free_port
from tests.support.servers.services import MlflowServer
from tests.support.waiting import sleeping_at_most, wait_until

DATASET = {
    "name": "stdlib",
    "digest": "f" * 64,
    "source": "standard-library",
    "prompts": 8,
    "seq_len": 16,
    "tokens": 128,
}
CONFIG = ManifestConfig(corpus="stdlib", seq_len=16)
MANIFEST = Manifest(name="trial", version="0.1.0", device_type="cpu", config=CONFIG, models=())
METRICS = {"erasure/most_opposed": -0.9, "erasure/remaining_median": 0.25, "erasure/embed_remaining": float("nan")}


def get(url: str) -> str:
    return urlopen(url).read().decode()


def mlflow_server(folder: Path) -> MlflowServer:
    """MLflow's own server, with its store and artifacts under ``folder``."""
    return MlflowServer(folder, f"sqlite:///{folder}/server.db", str(folder / "artifacts"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(params=["sqlite", "server"])
def uri(request):
    return request.getfixturevalue("sqlite_uri") if request.param == "sqlite" else request.getfixturevalue("server").uri


@pytest.fixture
def results(tmp_path):
    """What a sweep leaves of a model."""
    folder = tmp_path / "toy"
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True)
    row = {"model": "toy", "writer": "L0H0", "written": 1.0, "remaining": 0.1, "opposed": -0.9}
    write_frame(pd.DataFrame([row]), folder / "tables" / "writers.parquet")
    (folder / "index.html").write_text("<h1>drawn here</h1>")
    (folder / "figures" / "causal.html").write_text("<h1>one figure</h1>")
    tags = {"stage": "scan+verify", "most_erased": "L0H0"}
    return ModelResults(
        folder / "index.html", folder / "tables", folder / "figures", METRICS, tags, "Most erased: **L0H0**", DATASET
    )


def log_everything(tracker: Tracker, results: ModelResults, **params: object) -> tuple[str, str]:
    parent = tracker.start_sweep("abc123", {"prompts": 8, **params}, {"version": "0.1.0", "git_commit": "c0ffee"})
    child = tracker.start_model("toy", "hash1", {"n_layers": 2, **params}, {"stage": "scan"})
    tracker.log_model("hash1", results)
    tracker.end_model("hash1", "FINISHED")
    tracker.describe_sweep(MANIFEST)
    tracker.end_sweep("FINISHED")
    return parent, child


def runs_of(client, experiment: str):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id])


def names(client, run_id: str, folder: str) -> list[str]:
    return [item.path for item in client.list_artifacts(run_id, folder)]


class TestEveryStore:
    @pytest.fixture
    def experiment(self, request):
        return request.node.name.replace("[", "-").replace("]", "")

    @pytest.fixture
    def client(self, uri):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)

    def test_a_sweep_is_a_parent_with_a_child_per_model(self, uri, experiment, client, results):
        tracker = Tracker(uri, experiment)
        tracker.check()
        parent_id, child_id = log_everything(tracker, results)
        compare = results.page.with_name("compare.html")
        compare.write_text("side by side")
        tracker.log_sweep_artifact(compare)

        assert {run.info.run_id for run in runs_of(client, experiment)} == {parent_id, child_id}
        parent, child = client.get_run(parent_id), client.get_run(child_id)
        assert (parent.info.run_name, child.info.run_name) == (f"{experiment} (1 model)", "toy")
        assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
        assert child.data.tags["mlflow.parentRunId"] == parent_id
        assert parent.data.params == {"prompts": "8"}
        assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
        told = {"state": "finished", "stage": "scan+verify", "model_hash": "hash1", "most_erased": "L0H0"}
        assert child.data.tags.items() >= told.items()
        assert child.data.tags["mlflow.source.name"] == "erasure-sweep"
        assert child.data.tags["mlflow.note.content"] == "Most erased: **L0H0**"
        assert (
            f"](#/experiments/{child.info.experiment_id}/runs/{child_id}) |" in parent.data.tags["mlflow.note.content"]
        )
        assert child.data.metrics == {"erasure/most_opposed": -0.9, "erasure/remaining_median": 0.25}
        assert names(client, child_id, "tables") == ["tables/writers.parquet"]
        assert names(client, child_id, "figures") == ["figures/causal.html"]
        assert names(client, child_id, "") == ["figures", "index.html", "tables"]
        assert names(client, parent_id, "") == ["compare.html", "sweep.json"]
        (used,) = child.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("stdlib", "f" * 36)
        assert json.loads(used.dataset.profile) == {"num_rows": 8, "num_elements": 128}
        assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "measurement")]

    def test_logging_twice_is_logging_once(self, uri, experiment, client, results):
        first = log_everything(Tracker(uri, experiment), results)
        note = client.get_run(first[0]).data.tags["mlflow.note.content"]
        results.page.write_text("<h1>drawn again</h1>")
        assert log_everything(Tracker(uri, experiment), results) == first

        parent_id, child_id = first
        assert len(runs_of(client, experiment)) == 2
        assert [row.value for row in client.get_metric_history(child_id, "erasure/most_opposed")] == [-0.9]
        assert len(client.get_run(child_id).inputs.dataset_inputs) == 1
        assert client.get_run(parent_id).data.tags["mlflow.note.content"] == note
        assert client.get_run(parent_id).info.run_name == f"{experiment} (1 model)"
        page = Path(client.download_artifacts(child_id, "index.html", str(results.figures)))
        assert page.read_text() == "<h1>drawn again</h1>"

    def test_a_changed_parameter_keeps_the_first_and_a_changed_metric_shows_the_last(
        self, uri, experiment, client, results
    ):
        log_everything(Tracker(uri, experiment), results, workers=1)
        changed = results._replace(metrics=METRICS | {"erasure/most_opposed": -1.5})
        _, child_id = log_everything(Tracker(uri, experiment), changed, workers=2, seed=None)
        child = client.get_run(child_id)
        assert child.data.params == {"n_layers": "2", "workers": "1", "seed": "null"}
        assert child.data.metrics["erasure/most_opposed"] == -1.5

    def test_an_experiment_opens_on_its_models(self, uri, experiment, client, results):
        _, child_id = log_everything(Tracker(uri, experiment), results)
        found = client.get_experiment_by_name(experiment)
        assert found.tags["mlflow.experimentKind"] == "custom_model_development"
        assert json.loads(found.tags["mlflow.sharedViewState.erasure"])["name"] == "Erasure, model by model"
        note = found.tags["mlflow.note.content"]
        assert f"[toy](#/experiments/{found.experiment_id}/runs/{child_id})" in note
        assert f"(#/experiments/{found.experiment_id}/runs?viewStateShareKey=erasure" in note

    def test_what_people_write_of_an_experiment_stays(self, uri, experiment, client, results):
        def described() -> str:
            return str(client.get_experiment_by_name(experiment).tags["mlflow.note.content"])

        tracker = Tracker(uri, experiment)
        log_everything(tracker, results)
        ours = described()
        tracker.start_model("other", "hash2", {}, {})
        tracker.describe_sweep(MANIFEST)
        assert "[other]" in described() and described() != ours
        client.set_experiment_tag(tracker._experiment_id, "mlflow.note.content", "my own words")
        tracker.describe_sweep(MANIFEST)
        assert described() == "my own words"

    def test_what_an_earlier_sweep_found_stays_until_another_has_found_something(
        self, uri, experiment, client, results
    ):
        def described() -> str:
            return str(client.get_experiment_by_name(experiment).tags["mlflow.note.content"])

        log_everything(Tracker(uri, experiment), results)
        found = described()
        tracker = Tracker(uri, experiment)
        tracker.start_sweep("another", {}, {})
        tracker.start_model("new", "hash9", {}, {})
        tracker.describe_sweep(MANIFEST)
        assert described() == found
        tracker.end_model("hash9", "FINISHED")
        tracker.describe_sweep(MANIFEST)
        assert "[new]" in described() and "[toy]" not in described()

    def test_runs_of_others_that_look_like_ours_are_passed_over(self, uri, experiment, client, results):
        tracker = Tracker(uri, experiment)
        parent_id, _ = log_everything(tracker, results)
        client.create_run(tracker._experiment_id, tags={"role": "model", "sweep_id": "abc123"}, run_name="theirs")
        tracker.describe_sweep(MANIFEST)
        assert "theirs" not in client.get_run(parent_id).data.tags["mlflow.note.content"]

    def test_a_sweep_is_named_with_its_models_unless_people_named_it(self, uri, experiment, client, results):
        tracker = Tracker(uri, experiment)
        parent_id, _ = log_everything(tracker, results)
        tracker.start_model("other", "hash2", {}, {})
        tracker.describe_sweep(MANIFEST)
        assert client.get_run(parent_id).info.run_name == f"{experiment} (2 models)"
        client.update_run(parent_id, name="the good one (2 models)")
        log_everything(Tracker(uri, experiment), results)
        assert client.get_run(parent_id).info.run_name == "the good one (2 models)"

    def test_samples_of_the_machine_go_on_where_they_were(self, uri, experiment, client):
        def steps(run_id: str) -> list[tuple[int, float]]:
            return [(row.step, row.value) for row in client.get_metric_history(run_id, "system/cpu")]

        for value in (1.0, 3.0):
            tracker = Tracker(uri, experiment)
            run_id = tracker.start_sweep("abc123", {}, {})
            tracker.log_machine({"system/cpu": value, "system/memory": 5.0})
            tracker.log_machine({"system/cpu": value + 1, "system/memory": 5.0})
        assert steps(run_id) == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]

    def test_only_a_server_shows_runs(self, uri, experiment):
        tracker = Tracker(uri, experiment)
        run_id = tracker.start_sweep("abc123", {}, {})
        child_id = tracker.start_model("toy", "hash1", {}, {})
        expected: Any = (None, None)
        if uri.startswith("http"):
            base = f"{uri}/#/experiments/{tracker._experiment_id}/runs"
            expected = (f"{base}/{run_id}", f"{base}/{child_id}")
        assert (tracker.run_url(None), tracker.run_url("hash1")) == expected

    def test_a_failed_run_says_why_and_is_continued(self, uri, experiment, client, results):
        tracker = Tracker(uri, experiment)
        tracker.start_sweep("abc123", {}, {})
        child_id = tracker.start_model("toy", "hash1", {}, {})
        tracker.end_model("hash1", "FAILED", "shard 3 failed 5 times")
        tracker.end_sweep("KILLED")
        child = client.get_run(child_id)
        assert child.info.status == "FAILED"
        assert child.data.tags.items() >= {"state": "failed", "reason": "shard 3 failed 5 times"}.items()

        again = Tracker(uri, experiment)
        parent_id = again.start_sweep("abc123", {}, {})
        assert again.start_model("toy", "hash1", {}, {}) == child_id
        child = client.get_run(child_id)
        assert (child.info.status, client.get_run(parent_id).info.status) == ("RUNNING", "RUNNING")
        assert child.data.tags["state"] == "running"
        assert "reason" not in child.data.tags

    def test_another_sweep_or_model_has_another_run(self, uri, experiment, client):
        tracker = Tracker(uri, experiment)
        one = tracker.start_sweep("abc123", {}, {})
        models = {tracker.start_model("toy", "hash1", {}, {}), tracker.start_model("toy", "hash2", {}, {})}
        other = Tracker(uri, experiment).start_sweep("def456", {}, {})
        assert len({one, other} | models) == 4

    def test_who_creates_a_run_second_uses_the_first(self, uri, experiment, client, monkeypatch):
        tracker, rival = Tracker(uri, experiment), Tracker(uri, experiment)
        create, rival_ids = tracker._client.create_run, []

        def create_after_the_rival(*args, **kwargs):
            rival_ids.append(rival.start_sweep("abc123", {}, {}))
            time.sleep(0.01)
            return create(*args, **kwargs)

        monkeypatch.setattr(tracker._client, "create_run", create_after_the_rival)
        assert [tracker.start_sweep("abc123", {}, {})] == rival_ids
        assert [run.info.run_id for run in runs_of(client, experiment)] == rival_ids

    def test_a_deleted_experiment_is_named(self, uri, experiment, client):
        Tracker(uri, experiment).check()
        client.delete_experiment(client.get_experiment_by_name(experiment).experiment_id)
        with pytest.raises(UsageError, match=rf"experiment '{experiment}' was deleted .*mlflow experiments restore"):
            Tracker(uri, experiment).check()

    @pytest.mark.parametrize("lost", ["page", "tables", "figures"])
    def test_a_missing_file_is_not_passed_over(self, uri, experiment, results, lost):
        tracker = Tracker(uri, experiment)
        tracker.start_sweep("abc123", {}, {})
        tracker.start_model("toy", "hash1", {}, {})
        with pytest.raises(DataError, match="nowhere is not there"):
            tracker.log_model("hash1", results._replace(**{lost: results.page.with_name("nowhere")}))


def one_line(error: SweepError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    return text


class TestStoresThatFail:
    def check_within(self, uri: str, seconds: float) -> str:
        with pytest.raises(SweepError) as caught, sleeping_at_most(seconds):
            Tracker(uri, "demo").check()
        assert caught.value.exit_code == 1
        return one_line(caught.value)

    @pytest.fixture(autouse=True)
    def imported(self):
        import mlflow  # noqa: F401  # not part of the time that a store may take

    def test_no_server(self):
        uri = f"http://127.0.0.1:{free_port()}"
        line = self.check_within(uri, 10)
        assert line.startswith(f"MLflow at {uri} cannot be reached: Connection refused: start it with `mlflow server")
        assert "sqlite:///mlflow.db" in line

    def test_a_server_that_never_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            line = self.check_within(f"http://127.0.0.1:{mute.getsockname()[1]}", 20)
        assert "does not answer" in line

    @pytest.mark.parametrize("uri", ["http://no-such-host.invalid:5000", "http://127.0.0.1:port", "nothing://like/it"])
    def test_no_such_address(self, uri):
        line = self.check_within(uri, 20)
        assert line.startswith(f"MLflow at {uri} ")
        assert "check the address" in line

    def test_no_database(self):
        uri = f"postgresql://me:secret@127.0.0.1:{free_port()}/mlflow"
        line = self.check_within(uri, 10)
        assert "Connection refused" in line
        assert "secret" not in line

    def test_a_database_without_its_driver(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with socket.create_server(("127.0.0.1", 0)) as database:
            line = self.check_within(f"postgresql://127.0.0.1:{database.getsockname()[1]}/mlflow", 10)
        assert line.endswith("`pip install 'erasure-sweep[postgres]'`)")

    def test_a_file_that_is_no_store(self, tmp_path):
        (tmp_path / "notes.db").write_text("these are notes " * 100)
        line = self.check_within(f"sqlite:///{tmp_path}/notes.db", 10)
        assert "file is not a database" in line

    @pytest.mark.nightly
    def test_several_that_make_one_store_at_once(self, tmp_path):
        script = (
            "from erasure_sweep.sweep.tracking.tracker import Tracker\n"
            f"Tracker('sqlite:///{tmp_path}/new.db', 'trial').check()"
        )
        several = [
            subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(3)
        ]
        said = [process.communicate()[1] for process in several]
        assert [process.returncode for process in several] == [0, 0, 0], said

    def test_a_locked_file(self, tmp_path):
        holder = sqlite3.connect(tmp_path / "mlflow.db")
        holder.execute("BEGIN EXCLUSIVE")
        line = self.check_within(f"sqlite:///{tmp_path}/mlflow.db", 10)
        holder.close()
        assert "database is locked" in line

    def test_a_place_that_cannot_hold_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        line = self.check_within(f"sqlite:///{tmp_path}/file/mlflow.db", 10)
        assert f"failed: File exists ({tmp_path}/file): see that this file can be written" in line

    @pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
    def test_folders_are_refused(self, uri):
        with pytest.raises(UsageError, match="is a folder, which MLflow no longer writes"):
            Tracker(uri, "demo").check()

    @pytest.mark.nightly
    def test_a_server_that_stops_midway(self, tmp_path, results, capfd):
        with mlflow_server(tmp_path) as server:
            tracker = Tracker(server.uri, "demo")
            tracker.check()
            tracker.start_sweep("abc123", {}, {})
            tracker.start_model("toy", "hash1", {}, {})
            server.stop()
            with pytest.raises(TrackingError) as caught:
                tracker.log_model("hash1", results)
            line = one_line(caught.value)
            assert "Connection refused" in line
            assert "the next `erasure-sweep run` logs them" in line
            with pytest.raises(TrackingError, match="the run of model hash2 was never opened"):
                tracker.log_model("hash2", results)
        assert capfd.readouterr().err == ""


class TestPages:
    def test_the_ui_shows_a_store_on_loopback_and_ends_on_interrupt(self, sqlite_uri, results, tmp_path):
        tracker = Tracker(sqlite_uri, "pages")
        _, child_id = log_everything(tracker, results)
        port = free_port()
        code = (
            "import sys; from erasure_sweep.sweep.tracking.ui_server import serve\n"
            f"sys.exit(serve({sqlite_uri!r}, {port}, experiment='pages'))"
        )
        said = tmp_path / "said"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with said.open("w") as out:  # from another folder than the store's: artifacts are found all the same
            ui = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=out, stderr=out, env=environment)
        try:
            wait_until(lambda: "Ctrl-C ends it" in said.read_text(), ui)
            assert "<html" in get(f"http://127.0.0.1:{port}/")
            query = urlencode({"run_uuid": child_id, "path": "index.html"})
            assert get(f"http://127.0.0.1:{port}/get-artifact?{query}") == "<h1>drawn here</h1>"
            ui.send_signal(signal.SIGINT)
            assert ui.wait() == 0
        finally:
            ui.kill()
        experiment_id = tracker._experiment_id
        url = f"http://127.0.0.1:{port}/{runs_page(experiment_id)}"
        assert said.read_text().splitlines()[1:] == [f"MLflow runs at {url} (Ctrl-C ends it)", "MLflow ended"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    def test_of_a_server_the_address_is_told(self, server, capsys):
        Tracker(server.uri, "told").check()
        assert serve(server.uri, 5000, experiment="told") == 0
        experiment_id = Tracker(server.uri, "told")._experiment_id
        assert capsys.readouterr().out == f"MLflow runs at {server.uri}/{runs_page(experiment_id, has_view=False)}\n"

    def test_a_browser_opens_where_there_is_a_screen(self, server, monkeypatch, capsys):
        Tracker(server.uri, "shown").check()
        opened: list[str] = []
        monkeypatch.setattr("webbrowser.open", opened.append)
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            monkeypatch.delenv(name, raising=False)
        serve(server.uri, 5000, experiment="shown", show_browser=True)
        monkeypatch.setenv("DISPLAY", ":0")
        serve(server.uri, 5000, experiment="shown")
        assert opened == []
        serve(server.uri, 5000, experiment="shown", show_browser=True)
        assert [f"MLflow runs at {page}" for page in opened] == [capsys.readouterr().out.splitlines()[-1]]

    def test_the_experiment_that_was_used_last_is_shown(self, tmp_path):
        from mlflow import MlflowClient

        uri = f"sqlite:///{tmp_path}/mlflow.db"
        tracker = Tracker(uri, "first")
        client = MlflowClient(tracking_uri=uri)
        assert tracker.last_used() is None
        client.create_experiment("of another tool")
        assert tracker.last_used() == "of another tool"
        client.create_experiment("and another")
        assert tracker.last_used() is None
        for name in ("first", "second", "first"):
            Tracker(uri, name).check()
            time.sleep(0.005)
        assert tracker.last_used() == "first"
        assert (
            ui._page("http://here", uri, None)
            == f"http://here/{runs_page(str(tracker._experiment_id), has_view=False)}"
        )

    def test_an_experiment_that_is_not_there_is_said(self, sqlite_uri, capsys):
        Tracker(sqlite_uri, "shown").check()
        assert ui._page("http://here", sqlite_uri, "show") == "http://here"
        assert "no experiment 'show' in MLflow at sqlite:" in capsys.readouterr().out

    def test_no_store_no_pages(self, tmp_path):
        with pytest.raises(UsageError, match=r"no MLflow store at .*none\.db: `erasure-sweep run` makes one"):
            serve(f"sqlite:///{tmp_path}/none.db", 5000)
        assert list(tmp_path.iterdir()) == []

    def test_a_taken_port_is_named(self, sqlite_uri):
        Tracker(sqlite_uri, "taken").check()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(SweepError, match=f"cannot listen on 127.0.0.1:{port}: .*pass another --port"):
                serve(sqlite_uri, port)
