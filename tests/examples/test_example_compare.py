"""The comparison: what is compared, one run, the file of results, the arithmetic, the report, and the whole of it."""

import itertools
import math
import os
import random
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import compare
import numpy as np
import pytest
from compare_grid import grid, inference, pool, results
from compare_grid.grid import ADAPTIVE, AUTO, EARLIER, FIXED, PLAIN, SHARE, TERMINATE, Cell, Settings
from compare_grid.inference import Verdict
from compare_grid.report import report
from compare_grid.results import Row


def row(scenario="clean", contestant=PLAIN, seed=1, **values):
    """Return a row of a run without incident."""
    usual = {
        "settings": Settings().label,
        "steps_done": 400,
        "finite": True,
        "val_mel_l1": 0.5,
        "val_total": 1.0,
        "end_weight": 2.5,
        "largest_change": 0.0,
        "changes": 0,
        "rollbacks": 0,
        "skipped": 0,
        "step_cpu_ms": 20.0,
        "mel_share": 0.5,
    }
    return Row(scenario=scenario, contestant=contestant, seed=seed, **{**usual, **values})


# What is compared


def test_the_grid_is_every_contestant_in_every_scenario_seed_by_seed():
    """245 runs, none twice, and the first fifth of them is the whole grid of the first seed."""
    whole = grid.cells(list(grid.SCENARIOS), list(grid.CONTESTANTS), seeds=5)
    assert len(whole) == len(set(whole)) == 245
    assert {cell.seed for cell in whole[:49]} == {1}


@pytest.mark.parametrize(
    ("scenario", "steps", "kind", "count"),
    [("nan", 400, "nan", 4), ("spike", 400, "spike", 4), ("nan", 6, "nan", 1), ("clean", 400, None, 0)],
)
def test_a_hundredth_of_the_batches_is_bad(scenario, steps, kind, count):
    """At least one; within the run; the same again for the same seed, others for another."""
    faults = grid.fault_steps(scenario, 1, steps)
    assert len(faults) == count
    assert set(faults.values()) <= {kind}
    assert all(1 <= step <= steps for step in faults)
    assert faults == grid.fault_steps(scenario, 1, steps)
    if count > 1:
        assert len({tuple(grid.fault_steps(scenario, seed, steps)) for seed in range(5)}) == 5


@pytest.mark.parametrize("steps", [6, 120, 400])
def test_the_surge_lasts_a_twentieth_within_the_middle_of_the_run(steps):
    """Only in its scenario, at another place for another seed."""
    surges = [grid.surge_steps("surge", seed, steps) for seed in range(40)]
    assert {len(surge) for surge in surges} == {max(1, round(steps / 20))}
    assert all(surge.start > steps // 4 and surge.stop <= 1 + max(3 * steps // 4, 1 + steps // 4) for surge in surges)
    assert len(set(surges)) > min(2, steps // 10)
    assert len(grid.surge_steps("clean", 1, steps)) == 0


def test_the_rate_is_ten_times_as_high_in_the_surge_only():
    """Beside that it is the calm one."""
    from compare_grid.contestants import SurgingRate

    settings = Settings(steps=100)
    surging, calm = SurgingRate(settings, range(40, 45)), SurgingRate(settings, range(0))
    ratios = [float(surging(taken) / calm(taken)) for taken in range(99)]
    assert [step for step, ratio in enumerate(ratios, 1) if ratio == pytest.approx(10.0)] == [40, 41, 42, 43, 44]
    assert all(ratio == 1.0 for step, ratio in enumerate(ratios, 1) if step not in range(40, 45))


@pytest.fixture
def small_network(monkeypatch):
    """A network that takes little time, with the outputs of the speech model."""
    from compare_grid import contestants
    from small_speech import SmallSpeech

    monkeypatch.setattr(contestants, "XTTSModel", SmallSpeech)


@pytest.mark.usefixtures("small_network")
def test_the_contestants_of_a_seed_begin_alike():
    """The same parameters and dropout seeds to the last bit, and others with another seed; the base weight differs."""
    from compare_grid.contestants import build
    from xtts_demo.dataset import Shape

    def begin(contestant, seed, base_weight=2.5):
        model = build(contestant, base_weight, Shape(32, 16), Settings(width=16), range(0), seed)
        assert float(model.loss.mel_weight.variable) == pytest.approx(base_weight)
        return [variable.numpy() for variable in model.variables]

    first = begin(PLAIN, 1)
    for contestant, base_weight in ((EARLIER, 2.5), (ADAPTIVE, 5.0), (SHARE, 0.025)):
        for mine, theirs in zip(first, begin(contestant, 1, base_weight), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert any((mine != theirs).any() for mine, theirs in zip(first, begin(PLAIN, 2), strict=True))


def test_the_contestants_have_the_network_of_the_main_job():
    """With its outputs, for the shape of the batches."""
    from compare_grid.contestants import build
    from xtts_demo.dataset import Shape
    from xtts_demo.model import XTTSModel

    model = build(ADAPTIVE, 2.5, Shape(32, 16), Settings(width=16), range(0), 1)
    assert {name: output.shape for name, output in model.output.items()} == {
        "mel_output": (None, 32, 80),
        "stop_tokens": (None, 32),
        "attention_weights": (None, 8, 16),
        "duration_pred": (None, 16),
    }
    assert [type(layer) for layer in model.layers if layer.count_params()] == [XTTSModel]


def test_the_callbacks_make_the_contestant(tmp_path):
    """Nothing for the fixed weights."""
    import keras
    from compare_grid.contestants import callbacks

    import keras_adaptive_weights as kaw

    assert [type(callback) for callback in callbacks(TERMINATE, str(tmp_path))] == [keras.callbacks.TerminateOnNaN]
    assert [type(callback) for callback in callbacks(ADAPTIVE, str(tmp_path))] == [kaw.AdaptiveMelWeightCallback]
    assert [type(callback) for callback in callbacks(SHARE, str(tmp_path))] == [kaw.AdaptiveWeightCallback]
    assert [callbacks(contestant, str(tmp_path)) for contestant in (PLAIN, EARLIER, FIXED)] == [[], [], []]


def test_a_balance_begins_where_all_others_do_and_has_room():
    """Of a weight a hundred times too low, the guide's rule has as much."""
    from compare_grid.contestants import loss

    losses = {contestant: loss(contestant, 0.025) for contestant in grid.CONTESTANTS}
    assert {made.mel_weight.weight for made in losses.values()} == {0.025}
    for contestant in (ADAPTIVE, SHARE, AUTO):
        config = losses[contestant].mel_weight.config
        assert (config.min_weight, config.max_weight) == (pytest.approx(0.00025), pytest.approx(2.5))
    wide = loss(SHARE, 0.025, room=1000.0).mel_weight.config
    assert (wide.min_weight, wide.max_weight) == (pytest.approx(0.000025), pytest.approx(25.0))
    assert losses[SHARE].balance.shares == {"mel_loss": 0.6}
    assert losses[AUTO].balance.shares is None
    assert [contestant for contestant, made in losses.items() if made.mel_weight.config.enabled] == [
        ADAPTIVE,
        SHARE,
        AUTO,
    ]


# The earlier rule and its faults


def earlier_weights(losses):
    """Return the weights of the earlier rule after each loss, beginning at 2.5."""
    import tensorflow as tf
    from compare_grid.earlier_rule import EarlierRule

    rule = EarlierRule(tf.Variable(2.5))
    return [rule.update(tf.constant(loss)) or float(rule.weight) for loss in losses]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([1.0], [2.5], id="the first loss is its own average"),
        pytest.param([1.0, 1.0, 1.0], [2.5, 2.5, 2.5], id="an even loss leaves it alone"),
        pytest.param([1.0, 0.9], [2.5, 2.5 * (1 + math.tanh(1 - 0.9 / 0.99))], id="the average contains the loss"),
        pytest.param([1.0, 0.5], [2.5, 3.0], id="a loss that fell raises its own weight by 20 % at once"),
        pytest.param([1.0, 2.0], [2.5, 2.0], id="a loss that rose lowers it as much"),
        pytest.param([1.0, 0.5, 0.3, 0.2, 0.1], [2.5, 3.0, 3.6, 4.32, 5.0], id="the factors multiply, up to 5"),
        pytest.param([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [2.5, 2.0, 1.6, 1.28, 1.024, 1.0], id="and down to 1"),
    ],
)
def test_the_earlier_rule_follows_its_description(losses, expected):
    """Step by step, from the second step on: no warmup, no cooling."""
    assert earlier_weights(losses) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_loss_makes_the_earlier_weight_nan_for_good(bad):
    """There is no check."""
    assert all(map(math.isnan, earlier_weights([1.0, bad, 1.0, 1.0])[2:]))


def test_the_earlier_rule_takes_noise_for_signal():
    """15 % of noise around a loss that stays where it is carries the weight from one bound to the other."""
    draw = random.Random(1)
    weights = earlier_weights([draw.lognormvariate(0.0, 0.15) for _ in range(400)])
    assert (min(weights), max(weights)) == (1.0, 5.0)
    changes = [max(a, b) / min(a, b) - 1.0 for a, b in itertools.pairwise(weights)]
    assert sum(change > 0.05 for change in changes) > 100


def test_validation_moves_the_earlier_weight(seeded):
    """And the mixin's does not move."""
    import keras
    from compare_grid.earlier_rule import EarlierRuleModel

    import keras_adaptive_weights as kaw

    def weight_after_evaluate(cls):
        inputs = keras.Input((4, 3))
        model = cls(inputs, {"mel_output": keras.layers.Dense(3)(inputs)})
        model.compile(loss=kaw.XTTSLoss())
        x = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
        model.evaluate(x, {"mel_target": x * np.linspace(1, 5, 8)[:, None, None]}, batch_size=1, verbose=0)
        return float(model.loss.mel_weight.variable)

    assert weight_after_evaluate(EarlierRuleModel) != 2.5
    assert weight_after_evaluate(kaw.StableModel) == 2.5


# One run, seen from outside


@pytest.mark.parametrize(
    ("weights", "largest", "changes"),
    [
        ([2.5], 0.0, 0),
        ([2.5, 2.5, 2.5], 0.0, 0),
        ([2.5, 2.625, 2.5, 2.5], 0.05, 2),
        ([2.5, 2.0, 2.1], 0.25, 2),
        ([2.5, math.nan, math.nan], math.nan, 1),
    ],
)
def test_changes_of_the_weight_are_counted_from_outside(weights, largest, changes):
    """Relative to the smaller of the two weights: 5 % up and back again are twice 5 %."""
    from compare_grid.training import count_changes, largest_change

    assert largest_change(weights) == pytest.approx(largest, nan_ok=True)
    assert count_changes(weights) == changes


@pytest.mark.parametrize(
    ("steps", "milliseconds"),
    [(30, math.nan), (61, 10.0), (121, 10.0)],
)
def test_the_time_of_a_step_leaves_out_the_first_ones_and_a_hiccup(monkeypatch, steps, milliseconds):
    """The first step takes 9 seconds, the others 10 ms, and one of them two seconds more."""
    import tensorflow as tf
    from compare_grid import training

    costs = [9.0] + [0.01] * steps
    if steps > 100:
        costs[45] += 2.0
    clock = iter(itertools.accumulate(costs, initial=0.0))
    monkeypatch.setattr(training, "time", types.SimpleNamespace(process_time=lambda: next(clock)))
    meter = training.Meter(tf.Variable(2.5))
    meter.set_model(types.SimpleNamespace(train_function=lambda iterator: iterator))
    meter.on_train_begin()
    assert [meter.model.train_function(step) for step in range(steps)] == list(range(steps))
    meter.look()
    assert (meter.steps, len(meter.weights)) == (steps, steps + 1)
    assert meter.step_cpu_ms() == pytest.approx(milliseconds, nan_ok=True)


# The file of results


def test_rows_come_back_from_the_file(tmp_path):
    """NaN and booleans too."""
    path = tmp_path / "new" / "results.csv"
    rows = [row(), row(contestant=EARLIER, finite=False, val_mel_l1=math.nan, largest_change=math.nan, seed=2)]
    for each in rows:
        results.append(path, each)
    back = results.read(path)
    assert back[0] == rows[0]
    assert repr(back[1]) == repr(rows[1])


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_row_gives_way(tmp_path, cut):
    """It is not read, and the next row replaces it."""
    path = tmp_path / "results.csv"
    for seed in (1, 2):
        results.append(path, row(seed=seed))
    path.write_bytes(path.read_bytes()[:-cut])
    assert [each.seed for each in results.read(path)] == [1]
    results.append(path, row(seed=3))
    assert [each.seed for each in results.read(path)] == [1, 3]


def test_a_torn_header_gives_way(tmp_path):
    """As after a power failure with the first row."""
    path = tmp_path / "results.csv"
    path.write_text("settings,scen")
    assert results.read(path) == []
    results.append(path, row())
    assert results.read(path) == [row()]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "a,b\n1,2\n", "is no file of results: expected the columns settings, scenario"),
        (lambda text: text.replace("True", "perhaps", 1), "line 2 is no row of results"),
        (lambda text: text.replace("clean", "dirty", 1), "line 2 is no row of results"),
        (lambda text: text.replace(",400,", ",", 1), "line 2 is no row of results"),
    ],
)
def test_what_is_no_row_is_named(tmp_path, capsys, spoil, message):
    """Code 2, and nothing is trained over it."""
    path = tmp_path / "results.csv"
    for seed in (1, 2):
        results.append(path, row(seed=seed))
    path.write_text(spoil(path.read_text()))
    assert compare.main(["--report", "--csv", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def trained(monkeypatch):
    """The runs that are asked for, instead of training them."""
    asked = []

    def pretend(cells, settings, cache_dir, workers):
        for cell in cells:
            asked.append(cell)
            yield row(cell.scenario, cell.contestant, cell.seed, settings=settings.label)

    monkeypatch.setattr(compare, "run_all", pretend)
    monkeypatch.setattr(compare, "find_clips", lambda cache_dir, settings: [])
    return asked


def test_a_rerun_goes_on_with_what_is_missing(tmp_path, capsys, trained):
    """A torn row is missing too; a third start has nothing to do."""
    path = tmp_path / "results.csv"
    arguments = ["--csv", str(path), "--seeds", "2", "--scenarios", "nan,clean", "--contestants", "adaptive,plain"]
    assert compare.main(arguments) == 0
    every = [Cell(s, c, seed) for seed in (1, 2) for s in ("clean", "nan") for c in (PLAIN, ADAPTIVE)]
    assert trained == every
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    trained.clear()
    assert compare.main(arguments) == 0
    assert trained == [Cell("nan", ADAPTIVE, 2)]
    assert path.read_bytes() == whole
    trained.clear()
    assert compare.main(arguments) == 0
    assert trained == []
    assert "8 runs, 0 of them still to do" in capsys.readouterr().err


def test_runs_of_other_settings_are_not_mixed(tmp_path, capsys, trained):
    """More steps are another grid."""
    arguments = ["--csv", str(tmp_path / "results.csv"), "--seeds", "1", "--scenarios", "clean"]
    assert compare.main(arguments) == 0
    trained.clear()
    assert compare.main([*arguments, "--steps", "800"]) == 2
    assert "it holds runs of other settings (400 steps" in capsys.readouterr().err
    assert trained == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "expected a whole number of at least 1; received '0'"),
        (["--scenarios", "clean,dirty"], "unknown: dirty; there are clean, nan, spike, surge, weight-1, weight-5"),
        (["--contestants", "ours"], "unknown: ours; there are plain, terminate-on-nan"),
    ],
)
def test_a_bad_option_is_refused(capsys, arguments, message):
    """Code 2 and what was expected."""
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_report_without_results_is_a_clear_error(tmp_path, capsys):
    """Code 2."""
    assert compare.main(["--report", "--csv", str(tmp_path / "none.csv")]) == 2
    assert "no results there. Train first" in capsys.readouterr().err


# The arithmetic


def test_the_interval_of_a_mean():
    """1, 2, 3, 4, 10: mean 4, deviation 3.5355, half width 2.7764 * 3.5355 / sqrt(5) = 4.3899."""
    assert inference.mean_interval([1.0, 2.0, 3.0, 4.0, 10.0]) == (4.0, pytest.approx(4.3899, abs=1e-4))
    assert inference.mean_interval([7.0]) == (7.0, math.inf)


def test_pairs_are_compared_by_their_differences():
    """Differences 1, 3, 2, -1, 0: mean 1, deviation 1.5811, reach 2.1318 * 1.5811 / sqrt(5) = 1.5074; reference 40."""
    compared = inference.compare([21.0, 33.0, 42.0, 49.0, 60.0], [20.0, 30.0, 40.0, 50.0, 60.0])
    assert compared.pairs == 5
    assert compared.mean == pytest.approx(1.0 / 40.0)
    assert compared.upper == pytest.approx(2.5074 / 40.0, abs=1e-5)
    assert compared.lower == pytest.approx(-0.5074 / 40.0, abs=1e-5)


def test_the_bound_covers_the_truth_as_often_as_it_says():
    """Over 4,000 comparisons of five pairs that truly differ by 3 %, the bound is below that in 5 %."""
    draw = random.Random(3)
    missed = 0
    for _ in range(4_000):
        reference = [draw.gauss(1.0, 0.1) for _ in range(5)]
        ours = [value + 0.03 + draw.gauss(0.0, 0.05) for value in reference]
        missed += inference.compare(ours, reference).upper * statistics.fmean(reference) < 0.03
    assert missed / 4_000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("upper", "lower", "pairs", "verdict"),
    [
        (-0.001, -0.03, 5, Verdict.BETTER),
        (0.0, 0.0, 5, Verdict.NOT_WORSE),
        (0.019, -0.01, 5, Verdict.NOT_WORSE),
        (0.021, -0.01, 5, Verdict.NOT_SHOWN),
        (0.05, 0.015, 5, Verdict.NOT_SHOWN),
        (0.05, 0.021, 5, Verdict.WORSE),
        (math.inf, -math.inf, 1, Verdict.NOT_SHOWN),
        (math.inf, -math.inf, 0, Verdict.NO_PAIRS),
    ],
)
def test_the_verdict_follows_from_the_bounds(upper, lower, pairs, verdict):
    """With the margin of 2 %."""
    assert inference.Comparison(pairs, (upper + lower) / 2, upper, lower).verdict() is verdict


def test_one_pair_shows_nothing():
    """There is no deviation to judge by."""
    assert inference.compare([1.0], [1.0]).verdict() is Verdict.NOT_SHOWN


# The report


def lines_of(text, *starts):
    """Return the cells of the table lines whose first cells are these."""
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [cells for cells in split if cells[: len(starts)] == list(starts)]


def test_the_report_of_known_figures():
    """Means, intervals, sums and times, from figures that are easily checked."""
    rows = []
    for seed in range(1, 6):
        rows.append(
            row(contestant=PLAIN, seed=seed, val_mel_l1=0.5 + seed / 100, val_total=2.0, step_cpu_ms=10.0 * seed)
        )
        rows.append(
            row(contestant=FIXED, seed=seed, val_mel_l1=0.5 + seed / 100, val_total=2.0, step_cpu_ms=11.0 * seed)
        )
        ours = {"val_mel_l1": 0.5265 + seed / 100, "val_total": 1.99, "changes": seed, "rollbacks": 1, "skipped": 2}
        ours |= {"step_cpu_ms": 12.0 * seed, "largest_change": 0.05}
        rows.append(row(contestant=ADAPTIVE, seed=seed, **ours))
    text = report(rows)
    assert text.startswith(f"{Settings().label}; 15 runs, seeds 1, 2, 3, 4, 5.")
    # mean 0.53, deviation 0.015811, half width 2.7764 * 0.015811 / sqrt(5)
    plain = ["5 of 5", "0.5300 ± 0.0196", "2.0000 ± 0.0000", "0.0 %", "0", "0", "0", "-", "+0 %"]
    assert lines_of(text, "clean", "plain Keras, fixed weight") == [["clean", "plain Keras, fixed weight", *plain]]
    ours = ["5 of 5", "0.5565 ± 0.0196", "1.9900 ± 0.0000", "5.0 %", "3", "1", "2", "-", "+20 %"]
    assert lines_of(text, "", "mixin + adaptive weight") == [["", "mixin + adaptive weight", *ours]]
    assert lines_of(text, "", "mixin, fixed weight")[0][-1] == "+10 %"
    compared = [*lines_of(text, "clean", "mixin + adaptive weight / mixin, fixed weight")[0][2:]]
    assert compared == ["5", "+5.0 %, at most +5.0 %", "worse", "-0.5 %, at most -0.5 %", "better"]
    compared = lines_of(text, "", "mixin, fixed weight / plain Keras, fixed weight")[0][2:]
    assert compared == ["5", "+0.0 %, at most +0.0 %", "not worse", "+0.0 %, at most +0.0 %", "not worse"]


def test_the_share_of_the_mel_loss_is_told_as_a_range():
    rows = [row(contestant=SHARE, seed=seed, mel_share=share) for seed, share in enumerate((0.58, 0.534, 0.611), 1)]
    assert lines_of(report(rows), "clean", "mixin + share 60 %")[0][-2:] == ["53 to 61 %", "-"]


def test_runs_that_ended_nan_are_counted_and_not_averaged():
    """Only seeds in which both ended finite make a pair."""
    bad = {"finite": False, "val_mel_l1": math.nan, "val_total": math.nan}
    rows = [row("nan", PLAIN, 1, **bad), row("nan", PLAIN, 2, val_mel_l1=0.4), row("nan", PLAIN, 3, val_mel_l1=0.6)]
    rows += [row("nan", ADAPTIVE, seed, val_mel_l1=0.5) for seed in (3, 2, 1)]
    text = report(rows)
    assert lines_of(text, "1 % NaN batches", "plain Keras, fixed weight")[0][2:4] == ["2 of 3", "0.5000 ± 1.2706"]
    compared = lines_of(text, "1 % NaN batches", "mixin + adaptive weight / plain Keras, fixed weight")[0]
    assert compared[2:5] == ["2", "+0.0 %, at most +126.3 %", "not shown"]


def test_a_reference_that_always_ends_nan_is_nothing_to_compare_with():
    """Said in words, rather than as a victory."""
    bad = {"finite": False, "val_mel_l1": math.nan, "val_total": math.nan, "step_cpu_ms": math.nan}
    rows = [row("nan", PLAIN, seed, **bad, largest_change=math.nan) for seed in (1, 2)]
    rows += [row("nan", ADAPTIVE, seed) for seed in (1, 2)]
    text = report(rows)
    plain = ["0 of 2", "-", "-", "to NaN", "0", "0", "0", "-", "-"]
    assert lines_of(text, "1 % NaN batches", "plain Keras, fixed weight")[0][2:] == plain
    compared = lines_of(text, "1 % NaN batches", "mixin + adaptive weight / plain Keras, fixed weight")[0][2:]
    words = "nothing to compare with: the second ended NaN"
    assert compared == ["0", "-", words, "-", words]


@pytest.mark.parametrize(
    ("contestant", "words"),
    [
        (ADAPTIVE, "nothing to compare with: the first ended NaN"),
        (None, "nothing to compare with: no seed in which both ended finite"),
    ],
)
def test_why_there_is_no_pair_is_said(contestant, words):
    """Also where it is ours that ended NaN."""
    bad = {"finite": False, "val_mel_l1": math.nan, "val_total": math.nan}
    rows = [row("nan", FIXED, 1), row("nan", FIXED, 2, **bad), row("nan", ADAPTIVE, 1, **bad)]
    rows.append(row("nan", ADAPTIVE, 2, **(bad if contestant else {})))
    compared = lines_of(report(rows), "1 % NaN batches", "mixin + adaptive weight / mixin, fixed weight")[0]
    assert compared[2:] == ["0", "-", words, "-", words]


def test_the_guide_shows_what_the_results_that_come_with_it_say():
    """`--report` without another file prints what the guide to the evidence claims."""
    guide = (Path(__file__).parents[2] / "examples" / "guides" / "evidence.md").read_text(encoding="utf-8")
    assert report(results.read(compare.SHIPPED)) in guide


# The whole of it


def instant(cell, settings, cache_dir):
    """Return the row of a run that was not trained, with the process that it had."""
    return row(cell.scenario, cell.contestant, cell.seed, steps_done=os.getpid())


def test_workers_are_replaced_after_some_runs(monkeypatch, tmp_path):
    """Two runs of three have one process, and all come to an end."""
    monkeypatch.setattr(pool, "_RUNS_OF_A_PROCESS", 2)
    cells = grid.cells(["clean"], [PLAIN], seeds=3)
    rows = list(pool.run_all(cells, Settings(), tmp_path, 1, runner=instant))
    assert [each.seed for each in rows] == [1, 2, 3]
    processes = [each.steps_done for each in rows]
    assert [len(list(runs)) for _, runs in itertools.groupby(processes)] == [2, 1]
    assert len(set(processes)) == 2


def endless(cell, settings, folder):
    """Leave the number of this process in a file, and never come to an end."""
    (folder / "unnamed").write_text(str(os.getpid()))
    (folder / "unnamed").rename(folder / "worker")
    time.sleep(1_000)


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """They hold a gigabyte each, and nobody would ever give them another run."""
    code = (
        "import pathlib, test_example_compare as test\n"
        "cells = test.grid.cells(['clean'], ['plain'], 1)\n"
        f"list(test.pool.run_all(cells, test.Settings(), pathlib.Path({str(tmp_path)!r}), 1, runner=test.endless))"
    )
    paths = os.pathsep.join((str(Path(__file__).parent), str(Path(compare.__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((paths, os.environ.get("PYTHONPATH", "")))}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        try:
            wait_until((tmp_path / "worker").exists)
        finally:
            parent.kill()
    worker = int((tmp_path / "worker").read_text())
    wait_until(lambda: not is_running(worker))


def wait_until(condition, seconds=60.0):
    """Wait, at most so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_running(process):
    """Whether there is such a process, other than as a zombie."""
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("small_network", "graphs_as_traced")
def test_a_tiny_grid_from_beginning_to_end(tmp_path, cache_dir, capsys, monkeypatch):
    """Plain Keras ends with the NaN, the mixin skips it, and ours equals that. Workers have their tests above."""
    monkeypatch.setattr(compare, "run_all", lambda cells, *given: (pool._train(cell, *given[:2]) for cell in cells))
    path = tmp_path / "results.csv"
    small = ["--steps", "5", "--seeds", "1", "--max-clips", "24", "--cache-dir", str(cache_dir), "--csv", str(path)]
    contestants = (TERMINATE, FIXED, ADAPTIVE, SHARE)
    assert compare.main([*small, "--scenarios", "nan", "--contestants", ",".join(contestants)]) == 0
    by_name = {each.contestant: each for each in results.read(path)}
    assert sorted(by_name) == sorted(contestants)
    terminated, fixed, ours, share = (by_name[name] for name in contestants)
    (bad_step,) = grid.fault_steps("nan", 1, 5)
    assert (terminated.finite, terminated.steps_done) == (False, bad_step)
    assert (fixed.finite, fixed.steps_done, fixed.skipped) == (True, 5, 1)
    assert (ours.val_mel_l1, ours.val_total, ours.skipped) == (fixed.val_mel_l1, fixed.val_total, 1)
    assert 0.0 < fixed.val_mel_l1 < 10.0
    assert 0.0 < share.mel_share < 1.0
    assert math.isnan(fixed.mel_share)
    assert "1 of 1" in lines_of(capsys.readouterr().out, "", "mixin + adaptive weight")[0]
