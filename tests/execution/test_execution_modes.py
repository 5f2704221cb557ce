"""The same training in every execution mode: a part of what `tests/execution/matrix.py` and `two_processes.py` do."""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

import checks
import keras_losses
import matrix
import modes
import processes
import pytest
import two_processes

FOLDER = Path(__file__).parent


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning"),  # a tf.data.Dataset keeps its order
]


trained = functools.cache(checks.train)


@pytest.mark.parametrize("mode", modes.few(), ids=str)
def test_one_device(mode):
    """Parameters as plain Keras's, telemetry as by hand, decisions as the controller's, no trace of a bad batch."""
    of_keras = mode.losses == "Keras's"
    found = keras_losses.check_of_keras(mode) if of_keras else checks.check(mode, trained(mode))
    assert [check for check in found if not check.passed] == []


def test_two_replicas():
    """Devices are split before TensorFlow begins: in a process of its own."""
    done = processes.run([sys.executable, FOLDER / "matrix.py", "--quick", "--only", "two replicas"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "| 1 |" in done.stdout


def test_two_processes(capsys):
    """And what both can do for each other, which `two_processes.py` says."""
    assert two_processes.main(["--quick"], start=processes.Program) == 0, capsys.readouterr()
    assert "| 1 |" in capsys.readouterr().out


def test_a_deviation_is_noticed():
    """The checks find a parameter that is off, a step that was lost, and a decision that was not taken."""
    mode = next(mode for mode in modes.few() if mode.execution == "graph")
    run = trained(mode)
    off = [run.parameters[0] + 1e-3, *run.parameters[1:]]
    decided = [(*d[:3], "hold", "within_band", d[5]) for d in run.decisions]
    for spoilt, what in [
        (run._replace(parameters=off), "parameters"),
        (run._replace(rows=run.rows[1:]), "telemetry"),
        (run._replace(rows=[(terms, total, 2.0 * norm, ok) for terms, total, norm, ok in run.rows]), "telemetry"),
        (run._replace(decisions=decided), "decisions"),
        (run._replace(changed=["kernel"]), "bad batch"),
        (run._replace(culprit=None), "bad batch"),
    ]:
        assert what in [check.what for check in checks.check(mode, spoilt) if not check.passed]
    assert all(check.passed for check in checks.check(mode, run))


def test_a_deviation_of_a_balance_is_noticed():
    """A norm that is off, one that was not measured, and a decision that was not taken."""
    mode = next(mode for mode in modes.few() if mode.losses == "balanced")
    run = trained(mode)
    (step, norms), *later = run.norms
    decided = [(*d[:3], "hold", "on_target", d[5]) for d in run.decisions]
    for spoilt, what in [
        (run._replace(norms=[(step, norms | {"stop_loss": 1.01 * norms["stop_loss"]}), *later]), "telemetry"),
        (run._replace(norms=later), "telemetry"),
        (run._replace(decisions=decided), "decisions"),
    ]:
        assert what in [check.what for check in checks.check(mode, spoilt) if not check.passed]
    assert all(check.passed for check in checks.check(mode, run))


def test_the_matrix_is_the_one_that_was_asked_for():
    """Every execution x steps x dtype x optimizer x accumulation x clipping on one device; eight on the others."""
    every = modes.one_device()
    asked = itertools.product(
        ("eager", "graph", "xla"),
        (1, 8),
        ("float32", "mixed_bfloat16", "mixed_float16"),
        ("sgd", "adam"),
        (None, 4),
        (None, 1.0),
    )
    assert [tuple(mode[:6]) for mode in every] == list(asked)
    of_keras = modes.one_device("Keras's")
    assert [mode._replace(losses="one of ours") for mode in of_keras] == every
    assert len({str(mode) for mode in [*every, *of_keras]}) == 2 * len(every) == 288
    of_a_balance = modes.of_a_balance()
    for field in ("execution", "steps", "dtype", "optimizer", "accumulation", "clipnorm"):
        assert {getattr(mode, field) for mode in of_a_balance} == {getattr(mode, field) for mode in every}
    assert {(mode.execution, mode.dtype) for mode in of_a_balance} >= {
        (execution, "float32") for execution in ("eager", "graph", "xla")
    }
    for machine in ("two replicas", "two processes"):
        settings = {(m.execution, m.steps, m.dtype, m.optimizer, m.accumulation, m.clipnorm) for m in every}
        chosen = modes.replicas(machine)
        assert {m[:6] for m in chosen} == {s for s in settings if s[:3] == ("graph", 1, "float32")}


def test_results_are_kept_and_gone_on_from(tmp_path, monkeypatch, capsys):
    """Each mode is in the file when it is done; what is there is not run again, a deviation included."""
    calls, chosen = [], modes.few()[:3]

    def train(mode, strategy):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(mode)

    monkeypatch.setattr(matrix, "train", train)
    monkeypatch.setattr(matrix, "check", lambda mode, run: [checks.Check("parameters", float("inf"), 1e-5)])
    path = tmp_path / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(matrix.run(chosen, results=matrix.Results(path)))
    assert calls == chosen[:2]
    calls.clear()
    found = list(matrix.run(chosen, results=matrix.Results(path)))
    assert calls == chosen[2:]
    assert [mode for mode, _ in found] == chosen
    assert not any(check.passed for _, found_checks in found for check in found_checks)
    assert "FAILED parameters (inf)" in capsys.readouterr().err
