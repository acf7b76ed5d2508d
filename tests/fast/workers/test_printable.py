"""What a terminal would obey is shown in its place, character for character."""

from __future__ import annotations

import unicodedata

from erasure_sweep.workers.printable import printable, printable_line


def test_control_characters_are_shown():
    assert printable("a\x1b[2Jb\x07\r\x7f\x9b\u202e") == "a␛[2Jb␇␍␡\ufffd\ufffd"
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable_line("a\tb\nc") == "a\tb␊c"
    assert printable("\ud800") == "\ufffd"


def test_other_text_stays_as_it_is():
    text = "β → −0.61 [é] 漢字 مرحبا 🙂 a\u200db"
    assert printable(text) == text


def test_nothing_that_controls_is_left_and_lengths_stay():
    text = "".join(map(chr, range(0x3000)))
    shown = printable_line(text)
    assert len(shown) == len(text)
    assert {char for char in shown if unicodedata.category(char) == "Cc"} == {"\t"}
