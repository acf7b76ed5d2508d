"""Cleaning the staging folder: by name, by last use, and never what a run uses or a process makes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from erasure_sweep.sweep.cleaning.staged_files import StagedFiles
from erasure_sweep.sweep.store.driver_process import InUseError, this_driver
from erasure_sweep.sweep.store.staged_use import StagedFilesInUse
from erasure_sweep.workers.errors import SweepError
from tests.support.bad_input import Bench, Ran, assert_finished
from tests.support.models.random_models import write_tl_directory
from tests.system.sweep.cleaning.test_clean import ALL, GONE, LONG_AGO, MONTH


class TestStaged:
    @pytest.fixture(scope="class")
    def template(self, bench: Bench) -> Path:
        """A staging folder with two models and two corpora, as runs leave it."""
        staging = bench.root / "template"
        (bench.root / "texts.txt").write_text("tokens of another corpus")
        other = write_tl_directory(bench.root / "other", 1, 2, 2, 16)
        longer = bench.root / "longer.npy"
        longer.write_bytes(bench.tokens.read_bytes())
        for model, corpus in ((bench.model, bench.tokens), (other, longer)):
            out = bench.root / f"for-{Path(str(model)).name}" / "out"
            ran = bench.run(out, model=model, corpus=corpus, staging=staging, stage="scan")
            assert ran.code == 0, ran.stderr
        return staging

    @pytest.fixture
    def staging(self, template: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(template, tmp_path / "staging"))

    @staticmethod
    def files(staging: Path) -> set[Path]:
        files = {path for path in staging.rglob("*") if path.is_file() and path.suffix != ".lock"}
        return files - {staging / ".erasure-sweep"}

    @staticmethod
    def of_model(staging: Path, name: str) -> set[Path]:
        weights = (staging / "models").glob("*.safetensors")
        return {path for path in weights if f"/{name}".encode() in path.read_bytes()}

    @staticmethod
    def means_of(staging: Path, weights: set[Path]) -> set[Path]:
        return {path for each in weights for path in (staging / "means").glob(f"{each.stem}-*.npy")}

    @staticmethod
    def of_corpus(staging: Path, name: str) -> set[Path]:
        records = {path for path in (staging / "corpora").glob("*.json") if f"/{name}" in path.read_text()}
        return records | {path.with_suffix(".npy") for path in records}

    @pytest.mark.nightly
    def test_by_name(self, cleaned, staging: Path, bench: Bench):
        before = self.files(staging)
        assert len(before) == 8
        good = self.of_model(staging, "good")
        good |= self.means_of(staging, good)
        assert len(good) == 2
        said = cleaned(staging=staging, names=("good", "bad"))
        assert said[1].startswith("good, weights (models/") and said[-1] == "nothing here is called bad"
        assert self.files(staging) == before - good
        tokens = self.of_corpus(staging, "tokens.npy")
        assert len(tokens) == 2
        cleaned(staging=staging, names=(str(bench.tokens),))
        assert self.files(staging) == before - good - tokens
        cleaned(staging=staging, names=("longer.npy", "other"))
        assert self.files(staging) == set()

    def test_what_is_gone_is_made_anew(self, cleaned, staging: Path, bench: Bench, out: Path, measured: Ran):
        ran = bench.call(out, ["clean", "--staged", "--older-than", "0d", "--staging", str(staging)])
        assert ran.code == 0 and ran.stdout.splitlines()[-1].startswith("4 things removed, ")
        assert self.files(staging) == set()
        again = bench.run(out, staging=staging)
        assert_finished(again, "good")
        assert again.tables() == measured.tables()

    def test_by_last_use(self, cleaned, staging: Path, bench: Bench, out: Path):
        before = self.files(staging)
        for path in before:
            os.utime(path, (LONG_AGO, LONG_AGO))
        assert bench.run(out, staging=staging, stage="scan").code == 0
        cleaned(staging=staging, older_than=MONTH)
        good = self.of_model(staging, "good")
        tokens = self.of_corpus(staging, "tokens.npy")
        assert self.files(staging) == good | self.means_of(staging, good) | tokens

    def test_a_dry_run_changes_nothing(self, cleaned, staging: Path):
        before = {path: path.stat().st_mtime_ns for path in self.files(staging)}
        said = cleaned(staging=staging, older_than=ALL, dry_run=True)
        assert said[-1].startswith("4 things would be removed")
        assert {path: path.stat().st_mtime_ns for path in self.files(staging)} == before

    def test_what_a_run_uses(self, cleaned, staging: Path, out: Path):
        used = {*self.of_model(staging, "other"), *self.of_corpus(staging, "longer.npy")}
        means = self.means_of(staging, used)
        driver = this_driver("demo", "", out, os.getpid())
        use = StagedFilesInUse(staging, driver)
        use.start()
        before = self.files(staging)
        said = cleaned(staging=staging, older_than=ALL)
        assert all(f"in use by {driver.where} (preparing)" in line for line in said[1:5])
        assert self.files(staging) == before
        use.of(used)
        cleaned(staging=staging, older_than=ALL)
        assert {path for path in self.files(staging) if path.parent.name != "in-use"} == used | means
        use.end()
        cleaned(staging=staging, older_than=ALL)
        assert self.files(staging) == set()

    def test_what_a_run_uses_that_begins_meanwhile(self, staging: Path, out: Path):
        found = list(StagedFiles(staging).removable())
        use = StagedFilesInUse(staging, this_driver("demo", "", out, os.getpid()))
        use.start()
        before = self.files(staging)
        assert len(found) == 4
        for each in found:
            with pytest.raises(InUseError, match="preparing"):
                each.remove()
        assert self.files(staging) == before

    def test_what_a_killed_run_used(self, cleaned, staging: Path, out: Path):
        StagedFilesInUse(staging, this_driver("demo", "", out, os.getpid())._replace(pid=GONE)).start()
        cleaned(staging=staging, older_than=ALL)
        assert self.files(staging) == set()

    def test_what_is_being_made(self, cleaned, staging: Path):
        (weights,) = self.of_model(staging, "good")
        with FileLock(weights.with_name(f".{weights.name}.lock")):
            said = cleaned(staging=staging, names=("good",))
            assert "in use: a process that makes it" in said[1]
        assert weights.exists()
        cleaned(staging=staging, names=("good",))
        assert not list((staging / "models").glob(f"*{weights.name}*"))

    def test_what_was_left_half_made(self, cleaned, staging: Path):
        before = self.files(staging)
        left = [staging / "models" / ".aa.safetensors.0f0f0f0f.tmp", staging / "corpora" / ".bb-48.npy.0f0f0f0f.tmp"]
        left += [staging / "names" / ".cc.json.0f0f0f0f.tmp"]
        for path in left:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
        said = cleaned(staging=staging, older_than=ALL, names=())
        assert sum("in use by a process that writes it" in line for line in said) == 3
        for path in left:
            assert path.exists()
            os.utime(path, (LONG_AGO, LONG_AGO))
        with FileLock(left[0].with_name(".aa.safetensors.lock")), FileLock(left[1].with_name(".bb.lock")):
            cleaned(staging=staging, older_than=MONTH)
            assert [path.exists() for path in left] == [True, True, False]
        cleaned(staging=staging, older_than=MONTH)
        assert self.files(staging) == set()
        assert before

    def test_what_names_were_found_to_be_goes_with_the_weights(self, cleaned, staging: Path, bench: Bench):
        from erasure_sweep.workers.models.known_names import KnownModel, remember_model

        (good,), (other,) = self.of_model(staging, "good"), self.of_model(staging, "other")
        for spec, weights in (("gpt2", good), ("gpt2-small", good), ("gelu-1l", other)):
            remember_model(KnownModel(spec, spec, spec, weights.stem, "gpt2@" + "0" * 40, None), staging)
        assert len(list((staging / "names").iterdir())) == 3
        cleaned(staging=staging, names=("gpt2-small",))
        assert not good.exists() and other.exists()
        (record,) = (staging / "names").iterdir()
        assert json.loads(record.read_text())["spec"] == "gelu-1l"

    def test_one_that_cannot_be_removed(self, cleaned, staging: Path):
        (weights,) = self.of_model(staging, "good")
        means = self.means_of(staging, {weights})
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path == weights:
                raise PermissionError(1, "Operation not permitted", str(path))
            unlink(path, missing_ok)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            with pytest.raises(SweepError, match=r"1 of 4 could not be removed, the first: .*Operation not permitted"):
                cleaned(staging=staging, older_than=ALL)
        assert self.files(staging) == {weights} | means

    def test_means_whose_weights_are_gone(self, cleaned, staging: Path):
        (weights,) = self.of_model(staging, "good")
        weights.unlink()
        said = cleaned(staging=staging, older_than=ALL)
        assert sum("means of a scan (means/" in line for line in said) == 1
        assert self.files(staging) == set()

    def test_one_that_was_never_marked(self, cleaned, staging: Path):
        """As versions before left it: what shows by its content that it was staged goes, and nothing else."""
        (staging / ".erasure-sweep").unlink()
        theirs = [staging / "models" / f"{'a' * 32}.safetensors", staging / "corpora" / f"{'b' * 32}-3.json"]
        theirs += [staging / "corpora" / "important.json", staging / "names" / f"{'c' * 32}.json"]
        theirs += [staging / "models" / ".x.0f0f0f0f.tmp"]
        for path in theirs:
            path.parent.mkdir(exist_ok=True)
            path.write_text('{"mine": 1}')
        said = cleaned(staging=staging, older_than=ALL)
        assert (
            said[0]
            == f"left alone: {staging}/names/{'c' * 32}.json and 3 more, which are not known to be erasure-sweep's"
        )
        assert self.files(staging) == set(theirs)

    def test_a_folder_that_is_not_there(self, cleaned, tmp_path: Path):
        assert cleaned(staging=tmp_path / "none", older_than=ALL) == ["nothing to remove"]
        assert not (tmp_path / "none").exists()
