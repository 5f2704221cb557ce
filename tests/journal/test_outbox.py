"""What a store has still to take: when it gets it, and what becomes of it where the store fails."""

from __future__ import annotations

import logging

import pytest
from fake_store import Clock, content, opened_pieces, pieces_of

from keras_adaptive_weights.journal.outbox import OLDEST_SECONDS, Outbox


def test_at_most_ten_seconds_are_lost_when_a_process_is_killed(store):
    file, clock = opened_pieces()
    written = {}
    for second in range(1, 101):
        clock.now = float(second)
        file.write(f"{second}\n")  # a second after it was seen: the backlog's
        file.tend()  # the thread does it once a second
        stored = content(store).split() if store.objects else [b"0"]
        written[second] = int(stored[-1])
    assert max(second - stored for second, stored in written.items()) == OLDEST_SECONDS - 2.0
    assert len(pieces_of(store)) == 11
    assert content(store) == b"".join(b"%d\n" % second for second in range(1, written[100] + 1))
    file.close()
    assert content(store).endswith(b"\n100\n")


def test_an_event_is_stored_at_once_and_many_bytes_are(store):
    file, _ = opened_pieces()
    file.write("step\n")
    file.tend()
    assert store.objects == {}
    file.hasten()
    file.tend()
    assert content(store) == b"step\n"
    file.write("x" * (1 << 20))
    file.tend()
    assert len(content(store)) == 5 + (1 << 20)
    file.close()


def test_a_store_that_fails_for_a_while_is_tried_again_and_loses_nothing(store, caplog):
    file, clock = opened_pieces()
    store.fail = OSError("503")
    with caplog.at_level(logging.WARNING):
        for second in range(300):
            clock.now = float(second)
            file.write(f"{second}\n")
            file.tend()
        asked = store.told.count("names")
        store.fail = None
        clock.now = 400.0
        file.tend()
    file.close()
    assert content(store) == b"".join(b"%d\n" % second for second in range(300))
    assert 5 <= asked <= 15  # later each time
    assert [record.message.rpartition("' ")[2] for record in caplog.records] == [
        "cannot be stored, and is kept in memory until it can: 503",
        "is stored again.",
    ]


def test_a_write_that_fails_half_way_is_replaced(store):
    file, clock = opened_pieces()
    store.fail, store.half = OSError("reset by peer"), True
    store.names = lambda folder: sorted(path[len(folder) + 1 :] for path in store.objects)
    file.write("one\n")
    file.hasten()
    file.tend()
    assert len(store.objects) == 1
    store.fail = None
    clock.now = 100.0
    file.write("two\n")
    file.close()
    assert content(store) == b"one\ntwo\n"
    assert len(pieces_of(store)) == 1


def test_a_store_that_never_answers_again_is_given_up_after_ten_minutes(store):
    file, clock = opened_pieces()
    store.fail = OSError("no space left")

    def write_on():
        for second in range(1000):
            clock.now = float(second)
            file.write("step\n")
            file.tend()

    with pytest.raises(OSError, match="no space left"):
        write_on()
    assert 600.0 <= clock.now <= 680.0


def test_a_store_that_is_too_slow_is_given_up_at_64_mebibytes(store, monkeypatch):
    monkeypatch.setattr("keras_adaptive_weights.journal.outbox._MOST_WAITING_BYTES", 1000)
    file, _ = opened_pieces()
    file.write("x" * 1001)
    with pytest.raises(OSError, match="cannot be stored as fast as it grows"):
        file.write("x")


def test_at_the_end_it_is_tried_for_a_minute(store):
    file, clock = opened_pieces()
    file.write("one\n")
    store.fail = OSError("no space left")
    with pytest.raises(OSError, match="no space left"):
        file.close()
    assert 60.0 <= clock.now <= 62.0


def test_an_outbox_in_order_of_what_it_was_given():
    taken, clock = [], Clock()
    outbox = Outbox(taken.append, "it", clock=clock, sleep=clock.sleep)
    outbox.write(b"a")
    outbox.write(b"b")
    outbox.flush()
    outbox.write(b"c")
    outbox.close()
    outbox.close()
    assert (taken, outbox.waiting) == ([b"ab", b"c"], 0)
