"""The view in which MLflow opens an experiment, and what people have changed of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erasure_sweep.sweep.tracking.metrics import model_metrics, size_metrics, verify_metrics
from erasure_sweep.sweep.tracking.saved_view import experiment_tags, runs_page
from tests.support.fakes.tables import fake_model

KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState.erasure"


@pytest.fixture
def state() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.loads(experiment_tags({})[VIEW])["state"])
    return found


def test_is_asked_for_by_its_address() -> None:
    assert runs_page("3").startswith("#/experiments/3/runs?viewStateShareKey=erasure")


def test_a_new_experiment_gets_a_view_that_stores_can_keep() -> None:
    tags = experiment_tags({})
    assert set(tags) == {KIND, VIEW} and tags[KIND] == "custom_model_development"
    assert max(map(len, tags.values())) <= 5000
    assert experiment_tags(tags) == {}


def test_what_people_chose_stays() -> None:
    tags = experiment_tags({})
    changed = json.dumps(json.loads(tags[VIEW]) | {"updatedAt": 1_800_000_000_000})
    assert experiment_tags({KIND: "genai_development", VIEW: changed}) == {}
    assert experiment_tags({**tags, VIEW: "anything"}) == {}


def test_a_view_of_another_version_is_replaced() -> None:
    tags = experiment_tags({})
    older = json.dumps(json.loads(tags[VIEW]) | {"state": "{}"})
    assert experiment_tags({**tags, VIEW: older}) == {VIEW: tags[VIEW]}


def test_shows_only_metrics_that_are_logged(state: dict[str, Any]) -> None:
    model = fake_model("toy-2l", 2, 8, n_tokens=24, d_model=40, reading=True, verify=True)
    model.tables["dla_trust"]["settled"] = True
    entry = model.about.model_copy(update={"training_tokens": 1})
    logged = set(model_metrics(model.tables) | verify_metrics(model.tables) | size_metrics(entry))
    axes = [
        chart[axis]["key"] for chart in state["compareRunCharts"] if "xaxis" in chart for axis in ("xaxis", "yaxis")
    ]
    lines = [name for chart in state["compareRunCharts"] for name in chart.get("selectedMetrics", [])]
    columns = [name.split("`")[1] for name in state["selectedColumns"] if name.startswith("metrics.")]
    assert axes and lines and columns
    assert {*axes, *lines, *columns} <= logged
    groups = {name.partition("/")[0] for name in logged}
    assert groups <= {section["name"] for section in state["compareRunSections"]}


def test_every_chart_is_in_a_section(state: dict[str, Any]) -> None:
    sections = [section["uuid"] for section in state["compareRunSections"]]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= set(sections)
    assert len(set(sections)) == len(sections)
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_models_are_not_below_their_sweeps(state: dict[str, Any]) -> None:
    assert state["orderByKey"] != "attributes.start_time"
