"""Train a small XTTS-style text-to-speech model with a mel weight that adapts itself.

    python examples/train_xtts.py
    python examples/train_xtts.py --inject nan@150,spike@220
    python examples/train_xtts.py --data LJSpeech-1.1
    python examples/train_xtts.py --log-dir runs/mine --resume    # once more after a crash: it goes on

Without `--data` it trains on a corpus that it synthesises with eSpeak NG (320 sentences, 4 voices) and keeps in your
cache. `AdaptiveMelWeightCallback` watches every step, adjusts the weight of the mel loss, and records each decision
with its reason in `<log-dir>/adaptive_weights`. After every epoch all that the run needs to go on is saved; with
`--resume` it goes on from there, with the batches it would have had, and in the same journal. At the end there are a
table, the picture `<log-dir>/run.png` and the trained weights `<log-dir>/model.weights.h5`.

Needs `pip install "keras-adaptive-weights[examples]"`. Ends with code 0; with 2 where an option or the data is of no
use; with 1 where the trained model is not finite.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_demo.options import Plan, build_parser, check_faults, make_plan, parse

if TYPE_CHECKING:
    from xtts_demo.clips import Clip
    from xtts_demo.dataset import Batches
    from xtts_demo.model import XTTSModel
    from xtts_demo.report import DecisionCounter

_CLIP_NORM = 1.0
_MANY_CLIPS = 1_000
_SPOKEN = 8
_PACKAGES = ("keras", "keras_adaptive_weights", "matplotlib", "numpy", "tensorflow")


def main(argv: list[str] | None = None) -> int:
    """Run the example.

    Args:
        argv: Command line without the program's name; `None`: the program's own.

    Returns:
        The exit code.
    """
    parser = build_parser(__doc__.splitlines()[0])
    options = parse(parser, argv)
    needed = _PACKAGES if options.data else (*_PACKAGES, "espeakng_loader")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        remedy = 'pip install "keras-adaptive-weights[examples]"'
        print(f"error: {', '.join(missing)} not installed: {remedy}", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from xtts_demo.clips import DataError

    try:
        return run(parser, options)
    except DataError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; the steps so far are in {options.log_dir}", file=sys.stderr)
        return 130


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Read the data, train, and report.

    Args:
        parser: Where a fault beyond the last step is reported.
        options: The parsed options.

    Returns:
        The exit code.

    Raises:
        DataError: Data that cannot be trained on, or a folder that cannot be written to.
    """
    started = time.perf_counter()
    clips = find_clips(options)
    import keras
    from xtts_demo import dataset
    from xtts_demo.model import XTTSModel
    from xtts_demo.resume import CHECKPOINT, resume

    keras.utils.set_random_seed(options.seed)
    training, validation = dataset.split(clips, options.seed, options.batch_size)
    model = XTTSModel()
    shape = dataset.common_shape(clips, model.reduction)
    plan = make_plan(options, passes_of=max(1, len(training) // options.batch_size))
    check_faults(parser, options.inject, plan)
    make_folder(options.log_dir)
    batches = dataset.Batches(training, shape, options.batch_size, options.seed)
    compile_model(model, options, plan)
    held_out = batches.validation(validation)
    model(next(iter(held_out))[0], training=False)  # it builds the model: else Keras traces the test step twice, and
    model.optimizer.build(model.trainable_variables)  # without this the train step, which takes seconds
    done = resume(model, options.log_dir / CHECKPOINT, plan) if options.resume else 0
    if done:
        print(f"resumed after step {done}")
    first = model.evaluate(held_out, verbose=0, return_dict=True)
    print(
        f"{len(training)} clips to train on, {len(validation)} for validation; batches of {options.batch_size}, "
        f"padded to {shape.frames} frames ({shape.seconds:.1f} s) and {shape.characters} characters\n"
        f"model with {model.count_params():,} parameters; {plan.steps} steps in {plan.epochs} epochs of "
        f"{plan.steps_per_epoch}"
    )
    counter, history = fit(model, batches.training(options.inject, done), held_out, plan, options, done)
    steps = range(done, plan.steps + 1, plan.steps_per_epoch)
    validation_losses = list(zip(steps, [first["mel_loss"], *history["val_mel_loss"]], strict=True))
    finite = report(model, counter, validation_losses, options.log_dir)
    speak(model, batches, validation[:_SPOKEN], shape.frames)
    print(f"done in {time.perf_counter() - started:.0f} s. To look at it: tensorboard --logdir {options.log_dir}")
    return 0 if finite else 1


def find_clips(options: argparse.Namespace) -> list[Clip]:
    """Return the usable clips of `--data` or of the synthetic corpus; print what was found and what was left out."""
    from xtts_demo.clips import scan
    from xtts_demo.report import describe_scan

    folder = options.data
    if folder is None:
        from xtts_demo.corpus import synthetic_corpus

        folder = synthetic_corpus(options.cache_dir, options.seed)

    def progress(number: int, total: int) -> None:
        if not options.quiet and total >= _MANY_CLIPS and (number % 100 == 0 or number == total):
            print(f"\rreading clip {number} of {total}", end="\n" if number == total else "", flush=True)

    found = scan(
        folder, options.cache_dir, max_seconds=options.max_seconds, max_clips=options.max_clips, progress=progress
    )
    print(describe_scan(found, str(folder)))
    return found.clips


def make_folder(log_dir: Path) -> None:
    """Make the folder of the run, now rather than after minutes of training.

    Raises:
        DataError: It cannot be written to.
    """
    from xtts_demo.clips import DataError

    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {log_dir}: {error.strerror}. Give another folder with --log-dir.") from None


def compile_model(model: XTTSModel, options: argparse.Namespace, plan: Plan) -> None:
    """Give the model its loss and its optimizer: Adam, clipped gradients, a rate that rises and then falls slowly."""
    import keras

    from keras_adaptive_weights import AdaptiveWeightConfig, XTTSLoss

    weight, usual = options.mel_weight, AdaptiveWeightConfig()
    config = None  # the guide's bounds, or with a balance those around the weight
    if options.balance is None and not usual.min_weight <= weight <= usual.max_weight:
        config = AdaptiveWeightConfig(min_weight=0.4 * weight, max_weight=2.0 * weight)
    rise = min(40, 1 + plan.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.05 * options.learning_rate,
        decay_steps=max(1, plan.steps - rise),
        alpha=0.1,
        warmup_target=options.learning_rate,
        warmup_steps=rise,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=_CLIP_NORM),
        loss=XTTSLoss(weight, config=config, balance=options.balance),
        jit_compile=options.jit,
        steps_per_execution=options.steps_per_execution,
    )


def fit(
    model: XTTSModel, training: Any, validation: Any, plan: Plan, options: argparse.Namespace, done: int = 0
) -> tuple[DecisionCounter, dict[str, list[float]]]:
    """Train with the adaptive mel weight from step `done` on; return the counted decisions and Keras's history."""
    import keras
    from xtts_demo.report import DecisionCounter
    from xtts_demo.resume import CHECKPOINT, Checkpoint

    from keras_adaptive_weights import AdaptiveMelWeightCallback

    counter = DecisionCounter()
    history = model.fit(
        training,
        validation_data=validation,
        epochs=plan.epochs,
        initial_epoch=done // plan.steps_per_epoch,
        steps_per_epoch=plan.steps_per_epoch,
        callbacks=[
            AdaptiveMelWeightCallback(log_dir=options.log_dir, observers=[counter]),
            keras.callbacks.TensorBoard(options.log_dir, write_graph=False),
            Checkpoint(options.log_dir / CHECKPOINT),
        ],
        shuffle=False,
        verbose=0 if options.quiet else 1,
    )
    return counter, history.history


def report(model: XTTSModel, counter: DecisionCounter, validation: Sequence[tuple[int, float]], log_dir: Path) -> bool:
    """Print the table, draw the picture, save the weights; return whether every parameter is finite.

    Args:
        model: The trained model.
        counter: The decisions of this process.
        validation: Step and mel loss of each validation.
        log_dir: Folder of the run.
    """
    import numpy as np
    from xtts_demo.report import describe_training

    from keras_adaptive_weights import read_journal
    from keras_adaptive_weights.showing.picture import draw_run, write_picture
    from keras_adaptive_weights.showing.report import open_index

    model.save_weights(log_dir / "model.weights.h5")
    journal = read_journal(log_dir / "adaptive_weights" / "journal.jsonl")
    config = model.loss.mel_weight.config
    print(f"\n{describe_training(journal, counter.counts, validation, (config.min_weight, config.max_weight))}")
    spoilt = [variable.path for variable in model.weights if not np.isfinite(variable.numpy()).all()]
    print(f"  parameters of the model: {'not finite: ' + ', '.join(spoilt) if spoilt else 'all finite'}")
    for problem in journal.problems:
        print(f"journal: {problem}", file=sys.stderr)
    if journal.observations:
        picture = draw_run(open_index(log_dir), title=f"Adaptive mel weight: {log_dir.name}", validation=validation)
        write_picture(log_dir / "run.png", picture)
        print(f"picture: {log_dir / 'run.png'}")
    else:
        print("no picture: the journal could not be written", file=sys.stderr)
    print(f"weights: {log_dir / 'model.weights.h5'}")
    return not spoilt


def speak(model: XTTSModel, batches: Batches, clips: Sequence[Clip], max_frames: int) -> None:
    """Let the model speak validation sentences on its own, and print for how long it spoke."""
    import numpy as np
    from xtts_demo.report import seconds

    examples = [batches.example(clip, np.random.default_rng(number))[0] for number, clip in enumerate(clips)]
    texts, references = (np.stack([inputs[name] for inputs in examples]) for name in ("text", "reference_mel"))
    _, lengths = model.synthesise(texts, references, max_frames)
    print(
        f"speaking {len(clips)} validation sentences on its own: {np.sum(lengths < max_frames)} came to an end before "
        f"{seconds(max_frames):.1f} s; {seconds(lengths.mean()):.1f} s on average, the recordings "
        f"{seconds(np.mean([clip.frames for clip in clips])):.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
