"""What travels with a job to a cluster: its config, and the local files and folders that the config names.

What a config names by a relative path lies on the machine of who submits. It is copied to the same relative path below the
folder in which the job runs, so that names of models and corpora, and with them the sweep's identity, are the same there.
Absolute paths and names are the cluster's own. The config lies beside that folder, not in it, so that no file of the user's
can take its place or be read as a part of a corpus.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import yaml

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.jobs.travelling_files import is_relative, travelling_files
from erasure_sweep.sweep.tracking.store_address import is_remote, sqlite_path
from erasure_sweep.workers.credentials import has_secret
from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.fingerprint import fingerprint

MOST_BYTES = 100 * 10**6
"""Of the files that travel; a dashboard takes 100 MiB at a time."""
CONFIG_FILE = "sweep.yaml"
FILES_FOLDER = "files"

_ID_BYTES, _CONTENT_BYTES = 6, 64
_NOT_WHAT_IT_DOES = (
    *("ray_address", "tracking_uri", "workers", "max_workers", "gpus_per_worker", "gpu_memory_gib"),
    *("attempts", "shard_deadline_s"),
)
"""Keys that say with what and by which way something is measured, not what, nor where it is kept."""
_LOST = "a job's own folder is removed after it: give an absolute path on the cluster's head"
_EPOCH = (1980, 1, 1, 0, 0, 0)


class JobFiles(NamedTuple):
    """A sweep, ready to be sent."""

    id: str
    """NAME and twelve digits of a digest of what the job does."""
    config: SweepConfig
    """As the job reads it."""
    files: dict[str, Path]
    """What travels, by its path in the job's folder."""
    left: list[str]
    """Paths of files beside them that stay here."""

    def write(self, package: Path) -> None:
        """Write the .zip that the job's folder is made from."""
        values = self.config.model_dump(exclude_none=True)
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, CONFIG_FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
            for name, path in self.files.items():
                _add(archive, f"{FILES_FOLDER}/{name}", path.read_bytes())

    def entrypoint(self, fresh: bool, attempt: str) -> str:
        """The shell command that the head runs. It is shown on the dashboard, so that nothing secret may be in it.

        Args:
            fresh: measure everything anew.
            attempt: a word that tells what this job printed from what an earlier one of its id did.
        """
        command = f"erasure-sweep run ../{CONFIG_FILE} --ray-address auto{' --fresh' if fresh else ''}"
        if self.config.tracking_uri is None:
            command = f'MLFLOW_TRACKING_URI="${{MLFLOW_TRACKING_URI:-sqlite:///$HOME/mlflow.db}}" {command}'
        return f"mkdir -p {FILES_FOLDER} && cd {FILES_FOLDER} && {command} # {attempt}"


def job_files(config: SweepConfig) -> JobFiles:
    """What has to be sent so that a cluster can run this sweep.

    Raises:
        UsageError: a local file is not there or outside the current folder, too much would travel, a path would lie in the
            job's own folder, which is removed, or something secret would be shown.
        DataError: a local file cannot be read.
    """
    _refuse_secrets(config)
    out = config.out or f"~/runs/{config.name}"
    sent = config.model_copy(update={"out": out, "ray_address": None})
    _refuse_lost(sent)
    try:
        files, left = travelling_files(config)
        _refuse_too_much(files)
        return JobFiles(f"{config.name}-{_digest(sent, files)}", sent, files, left)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror or error})") from error


def _digest(config: SweepConfig, files: dict[str, Path]) -> str:
    """Twelve hex digits that are the same for everyone who asks for the same, from whatever machine."""
    does = {key: value for key, value in config.model_dump().items() if key not in _NOT_WHAT_IT_DOES}
    contents = (
        f"\n{name}\n{fingerprint(path.read_bytes(), n_bytes=_CONTENT_BYTES)}" for name, path in sorted(files.items())
    )
    return fingerprint(json.dumps(does, sort_keys=True), *contents, n_bytes=_ID_BYTES)


def _refuse_too_much(files: dict[str, Path]) -> None:
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_BYTES:
        largest = max(files, key=lambda name: files[name].stat().st_size)
        raise UsageError(
            f"{size / 1e6:,.0f} MB would travel with the job, {largest} the largest file of them, and at most "
            f"{MOST_BYTES / 1e6:.0f} MB can: put them where the cluster's machines find them and give that absolute path"
        )


def _refuse_lost(config: SweepConfig) -> None:
    """What a job leaves in its own folder is gone with it."""
    scheme, separator, path = (config.store or "").partition("://")
    store = path if scheme in ("file", "local") else None if separator else config.store
    for key, value in (("out", config.out), ("staging", config.staging), ("store", store)):
        if value is not None and is_relative(value):
            raise UsageError(f"{key} = {value!r}: {_LOST}, or one below its home folder such as ~/{value}")
    file = sqlite_path(config.tracking_uri or "")
    if file is not None and not file.is_absolute():
        raise UsageError(f"tracking_uri = {config.tracking_uri!r}: {_LOST}, sqlite:////PATH")


def _refuse_secrets(config: SweepConfig) -> None:
    """What a job is told can be read by everyone who sees the cluster's dashboard."""
    server = is_remote(config.tracking_uri or "")
    variables = {
        "tracking_uri": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if server else "MLFLOW_TRACKING_URI",
        "store": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else the store reads,",
    }
    for key, value in config.model_dump(exclude={"name", "experiment", "ray_address"}).items():
        if has_secret(str(value)):
            raise UsageError(
                f"{key} = {str(value)!r} holds a password, and what a job is told can be read on the cluster's dashboard: set "
                f"{variables.get(key, 'it')} in the environment of the cluster instead, and leave it out here"
            )


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """With one time for all, so that the same files are the same package, which a cluster keeps once."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
