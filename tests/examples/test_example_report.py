"""What the main example says of a run at its end."""

from collections import Counter

from joint_run import JointRun

from keras_adaptive_weights import read_journal


def test_the_parts_of_the_gradient_are_those_that_were_measured_last(tmp_path):
    """Under the weights in force there, and not those that a decision was taken on."""
    from xtts_demo.report import describe_training

    run = JointRun(tmp_path).observe(80)
    run.writer.close()
    assert str(run.events[0].action) == "calibrate"
    journal = read_journal(run.journal, joint=True)
    table = describe_training(journal, Counter(), [(0, 2.0), (80, 1.0)], (0.01, 100.0))
    table = table[table.index("gradient") :]
    lines = [line.strip() for line in table.splitlines()]
    assert lines[0].startswith("gradient, step 80")
    assert lines[0].endswith("(to be 60%)")
    shares = [int(line.split("%")[0].split()[-1]) for line in lines[:3]]
    weights = {**run.state.core.weight, "energy_loss": 0.5}
    norms = next(seen.term_norms for seen in reversed(journal.observations) if seen.term_norms)
    whole = sum(weights[name] * norm for name, norm in norms.items())
    assert shares == [round(100 * weights[name] * norms[name] / whole) for name in norms]
    assert shares[0] > 40, "before the calibration it was 1"
