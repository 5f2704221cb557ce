"""What a decision costs: microseconds for each, how fast a recorded run is replayed, and memory over a million steps.

    python tests/benchmarks/decision_cost.py             # two minutes
    python tests/benchmarks/decision_cost.py --quick     # ten seconds

Every decision is timed by itself, so that the median is not disturbed by other processes. Streams differ in what the
controller has to do: on a loss within the band it only keeps its statistics, outside it also measures their noise.
Replays are timed by the processor time of this process, the fastest of a few; "from the file" reads the journal, too.
Of four terms each step is four observations; the last column is the size of their journal.
Memory is that of the whole process, with the weight, its state and the decisions it keeps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from markdown import publish, table

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header, TermStart

_BASE_WEIGHT = 2.5
_POINTS = 5
_FOUR = ["mel_loss", "stop_loss", "pitch_loss", "energy_loss"]


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the observations")
    parser.add_argument("--output", type=Path, help="write the tables to this file, too")
    arguments = parser.parse_args()
    shorter = 50 if arguments.quick else 1
    timed = [_time(name, stream, 100_000 // shorter) for name, stream in _STREAMS.items()]
    joint = [_time_jointly(name, stream, 20_000 // shorter) for name, stream in _STREAMS.items()]
    replayed = [_replay(name, stream, 20_000) for name, stream in _STREAMS.items()]
    kept = _memory(1_000_000 // shorter)
    publish(
        "Microseconds for each decision\n\n"
        + table(["losses", "median", "99th percentile", "decisions other than HOLD"], timed)
        + "\nMicroseconds for each joint decision on four terms, of which one step in 50 has their norms\n\n"
        + table(["losses", "median", "99th percentile", "decisions other than HOLD"], joint)
        + "\nObservations a second in `kaw.replay`\n\n"
        + table(["losses", "observations", "from the file", "four terms, from the file", "bytes a step"], replayed)
        + "\nMemory\n\n"
        + table(["observations", "resident memory", "state as JSON", "decisions kept"], kept),
        arguments.output,
    )


def _time(name: str, stream: Callable[[], Iterator[kaw.Observation]], count: int) -> list[str]:
    config = kaw.AdaptiveWeightConfig()
    state = initial_state(config, _BASE_WEIGHT)
    events, took = 0, []
    for _, seen in zip(range(count), stream(), strict=False):
        begin = time.perf_counter_ns()
        state, decision = guide_rule.step(config, state, (seen,))
        took.append(1e-3 * (time.perf_counter_ns() - begin))
        events += decision.is_event
    took = took[config.warmup_steps + config.smoothing_steps :]
    return [name, f"{statistics.median(took):.1f}", f"{statistics.quantiles(took, n=100)[-1]:.1f}", str(events)]


def _time_jointly(name: str, stream: Callable[[], Iterator[kaw.Observation]], count: int) -> list[str]:
    envelope = JointEnvelope(kaw.GradientShare(), [Term.adaptive(name, _BASE_WEIGHT) for name in _FOUR])
    state, events, took, generator = envelope.initial(), 0, [], random.Random(3)
    for _, one in zip(range(count), stream(), strict=False):
        losses = {term: one.loss * generator.lognormvariate(0.0, 0.1) for term in _FOUR}
        due = one.step <= envelope.strategy.calibrate_steps or not one.step % envelope.strategy.measure_every
        norms = {term: (place + 1.0) * generator.lognormvariate(0.0, 0.2) for place, term in enumerate(_FOUR)}
        seen = JointObservation(one.step, losses, sum(losses.values()), one.gradient_norm, norms if due else {})
        begin = time.perf_counter_ns()
        state, decision = envelope.step(state, (seen,))
        took.append(1e-3 * (time.perf_counter_ns() - begin))
        events += decision.is_event
    took = took[envelope.config.warmup_steps + envelope.config.smoothing_steps :]
    return [name, f"{statistics.median(took):.1f}", f"{statistics.quantiles(took, n=100)[-1]:.1f}", str(events)]


def _replay(name: str, stream: Callable[[], Iterator[kaw.Observation]], count: int) -> list[str]:
    """Return how many observations a second are replayed, from memory and from journals of one and of four terms."""
    seen = list(itertools.islice(stream(), count))
    with tempfile.TemporaryDirectory() as folder:
        one = _journal(Path(folder) / "one.jsonl", seen, ["mel_loss"])
        four = _journal(Path(folder) / "four.jsonl", seen[: count // 4], _FOUR)
        speeds = [f"{count / _fastest(kaw.replay, source):,.0f}" for source in (seen, one, four)]
        return [name, *speeds, f"{4 * four.stat().st_size / count:,.0f}"]


def _journal(path: Path, seen: Sequence[kaw.Observation], terms: Sequence[str]) -> Path:
    """Write a journal of terms that all have these losses."""
    config = kaw.AdaptiveWeightConfig()
    states = {term: initial_state(config, _BASE_WEIGHT) for term in terms}
    starts = {term: TermStart(_BASE_WEIGHT, config, state.to_dict()) for term, state in states.items()}
    writer = kaw.JournalWriter(path, Header("run", starts))
    for observation in seen:
        decisions = []
        for term in terms:
            states[term], decision = guide_rule.step(config, states[term], (observation,))
            decisions.append(decision._replace(term=term))
        losses = dict.fromkeys(terms, observation.loss)
        writer.note([JointObservation(observation.step, losses, *observation[2:4])], decisions)
    writer.close()
    return path


def _fastest(function: Callable[[Any], Any], argument: Any) -> float:
    """Return the least processor time of a few calls, in seconds."""
    took = []
    for _ in range(5):
        begin = time.process_time()
        function(argument)
        took.append(time.process_time() - begin)
    return min(took)


def _memory(count: int) -> list[list[str]]:
    """Return what a weight and its process hold at equally distant points."""
    weight = kaw.AdaptiveWeight(_BASE_WEIGHT)
    rows = []
    for number, seen in zip(range(1, count + 1), _shifting(), strict=False):
        weight.update(seen.loss, gradient_norm=seen.gradient_norm, total_loss=seen.total_loss)
        if number % (count // _POINTS) == 0:
            state = len(json.dumps(weight.to_dict()))
            rows.append(
                [f"{number:,}", f"{_resident_mebibytes():.1f} MiB", f"{state:,} bytes", f"{len(weight.decisions):,}"]
            )
    return rows


def _steady(spread: float) -> Iterator[kaw.Observation]:
    """Yield log-normal losses and gradient norms around a constant level."""
    generator = random.Random(7)
    step = 0
    while True:
        step += 1
        loss = generator.lognormvariate(0.0, spread)
        yield kaw.Observation(step, loss, 2.5 * loss, generator.lognormvariate(0.0, 0.2))


def _shifting() -> Iterator[kaw.Observation]:
    """Yield losses whose level is 1.5 or 1 in turn, for 200 steps each: the weight moves all the time."""
    for seen in _steady(0.05):
        factor = 1.5 if seen.step // 200 % 2 else 1.0
        yield kaw.Observation(seen.step, factor * seen.loss, 2.5 * factor * seen.loss, seen.gradient_norm)


_STREAMS: dict[str, Callable[[], Iterator[kaw.Observation]]] = {
    "steady, 10 % noise": lambda: _steady(0.1),
    "steady, 30 % noise": lambda: _steady(0.3),
    "steady, 60 % noise": lambda: _steady(0.6),
    "level shifts every 200 steps": _shifting,
}


def _resident_mebibytes() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError("The kernel does not tell the resident memory in /proc/self/status.")


if __name__ == "__main__":
    main()
