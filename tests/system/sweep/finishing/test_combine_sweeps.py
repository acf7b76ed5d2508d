"""Several sweeps on one page: from their folders, and from nothing but what was logged to MLflow."""

import html
import json
import os
import re
import shutil
import socket
import sqlite3
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

import erasure_sweep as es
from erasure_sweep.sweep.commands import main
from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.finishing.combine_sweeps import compare_folders
from erasure_sweep.sweep.tracking.downloads import download_experiment
from erasure_sweep.sweep.tracking.store_address import run_url
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.files import SchemaError, as_arrow, write_table
from erasure_sweep.workers.tables.registry import TABLES
from erasure_sweep.workers.tables.sweep_folder import read_out
from erasure_sweep.workers.version import VERSION
from tests.support.models.random_models import write_tl_directory
from tests.support.servers.services import MlflowServer
from tests.support.tracking_stores import place_store


def config(root: Path, name: str, models: list[str], **changes: object) -> SweepConfig:
    values = {
        "name": name,
        "models": [str(root / "models" / model) for model in models],
        "corpus": str(root / "tokens.npy"),
        "prompts": 8,
        "seq_len": 16,
        "workers": 0,
        "device": "cpu",
        "out": str(root / "runs" / name),
        "staging": str(root / "staging"),
        "tracking_uri": f"sqlite:///{root}/mlflow.db",
        "experiment": "small",
    }
    return SweepConfig(**(values | changes))


@pytest.fixture(scope="module")
def swept(tmp_path_factory, helper):
    """Two sweeps in one experiment: model ``b`` is in both, and they differ in their numbers of prompts."""
    root = tmp_path_factory.mktemp("swept")
    np.save(root / "tokens.npy", np.random.default_rng(0).integers(0, 97, (16, 32)))
    place_store(root / "mlflow.db")
    write_tl_directory(root / "models" / "a", 0, 2, 2, 16)
    write_tl_directory(root / "models" / "b", 1, 2, 2, 16, attn_only=True)
    write_tl_directory(root / "models" / "c", 2, 1, 4, 32)
    es.run(config(root, "one", ["a", "b"]))
    es.run(config(root, "two", ["b", "c"], prompts=16))
    return SimpleNamespace(
        root=root, uri=f"sqlite:///{root}/mlflow.db", one=root / "runs" / "one", two=root / "runs" / "two"
    )


@pytest.fixture
def store(swept, tmp_path):
    """A copy of the store that a test may damage."""
    shutil.copy(swept.root / "mlflow.db", tmp_path / "mlflow.db")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.get_experiment_by_name("small").experiment_id
    runs = {
        (run.data.tags["role"], run.info.run_name, run.data.tags["sweep_id"]): run
        for run in client.search_runs([experiment_id])
    }
    sweep_names = {sweep: name for role, name, sweep in runs if role == "sweep"}
    return SimpleNamespace(uri=uri, client=client, experiment_id=experiment_id, runs=runs, sweep_names=sweep_names)


def local(address: str) -> Path:
    """The file that a ``file:`` address names."""
    return Path(unquote(urlsplit(address).path))


def sweep_id(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["sweep_id"]


def rows_of(page: Path) -> list[list[str]]:
    """The page's table of models, without its headings."""
    text = page.read_text()
    rows = re.findall(r"<tr>(.*?)</tr>", text[text.index('id="models"') :].partition("</table>")[0], re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows[1:]]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in cells]


def table_of_models(page: Path) -> list[str]:
    return [row[0] for row in rows_of(page)]


def links_of(page: Path) -> dict[str, str]:
    """Where the table of models leads, by name."""
    table = page.read_text().partition('<section class="card" id="models"')[2].partition("</table>")[0]
    return {name: href for href, name in re.findall(r'<a href="([^"#][^"]*)">([^<]+)</a>', table)}


def places_of(page: Path) -> dict[str, str]:
    """Where the numbers of erasing by reading are, by model: the href of its table ``writers``."""
    part = page.read_text().partition('<section class="card" id="erased"')[2].partition("</section>")[0]
    items = re.findall(r"<li>(.*?)</li>", part.partition("<ul>")[2])
    name_and_href = r"^(?:<a [^>]*>)?([^<:]+).*?<a href=\"([^\"]+)\">writers\.parquet"
    found = [re.match(name_and_href, item) for item in items]
    return {match[1]: match[2] for match in found if match}


def said(page: Path) -> str:
    """The page's words before its first figure."""
    return re.sub(r"<[^>]+>", " ", page.read_text().partition("<main>")[2].partition("<nav")[0])


def compare(*arguments: object) -> int:
    return main.call(["compare", *map(str, arguments)])


class TestFolders:
    def test_all_models_of_all_sweeps(self, swept, tmp_path):
        page = tmp_path / "deep er" / "page.html"
        compare_folders([swept.one, swept.two], page)
        assert table_of_models(page) == ["a", "b · one", "b · two", "c"]
        assert list(page.parent.iterdir()) == [page]
        text = said(page)
        assert "different numbers of prompts: a 8, b · one 8, b · two 16, c 16." in text
        assert "did not read the same tokens" in text
        assert "corpus" not in text.partition("Mind when comparing")[2].partition("Measured on")[0]

    def test_names_lead_to_the_models_pages(self, swept):
        page = swept.root / "pages" / "all.html"
        compare_folders([swept.one, swept.two], page)
        assert links_of(page) == {
            "a": "../runs/one/a/index.html",
            "b · one": "../runs/one/b/index.html",
            "b · two": "../runs/two/b/index.html",
            "c": "../runs/two/c/index.html",
        }
        assert places_of(page)["b · two"] == "../runs/two/b/tables/writers.parquet"
        assert list(places_of(page)) == list(links_of(page))
        for href in (*links_of(page).values(), *places_of(page).values()):
            assert (page.parent / href).is_file()

    def test_one_sweep_twice_is_one_sweep(self, swept, tmp_path):
        compare_folders([swept.one, swept.one / ".." / "one"], tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a", "b"]
        assert "Mind when comparing" not in said(tmp_path / "page.html")

    def test_sweeps_of_one_name_are_told_apart_by_their_folders(self, swept, tmp_path):
        again = self.another(swept.one, tmp_path / "again one")
        compare_folders([swept.one, again], tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a · one", "b · one", "a · again one", "b · again one"]
        assert links_of(tmp_path / "page.html")["b · again one"] == "again%20one/b/index.html"

    @staticmethod
    def another(out: Path, copy: Path, **changes: object) -> Path:
        """A copy of a sweep's folder, as a sweep of another protocol would have left it."""
        shutil.copytree(out, copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest.pop("checksum", None)
        (copy / "manifest.json").write_text(json.dumps({**manifest, "sweep_id": "e" * 32, **changes}))
        return copy

    def test_a_model_that_was_measured_alike_twice_stands_once(self, swept, tmp_path):
        copy = self.another(swept.one, tmp_path / "copy", name="copy", sweep_id=sweep_id(swept.one))
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest.pop("checksum", None)
        manifest["models"][1]["corpus_fingerprint"] = "0" * 32
        (copy / "manifest.json").write_text(json.dumps(manifest))
        compare_folders([swept.one, copy], tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a", "b · one", "b · copy"]
        assert links_of(tmp_path / "page.html")["a"].endswith("runs/one/a/index.html")

        # the one of which more was measured, and what only the other has
        manifest["models"][0] |= {"stages": ["scan", "verify", "more"], "run_url": None}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        (copy / "a" / "index.html").unlink()
        compare_folders([swept.one, copy], tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["b · one", "a", "b · copy"]
        assert links_of(tmp_path / "page.html")["a"].endswith("runs/one/a/index.html")
        assert places_of(tmp_path / "page.html")["a"] == "copy/a/tables/writers.parquet"

    def test_other_schemas_are_left_out_and_named(self, swept, tmp_path, capsys):
        newer = self.another(swept.two, tmp_path / "newer", name="newer", schema_version="99")
        assert compare(swept.one, newer, "--to", tmp_path / "page.html") == 0
        reads = f"(erasure-sweep {VERSION}), this version reads {SCHEMA_VERSION}: left out"
        line = f"b, c (sweep newer) were logged with schema 99 {reads}"
        assert line in capsys.readouterr().out.splitlines()
        assert line in said(tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a", "b"]
        assert "Not on this page" not in said(tmp_path / "page.html")

        assert compare(newer, "--to", tmp_path / "none.html") == 1
        assert capsys.readouterr().err == (
            f"erasure-sweep: {line}; no model remains: run these sweeps again with this version, or use the one that wrote "
            "them\n"
        )
        assert not (tmp_path / "none.html").exists()

    def test_a_table_of_another_schema_leaves_its_model_out(self, swept, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(swept.one, out)
        for name, version in (("a", {}), ("b", {b"schema_version": b"1"})):
            path = out / name / "tables" / "writers.parquet"
            pq.write_table(pq.read_table(path).replace_schema_metadata(version), path)
        assert compare_folders([out, swept.two], tmp_path / "page.html") == [
            f"a (sweep one) was logged without a schema, this version reads {SCHEMA_VERSION}: left out",
            f"b (sweep one) was logged with schema 1, this version reads {SCHEMA_VERSION}: left out",
        ]
        assert table_of_models(tmp_path / "page.html") == ["b", "c"]
        with pytest.raises(SchemaError) as caught:
            read_out(out)
        assert caught.value.found is None
        assert str(deepcopy(caught.value)) == str(caught.value)  # as a process hands it to another

    def test_a_manifest_that_says_its_models_in_another_way(self, swept, tmp_path):
        odd = self.another(swept.two, tmp_path / "odd", schema_version=9, models={"b": {}})
        assert compare_folders([swept.one, odd], tmp_path / "page.html") == [
            f"all of {odd} (sweep two) was logged with schema 9 (erasure-sweep {VERSION}), this version reads "
            f"{SCHEMA_VERSION}: left out"
        ]

    def test_other_protocols_are_named(self, swept, tmp_path):
        other = self.another(swept.one, tmp_path / "other")
        manifest = json.loads((other / "manifest.json").read_text())
        manifest.pop("checksum", None)
        manifest |= {"name": "other", "version": "9.9"}
        manifest["config"] |= {"seq_len": 32, "positions": 4, "seed": 7, "dtype": "float64"}
        (other / "manifest.json").write_text(json.dumps(manifest))
        compare_folders([swept.one, other], tmp_path / "page.html")
        text = said(tmp_path / "page.html")
        assert "different prompt lengths: a · one 16, b · one 16, a · other 32, b · other 32." in text
        assert "different positions: a · one all" in text
        assert "different precisions: a · one float32" in text
        assert "seed 0 / 7" in text
        assert re.search(r"erasure-sweep [\d.]+ / 9\.9", text)

    def test_unfinished_models_are_left_out_and_named(self, swept, tmp_path):
        shutil.copytree(swept.one, tmp_path / "one")
        manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
        manifest.pop("checksum", None)
        manifest["models"][0] |= {"state": "FAILED", "reason": "no memory"}
        (tmp_path / "one" / "manifest.json").write_text(json.dumps(manifest))
        page = tmp_path / "page.html"
        compare_folders([tmp_path / "one", swept.two], page)
        assert table_of_models(page) == ["b · one", "b · two", "c"]
        assert "Not on this page, though in the sweep: a." in said(page)

        manifest["models"] = manifest["models"][:1]
        (tmp_path / "one" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match="no model is finished of sweep one: `erasure-sweep run` goes on"):
            compare_folders([tmp_path / "one"], tmp_path / "none.html")
        assert not (tmp_path / "none.html").exists()

    def test_a_folder_that_is_no_sweep(self, swept, tmp_path, capsys):
        assert compare(swept.one, tmp_path, "--to", tmp_path / "page.html") == 2
        line = capsys.readouterr().err
        assert line.startswith(f"erasure-sweep: {tmp_path} holds no sweep")
        assert line.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_page_that_cannot_be_written(self, swept, tmp_path):
        with pytest.raises(UsageError, match=r"is a folder: name the page to write"):
            compare_folders([swept.one], tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(SweepError, match=r"file/page\.html cannot be written \(.*\): choose another --to"):
            compare_folders([swept.one], tmp_path / "file" / "page.html")


class TestExperiments:
    @pytest.mark.nightly
    def test_the_page_shows_the_same_as_the_folders(self, swept, tmp_path, capsys):
        uri = ("--tracking-uri", swept.uri)
        assert compare("--experiment", "small", *uri, "--to", tmp_path / "logged.html") == 0
        assert compare(swept.one, swept.two, "--to", tmp_path / "folders.html") == 0
        assert f"wrote {tmp_path}/folders.html" in capsys.readouterr().out.replace("\n", "")
        assert rows_of(tmp_path / "logged.html") == rows_of(tmp_path / "folders.html")
        assert any("→" in row[-1] for row in rows_of(tmp_path / "logged.html"))
        assert said(tmp_path / "logged.html") == said(tmp_path / "folders.html")

    def test_names_and_numbers_lead_to_artifacts_on_this_disk(self, swept, tmp_path):
        assert compare("--experiment", "small", "--tracking-uri", swept.uri, "--to", tmp_path / "page.html") == 0
        pages, tables = links_of(tmp_path / "page.html"), places_of(tmp_path / "page.html")
        assert list(pages) == list(tables) == ["a", "b · one", "b · two", "c"]
        for found, logged in ((pages["b · two"], "b/index.html"), (tables["b · two"], "b/tables/writers.parquet")):
            assert found.startswith("file:///")
            assert local(found).read_bytes() == (swept.two / logged).read_bytes()
        assert "run in MLflow" not in (tmp_path / "page.html").read_text()

    @pytest.mark.nightly
    def test_artifacts_that_are_gone_from_this_disk_have_no_links(self, swept, store, tmp_path):
        run = store.runs["model", "c", sweep_id(swept.two)]
        page = local(f"{run.info.artifact_uri}/index.html")
        page.rename(page.with_name("kept"))
        try:
            folders = download_experiment(store.uri, "small", tmp_path / "logged")
        finally:
            page.with_name("kept").rename(page)
        compare_folders(folders, tmp_path / "page.html")
        assert list(links_of(tmp_path / "page.html")) == ["a", "b · one", "b · two"]

    @pytest.mark.nightly
    def test_folders_and_experiments_together(self, swept, tmp_path, capsys):
        assert (
            compare(swept.one, "--experiment", "small", "--tracking-uri", swept.uri, "--to", tmp_path / "p.html") == 0
        )
        # one's models are in both, and stand once
        ids = [f"small-{sweep_id(folder)[:8]}" for folder in (swept.one, swept.two)]
        assert table_of_models(tmp_path / "p.html") == ["a", "b · one", f"b · {ids[1]}", "c"]
        assert local(links_of(tmp_path / "p.html")["c"]).is_file()

    def test_tables_come_back_as_they_were(self, swept, tmp_path):
        found = download_experiment(swept.uri, "small", tmp_path)
        assert [folder.name for folder in found] == [f"small-{sweep_id(out)[:8]}" for out in (swept.one, swept.two)]
        for folder, out in zip(found, (swept.one, swept.two), strict=True):
            for logged, measured in zip(read_out(folder), read_out(out), strict=True):
                assert {**logged.about.to_json(), "home": None} == {**measured.about.to_json(), "home": None}
                assert sorted(logged.tables) == sorted(measured.tables)
                for name, table in measured.tables.items():
                    assert_frame_equal(logged.tables[name], table)

    def test_without_a_manifest_the_parameters_stand_in(self, swept, store, tmp_path):
        for run in store.runs.values():
            if run.data.tags["role"] == "sweep":
                store.client.delete_run(run.info.run_id)
        one, _ = download_experiment(store.uri, "small", tmp_path / "logged")
        manifest = json.loads((one / "manifest.json").read_text())
        original = json.loads((swept.one / "manifest.json").read_text())
        for key in ("sweep_id", "version", "schema_version", "device_type"):
            assert manifest[key] == original[key]
        assert manifest["config"] == config(swept.root, "one", ["a", "b"]).protocol()
        missing = {"batch", "d_head", "eps", "attn_scale", "stages", "targets", "n_verify_prompts", "held_out"}
        missing |= {"targets_reason", "numerics", "weights_file", "tokens_file", "tables"}
        missing |= {"stage", "shards", "shards_done"}  # how far it was, while it was measured
        for entry, expected in zip(manifest["models"], original["models"], strict=True):
            shared = set(entry) - {"spec", "home"}
            assert {key: entry[key] for key in shared} == {key: expected[key] for key in shared}
            assert set(expected) - set(entry) <= missing

    def test_of_two_runs_of_a_model_the_newest_finished_counts(self, swept, store, tmp_path):
        first = store.runs["model", "a", sweep_id(swept.one)]
        late = int(first.info.start_time) + 10_000
        tags = {key: value for key, value in first.data.tags.items() if not key.startswith("mlflow.")}
        for status, start, written in (("FINISHED", late, 0.125), ("FAILED", late + 10_000, 0.5)):
            run = store.client.create_run(store.experiment_id, start_time=start, tags=tags, run_name="a")
            table = pd.read_parquet(swept.one / "a" / "tables" / "writers.parquet").assign(written=written)
            self.log_table(store.client, run.info.run_id, table, tmp_path)
            store.client.set_terminated(run.info.run_id, status)
        one, _ = download_experiment(store.uri, "small", tmp_path / "logged")
        a, b = read_out(one)
        assert (a.about.name, b.about.name) == ("a", "b")
        assert set(a.tables) == {"writers"}
        assert set(a.tables["writers"]["written"]) == {0.125}

    @staticmethod
    def log_table(client, run_id: str, table: pd.DataFrame, folder: Path) -> None:
        write_table(as_arrow(TABLES["writers"], dict(table.items())), folder / "writers.parquet")
        client.log_artifact(run_id, str(folder / "writers.parquet"), "tables")

    def test_changed_weights_under_one_name_are_two_models(self, swept, store, tmp_path):
        table = pd.read_parquet(swept.one / "a" / "tables" / "writers.parquet")
        tags = {"role": "model", "sweep_id": sweep_id(swept.one), "model_hash": "beef" * 8, "model": "a"}
        run = store.client.create_run(store.experiment_id, tags=tags, run_name="a")
        self.log_table(store.client, run.info.run_id, table, tmp_path)
        store.client.set_terminated(run.info.run_id, "FINISHED")
        one, _ = download_experiment(store.uri, "small", tmp_path / "logged")
        models = {model.about.name: sorted(model.tables) for model in read_out(one)}
        first = store.runs["model", "a", sweep_id(swept.one)].data.tags["model_hash"]
        assert list(models) == [f"a {first[:8]}", "b", "a beefbeef"]
        assert models["a beefbeef"] == ["writers"]

    def test_a_model_that_is_not_finished_is_named(self, swept, store, tmp_path):
        store.client.set_terminated(store.runs["model", "c", sweep_id(swept.two)].info.run_id, "KILLED")
        folders = download_experiment(store.uri, "small", tmp_path / "logged")
        compare_folders(folders, tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a", "b · one", "b · two"]
        assert "Not on this page, though in the sweep: c." in said(tmp_path / "page.html")

    def test_missing_artifacts_name_the_run(self, swept, store, tmp_path):
        tags = {"role": "model", "sweep_id": "5" * 32, "model_hash": "6" * 32, "model": "bare"}
        run = store.client.create_run(store.experiment_id, tags=tags, run_name="bare")
        store.client.set_terminated(run.info.run_id, "FINISHED")
        with pytest.raises(DataError, match=rf"run bare \({run.info.run_id}\) has no tables among its artifacts"):
            download_experiment(store.uri, "small", tmp_path / "logged")

    def test_a_damaged_manifest_names_the_run(self, swept, store, tmp_path):
        parent = next(run for run in store.runs.values() if run.data.tags["role"] == "sweep")
        again = store.client.create_run(
            store.experiment_id, tags={key: parent.data.tags[key] for key in ("role", "sweep_id")}, run_name="torn"
        )
        for at, content in enumerate(('{"models": [', '{"models": 3}')):
            store.client.log_text(again.info.run_id, content, "manifest.json")
            with pytest.raises(DataError, match=rf"manifest.json of run torn \({again.info.run_id}\) is damaged"):
                download_experiment(store.uri, "small", tmp_path / str(at))

    def test_runs_of_other_tools_are_passed_over(self, swept, store, tmp_path):
        ours = store.runs["model", "a", sweep_id(swept.one)]
        for tags in ({}, {"role": "model"}, {"role": "model", "sweep_id": "7" * 32}, {"role": "sweep"}):
            run = store.client.create_run(store.experiment_id, tags=tags)
            store.client.log_param(run.info.run_id, "learning_rate", 0.1)
            store.client.set_terminated(run.info.run_id, "FINISHED")
        gone = store.client.create_run(
            store.experiment_id, tags={key: ours.data.tags[key] for key in ("role", "sweep_id", "model_hash", "model")}
        )
        store.client.set_terminated(gone.info.run_id, "FINISHED")
        store.client.delete_run(gone.info.run_id)
        compare_folders(download_experiment(store.uri, "small", tmp_path / "logged"), tmp_path / "page.html")
        assert table_of_models(tmp_path / "page.html") == ["a", "b · one", "b · two", "c"]
        assert "Mind when comparing" in said(tmp_path / "page.html")

    def test_a_sweep_that_was_logged_with_another_schema(self, swept, store, tmp_path):
        parent = store.runs["sweep", store.sweep_names[sweep_id(swept.two)], sweep_id(swept.two)]
        again = store.client.create_run(
            store.experiment_id, tags={key: parent.data.tags[key] for key in ("role", "sweep_id")}
        )
        text = json.dumps({"schema_version": "99", "name": "later", "models": "said in another way"})
        store.client.log_text(again.info.run_id, text, "manifest.json")
        folders = download_experiment(store.uri, "small", tmp_path / "logged")
        assert compare_folders(folders, tmp_path / "page.html") == [
            f"b, c (sweep later) were logged with schema 99, this version reads {SCHEMA_VERSION}: left out"
        ]
        assert table_of_models(tmp_path / "page.html") == ["a", "b"]

    def test_an_unknown_experiment(self, swept, tmp_path, capsys):
        arguments = ("--experiment", "smal", "--tracking-uri", swept.uri, "--to", tmp_path / "page.html")
        assert compare(*arguments) == 2
        line = capsys.readouterr().err
        assert line == f"erasure-sweep: no experiment 'smal' in MLflow at {swept.uri}: did you mean small?\n"
        assert list(tmp_path.iterdir()) == []

    def test_an_experiment_without_sweeps(self, store, tmp_path):
        store.client.create_run(store.client.create_experiment("training"), tags={"role": "model"})
        with pytest.raises(UsageError, match=r"experiment 'training' .* holds no models of a sweep"):
            download_experiment(store.uri, "training", tmp_path / "logged")

    def test_nothing_is_named(self, capsys):
        assert compare() == 2
        assert "name folders of finished sweeps" in capsys.readouterr().err


@pytest.mark.nightly
class TestServers:
    def test_names_numbers_and_runs_lead_to_the_server(self, swept, store, tmp_path):
        with MlflowServer(tmp_path, store.uri, str(tmp_path / "artifacts")) as server:
            self.check_links(swept, store, server, tmp_path)
            self.check_manifest(server, tmp_path)

    @staticmethod
    def check_links(swept, store, server, tmp_path):
        page = tmp_path / "page.html"
        assert compare(swept.one, "--experiment", "small", "--tracking-uri", f"{server.uri}/", "--to", page) == 0
        assert links_of(page)["a"] == Path(os.path.relpath(swept.one / "a" / "index.html", tmp_path)).as_posix()
        run = store.runs["model", "c", sweep_id(swept.two)].info
        home = f"{server.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        assert links_of(page)["c"] == f"{home}/artifacts/index.html"
        address = html.unescape(places_of(page)["c"])
        assert address == f"{server.uri}/get-artifact?path=tables%2Fwriters.parquet&run_uuid={run.run_id}"
        assert urlopen(address).read() == (swept.two / "c" / "tables" / "writers.parquet").read_bytes()
        # that of the folder's models is known from the store
        runs = {name: store.runs["model", name, sweep_id(swept.one)].info.run_id for name in ("a", "b")}
        text = page.read_text()
        for run_id in (*runs.values(), run.run_id):
            assert f'href="{server.uri}/#/experiments/{run.experiment_id}/runs/{run_id}"' in text

    @staticmethod
    def check_manifest(server, tmp_path):
        one, _ = download_experiment(server.uri, "small", tmp_path / "logged")
        manifest = json.loads((one / "manifest.json").read_text())
        for found in (manifest, *manifest["models"]):
            assert re.fullmatch(rf"{server.uri}/#/experiments/\d+/runs/[0-9a-f]{{32}}", found["run_url"])
        assert len({found["run_url"] for found in (manifest, *manifest["models"])}) == 3


def test_addresses_of_servers_hold_no_passwords():
    assert run_url("https://me:secret@host:8443/base/", "4", "5") == "https://host:8443/base/#/experiments/4/runs/5"
    for uri in ("sqlite:///mlflow.db", "postgresql://me:secret@host/db", "databricks", "mlruns"):
        assert run_url(uri, "4", "5") is None


class TestStoresThatCannotBeRead:
    def test_no_file_is_made(self, tmp_path):
        with pytest.raises(UsageError, match=r"no MLflow store at .*none\.db"):
            download_experiment(f"sqlite:///{tmp_path}/none.db", "demo", tmp_path / "logged")
        assert list(tmp_path.iterdir()) == []

    def test_another_database_stays_as_it_is(self, tmp_path):
        with sqlite3.connect(tmp_path / "notes.db") as database:
            database.execute("CREATE TABLE notes (text)")
        before = (tmp_path / "notes.db").read_bytes()
        with pytest.raises(
            UsageError, match="is another application's database, with tables such as notes: nothing was"
        ):
            download_experiment(f"sqlite:///{tmp_path}/notes.db", "demo", tmp_path / "logged")
        assert (tmp_path / "notes.db").read_bytes() == before

    def test_no_server(self, tmp_path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(SweepError, match=f"MLflow at http://127.0.0.1:{port} cannot be reached") as caught:
            download_experiment(f"http://127.0.0.1:{port}", "demo", tmp_path / "logged")
        assert (caught.value.exit_code, str(caught.value).count("\n")) == (1, 0)

    def test_folders_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match="is a folder, which MLflow no longer writes"):
            download_experiment("mlruns", "demo", tmp_path / "logged")
