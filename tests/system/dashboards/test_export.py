"""Figures as image files: what is refused, what is listed, drawn by a browser that reaches nobody."""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from erasure_sweep.sweep.commands import main
from tests.support.fakes.tables import fake_model, model_tables, write_out
from tests.support.fakes.written_pages import NASTY

browser_test = pytest.mark.chromium


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two models; one verified its writers, the other measured nothing of reading."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    first = fake_model("first", 2, 2, seed=1, n_tokens=24, reading=True)
    second = fake_model("second", 1, 2, seed=2, n_tokens=24)
    write_out([first, second], out, name="demo")
    return out


def export(*arguments: object) -> int:
    return main.call(["export", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one line of an export that cannot be."""
    code = export(*arguments)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return code, said.strip().removeprefix("erasure-sweep: ")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestRefusals:
    def test_names_that_are_none(self, swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert refused(capsys, swept, "--figure", "casual") == (
            *(2, "no figure 'casual' in these sweeps: did you mean causal?"),
        )
        code, said = refused(capsys, swept, "--figure", "compare:sizes")
        assert (code, said.partition(":")[0]) == (2, "no figure 'compare")
        assert "did you mean compare:size" in said or "compare:erased" in said
        assert refused(capsys, swept, "--model", "frist") == (2, "no finished model 'frist': did you mean first?")
        code, said = refused(capsys, swept, "--figure", "onto", "--writer", "L0H9")
        assert code == 2 and said.startswith("no figure of a writer 'L0H9' here: did you mean L0H")
        assert refused(capsys, swept, "--figure", "causal", "--choose", "Outputs=mean removed") == (
            *(2, "Outputs has no 'mean removed': did you mean means removed?"),
        )
        code, said = refused(capsys, swept, "--figure", "causal", "--choose", "Output=means removed")
        assert (code, said) == (2, "no choice 'Output' here: did you mean Outputs?")
        assert refused(capsys, swept, "--choose", "Outputs")[0] == 2
        assert refused(capsys, swept, "--format", "jpg")[0] == 2
        assert not list(swept.rglob("figures"))

    def test_what_a_figure_does_not_offer(self, swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        both = ("--figure", "causal", "--figure", "presence")
        code, said = refused(capsys, swept, *both, "--choose", "Outputs=means removed")
        assert (code, said.partition(":")[0]) == (2, "figure 'presence' has no such choice together")

    def test_several_sweeps_need_a_place(self, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, said = refused(capsys, swept, tmp_path)
        assert (code, said) == (2, "of several sweeps say where the files go: --to DIR")
        assert refused(capsys, "--experiment", "demo") == (2, "of an experiment say where the files go: --to DIR")
        assert refused(capsys)[0] == 2
        code, said = refused(capsys, tmp_path)
        assert code == 2 and "holds no sweep" in said

    def test_without_kaleido(
        self, swept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "kaleido", None)
        assert refused(capsys, swept, "--figure", "compare:opposed") == (
            *(1, "image files need kaleido: pip install 'erasure-sweep[export]'"),
        )

    def test_without_a_browser(
        self, swept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pytest.importorskip("kaleido")
        monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
        code, said = refused(capsys, swept, "--figure", "compare:opposed")
        assert code == 1
        assert said.startswith("image files need a browser, and none was found: install Chrome or chromium")

    def test_a_browser_that_fails(
        self,
        swept: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        pytest.importorskip("kaleido")
        browser = tmp_path / "browser"
        browser.write_text("#!/bin/sh\nexit 3\n")
        browser.chmod(0o755)
        monkeypatch.setenv("BROWSER_PATH", str(browser))
        code, said = refused(capsys, swept, "--figure", "compare:opposed")
        assert code == 1
        assert said.startswith("the browser for image files does not start (")
        assert "close immediately" in said
        assert not list(swept.rglob("figures"))


class TestList:
    def test_names_figures_and_choices(self, swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert export(swept, "--list") == 0
        said = capsys.readouterr().out
        for expected in ("causal", "presence", "compare:opposed", "Outputs=as they are | means removed"):
            assert expected in said
        assert not list(swept.rglob("figures"))


def size_of(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])


def first_pixel(png: bytes) -> bytes:
    """Of an 8-bit image, its upper left corner."""
    data = b"".join(re.findall(rb"IDAT(.*?)(?=....IDAT|....IEND)", png, re.DOTALL))
    row = zlib.decompressobj().decompress(data, 64)
    return row[1:4]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first line of everything that the browser asks the network for; it is let nowhere."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).partition(b"\r\n")[0].decode("latin1"))

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("CHOREO_PROXY_SERVER", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield asked


@browser_test
@pytest.mark.usefixtures("chromium")
class TestFiles:
    def test_vectors_where_the_sweep_is(
        self, swept: Path, proxy: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        names = ("--figure", "causal", "--figure", "presence", "--figure", "compare:opposed")
        assert export(swept, *names) == 0
        written = ["figures/opposed.svg", "first/figures/causal.svg", "first/figures/presence.svg"]
        written += ["second/figures/presence.svg"]
        assert [name for name in files(swept) if name.endswith(".svg")] == written
        assert not list(swept.rglob("*.tmp"))
        said = capsys.readouterr().out.splitlines()
        assert sorted(said) == sorted(f"wrote {swept / name}" for name in written)
        causal = (swept / "first/figures/causal.svg").read_text(encoding="utf-8")
        assert causal.startswith("<svg") and "later head, in stream order" in causal
        assert causal.count("L1H0") == 1 and 'width="700"' in causal
        drawn = (swept / "figures/opposed.svg").read_text(encoding="utf-8")
        assert drawn.count("<path") >= 20
        assert {"first", "second"} <= set(re.findall(r">([a-z]+)</text>", drawn))
        assert [line for line in proxy if re.search("plotly|mathjax|cdn|jax", line)] == []

    @pytest.mark.nightly
    def test_choices_have_files_of_their_own(self, swept: Path, tmp_path: Path) -> None:
        arguments = ("--figure", "ledger", "--writer", "embed", "--to", tmp_path, "--model", "first")
        assert export(swept, *arguments) == 0
        assert export(swept, *arguments, "--choose", "Outputs=as they are") == 0
        first, second = (
            (tmp_path / f"first/figures/{name}.svg").read_text(encoding="utf-8")
            for name in ("ledger-embed", "ledger-embed-as_they_are")
        )
        assert files(tmp_path) == ["first/figures/ledger-embed-as_they_are.svg", "first/figures/ledger-embed.svg"]
        assert first != second

    @pytest.mark.nightly
    def test_pixels_are_white_behind_and_as_many_as_asked(self, swept: Path, tmp_path: Path) -> None:
        arguments = ("--figure", "compare:opposed", "--format", "png", "--width", 400, "--to", tmp_path)
        assert export(swept, *arguments) == 0
        image = (tmp_path / "figures" / "opposed.png").read_bytes()
        width, height = size_of(image)
        assert (width, first_pixel(image)) == (1200, b"\xff\xff\xff")
        assert export(swept, *arguments, "--scale", 1) == 0
        again = (tmp_path / "figures" / "opposed.png").read_bytes()
        assert size_of(again) == (400, height // 3)

    def test_documents_for_print(self, swept: Path, tmp_path: Path) -> None:
        assert export(swept, "--figure", "compare:opposed", "--format", "pdf", "--to", tmp_path) == 0
        content = (tmp_path / "figures" / "opposed.pdf").read_bytes()
        assert content.startswith(b"%PDF") and b"%%EOF" in content[-32:]

    @pytest.mark.nightly
    def test_names_from_data_are_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        of_two = [fake_model(name, 1, 2, n_tokens=12) for name in ("one", "two")]
        models = [model_tables({**m.about.to_json(), "name": f"{NASTY} {m.about.name}"}, m.tables) for m in of_two]
        write_out(models, tmp_path / "out")
        figures = ("--figure", "compare:opposed", "--figure", "onto", "--writer", "L0H1")
        code, said = refused(capsys, tmp_path / "out", *figures, "--to", tmp_path / "to")
        assert code == 2 and said.startswith("figure 'compare:opposed' has no such choice")
        assert export(tmp_path / "out", *figures[:2], "--to", tmp_path / "to") == 0
        assert export(tmp_path / "out", *figures[2:], "--to", tmp_path / "to") == 0
        assert files(tmp_path / "to") == [
            "figures/opposed.svg",
            *(f"{n}/figures/onto-L0H1.svg" for n in ("one", "two")),
        ]
        drawn = ElementTree.fromstring((tmp_path / "to" / "figures" / "opposed.svg").read_text(encoding="utf-8"))
        assert not {element.tag.rpartition("}")[2] for element in drawn.iter()} & {"img", "image", "script", "a"}
        said = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert f"{NASTY} two" in said

    def test_a_place_that_cannot_be_written(
        self, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        code, said = refused(capsys, swept, "--figure", "compare:opposed", "--to", tmp_path / "file")
        assert code == 1 and said.endswith("choose another --to") and "opposed.svg cannot be written" in said
        assert files(tmp_path) == ["file"]
