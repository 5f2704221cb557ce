"""What a person is told of a decision: a line for each event, none for a HOLD."""

import io
import logging
import sys

import pytest

from keras_adaptive_weights import Action, Decision, DecisionLogger, Reason
from keras_adaptive_weights.deciding.observers import DecisionPrinter
from keras_adaptive_weights.deciding.printable import encodable

EVENT = Decision(40, Action.DISABLE, Reason.MANUAL, 2.625, 2.5, note="heard → clipping")
LINE = "step 40: disable 2.625 -> 2.5, manual (heard → clipping): asked for by hand."


def test_events_are_logged(caplog):
    with caplog.at_level(logging.INFO, "keras_adaptive_weights"):
        DecisionLogger().observe((), EVENT._replace(action=Action.HOLD))
        assert caplog.records == []
        DecisionLogger().observe((), EVENT)
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [("keras_adaptive_weights", "INFO", LINE)]


def test_events_are_printed_on_a_line_of_their_own(capsys):
    DecisionPrinter().observe((), EVENT._replace(action=Action.HOLD))
    assert capsys.readouterr().out == ""
    DecisionPrinter().observe((), EVENT)
    assert capsys.readouterr().out == f"\n{LINE}\n"


class Flushed(io.TextIOWrapper):
    count = 0

    def flush(self):
        self.count += 1
        super().flush()


@pytest.mark.parametrize(("encoding", "arrow"), [("ascii", r"\u2192"), ("latin-1", r"\u2192"), ("utf-8", "→")])
def test_what_a_terminal_has_no_character_for_is_written_as_python_has_it(encoding, arrow, monkeypatch):
    out = Flushed(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    DecisionPrinter().observe((), EVENT)
    assert out.count == 1, "at once: a progress bar flushes, too"
    assert out.buffer.getvalue().decode(encoding) == f"\n{LINE}\n".replace("→", arrow)


def test_a_stream_that_tells_no_encoding_takes_anything():
    assert encodable("→", io.StringIO()) == "→"
    assert encodable("→", object()) == "→"
