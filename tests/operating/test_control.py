"""The operator's switch: what is asked is taken once, by the right run, in time; and nothing else is."""

import json
import os
import threading

import pytest
from mutations import mutated

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


REQUEST = {"id": "a", "action": "disable", "note": "n", "expires": 1500.0}
OURS = {"format": 1, "run": "r1", "requests": [REQUEST]}


def text(content):
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def endless(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


NOT_OURS = [
    (text(b"{"), "no JSON"),
    (text(b"\x00\xff"), "no JSON"),
    (text(b"[" * 60_000), "too deeply"),
    (text(b"9" * 5_000), "no JSON"),
    (text([]), "no file of ours"),
    (text({**OURS, "format": 2}), "format 2"),
    (text({**OURS, "requests": "all", "taken": {}}), "no file of ours"),
    (text({"format": 1, "run": "r1"}), "no file of ours"),
    (text({**OURS, "more": "x" * 70_000}), "larger"),
    (endless, "larger"),
    (os.mkfifo, "a pipe"),
    (lambda path: path.symlink_to("/dev/zero"), "a device"),
    (lambda path: path.symlink_to(path), "symbolic links"),
    (lambda path: path.mkdir(), "directory"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("make", "said"), [*NOT_OURS, (text({**OURS, "run": "other\x1b[2J"}), r"run 'other\x1b[2J'")])
def test_a_file_that_is_not_ours_is_ignored_with_one_warning(tmp_path, clock, caplog, make, said):
    make(tmp_path / CONTROL)
    control = control_file(tmp_path, clock)
    for _ in range(3):
        assert control.poll() == []
        clock.sleep(1.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert said in caplog.text
    assert "\x1b" not in caplog.text
    assert not (tmp_path / ACKNOWLEDGEMENT).exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("make", "said"), NOT_OURS)
def test_an_answer_that_is_not_ours_is_ignored_with_one_warning(tmp_path, clock, caplog, make, said):
    make(tmp_path / ACKNOWLEDGEMENT)
    put(tmp_path)
    control = control_file(tmp_path, clock)
    assert [request.id for request in control.poll()] == ["a"], "an emergency is not to wait for a broken receipt"
    warnings = [record.getMessage() for record in caplog.records]
    assert said in warnings[0]
    if (tmp_path / ACKNOWLEDGEMENT).is_dir():
        assert "cannot be acknowledged" in warnings.pop()
    else:
        assert json.loads((tmp_path / ACKNOWLEDGEMENT).read_text())["taken"] == ["a"], "and is replaced"
    assert len(warnings) == 1
    assert Switch(tmp_path, "r1", clock=clock, sleep=clock.sleep).ask("enable", "n", timeout=0.0) is False


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("x", "malformed"),
        (None, "malformed"),
        ({**REQUEST, "more": 1}, "malformed"),
        ({"id": "b"}, "malformed"),
        ({**REQUEST, "id": "b" * 65}, "malformed"),
        ({**REQUEST, "id": ["b"]}, "malformed"),
        ({**REQUEST, "note": None}, "malformed"),
        ({**REQUEST, "action": "__init__"}, "'__init__'"),
        ({**REQUEST, "action": ["disable"]}, "malformed"),
        ({**REQUEST, "expires": "soon"}, "no time of a clock"),
        ({**REQUEST, "expires": True}, "no time"),
        ({**REQUEST, "expires": float("inf")}, "no time"),
        ({**REQUEST, "expires": float("nan")}, "no time"),
        ({**REQUEST, "expires": 10**400}, "no time"),
    ],
)
def test_a_request_that_is_not_understood_holds_up_no_other(tmp_path, clock, caplog, request_, said):
    """An operator with another version must not be in the way of an emergency."""
    good = {**REQUEST, "id": "good"}
    text({**OURS, "requests": [request_, good]})(tmp_path / CONTROL)
    assert [request.id for request in control_file(tmp_path, clock).poll()] == ["good"]
    assert len(caplog.records) == 1
    assert said in caplog.text
    assert len(caplog.text) < 1000


def test_one_request_twice_in_a_file_is_one(tmp_path, clock):
    text({**OURS, "requests": [REQUEST, REQUEST]})(tmp_path / CONTROL)
    assert len(control_file(tmp_path, clock).poll()) == 1


def test_a_long_note_is_cut_and_not_in_the_way(tmp_path, clock):
    put(tmp_path, note="x" * 50_000)
    [request] = control_file(tmp_path, clock).poll()
    assert request.note == "x" * 999 + "…"


def test_more_requests_than_can_be_meant_are_not_all_carried_out(tmp_path, clock, caplog):
    text({**OURS, "requests": [{**REQUEST, "id": str(i)} for i in range(200)]})(tmp_path / CONTROL)
    control = control_file(tmp_path, clock)
    assert [request.id for request in control.poll()] == [str(i) for i in range(32)]
    assert "more than 32" in caplog.text
    assert control_file(tmp_path, clock).poll() == [], "and what was taken is known to the next process"


def test_a_file_that_is_always_wrong_in_another_way_does_not_fill_the_log(tmp_path, clock, caplog):
    control = control_file(tmp_path, clock)
    for i in range(50):
        (tmp_path / CONTROL).write_text(json.dumps({**OURS, "run": f"r{i + 2}"}))
        assert control.poll() == []
        clock.sleep(1.0)
    assert len(caplog.records) == 5


def test_a_file_that_may_not_be_read_is_read_once_it_may(tmp_path, clock, caplog, monkeypatch):
    module = "keras_adaptive_weights.operating.control.read_regular"
    put(tmp_path)
    control = control_file(tmp_path, clock)

    def refuse(path, most):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as refused:
        refused.setattr(module, refuse)
        for _ in range(3):
            assert control.poll() == []
            clock.sleep(1.0)
    assert caplog.text.count("Permission denied") == 1
    assert len(control.poll()) == 1


def test_damaged_control_files_neither_stop_nor_hold_up_a_training(tmp_path, seeds):
    request = {"id": "b" * 32, "action": "rollback", "note": "asked for by ann@host: clipping", "expires": 1600.5}
    whole = {
        CONTROL: json.dumps({**OURS, "requests": [REQUEST, request]}, indent=1).encode(),
        ACKNOWLEDGEMENT: json.dumps({"format": 1, "run": "r1", "taken": ["c" * 32, "d" * 32]}, indent=1).encode(),
    }
    for seed in seeds:
        for name, data in whole.items():
            (tmp_path / name).write_bytes(mutated(data, seed))
        taken = control_file(tmp_path, Clock()).poll()
        assert {r.action for r in taken} <= {"disable", "enable", "rollback"}, seed
        assert all(len(r.note) <= 1000 and len(r.id) <= 64 and r.expires >= 1000.0 for r in taken), seed
        assert Switch(tmp_path, "r1", clock=Clock(), sleep=None).ask("disable", "n", timeout=0.0) is False


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
    assert "cannot be acknowledged" in caplog.text
