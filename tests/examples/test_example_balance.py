"""The comparison of balances: its problems, contestants, results and report, and a run of a few steps."""

from __future__ import annotations

import math

import balance
import numpy as np
import pytest
from balance_problems import results
from balance_problems.grid import CONTESTANTS, PROBLEMS, Cell, cells
from balance_problems.report import log_ratios, report
from balance_problems.results import ResultsError, Row


def row(problem="toy2", contestant="share", seed=1, score=0.5, steps=2500):
    return Row(problem, contestant, seed, steps, score, "a_loss=2", 3, 4.0)


def test_every_seed_has_each_contestant_on_each_problem_it_can_be_tried_on():
    whole = cells(list(PROBLEMS), list(CONTESTANTS), 5)
    assert len(whole) == len(set(whole)) == 5 * (8 * 6 + 2)
    assert [cell.contestant for cell in whole if cell.problem == "vae-1.5"] == ["constraint"] * 5
    assert {cell.seed for cell in whole[: len(whole) // 5]} == {1}


def test_rows_come_back_and_one_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "new" / "balance.csv"
    assert results.read(path) == []
    rows = [row(), row("vae-1.5", "constraint", 2, 0.03)]
    for one in rows:
        results.append(path, one)
    assert results.read(path) == rows
    whole = path.read_text()
    path.write_text(whole[:-7])
    assert results.read(path) == rows[:1]
    results.append(path, rows[1])
    assert path.read_text() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "another header"),
        ("HEADER\ntoy2,share,1\n", "line 2 is no row"),
        ("HEADER\ntoy9,share,1,10,0.5,,0,1\n", "line 2: unknown problem"),
        ("HEADER\ntoy2,share,x,10,0.5,,0,1\n", "line 2 is no row"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, capsys, text, message):
    path = tmp_path / "balance.csv"
    results.append(path, row())
    path.write_text(text.replace("HEADER\n", path.read_text().splitlines(keepends=True)[0]))
    with pytest.raises(ResultsError, match=message):
        results.read(path)
    assert balance.main(["--report", "--csv", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_the_report_compares_seed_by_seed_in_percent(tmp_path, capsys):
    scores = {"equal": (0.4, 0.5), "share": (0.2, 0.3), "dwa": (0.4, 0.5)}
    rows = [row("toy2", name, seed, score) for name, two in scores.items() for seed, score in enumerate(two, 1)]
    rows.append(row("toy2", "share", 3, 0.1))  # without a partner
    rows += [row("vae-1.5", "constraint", seed, score) for seed, score in enumerate((0.01, 0.034), 1)]
    assert log_ratios(rows, "toy2", "share") == pytest.approx([math.log(0.5), math.log(0.6)])
    text = report(rows)
    assert "| GradientShare() | 3 | 0.2 | **-45.2 %**" in text
    assert "-50.0, -40.0 (median -45.2)" in text
    assert "| DWA | 2 | 0.45 | **+0.0 %** [+0.0, +0.0]" in text
    assert "| Constraint | 2 | 2.2 % |  | worst 3.4 % | every seed 5 % |" in text
    path = tmp_path / "balance.csv"
    for one in rows:
        results.append(path, one)
    assert balance.main(["--report", "--csv", str(path)]) == 0
    assert capsys.readouterr().out == f"{text}\n"


def test_no_results_are_told(tmp_path, capsys):
    assert balance.main(["--report", "--csv", str(tmp_path / "none.csv")]) == 2
    assert "Train first" in capsys.readouterr().err


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch):
    """Equal weights are always there to compare with; other numbers of steps are other runs."""
    path, asked = tmp_path / "balance.csv", []
    results.append(path, row("toy2", "share", 1, steps=20))
    results.append(path, row("toy2", "share", 2, steps=30))

    def trained(left, steps, folder, workers, *, runner):
        asked.extend(left)
        return (row(cell.problem, cell.contestant, cell.seed, steps=steps) for cell in left)

    monkeypatch.setattr(balance, "run_all", trained)
    arguments = ["--csv", str(path), "--problems", "toy2", "--contestants", "share", "--seeds", "2", "--steps", "20"]
    assert balance.main(arguments) == 0
    assert asked == [Cell("toy2", "equal", 1), Cell("toy2", "equal", 2), Cell("toy2", "share", 2)]
    asked.clear()
    assert balance.main(arguments) == 0
    assert asked == []


def test_the_derivatives_of_the_equation_are_those_of_the_function():
    """Against tapes within tapes."""
    import tensorflow as tf
    from balance_problems.problems import WithDerivatives, _seeds

    layers = [WithDerivatives(6), WithDerivatives(1, bends=False)]
    points = tf.constant(np.random.default_rng(1).uniform(-1, 1, (7, 2)).astype("float32"))

    def value(points):
        parts = _seeds(points)
        for layer in layers:
            parts = layer(parts)
        return parts

    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            u = value(points)[:, 0, 0]
        slope = inner.gradient(u, points)
    parts, second = value(points)[..., 0], outer.batch_jacobian(slope, points)
    np.testing.assert_allclose(parts[:, 1:3], slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts[:, 3], second[:, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts[:, 4], second[:, 1, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("graphs_as_traced")
@pytest.mark.parametrize(
    ("problem", "contestant"),
    [
        ("toy2-noise", "dwa"),
        ("toy3", "guide"),
        ("digits", "share"),
        ("helmholtz", "inverse"),
        ("vae-1.5", "constraint"),
    ],
)
def test_a_run_of_a_few_steps_has_a_score(problem, contestant):
    from balance_problems.training import run

    done = run(Cell(problem, contestant, 1), 20)
    assert (done.cell, done.steps) == (Cell(problem, contestant, 1), 20)
    assert math.isfinite(done.score)
    assert bool(done.weights) is (contestant not in ("dwa", "inverse"))
