"""The command line of the main example: what is refused at once, and how steps become epochs."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import train_xtts
from xtts_demo import options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: expected a whole number of at least 1; received '0'"),
        (["--steps", "many"], "received 'many'"),
        (["--epochs", "-1"], "argument --epochs: expected a whole number"),
        (["--batch-size", "2.5"], "argument --batch-size"),
        (["--learning-rate", "0"], "argument --learning-rate: expected a number above 0; received '0'"),
        (["--learning-rate", "nan"], "argument --learning-rate"),
        (["--steps-per-execution", "0"], "argument --steps-per-execution"),
        (["--seed", "-3"], "argument --seed"),
        (["--max-seconds", "inf"], "argument --max-seconds"),
        (["--inject", "nan150"], "argument --inject: expected nan@STEP or spike@STEP"),
        (["--inject", "nan@361"], "argument --inject: nan@361 is beyond the last step, 360"),
        (["--steps", "50", "--inject", "nan@20,spike@51"], "spike@51 is beyond the last step, 50"),
        (["--resume"], "argument --resume: which run? Give its folder with --log-dir"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_values_are_refused_at_once(arguments, message, capsys):
    """With code 2 and a message that names the option, before anything heavy is imported."""
    with pytest.raises(SystemExit) as stopped:
        train_xtts.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused(tmp_path, capsys):
    """Runs are never mixed."""
    journal = tmp_path / "adaptive_weights" / "journal.jsonl"
    journal.parent.mkdir()
    journal.write_text("")
    with pytest.raises(SystemExit):
        train_xtts.main(["--log-dir", str(tmp_path)])
    assert "holds a run already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_xtts.main(["--log-dir", str(journal)])
    assert "is no folder" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    """And says what the example is."""
    with pytest.raises(SystemExit) as stopped:
        train_xtts.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        *("--steps", "--epochs", "--batch-size", "--learning-rate", "--steps-per-execution", "--jit", "--inject"),
        *("--data", "--cache-dir", "--max-seconds", "--max-clips", "--seed", "--log-dir", "--resume", "--quiet"),
    ):
        assert option in shown


def test_a_missing_package_is_named_with_the_remedy(tmp_path):
    """No traceback where an optional package is not installed."""
    script = Path(train_xtts.__file__)
    code = (
        f"import sys; sys.path.insert(0, {str(script.parent)!r}); sys.modules['espeakng_loader'] = None\n"
        f"import train_xtts; sys.exit(train_xtts.main(['--cache-dir', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert 'espeakng_loader not installed: pip install "keras-adaptive-weights[examples]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("steps", "epochs", "execution", "passes_of", "expected"),
    [
        pytest.param(None, None, 1, 18, (8, 45), id="default"),
        pytest.param(None, None, 8, 18, (5, 72), id="default with executions of 8"),
        pytest.param(350, None, 1, 18, (7, 50), id="steps alone come out exactly"),
        pytest.param(97, None, 1, 18, (1, 97), id="a prime number of steps is one epoch"),
        pytest.param(3, None, 1, 18, (3, 1), id="fewer steps than epochs"),
        pytest.param(100, 3, 1, 18, (3, 34), id="both, rounded up"),
        pytest.param(30, None, 8, 18, (4, 8), id="rounded up to executions"),
        pytest.param(None, 3, 1, 18, (3, 18), id="epochs alone are passes"),
        pytest.param(None, 3, 4, 18, (3, 20), id="passes rounded up to executions"),
    ],
)
def test_steps_become_epochs(steps, epochs, execution, passes_of, expected):
    """Never fewer steps than asked for, whole executions only."""
    given = argparse.Namespace(steps=steps, epochs=epochs, steps_per_execution=execution)
    plan = options.make_plan(given, passes_of)
    assert (plan.epochs, plan.steps_per_epoch) == expected
    assert plan.steps >= (steps or 0)
    assert plan.steps_per_epoch % execution == 0


def test_the_cache_follows_the_users_setting(monkeypatch, tmp_path):
    """`XDG_CACHE_HOME` first, else the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert options.default_cache_dir() == tmp_path / "keras-adaptive-weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert options.default_cache_dir() == tmp_path / "home" / ".cache" / "keras-adaptive-weights"
