"""Every example, run from beginning to end with small settings."""

import contextlib
import functools
import io
import itertools

import custom_training_loop
import emergency_disable
import pytest
import train_xtts

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("graphs_as_traced")
STEPS, NAN_AT, SPIKE_AT = 16, 3, 14
FAULTS = f"nan@{NAN_AT},spike@{SPIKE_AT}"


class Run:
    """The main example, run with a narrow model.

    Attributes:
        code: The exit code.
        out: What was printed.
        err: What was printed as an error.
        folder: The folder of the run.
    """

    def __init__(self, base, cache_dir, *arguments):
        from xtts_demo import model

        narrow = functools.partial(model.XTTSModel, width=32, heads=2, encoder_blocks=0, decoder_blocks=1)
        self.folder = base / "run"
        shared = ["--cache-dir", str(cache_dir), "--log-dir", str(self.folder), "--batch-size", "4"]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            patch.setattr(model, "XTTSModel", narrow)
            self.code = train_xtts.main([*shared, *arguments])
        self.out, self.err = out.getvalue(), err.getvalue()

    @property
    def observations(self):
        """The steps, from the journal."""
        return kaw.read_journal(self.folder / "adaptive_weights" / "journal.jsonl").observations


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory, cache_dir):
    """A run as most people start it, short."""
    arguments = ("--steps", str(STEPS), "--epochs", "2", "--max-clips", "40", "--inject", FAULTS)
    return Run(tmp_path_factory.mktemp("graph"), cache_dir, *arguments)


@pytest.fixture(scope="module")
def xla_run(tmp_path_factory, cache_dir):
    """The same, compiled by XLA, four steps per execution, and without progress bar."""
    arguments = ("--steps", str(STEPS), "--epochs", "2", "--max-clips", "40", "--inject", FAULTS)
    return Run(tmp_path_factory.mktemp("xla"), cache_dir, *arguments, "--jit", "--steps-per-execution", "4", "--quiet")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph_run", "xla_run"])
def test_the_main_job_survives_a_nan_and_a_spike(request, mode):
    """One step skipped and one dampened, exactly where they were injected, counted over both epochs."""
    run = request.getfixturevalue(mode)
    assert run.code == 0, run.err
    assert [seen.step for seen in run.observations] == list(range(1, STEPS + 1))
    assert [seen.step for seen in run.observations if not seen.applied] == [NAN_AT]
    assert [seen.step for seen in run.observations if seen.dampening < 1.0] == [SPIKE_AT]
    assert run.observations[SPIKE_AT - 1].loss > 10 * run.observations[SPIKE_AT - 2].loss
    for line in (
        f"{STEPS}, of which {STEPS - 1} applied and 1 skipped",
        f"step {NAN_AT} skipped: mel_loss is not finite",
        f"step {SPIKE_AT} spiked",
        "parameters of the model: all finite",
    ):
        assert line in run.out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph_run", "xla_run"])
def test_the_main_job_learns(request, mode):
    """The validation mel loss of the table falls."""
    run = request.getfixturevalue(mode)
    words = next(line for line in run.out.splitlines() if "validation mel loss" in line).split()
    first, last, percent = float(words[3]), float(words[5]), float(words[6])
    assert last < first
    assert percent == pytest.approx(100 * (last / first - 1), abs=0.1)


@pytest.mark.slow
def test_xla_and_several_steps_per_execution_train_alike(graph_run, xla_run):
    """The same seed gives the same batches and the same model: step by step about the same losses."""
    pairs = zip(graph_run.observations, xla_run.observations, strict=True)
    for one, two in pairs:
        assert one.loss == pytest.approx(two.loss, rel=0.02, nan_ok=True)


@pytest.mark.slow
def test_the_main_job_leaves_what_it_promises(graph_run):
    """A progress bar, a picture, the trained weights, event files, and a hint how to look at them."""
    assert "mel_loss:" in graph_run.out
    assert f"tensorboard --logdir {graph_run.folder}" in graph_run.out
    assert (graph_run.folder / "run.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (graph_run.folder / "model.weights.h5").stat().st_size > 10_000
    assert list((graph_run.folder / "adaptive_weights").glob("events.out.tfevents.*"))
    assert "40 clips of 4 speakers" in graph_run.out


@pytest.mark.slow
def test_quiet_has_no_progress_bar(xla_run):
    """The table is still there."""
    assert "mel_loss:" not in xla_run.out
    assert "validation mel loss" in xla_run.out


def test_a_folder_without_a_usable_clip_is_a_clear_error(tmp_path, cache_dir):
    """Every clip is named with its reason; code 2, no traceback, no run."""
    place = tmp_path / "data"
    (place / "wavs").mkdir(parents=True)
    (place / "wavs" / "one.wav").write_bytes(b"")
    (place / "metadata.csv").write_text("one|Hello.|hello.\ntwo|Hello.|hello.\n")
    run = Run(tmp_path, cache_dir, "--data", str(place))
    assert run.code == 2
    assert "2 clips are left out:\n  one: empty file\n  two: no such file\n" in run.out
    assert run.err.startswith("error: 0 usable clips are too few")
    assert not run.folder.exists()


def test_a_data_folder_that_is_none_is_a_clear_error(tmp_path, cache_dir):
    """Code 2 and what was expected."""
    run = Run(tmp_path, cache_dir, "--data", str(tmp_path / "nowhere"))
    assert run.code == 2
    assert "is no folder. Expected one in LJSpeech's layout" in run.err


def test_a_custom_training_loop_adapts_and_skips(capsys):
    """The weight moves, by at most 5 % at a time, and the broken batch is skipped."""
    decisions = custom_training_loop.main([])
    printed = capsys.readouterr().out
    assert "step 150: not finite, so the batch was skipped" in printed
    assert any(decision.action in (kaw.Action.INCREASE, kaw.Action.DECREASE) for decision in decisions)
    for decision in decisions:
        assert str(decision) in printed
        assert decision.advice in printed
        assert 1 / 1.05 - 1e-9 <= decision.new_weight / decision.old_weight <= 1.05 + 1e-9
    assert "step_count: 400" in printed


def test_an_emergency_disable_from_another_thread(tmp_path, capsys):
    """Base weight at once, no change until the adaptation is enabled again, and the journal tells the same."""
    decisions = emergency_disable.main(["--log-dir", str(tmp_path)])
    by_hand = [decision for decision in decisions if decision.reason is kaw.Reason.MANUAL]
    assert [decision.action for decision in by_hand] == [kaw.Action.DISABLE, kaw.Action.ENABLE]
    disable, enable = by_hand
    assert emergency_disable.DISABLE_AT <= disable.step <= enable.step < emergency_disable.STEPS
    assert enable.step >= emergency_disable.ENABLE_AT
    assert disable.new_weight == 2.5
    assert disable.old_weight != 2.5
    between = itertools.takewhile(lambda decision: decision is not enable, decisions[decisions.index(disable) + 1 :])
    assert list(between) == []
    journal = kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl")
    assert [(event.step, event.action) for event in journal.events] == [(d.step, d.action) for d in decisions]
    assert journal.weights[disable.step] == journal.weights[enable.step] == 2.5
    assert "operator saw clipping" in capsys.readouterr().out


def test_a_run_folder_that_cannot_be_made_is_a_clear_error(tmp_path, cache_dir):
    """Before the training, not after it."""
    (tmp_path / "file").write_text("")
    run = Run(tmp_path, cache_dir, "--log-dir", str(tmp_path / "file" / "run"), "--max-clips", "40")
    assert run.code == 2
    assert "Give another folder with --log-dir" in run.err


def test_a_fault_after_the_last_pass_is_refused(tmp_path, cache_dir):
    """With `--epochs` alone the last step is known only when the data is."""
    with pytest.raises(SystemExit) as stopped:
        Run(tmp_path, cache_dir, "--epochs", "2", "--max-clips", "40", "--inject", "nan@19")
    assert stopped.value.code == 2
    assert not (tmp_path / "run").exists()
