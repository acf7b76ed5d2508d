"""What ``--model`` names → the files it means: a folder with config.json and weights, and what identifies its content.

Both a bundled model and one on the hub end as a directory: the hub's files go through the Hugging Face cache, whose
snapshot of a revision has the layout of the repository. What the cache holds is used as it is, without asking the
hub. Nothing here reads weights or imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from erasure_sweep.workers.errors import DataError, UsageError, one_line
from erasure_sweep.workers.fingerprint import digest, fingerprint
from erasure_sweep.workers.hub.files import hub_file, list_files
from erasure_sweep.workers.models.catalog import ModelLocation, find_entry, is_repo, locate
from erasure_sweep.workers.models.checkpoints import (
    LOG,
    SEPARATOR,
    final_counts,
    find_checkpoint,
    find_training,
    read_log,
    revision_steps,
    split_point,
)
from erasure_sweep.workers.models.files.file_formats import (
    CONFIG,
    INDICES,
    FileLayout,
    is_gguf,
    layout_of,
    other_weights,
    read_config,
    shard_names,
    weights_name,
)
from erasure_sweep.workers.models.known_names import Checkpoint, processing
from erasure_sweep.workers.models.tokenizer import local_tokenizer
from erasure_sweep.workers.storage.given_files import check_given_file

_HASHED_BYTES = 1 << 20


class ModelFiles(NamedTuple):
    """A model's files."""

    name: str
    layout: Literal["transformer_lens", "hugging_face"]
    directory: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    fingerprint: str
    """Hash of what determines the processed weights: the files (or their revision) and the code that processes them."""
    origin: str
    tokenizer: str | None
    """A file, a folder, or a hub repository, ``REPO@REVISION`` where it may be another one in that revision."""
    base: str = ""
    """The name without checkpoint or revision; as ``name`` where there is none of these."""
    training_tokens: int | None = None
    """On how many tokens the weights were trained, where that is known."""
    training_steps: int | None = None
    remote: bool = False
    """Whether it came from the hub."""
    passed_over: tuple[str, ...] = ()
    """Other weights that lie in the model's folder."""


CheckConfig = Callable[[str, Path, dict[str, Any]], None]
"""Sees name, directory and config of a model before its weights are fetched, and raises ``DataError`` to refuse it."""


def find_model_files(
    spec: str, staging: Path | None = None, refresh: bool = False, accept: CheckConfig | None = None
) -> ModelFiles:
    """The files that ``spec`` names.

    Args:
        spec: a name of the catalog or of TransformerLens, a hub repository or a directory; behind an ``@`` a checkpoint
            or, in Hugging Face's layout, a revision.
        staging: the folder that remembers which checkpoints the hub has.
        refresh: ask the hub even for what its cache holds.
        accept: what sees a model's config before its weights are fetched.

    Raises:
        UsageError: nothing has this name, or there is no such checkpoint.
        DataError: the files cannot be used or fetched.
    """
    name, point = split_point(spec)
    location = locate(name)
    training = None if point is None else find_training(location, staging, refresh)
    checkpoint = find_checkpoint(training, str(point), name) if training else None
    if location.kind == "directory":
        if point is not None and checkpoint is None:
            raise UsageError(f"{spec}: checkpoints in Hugging Face's layout are folders of their own: give that folder")
        return files_in_directory(location, checkpoint)
    if training is not None:
        return files_on_hub(location, training.revision, checkpoint, accept=accept)
    return files_on_hub(location, point, refresh=refresh, accept=accept)


def files_in_directory(location: ModelLocation, checkpoint: Checkpoint | None = None) -> ModelFiles:
    """A model in a directory, TransformerLens' layout or Hugging Face's, or one of its checkpoints."""
    directory = Path(location.place)
    if is_gguf(directory):
        return _in_gguf(location)
    config = read_config(directory)
    layout = layout_of(config)
    weights = _local_weights(directory, layout) if checkpoint is None else (directory / checkpoint.file,)
    fingerprint = _fingerprint(_file_digest(path) for path in (directory / CONFIG, *weights))
    own = local_tokenizer(directory)
    # what config.json names goes before files of older kinds, which need more of it than TransformerLens' layout says
    tokenizer = own if own and Path(own).is_file() else _named_tokenizer(directory, config) or own
    source = ModelFiles(location.name, layout, directory, config, weights, fingerprint, location.origin, tokenizer)
    others = other_weights(_file_names(directory), layout, weights[0].name) if checkpoint is None else []
    return _at(source, checkpoint)._replace(passed_over=tuple(others))


def _in_gguf(location: ModelLocation) -> ModelFiles:
    """A model of which everything is in one GGUF file."""
    from erasure_sweep.workers.models.files.gguf_file import gguf_config, quantization

    path = Path(location.place)
    check_given_file(path)
    config, kinds = gguf_config(path), quantization(path)
    origin = f"{location.origin} (quantized: {kinds})" if kinds else location.origin
    found = _fingerprint([_file_digest(path)])
    source = ModelFiles(location.name, "hugging_face", path.parent, config, (path,), found, origin, str(path))
    return _at(source, None)


def files_on_hub(
    location: ModelLocation,
    revision: str | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    refresh: bool = False,
    accept: CheckConfig | None = None,
) -> ModelFiles:
    """A model of the hub, fetched into the Hugging Face cache unless it is there.

    Args:
        location: its name and repository.
        revision: branch, tag or commit; ``None`` for the branch main. It is part of the name, but for a checkpoint's.
        checkpoint: the one that is meant.
        refresh, accept: as ``find_model_files`` takes them.
    """
    repo = location.place
    folder = _config_on_hub(location, revision, refresh)
    config, commit = read_config(folder), folder.name
    layout = layout_of(config)
    named = revision is not None and checkpoint is None
    name = f"{location.name}{SEPARATOR}{revision}" if named else location.name
    if accept is not None:
        accept(name, folder, config)
    if checkpoint is None:
        weights = _hub_weights(repo, folder, layout)
    else:
        weights = (hub_file(repo, checkpoint.file, (CONFIG, checkpoint.file), commit),)
    tokenizer: str | None = f"{repo}{SEPARATOR}{commit}" if named else repo
    if layout == "transformer_lens":
        tokenizer = _named_tokenizer(folder, config)
    fingerprint = _fingerprint([repo, commit, *([checkpoint.file] if checkpoint else [])])
    origin = f"{repo}{SEPARATOR}{commit}"
    source = ModelFiles(name, layout, folder, config, weights, fingerprint, origin, tokenizer, remote=True)
    if named:
        return source._replace(base=location.name, training_steps=revision_steps(str(revision)))
    return _at(source, checkpoint)


def _config_on_hub(location: ModelLocation, revision: str | None, refresh: bool) -> Path:
    """The snapshot of a revision, with its config.json."""
    entry, repo = find_entry(location.place), location.place
    try:
        return hub_file(repo, CONFIG, (CONFIG, entry.weights_file) if entry else (), revision, refresh=refresh).parent
    except DataError as error:
        if entry is not None:
            raise
        raise DataError(f"{error} (nor is there a directory {repo} here)") from error


def _at(source: ModelFiles, checkpoint: Checkpoint | None) -> ModelFiles:
    """The source with what is known of its training: of a checkpoint, or of the final weights."""
    if checkpoint is None:
        tokens, steps = final_counts(source.config, read_log(source.directory))
        return source._replace(base=source.name, training_tokens=tokens, training_steps=steps)
    return source._replace(
        base=source.name,
        name=f"{source.name}{SEPARATOR}{checkpoint.point}",
        origin=f"{source.origin} {checkpoint.file}",
        training_tokens=checkpoint.tokens,
        training_steps=checkpoint.steps,
    )


def _local_weights(directory: Path, layout: FileLayout) -> tuple[Path, ...]:
    """The files that hold the weights: one, or the shards of a Hugging Face model behind their index."""
    first = directory / weights_name(_file_names(directory), layout, str(directory))
    return (first,) if first.name not in INDICES else (first, *(directory / name for name in shard_names(first)))


def _file_names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if not path.is_dir()]


def _hub_weights(repo: str, folder: Path, layout: FileLayout) -> tuple[Path, ...]:
    """The weights of a snapshot, fetched unless they are there, and with them what the training wrote down."""
    cached = [path.name for path in folder.iterdir()]
    try:
        name = weights_name(cached, layout, repo)
    except DataError:
        names = list_files(repo, folder.name)[1]
        name = weights_name(names, layout, repo)
        if LOG in names:
            hub_file(repo, LOG, (LOG,), folder.name)
    first = hub_file(repo, name, (CONFIG, name), folder.name)
    if name not in INDICES:
        return (first,)
    return (first, *(hub_file(repo, shard, (CONFIG, name, shard), folder.name) for shard in shard_names(first)))


def _fingerprint(parts: Iterable[str]) -> str:
    return fingerprint("\n".join([processing(), *parts]))


def _file_digest(path: Path) -> str:
    """Name and content of one file, hashed."""
    try:
        check_given_file(path)
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(_HASHED_BYTES), b"")
            return digest(chain([f"{path.name}\n"], chunks)).hex()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def _named_tokenizer(directory: Path, config: dict[str, Any]) -> str | None:
    """What ``tokenizer_name`` says: a folder or file relative to the model's own folder, else a hub repository."""
    name = config.get("tokenizer_name")
    if not isinstance(name, str) or not name:
        return None
    path = (directory / name).resolve()
    if path.is_dir():
        return local_tokenizer(path)
    if path.is_file():
        return str(path)
    return name if is_repo(name) else None
