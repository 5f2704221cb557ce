"""The command line: what it prints, for people and machines, and its exit codes; and it imports no TensorFlow."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from dashboard_runs import RunMaker, eventful_run, hostile_run

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.journal.reader import read_journal
from keras_adaptive_weights.operating.command_line import main
from keras_adaptive_weights.operating.control import CONTROL, ControlFile
from keras_adaptive_weights.recording.what_if import parse_settings, what_if


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return eventful_run(tmp_path_factory.mktemp("cli") / "run", steps=1200)


@pytest.fixture
def folder(run):
    return str(run.journal.parent.parent)


def called(capsys, *arguments):
    """Run the command line in this process; return exit code, output and errors."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_module_starts_quickly_and_without_tensorflow(folder):
    code = (
        "import sys, time; begin = time.process_time()\n"
        "from keras_adaptive_weights.operating.command_line import main; main(sys.argv[1:]);"
        "print(time.process_time() - begin, sorted({m.split('.')[0] for m in sys.modules} &"
        " {'tensorflow', 'keras', 'matplotlib', 'numpy', 'tensorboard'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", folder], capture_output=True, text=True, check=True, timeout=60
    )
    seconds, modules = done.stdout.splitlines()[-1].split(" ", 1)
    assert modules == "[]"
    assert float(seconds) < 0.5


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_wait_for_nothing_that_a_command_needs(option):
    code = (
        "import sys\nfrom keras_adaptive_weights.operating.command_line import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print({m for m in sys.modules if m.startswith('keras_adaptive_weights.')})"
    )
    done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True, timeout=60)
    light = {"deciding", "former_names", "operating", "registration", "version"}
    light |= {"deciding.named_balance", "deciding.printable", "operating.command_line"}
    assert eval(done.stdout.splitlines()[-1]) == {f"keras_adaptive_weights.{name}" for name in light}


def test_it_runs_as_a_module(folder):
    done = subprocess.run(
        [sys.executable, "-m", "keras_adaptive_weights", "report", folder, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["last"] == 1200


@pytest.mark.parametrize("command", ["report", "replay", "disable", "enable", "rollback", "status"])
def test_every_command_has_help(capsys, command):
    code, out, _ = called(capsys, command, "--help")
    assert code == 0
    assert "Exit codes: 0 done, 1 failed or not taken by the process, 2 wrong usage." in " ".join(out.split())
    assert "--json" in out


@pytest.mark.parametrize(
    "arguments",
    [(), ("explode",), ("disable", "."), ("status",), ("disable", ".", "--reason", "x", "--timeout", "-1")],
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    code, _, err = called(capsys, *arguments)
    assert code == 2
    assert "usage:" in err


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e400", "abc"])
def test_a_timeout_that_is_none_is_named(capsys, seconds):
    _, _, err = called(capsys, "disable", ".", "--reason", "x", "--timeout", seconds)
    assert err.endswith(f"--timeout: must be a number between 0 and 86400, received {seconds}\n")


@pytest.mark.parametrize("arguments", [("report",), ("status",), ("replay",), ("disable", "--reason", "x")])
def test_where_no_run_is_it_fails_with_one_line(capsys, tmp_path, arguments):
    code, out, err = called(capsys, arguments[0], tmp_path, *arguments[1:])
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "no adaptive_weights/journal.jsonl in" in err


def test_report_writes_picture_and_page(capsys, folder, tmp_path):
    png, page = tmp_path / "run.png", tmp_path / "run.html"
    code, out, _ = called(capsys, "report", folder, "--png", png, "--html", page)
    assert code == 0
    assert "Why the weight moved" in out
    assert "\x1b" not in out, "no colours where it is no terminal"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_status_of_a_run_that_ended(capsys, folder, run):
    _, out, _ = called(capsys, "status", folder)
    assert "ended" in out
    assert "1,200" in out
    code, out, _ = called(capsys, "status", folder, "--json")
    values = json.loads(out)
    assert code == 0
    assert (values["process"], values["last"], values["weight"]) == ("ended", 1200, run.state.weight)
    assert values["last_decision"]["step"] == run.events[-1].step


def test_status_of_a_run_that_was_killed_and_is_disabled(capsys, tmp_path):
    maker = RunMaker(tmp_path).observe(10).by_hand("disable", "fire drill").flush().close()
    text = maker.journal.read_text()
    maker.journal.write_text(text[: text.index('{"kind": "end"')])
    os.utime(maker.journal, (time.time() - 3600, time.time() - 3600))
    _, out, _ = called(capsys, "status", tmp_path)
    assert "no sign of life for 60 min: killed or stuck" in out
    assert "disabled" in out
    assert "(fire drill)" in out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [("report",), ("status",), ("replay",), ("disable", "--reason", "x")])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_in_a_journals_place_is_one_line(capsys, tmp_path, command, make):
    (tmp_path / "adaptive_weights").mkdir()
    make(journal := tmp_path / "adaptive_weights" / "journal.jsonl")
    for path in (tmp_path, journal):
        code, out, err = called(capsys, command[0], path, *command[1:])
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert "journal.jsonl" in err


@pytest.mark.parametrize("command", ["status", "report"])
def test_what_a_journal_says_is_shown_and_not_obeyed(capsys, tmp_path, command):
    hostile_run(tmp_path)
    code, out, _ = called(capsys, command, tmp_path)
    assert code == 0
    assert r"\x1b]0;OWNED\x07\x1b[2J\nprocess     training\r\u202egnp\u2066 \ud83d<img" in out
    assert [c for c in out if not c.isprintable() and c != "\n"] == []
    assert not [line for line in out.splitlines() if line.startswith("process") and line.endswith("training")]


def test_an_error_that_quotes_a_path_is_shown_and_not_obeyed(capsys, tmp_path):
    code, _, err = called(capsys, "report", tmp_path / "a\x1b[2J\nb")
    assert code == 1
    assert err.count("\n") == 1
    assert r"\x1b[2J" in err


def test_a_terminal_that_cannot_write_all_characters_is_no_error(tmp_path):
    RunMaker(tmp_path).observe(100).by_hand("disable", "صدا خراب است").close()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "keras_adaptive_weights", "report", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    assert r"\u0635\u062f\u0627" in done.stdout


@pytest.mark.parametrize(
    "error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set"), ImportError]
)
def test_a_user_without_a_name_can_switch(capsys, tmp_path, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("getpass.getuser", fail)
    with Trainer(tmp_path) as trainer:
        code, _, _ = called(capsys, "disable", tmp_path, "--reason", "r" * 2000)
    assert code == 0
    note = trainer.maker.events[-1].note
    assert note.startswith(f"asked for by uid {os.getuid()}@")
    assert note.endswith("r…")
    assert len(note) == 1000


class Trainer:
    """A training process as far as the switch is concerned: executions, a look at the control file after each."""

    def __init__(self, folder, **options):
        self.maker = RunMaker(folder, **options).observe(200)
        control = ControlFile(self.maker.journal.with_name(CONTROL), self.maker.run, interval=0.05)
        self._over = threading.Event()

        def train():
            while not self._over.wait(0.005):
                self.maker.observe(1)
                for request in control.poll():
                    self.maker.by_hand(request.action, request.note)

        self._thread = threading.Thread(target=train)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self._thread.join()
        self.maker.close()


def test_a_training_process_takes_what_an_operator_asks_for(capsys, tmp_path):
    with Trainer(tmp_path) as trainer:
        code, out, _ = called(capsys, "disable", tmp_path, "--reason", "clipping", "--by", "ann", "--json")
        event = json.loads(out)["event"]
        assert (code, event["action"], event["new_weight"]) == (0, "disable", 2.5)
        assert event["note"] == "asked for by ann: clipping"
        _, out, _ = called(capsys, "status", tmp_path)
        assert "training" in out
        assert "disabled" in out
        code, out, _ = called(capsys, "enable", tmp_path, "--reason", "fixed")
        assert code == 0
        assert out.startswith("done: step")
        code, out, _ = called(capsys, "rollback", tmp_path, "--reason", "sounds worse")
        assert code == 1, "there is nothing to roll back after an enable"
        assert "refused" in out
    assert [event.action for event in trainer.maker.events][-3:] == ["disable", "enable", "reject"]


def test_a_process_that_does_not_answer_is_exit_code_1(capsys, folder):
    code, out, err = called(capsys, "disable", folder, "--reason", "x", "--timeout", "0.3")
    assert (code, out) == (1, "")
    assert "Not taken within 0.3 s" in err
    assert "remote_control=False" in err


def test_replay_reproduces_the_record(capsys, folder, run):
    code, out, _ = called(capsys, "replay", folder)
    assert code == 0
    assert "reproduces the record exactly" in out
    _, out, _ = called(capsys, "replay", run.journal, "--json")
    values = json.loads(out)
    assert values["same"] is True
    assert len(values["decided"]) == len(run.events)


def test_a_record_that_cannot_be_reproduced_is_exit_code_1(capsys, tmp_path):
    maker = RunMaker(tmp_path).observe(600).close()
    event = json.dumps(maker.events[0].new_weight)
    maker.journal.write_text(maker.journal.read_text().replace(f'"new_weight": {event}', '"new_weight": 3.0'))
    code, out, _ = called(capsys, "replay", tmp_path)
    assert code == 1
    assert "differs from the record" in out


def test_what_if_sets_both_sides_side_by_side_and_says_what_it_cannot_tell(capsys, folder, tmp_path):
    png = tmp_path / "what_if.png"
    code, out, _ = called(
        capsys, "replay", folder, "--set", "cooling_period=90", "--set", "max_change_percent=0.02", "--png", png
    )
    assert code == 0
    assert "cooling_period: 30 -> 90" in out
    assert "measured under the weights of the recorded run" in " ".join(out.split())
    assert png.stat().st_size > 5000
    sides = [line for line in out.splitlines() if "manual" in line and "disable" in line]
    assert len(sides) == 1, "what was asked for by hand happens on both sides at the same step"
    assert sides[0].count("600 disable 2.5 manual") == 2


@pytest.mark.parametrize("setting", ["bogus=1", "cooling_period", "cooling_period=x", "cooling_period=0", "enabled=7"])
def test_a_wrong_setting_is_exit_code_2(capsys, folder, setting):
    code, _, err = called(capsys, "replay", folder, "--set", setting)
    assert code == 2
    assert setting.split("=")[0] in err


def test_settings_are_read_as_their_own_type():
    config = parse_settings(
        ["cooling_period=70", "gradient_norm_threshold=none", "enabled=false", "significance=3"], AdaptiveWeightConfig()
    )
    assert (config.cooling_period, config.gradient_norm_threshold, config.enabled) == (70, None, False)
    assert config.significance == 3.0


def test_a_what_if_leaves_out_what_a_resume_superseded(tmp_path):
    maker = RunMaker(tmp_path).observe(400)
    state = maker.state
    maker.observe(300).by_hand("disable", "superseded").resume(state).observe(400).close()
    result = what_if(read_journal(maker.journal))
    assert result.same
    assert "superseded" not in [event.note for event in result.recorded]
    assert result.path[-1][1] == maker.state.weight


def test_colours_only_on_a_terminal_and_not_against_the_operators_will(monkeypatch):
    from keras_adaptive_weights.operating.text import Style

    class Stream:
        def __init__(self, terminal):
            self.isatty = lambda: terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style.of(Stream(True)).bold
    assert not Style.of(Stream(False)).bold
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Stream(True)).bold


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    done = subprocess.run(
        f'"{sys.executable}" -m keras_adaptive_weights replay "{folder}" --json | head -c 10',
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
