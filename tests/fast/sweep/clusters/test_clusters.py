"""The cluster files: Ray's own launcher takes them, and they say what a sweep relies on, with nothing secret in them."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from erasure_sweep.sweep.commands import main
from tests.support.paths import ROOT

AWS = ROOT / "ray_cluster.yaml"
ON_PREMISE = ROOT / "sweep" / "clusters" / "on-premise.yaml"
RAYJOB = ROOT / "sweep" / "clusters" / "kuberay-rayjob.yaml"
FILES = [AWS, ON_PREMISE, RAYJOB]


def pinned_ray() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def launched(path: Path) -> dict[str, Any]:
    """A launcher's file as Ray completes it, after Ray's own checks, which are private to it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    validate_config(prepared)
    return prepared


def commands(cluster: dict[str, Any], who: str) -> list[str]:
    """What is run on the head or on workers, in this order."""
    return [*cluster["setup_commands"], *cluster[f"{who}_setup_commands"], *cluster[f"{who}_start_ray_commands"]]


def spoken_commands(path: Path) -> list[list[str]]:
    """The arguments of every ``erasure-sweep`` in a file, comments included."""
    lines = path.read_text(encoding="utf-8").replace("\n    --", " --").splitlines()
    found = [
        re.search(r"(?:^|[ /])erasure-sweep ([a-z]+ ?[^#|]*)$", line.partition("    # ")[0].rstrip()) for line in lines
    ]
    return [shlex.split(match[1]) for match in found if match and match[1].split()[0] in main.cli.commands]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEach:
    def test_nothing_secret(self, path: Path):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|(?:password|secret_access_key|token)\s*[:=]\s*[\w/+]{6,}", text, re.I
        )
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text)

    def test_usage_statistics_are_off_and_tokens_on(self, path: Path):
        text = path.read_text(encoding="utf-8")
        assert re.search(r"RAY_USAGE_STATS_ENABLED(=0|, value: \"0\")", text)
        assert re.search(r"RAY_AUTH_MODE=token|authOptions:\s+mode: token", text)

    def test_the_commands_that_it_names_exist(self, path: Path):
        spoken = spoken_commands(path)
        assert any(arguments[0] in ("submit", "run") for arguments in spoken)
        for arguments in spoken:
            command = main.cli.commands[arguments[0]]
            command.make_context(arguments[0], list(arguments[1:]), resilient_parsing=False)

    def test_it_says_what_to_change(self, path: Path):
        assert "CHANGE" in path.read_text(encoding="utf-8")

    def test_it_is_in_the_repository_or_the_wheel(self, path: Path):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        data = project["tool"]["setuptools"]["package-data"]["erasure_sweep.sweep"]
        inside = path.is_relative_to(ROOT / "sweep")
        assert not inside or any(fnmatch(str(path.relative_to(ROOT / "sweep")), pattern) for pattern in data)


@pytest.mark.parametrize("path", [AWS, ON_PREMISE], ids=lambda path: path.stem)
class TestLaunched:
    def test_ray_takes_it(self, path: Path):
        assert launched(path)["cluster_name"] == "erasure-sweep"

    @pytest.mark.parametrize("who", ["head", "worker"])
    def test_the_same_wheel_everywhere_and_no_nightly(self, path: Path, who: str):
        run = "\n".join(commands(launched(path), who))
        assert re.search(r'pip install -c \S+/constraints\.txt "\$\(ls \S+/\*\.whl\)\[s3,postgres\]"', run)
        assert "ray-wheels" not in run and "pip install ray" not in run

    def test_the_wheel_and_the_token_reach_every_machine(self, path: Path):
        mounts = {Path(target).name: source for target, source in launched(path)["file_mounts"].items()}
        assert mounts["auth_token"].endswith("/.ray/auth_token")
        assert "dist" in mounts.values()

    def test_only_the_head_itself_reaches_the_dashboard(self, path: Path):
        started = [line for line in commands(launched(path), "head") if "ray start" in line]
        assert len(started) == 1 and "--dashboard-host=127.0.0.1" in started[0]

    def test_no_worker_of_the_sweep_on_the_head(self, path: Path):
        cluster = launched(path)
        started = next(line for line in commands(cluster, "head") if "ray start" in line)
        declared = cluster["available_node_types"][cluster["head_node_type"]]["resources"]
        assert declared == {"CPU": 0} or {"--num-cpus=0", "--num-gpus=0"} <= set(started.split())


class TestAws:
    def test_workers_have_gpus_and_start_from_none(self):
        cluster = launched(AWS)
        workers = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
        assert all(kind["resources"]["GPU"] > 0 and kind["min_workers"] == 0 < kind["max_workers"] for kind in workers)
        assert sum(kind["max_workers"] for kind in workers) <= cluster["max_workers"]
        assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers)

    def test_the_image_holds_the_pinned_ray(self):
        assert launched(AWS)["docker"]["image"] == f"rayproject/ray:{pinned_ray()}-py311"

    def test_every_container_has_its_environment(self):
        options = launched(AWS)["docker"]["run_options"]
        assert {"--env RAY_USAGE_STATS_ENABLED=0", "--env RAY_AUTH_MODE=token"} <= set(options)

    def test_head_and_workers_need_not_be_told_about_boto3(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        assert any(line.startswith("boto3") for line in project["project"]["optional-dependencies"]["s3"])


class TestOnPremise:
    def test_its_machines(self):
        cluster = launched(ON_PREMISE)
        assert cluster["provider"]["type"] == "local" and cluster["provider"]["head_ip"]
        assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
        assert not cluster.get("docker")

    @pytest.mark.parametrize("who", ["head", "worker"])
    def test_ray_runs_in_the_environment_that_was_made(self, who: str):
        run = commands(launched(ON_PREMISE), who)
        assert run[0] == "python3 -m venv ~/erasure-sweep-venv"
        rays = [line for line in run if re.search(r"\bray (start|stop)\b", line)]
        assert len(rays) == 2
        assert all(line.startswith(". ~/erasure-sweep-venv/environment && ") for line in rays)

    def test_what_the_environment_sets(self, tmp_path: Path):
        """The command that writes it, run in a home folder of its own."""
        import subprocess

        writes = next(line for line in launched(ON_PREMISE)["setup_commands"] if line.startswith("printf"))
        (tmp_path / "erasure-sweep-venv").mkdir()
        (tmp_path / "erasure-sweep.env").write_text("export MLFLOW_TRACKING_URI=http://mine\n")
        script = f"{writes} && . ~/erasure-sweep-venv/environment && env"
        done = subprocess.run(
            ["bash", "-c", script],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        assert found["PATH"].startswith(f"{tmp_path}/erasure-sweep-venv/bin:")
        assert (found["RAY_AUTH_MODE"], found["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")
        assert found["MLFLOW_TRACKING_URI"] == "http://mine"


class TestRayJob:
    @pytest.fixture(scope="class")
    def spec(self) -> dict[str, Any]:
        job = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
        assert (job["apiVersion"], job["kind"], job["metadata"]) == ("ray.io/v1", "RayJob", {"name": "erasure-sweep"})
        return job["spec"]

    @pytest.fixture(scope="class")
    def containers(self, spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
        cluster = spec["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return {each["name"]: each for group in groups for each in group["template"]["spec"]["containers"]}

    def test_how_it_is_submitted_and_ends(self, spec: dict[str, Any]):
        assert spec["submissionMode"] == "K8sJobMode"
        assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0

    def test_its_command(self, spec: dict[str, Any]):
        arguments = shlex.split(spec["entrypoint"])
        assert arguments[:2] == ["erasure-sweep", "run"]
        with main.cli.commands["run"].make_context("run", arguments[2:]) as context:
            given = context.params
        assert (given["ray_address"], given["device"]) == ("auto", "cuda")
        assert given["max_workers"] == spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
        assert given["store"].startswith("s3://")

    def test_the_driver_has_time_to_note_its_end(self, spec: dict[str, Any]):
        from erasure_sweep.sweep.jobs.submission import STOP_S

        assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}

    def test_gpu_workers_start_from_none(self, spec: dict[str, Any], containers: dict[str, dict[str, Any]]):
        cluster = spec["rayClusterSpec"]
        (group,) = cluster["workerGroupSpecs"]
        assert cluster["enableInTreeAutoscaling"] is True
        assert (group["replicas"], group["minReplicas"]) == (0, 0) and group["maxReplicas"] > 0
        assert containers["ray-worker"]["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert "nvidia.com/gpu" not in str(containers["ray-head"]["resources"])
        assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}

    def test_requests_are_within_limits(self, containers: dict[str, dict[str, Any]]):
        for container in containers.values():
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert set(requests) == set(limits)
            assert all(
                int(str(requests[key]).removesuffix("Gi")) <= int(str(limits[key]).removesuffix("Gi")) for key in limits
            )

    def test_one_image_with_the_pinned_ray(self, spec: dict[str, Any], containers: dict[str, dict[str, Any]]):
        assert set(containers) == {"ray-head", "ray-worker"}
        (image,) = {each["image"] for each in containers.values()}
        assert image.rpartition(":")[2] == f"{pinned_ray()}-py311"
        assert spec["rayClusterSpec"]["rayVersion"] == pinned_ray()
        assert f"FROM rayproject/ray:{pinned_ray()}-py311" in RAYJOB.read_text(encoding="utf-8")

    def test_secrets_by_their_names_alone(self, spec: dict[str, Any], containers: dict[str, dict[str, Any]]):
        names = {name: [each["secretRef"]["name"] for each in box["envFrom"]] for name, box in containers.items()}
        assert names == {
            "ray-head": ["erasure-sweep-mlflow", "erasure-sweep-store"],
            "ray-worker": ["erasure-sweep-store"],
        }
        written = {each["name"] for box in containers.values() for each in box["env"]}
        assert not {name for name in written if re.search("PASSWORD|SECRET|KEY|TOKEN|TRACKING", name)}
        assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_what_is_left_outlives_the_cluster(self, spec: dict[str, Any], containers: dict[str, dict[str, Any]]):
        pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        (volume,) = pod["volumes"]
        (mount,) = containers["ray-head"]["volumeMounts"]
        assert volume["name"] == mount["name"] and volume["persistentVolumeClaim"]["claimName"]
        out = re.search(r"--out (\S+)", spec["entrypoint"])
        assert out is not None and out[1].startswith(f"{mount['mountPath']}/")


def test_the_check_of_commands_sees_a_wrong_one():
    with pytest.raises(click.UsageError):
        main.cli.commands["submit"].make_context("submit", ["scaling", "--max-worker-s", "4"])
