"""Runs for the tests of the dashboard, the report and the command line: a real controller over made-up observations."""

import json
import math
import random

from keras_adaptive_weights.deciding import envelope, guide_rule
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.writer import JournalWriter

CONFIG = AdaptiveWeightConfig(warmup_steps=60, cooling_period=30, gradient_norm_threshold=6.0)
MARKUP = '<img src="x" onerror="document.title = 1"><b>bold</b> & "quoted"'

HOSTILE = "\x1b]0;OWNED\x07\x1b[2J\nprocess     training\r\u202egnp\u2066 \ud83d" + MARKUP


class RunMaker:
    """Writes a journal step by step, as a training would; the same seed gives the same observations.

    `events` are the decisions other than HOLD, `skipped` the steps not taken.
    """

    def __init__(self, folder, *, run="run-a", seed=1, config=CONFIG, path=None):
        self.journal = path or folder / "adaptive_weights" / "journal.jsonl"
        self.config = config
        self.state = initial_state(config, 2.5)
        self.run = run
        self.events, self.skipped, self.step = [], [], 0
        self._random = random.Random(seed)
        self._level, self._norm = 1.0, 3.0
        self._writer = self._open()

    def _open(self):
        return JournalWriter(self.journal, Header.of(self.run, "mel_loss", 2.5, self.config, self.state.to_dict()))

    def observe(self, steps, per_execution=1):
        for _ in range(steps // per_execution):
            self._decide([self._next() for _ in range(per_execution)])
        return self

    def observe_loss(self, loss):
        """One step with a loss of one's own."""
        self.step += 1
        self._decide([Observation(self.step, loss, loss * self.state.weight + 0.4, self._norm)])
        return self

    def by_hand(self, action, note):
        state, config = self.state, self.config
        self.state, decision = {
            "disable": lambda: envelope.disable(state, note),
            "enable": lambda: envelope.enable(config, state, note),
            "rollback": lambda: envelope.rollback(config, state, note),
            "reset": lambda: envelope.reset(state, note),
            "recover": lambda: envelope.reset(state, note, Reason.RECOVERED_FROM_SKIPS, {"snapshot_step": 40.0}),
        }[action]()
        self._note((), decision)
        return self

    def resume(self, state):
        """Go on from an earlier state, as a process does that was killed and started again."""
        self._writer.close()
        self.state, self.step = state, state.step
        self._writer = self._open()
        return self

    def flush(self):
        """Have everything written now."""
        self._writer._backlog.flush()
        return self

    def close(self):
        self._writer.close()
        return self

    def _decide(self, seen):
        self.state, decision = guide_rule.step(self.config, self.state, seen)
        self._note(seen, decision)

    def _note(self, seen, decision):
        decision = decision._replace(term="mel_loss")
        self._writer.observe(seen, decision)
        if decision.is_event:
            self.events.append(decision)

    def _next(self):
        draw = self._random
        self.step += 1
        if draw.random() < 1 / 120:
            self._level *= draw.choice((0.7, 1.4))
        if draw.random() < 1 / 500:
            self._norm = 9.5 - self._norm
        self._level = min(max(self._level + 0.004 * (1.0 - self._level), 0.2), 4.0)
        bad = self.step % 347 == 0
        loss = math.nan if bad else self._level * draw.lognormvariate(0.0, 0.06)
        norm = math.nan if bad else self._norm * draw.lognormvariate(0.0, 0.1)
        if bad:
            self.skipped.append(self.step)
        total = loss * self.state.weight + 0.4
        return Observation(self.step, loss, total, norm, applied=not bad, non_finite="mel_loss" if bad else None)


def eventful_run(folder, *, run="run-a", seed=1, steps=1500, note="operator heard clipping"):
    """A finished run with every kind of event that a person or the controller causes."""
    maker = RunMaker(folder, run=run, seed=seed).observe(steps // 2)
    maker.by_hand("disable", note).observe(60).by_hand("enable", "learning rate lowered").observe(steps // 4)
    maker.by_hand("rollback", "sounds worse").by_hand("rollback", "once more").observe(20).by_hand("reset", "new data")
    maker.observe(70).by_hand("recover", "")
    return maker.observe(steps - maker.step).close()


def hostile_run(folder):
    """A run whose note, term, id and whose last event's reason and action mean to be obeyed rather than shown."""
    maker = RunMaker(folder).observe(100).by_hand("disable", HOSTILE).observe(20).by_hand("enable", "").close()
    text, hostile = maker.journal.read_text(), json.dumps(HOSTILE)
    text = text.replace('"mel_loss"', hostile).replace('"run": "run-a"', f'"run": {hostile}')
    head, _, last = text.rpartition('{"kind": "event"')
    for value in ("enable", "manual"):
        last = last.replace(f'"{value}"', hostile, 1)
    maker.journal.write_text(f'{head}{{"kind": "event"{last}')
    return maker
