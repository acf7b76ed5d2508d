"""Configs: default < YAML < flag, and one line on whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasure_sweep.sweep.commands.config import reference_of_keys
from erasure_sweep.sweep.config import SweepConfig, build_config, load_config, preset_names
from erasure_sweep.workers.corpora.resolve_corpus import KNOWN_CORPORA, OWN
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.checkpoints import split_point
from erasure_sweep.workers.records import Group, VerifyRequest


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    source = write(tmp_path / "mine.yaml", "models: [a, b]\nprompts: 3\nseed: 4\n")
    config = load_config(source, {"seed": 5, "prompts": None, "corpus": "c.npy"})
    assert (config.models, config.prompts, config.seed, config.corpus) == (["a", "b"], 3, 5, "c.npy")
    assert (config.seq_len, config.positions, config.dtype) == (256, 128, "float32")
    assert load_config(source, {"models": ["c"]}).models == ["c"]


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "paper", "models: [mine]")
    assert load_config("paper").models == ["gelu-4l"]
    assert load_config("./paper").models == ["mine"]


@pytest.mark.parametrize("name", preset_names())
def test_presets_name_what_exists(name: str):
    config = load_config(name)
    assert config.name == name
    assert all(find_entry(split_point(model)[0]) for model in config.models if not model.startswith("toy-"))
    assert config.corpus in (*KNOWN_CORPORA, OWN)


@pytest.mark.parametrize(
    ("file", "name"),
    [("mine.yaml", "mine"), ("my sweep (2).yaml", "my_sweep_2_"), (".hidden", "hidden"), ("ü.yaml", "sweep")],
)
def test_a_sweep_is_named_after_its_file(tmp_path: Path, file: str, name: str):
    assert load_config(write(tmp_path / file, "models: [a]")).name == name
    assert load_config(write(tmp_path / file, "models: [a]\nname: other")).name == "other"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"prompt": 3}, "unknown key 'prompt': did you mean prompts, trust_prompts, paths_prompts?"),
        ({"models": "a"}, "models = 'a': should be a valid list"),
        ({"models": []}, "models = []: names none"),
        ({"models": [3]}, "models = 3: should be a valid string"),
        ({"models": ["a", ""]}, "models = '': should be a line of text"),
        ({"models": ["a", "b", "a"]}, "models: a is listed more than once"),
        ({"models": None}, "models = None: should be a valid list"),
        ({"prompts": 0}, "prompts = 0: should be greater than or equal to 1"),
        ({"prompts": "3"}, "prompts = '3': should be a valid integer"),
        ({"prompts": 3.0}, "prompts = 3.0: should be a valid integer"),
        ({"prompts": True}, "prompts = True: should be a valid integer"),
        ({"seq_len": 1}, "seq_len = 1: should be greater than or equal to 2"),
        ({"positions": "some"}, "positions = 'some': should be 'all' or a valid integer"),
        ({"positions": 0}, "positions = 0: should be 'all' or greater than or equal to 1"),
        ({"seed": -1}, "seed = -1: should be greater than or equal to 0"),
        ({"stage": "both"}, "stage = 'both': should be 'scan', 'verify' or 'all'"),
        ({"verify_prompts": 1}, "verify_prompts = 1: should be greater than or equal to 2"),
        ({"trust_prompts": 1}, "trust_prompts = 1: should be greater than or equal to 2"),
        ({"trust_tokens": 1}, "trust_tokens = 1: should be greater than or equal to 2"),
        ({"rotated_prompts": 1}, "rotated_prompts = 1: should be 0 or greater than or equal to 2"),
        (
            {"trust_thresholds": {"hold": 1.0}},
            "trust_thresholds = 'hold': should be 'constant', 'cancelled', 'faint', 'related', 'holds' or 'amplified'",
        ),
        ({"trust_thresholds": {"holds": 1.5}}, "trust_thresholds: holds = 1.5: should be from 0 to 1.33"),
        ({"trust_thresholds": {"cancelled": -1}}, "trust_thresholds: cancelled = -1: should be from 0 to 0.5"),
        ({"places": -1}, "places = -1: should be greater than or equal to 0"),
        ({"adversarial_prompts": [""]}, "adversarial_prompts = '': should not be empty"),
        ({"adversarial_prompts": "text"}, "adversarial_prompts = 'text': should be a valid list"),
        ({"writers": ["L0H1", "L0H1"]}, "writers: L0H1 is listed more than once"),
        ({"writers": ["L0H1"], "erasers": "L2H1+L2H0+L2H1"}, "erasers: L2H1 is listed more than once"),
        ({"erasers": "L1H0"}, "erasers = 'L1H0': needs writers, the components (L0H2) that these heads erase"),
        ({"writers": ["L0H1"], "erasers": ""}, "erasers = '': should be a line of text"),
        ({"dtype": "float16"}, "dtype = 'float16': should be 'float32', 'float64' or 'bfloat16'"),
        ({"device": "tpu"}, "device = 'tpu': should be 'auto', 'cpu' or 'cuda'"),
        ({"tau": float("inf")}, "tau = inf: should be a finite number"),
        ({"tau": float("nan")}, "tau = nan: should be a finite number"),
        ({"shard_deadline_s": 0}, "shard_deadline_s = 0: should be greater than 0"),
        ({"gpus_per_worker": 2}, "gpus_per_worker = 2: should be 'auto' or less than or equal to 1"),
        ({"corpus": "a\0b"}, "corpus = 'a\\x00b': should be a line of text"),
        ({"out": ""}, "out = '': should be a line of text"),
        (
            {"own_corpora": {"a": "stdlib"}},
            "own_corpora: needs corpus = 'own', by which each model reads its own training mix",
        ),
        ({"corpus": "own", "own_corpora": {"a": 3}}, "own_corpora = 3: should be a valid string"),
        ({"corpus": "own", "own_corpora": {1: "stdlib"}}, "own_corpora = 1: should be a valid string"),
        ({"corpus": "own", "own_corpora": ["a"]}, "own_corpora = ['a']: should be a valid dictionary"),
        (
            {"corpus": "own", "own_corpora": {"a": "stdlib", "b": "c4-10"}},
            "own_corpora: b: corpus c4-10 is neither a known name nor a file or folder: did you mean c4-10k, code-10k?"
            " (write hf:OWNER/NAME for a data set on the Hugging Face hub)",
        ),
        (
            {"corpus": "own", "own_corpora": {"a": "hf:a:b:c:d"}},
            "own_corpora: a: corpus hf:a:b:c:d is not of the form hf:REPO[:CONFIG][:SPLIT]",
        ),
        (
            {"corpus": "own", "own_corpora": {"a": "own"}},
            "own_corpora: a: corpus own stands for each model's own training mix: where one corpus is meant, name it"
            f" (known: {', '.join(KNOWN_CORPORA)})",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(values: dict[str, object], line: str):
    with pytest.raises(UsageError) as caught:
        build_config({"models": ["a"], **values}, "mine.yaml")
    assert str(caught.value) == f"mine.yaml: {line}"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "a\n", "x" * 101])
def test_names_that_folders_cannot_have(name: str):
    with pytest.raises(UsageError, match=r"^config: name = .*: should be up to 100 letters, digits"):
        build_config({"models": ["a"], "name": name})


def test_models_are_required():
    with pytest.raises(UsageError, match=r"^config: models: is required$"):
        build_config({})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "should hold `key: value` lines"),
        ("- a", "should hold `key: value` lines"),
        ("1: a", "should hold `key: value` lines"),
        ("models: [a\nseed: 1", "not valid YAML: line 2: expected ',' or ']'"),
        ("models: [a]\n---\nmodels: [b]", "not valid YAML: line 2: "),
        ("models: !!python/object/apply:os.abort []", "not valid YAML: line 1: could not determine a constructor"),
        ("models: [a]\nseed: 2024-13-45", "seed = '2024-13-45': should be a valid integer"),
        ("models: " + "[" * 5000, "not valid YAML: line 1: it is nested deeper than 20 times"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, line: str):
    source = write(tmp_path / "mine.yaml", text)
    with pytest.raises(UsageError) as caught:
        load_config(source)
    assert str(caught.value).startswith(f"{source}: {line}")
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_no_text(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes("models: [a]".encode("utf-16"))
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be read as a config: it is not UTF-8"):
        load_config(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("papr", "no preset and no file 'papr': did you mean paper?"),
        ("", "no preset and no file '': known: "),
        ("gelu-4l", "gelu-4l is neither a preset nor a config file: for a model write --model gelu-4l"),
    ],
)
def test_sources_that_are_not_there(source: str, line: str):
    with pytest.raises(UsageError) as caught:
        load_config(source)
    assert str(caught.value).startswith(line)


def test_a_folder_is_taken_for_a_model(tmp_path: Path):
    with pytest.raises(UsageError, match=f"for a model write --model {tmp_path}$"):
        load_config(str(tmp_path))


def test_what_determines_numbers_leaves_out_models_and_machines():
    config = build_config({"models": ["a"]})
    same = build_config({"models": ["b"], "workers": 3, "batch": 2, "device": "cpu", "out": "x", "top": 9, "name": "n"})
    more = build_config({"models": ["a"], "stage": "verify", "writers": ["L0H1"]})
    assert more.protocol() == config.protocol()
    assert same.protocol() == config.protocol()
    own = build_config({"models": ["a"], "corpus": "own"})
    assert build_config({"models": ["a"], "corpus": "own", "own_corpora": {"a": "stdlib"}}).protocol() != own.protocol()
    for key, value in {
        "seed": 1,
        "prompts": 3,
        "seq_len": 8,
        "positions": 4,
        "corpus": "c",
        "dtype": "float64",
        "verify_prompts": 9,
        "trust_prompts": 9,
        "trust_tokens": 9,
        "rotated_prompts": 0,
        "trust_thresholds": {"holds": 0.5},
        "donors": 9,
        "places": 9,
        "adversarial_prompts": ["a"],
        "first_position": True,
    }.items():
        assert build_config({"models": ["a"], key: value}).protocol() != config.protocol(), key


def test_positions_and_batches():
    config = build_config({"models": ["a"], "seq_len": 256, "positions": "all"})
    assert (config.n_positions, config.batch_on("cpu"), config.batch_on("cuda")) == (None, 8, 8)
    long = build_config({"models": ["a"], "seq_len": 1024, "positions": 128})
    assert (long.n_positions, long.batch_on("cpu"), long.batch_on("cuda")) == (128, 2, 8)
    assert build_config({"models": ["a"], "seq_len": 100_000}).batch_on("cpu") == 1
    assert build_config({"models": ["a"], "positions": 255}).n_positions is None
    assert build_config({"models": ["a"], "batch": 3}).batch_on("cuda") == 3
    assert build_config({"models": ["a"], "batch": 30, "block_prompts": 4}).batch_on("cpu") == 4


def test_position_0_is_measured_where_that_is_asked_for():
    config = build_config({"models": ["a"], "seq_len": 64})
    assert (config.n_positions, config.measured_positions) == (None, 63)  # the default is more than there are
    whole = build_config({"models": ["a"], "seq_len": 64, "first_position": True, "positions": "all"})
    assert (whole.n_positions, whole.measured_positions) == (None, 64)
    assert build_config({"models": ["a"], "seq_len": 64, "positions": 5}).measured_positions == 5
    assert [load_config(name).first_position for name in ("paper", "authors-repo", "demo")] == [True, True, False]


@pytest.mark.parametrize("n", [63, 64, 128])
def test_more_positions_than_there_are_are_all_of_them(n: int):
    """However the number came about: a config that is written out whole, as for a job, holds the default as a number."""
    config = build_config({"models": ["a"], "seq_len": 64, "positions": n})
    assert (config.n_positions, config.measured_positions) == (None, 63)
    whole = build_config({"models": ["a"], "seq_len": 64})
    assert build_config(whole.model_dump(exclude_none=True)) == whole
    assert build_config({"models": ["a"], "seq_len": 64, "positions": 62}).measured_positions == 62


def test_the_reference_explains_every_key():
    lines = {line.split("`")[1]: line for line in reference_of_keys().splitlines()[2:]}
    assert set(lines) == set(SweepConfig.model_fields)
    assert all(len(line.split("|")[3].strip()) > 10 for line in lines.values())


def test_one_group_of_erasers_has_one_name():
    groups = [
        build_config({"models": ["a"], "writers": ["L0H1"], "erasers": erasers}).groups
        for erasers in ("L2H2+L10H1+L2H10", "L10H1 + L2H10+L2H2")
    ]
    assert groups[0] == groups[1] == (Group("L0H1", ("L2H2", "L2H10", "L10H1")),)
    assert build_config({"models": ["a"], "writers": ["L0H1"]}).groups == ()
    odd = build_config({"models": ["a"], "writers": ["L0H1"], "erasers": "L2H2+MLP1"})
    assert odd.groups[0].erasers == ("L2H2", "MLP1")


def test_what_verify_asks_for():
    config = build_config({"models": ["a"], "verify_prompts": 5, "adversarial_prompts": ["a\n\tb"]})
    assert config.verify == VerifyRequest(5, ("a\n\tb",))
    assert config.model_copy(update={"stage": "scan"}).verify is None


def test_the_published_prompts_come_with_the_presets():
    assert len(load_config("paper").adversarial_prompts) == 4
    authors = load_config("authors-repo")
    assert (authors.prompts, authors.verify_prompts, authors.positions, authors.seed) == (10, 10, "all", 5235)


@pytest.mark.parametrize(
    ("source", "flags", "name"),
    [
        ("demo", {}, "demo"),
        ("demo", {"prompts": 8}, "demo"),
        ("demo", {"models": ["toy-gelu-2l", "toy-gelu-3l", "toy-gelu-4l", "toy-llama-4l"]}, "demo"),
        ("demo", {"models": ["./runs/my model/"]}, "my_model"),
        ("demo", {"models": ["NeelNanda/GELU_1L512W_C4_Code@main"]}, "GELU_1L512W_C4_Code_main"),
        ("demo", {"models": ["a", "b", "c", "d", "e"], "corpus": "data/notes.txt"}, "a-b-c-and-2-more-notes"),
        ("demo", {"models": ["mine=./runs/5", "./runs/6"]}, "mine-6"),
        ("demo", {"corpus": "notes.v2.jsonl.gz"}, "demo-notes.v2"),
        ("paper", {"models": ["mine"]}, "paper-mine"),
        ("demo", {"models": ["x" * 120]}, "x" * 100),
        ("demo", {"models": ["mine"], "name": "given"}, "given"),
    ],
)
def test_a_sweep_without_a_name_is_called_after_what_was_asked(source: str, flags: dict[str, object], name: str):
    assert load_config(source, flags).name == name


def test_a_config_file_gives_its_name_whatever_is_replaced(tmp_path: Path):
    (tmp_path / "my study.yaml").write_text("models: [toy-gelu-1l]")
    assert load_config(str(tmp_path / "my study.yaml"), {"models": ["other"]}).name == "my_study"


@pytest.mark.parametrize(
    "key, value", [("name", "x" * 5000), ("corpus", "x " * 3000 + "\0"), ("groups", ["L0H0"] * 999)]
)
def test_a_value_of_pages_is_not_repeated(key: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        build_config({"models": ["a"], key: value}, "mine.yaml")
    assert len(str(caught.value)) < 500 and "mine.yaml" in str(caught.value)


def test_a_word_of_pages_is_not_repeated_in_any_error() -> None:
    assert str(UsageError(f"no model {'x' * 5000}: name another")) == f"no model {'x' * 80}…{'x' * 39}: name another"
