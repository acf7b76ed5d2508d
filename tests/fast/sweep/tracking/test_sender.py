"""A thread that sends, and what it must not hold up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from erasure_sweep.sweep.tracking.sender import Job, Sender
from erasure_sweep.workers.errors import SweepError


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender(lambda: None, lambda line: None)
    yield sender
    sender.close()


class OutOfThreads(BaseException):
    """Ends a thread, as what the system does when memory runs out."""


def end_thread() -> None:
    raise OutOfThreads


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
class TestAThreadThatIsNoMore:
    def test_nobody_waits_for_it(self, sender: Sender):
        tried = sender.try_all([Job(None, end_thread), Job("a", lambda: None)])
        assert sender.wait(tried)
        with pytest.raises(SweepError, match="most likely because memory ran out"):
            sender.call(lambda: 1)
        assert [problem for problem in sender.problems() if "memory ran out" in problem]

    def test_nor_for_one_that_cannot_begin(self, sender: Sender, monkeypatch: pytest.MonkeyPatch):
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SweepError, match="cannot begin, most likely because memory ran out"):
            sender.call(lambda: 1)


def test_what_is_called_is_returned_and_raised(sender: Sender):
    assert sender.call(lambda: 3) == 3
    with pytest.raises(ValueError, match="mine"):
        sender.call(lambda: int("mine"))
