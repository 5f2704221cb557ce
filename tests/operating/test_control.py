"""The operator's switch: what is asked is taken once, by the right run, in time; and nothing else is."""

import json
import logging
import os
import threading

import pytest

from keras_adaptive_weights.operating.control import ACKNOWLEDGEMENT, CONTROL, ControlFile, Request, Switch


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def control_file(folder, clock, run="r1", **kwargs):
    return ControlFile(folder / CONTROL, run, clock=clock, **kwargs)


def put(folder, run="r1", **changes):
    request = {"id": "a", "action": "disable", "note": "why", "expires": 2000.0, **changes}
    (folder / CONTROL).write_text(json.dumps({"format": 1, "run": run, "requests": [request]}))


def test_a_request_is_taken_once_and_acknowledged(tmp_path, clock):
    control = control_file(tmp_path, clock)
    assert control.poll() == []
    put(tmp_path)
    clock.sleep(1.0)
    assert control.poll() == [Request("a", "disable", "why", 2000.0)]
    assert json.loads((tmp_path / ACKNOWLEDGEMENT).read_text())["taken"] == ["a"]
    clock.sleep(1.0)
    os.utime(tmp_path / CONTROL, (5, 5))
    assert control.poll() == [], "the file changed, the request in it is the same"
    clock.sleep(1.0)
    assert control_file(tmp_path, clock).poll() == [], "nor does a process that was started again take it"


def test_the_file_is_looked_at_once_per_interval(tmp_path, clock, monkeypatch):
    control = control_file(tmp_path, clock, interval=1.0)
    looks = []
    stat = type(tmp_path).stat
    monkeypatch.setattr(type(tmp_path), "stat", lambda self, **kw: looks.append(self) or stat(self, **kw))
    for _ in range(100):
        control.poll()
        clock.sleep(0.03125)
    assert len(looks) == 4, "3.125 seconds"


def test_a_clock_that_was_set_back_does_not_make_it_deaf(tmp_path, clock):
    control = control_file(tmp_path, clock)
    control.poll()
    clock.now = 10.0
    put(tmp_path)
    assert len(control.poll()) == 1


def test_what_was_asked_long_ago_is_not_done(tmp_path, clock):
    put(tmp_path, expires=clock.now - 1.0)
    assert control_file(tmp_path, clock).poll() == []


REQUEST = {"id": "a", "action": "disable", "note": "n", "expires": 2e9}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no control file"),
        ('{"format": 2, "run": "r1", "requests": []}', "no control file"),
        ('{"format": 1, "run": "r1"}', "no control file"),
        ('{"format": 1, "run": "other", "requests": []}', "for run 'other'"),
        (json.dumps({"format": 1, "run": "r1", "requests": ["x"]}), "malformed"),
        (json.dumps({"format": 1, "run": "r1", "requests": [{**REQUEST, "action": "__init__"}]}), "'__init__'"),
        (json.dumps({"format": 1, "run": "r1", "requests": [{**REQUEST, "expires": "soon"}]}), "malformed"),
        (json.dumps({"format": 1, "run": "r1", "requests": [{**REQUEST, "more": 1}]}), "malformed"),
        (json.dumps({"format": 1, "run": "r1", "requests": [{**REQUEST, "note": "x" * 70_000}]}), "larger"),
        ("\x00\xff", "no JSON"),
    ],
)
def test_a_file_that_is_not_ours_is_ignored_with_one_warning(tmp_path, clock, caplog, content, said):
    control = control_file(tmp_path, clock)
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            (tmp_path / CONTROL).write_text(content, encoding="latin-1")
            os.utime(tmp_path / CONTROL, (i, i))
            clock.sleep(1.0)
            assert control.poll() == []
    assert len(caplog.records) == 1
    assert said in caplog.text
    assert not (tmp_path / ACKNOWLEDGEMENT).exists()


def test_the_command_asks_and_hears_that_it_was_taken(tmp_path):
    control = ControlFile(tmp_path / CONTROL, "r1", interval=0.0)
    taken, done = [], threading.Event()

    def train():
        while not done.wait(0.01):
            taken.extend(control.poll())

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert Switch(tmp_path, "r1").ask("disable", "ann: clipping", timeout=20.0)
        assert Switch(tmp_path, "r1").ask("enable", "ann: better", timeout=20.0)
    finally:
        done.set()
        thread.join()
    assert [(request.action, request.note) for request in taken] == [
        ("disable", "ann: clipping"),
        ("enable", "ann: better"),
    ]


def test_a_request_that_nobody_takes_is_withdrawn(tmp_path, clock):
    assert not Switch(tmp_path, "r1", clock=clock, sleep=clock.sleep).ask("disable", "n", timeout=3.0)
    assert clock.now >= 1003.0
    assert json.loads((tmp_path / CONTROL).read_text())["requests"] == []
    assert control_file(tmp_path, clock).poll() == []


def test_two_operators_do_not_lose_each_others_requests(tmp_path, clock):
    """The second command overwrites the file; the first puts its request back."""
    waits = []

    def sleep(seconds):
        clock.sleep(seconds)
        waits.append(json.loads((tmp_path / CONTROL).read_text())["requests"])
        if len(waits) == 1:
            put(tmp_path, id="other", action="enable")

    assert not Switch(tmp_path, "r1", clock=clock, sleep=sleep).ask("disable", "n", timeout=1.0)
    assert {request["action"] for request in waits[1]} == {"enable", "disable"}


def test_an_unknown_action_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"argument `action`.*explode"):
        Switch(tmp_path, "r1").ask("explode", "n")


def test_no_scratch_files_are_left_behind(tmp_path, clock):
    Switch(tmp_path, "r1", clock=clock, sleep=clock.sleep).ask("disable", "n", timeout=0.0)
    put(tmp_path)
    control_file(tmp_path, clock).poll()
    assert {path.name for path in tmp_path.iterdir()} == {CONTROL, ACKNOWLEDGEMENT}


def test_an_acknowledgement_that_cannot_be_written_is_a_warning(tmp_path, clock, caplog):
    put(tmp_path)
    (tmp_path / ACKNOWLEDGEMENT).mkdir()
    assert len(control_file(tmp_path, clock).poll()) == 1, "the disable is more urgent than the receipt"
    assert "cannot acknowledge" in caplog.text
