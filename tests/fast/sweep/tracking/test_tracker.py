"""What is logged of a model, and what MLflow's module does before anyone speaks to a store."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.sweep.tracking.metrics import model_metrics, most_erased, size_metrics
from erasure_sweep.sweep.tracking.tracker import Tracker, default_uri, sqlite_path
from erasure_sweep.workers.storage.shard_storage import without_password

LEDGER = {
    "writer": ["embed", "pos_embed", "L0H0", "MLP0"],
    "written": [1.0, 1.0, 0.8, np.nan],
    "remaining": [0.4, 0.6, 0.1, np.nan],
    "reinforced": [0.1, 0.0, 0.0, np.nan],
    "opposed": [-0.7, -0.4, -0.9, np.nan],
}
READING = {
    "erased_by_reading": [0.2, np.nan, 0.9, np.nan],
    "erased_by_reading_centred": [0.1, np.nan, 0.6, np.nan],
    "erasers": ["L1H0", "", "L1H0+L1H1", None],
    "dla_slope": [-0.3, np.nan, -0.7, np.nan],
    "rank": [2.0, np.nan, 1.0, np.nan],
}
UNREAD = {name: [None] * 4 for name in READING}


def writers_table(**changes: list) -> pd.DataFrame:
    return pd.DataFrame({"model": "toy", **LEDGER, **UNREAD, **changes})


def test_metrics_by_hand():
    assert model_metrics({"writers": writers_table()}) == {
        "erasure/writers_measured": 3.0,
        "erasure/most_opposed": -0.9,
        "erasure/remaining_median": 0.4,
        "erasure/writers_half_erased": pytest.approx(2 / 3),
    }


def test_metrics_of_what_is_erased_by_reading():
    found = model_metrics({"writers": writers_table(**READING)})
    assert {name: value for name, value in found.items() if name.startswith("reading")} == {
        "reading/most_erased": 0.9,
        "reading/most_erased_head": 0.9,
        "reading/erased_median": pytest.approx(0.55),
        "reading_centred/most_erased": 0.6,
        "reading_centred/erased_median": pytest.approx(0.35),
        "reading/median_dla_slope": pytest.approx(-0.5),
    }


def test_heads_are_told_apart_from_embeddings_and_mlps():
    reading = {**READING, "erased_by_reading": [1.6, 0.3, 0.2, 0.7]}
    writers = writers_table(**reading)
    found = model_metrics({"writers": writers})
    assert (found["reading/most_erased"], found["reading/most_erased_head"]) == (1.6, 0.2)
    assert most_erased(writers) == {"most_erased": "embed", "most_erased_head": "L0H0"}


def test_who_is_not_erased_is_not_named():
    nobody = writers_table(**{**READING, "erased_by_reading": [-0.2, None, 0.0, None]})
    assert most_erased(nobody) == {}
    assert most_erased(writers_table()) == most_erased(writers_table().drop(columns="erased_by_reading")) == {}
    no_head = writers_table(**{**READING, "erased_by_reading": [0.4, None, -0.1, None]})
    assert most_erased(no_head) == {"most_erased": "embed"}


def test_sizes_are_metrics_where_they_are_known():
    about = {"n_layers": 2, "n_heads": 4, "d_model": 64, "n_params": 98304, "training_tokens": None, "act_fn": "gelu"}
    assert size_metrics(about) == {
        "model/n_layers": 2.0, "model/n_heads": 4.0, "model/d_model": 64.0, "model/n_params": 98304.0,
    }  # fmt: skip
    assert size_metrics({"training_tokens": 0}) == {"model/training_tokens": 0.0}


def pairs_table(*significant: bool | None) -> pd.DataFrame:
    return pd.DataFrame({"model": "toy", "significant": pd.Series(significant, dtype=object)})


def test_metrics_of_significant_pairs():
    found = model_metrics({"writers": writers_table(), "v_composition": pairs_table(True, False, None, True, False)})
    assert found["reading/significant_share"] == 0.5
    none = model_metrics({"writers": writers_table(), "v_composition": pairs_table(False, None)})
    assert none["reading/significant_share"] == 0.0


@pytest.mark.parametrize(
    "pairs", [pairs_table(None, None), pairs_table(), pairs_table(True).drop(columns="significant")]
)
def test_pairs_that_were_not_tested_are_left_out(pairs: pd.DataFrame):
    assert model_metrics({"writers": writers_table(), "v_composition": pairs}) == model_metrics(
        {"writers": writers_table()}
    )


def test_metrics_of_what_was_not_measured_are_left_out():
    unmeasured = writers_table(remaining=[None] * 4, opposed=[np.nan] * 4)
    assert model_metrics({"writers": unmeasured}) == {"erasure/writers_measured": 0.0}
    assert model_metrics({}) == {}


def test_nothing_written_is_not_erased():
    negative = writers_table(written=[-1.0, 0.0, 0.0, 0.0], remaining=[-2.0, -1.0, -0.5, -0.1], opposed=[-1.0] * 4)
    assert model_metrics({"writers": negative})["erasure/writers_half_erased"] == 0.0


def test_default_uri_honours_mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////data/mlflow.db?timeout=3", Path("/data/mlflow.db")),
        ("postgresql://u:p@host/db", None),
        ("http://127.0.0.1:5000", None),
    ],
)
def test_sqlite_path(uri, path):
    assert sqlite_path(uri) == path


def test_passwords_are_not_shown():
    assert without_password("postgresql://me:se:cret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert without_password("http://127.0.0.1:5000/a@b") == "http://127.0.0.1:5000/a@b"
    for password in ("pa/ss", "p@ss", "p:a/s@s", "12345x/6"):
        assert without_password(f"postgresql://me:{password}@host/db") == "postgresql://me:***@host/db"
    asked = without_password("cannot connect to postgresql://host/db?user=me&Password=se/cret&x=1 now")
    assert asked == "cannot connect to postgresql://host/db?user=me&Password=***&x=1 now"


def test_construction_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Tracker("sqlite:///mlflow.db", "demo")
    assert list(tmp_path.iterdir()) == []


def test_import_leaves_mlflow_alone():
    heavy = (
        "import sys, erasure_sweep.sweep.tracking.tracker, erasure_sweep.sweep.tracking.ui_server\n"
        "sys.exit(any(m in sys.modules for m in ('mlflow', 'torch', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
