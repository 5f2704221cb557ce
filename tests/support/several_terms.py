"""A run of several terms without a model: a real controller for each weight over made-up observations."""

import math
import random

from dashboard_runs import CONFIG

from keras_adaptive_weights.deciding import envelope, guide_rule
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.appended_file import let_go
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.writer import JournalWriter

ADAPTIVE = {"mel_loss": 2.5, "stop_loss": 1.5, "pitch_loss": 2.0}
FIXED = {"duration_loss": 0.1}


class SeveralTerms:
    """Writes a journal of format 2 step by step, as a training would; the same seed gives the same observations.

    `decisions` are all that were taken, HOLDs too, `events` the others, each with its `term`; `states` by term.
    """

    def __init__(self, folder, *, run="run-a", seed=1, config=CONFIG, adaptive=None, fixed=None, path=None):
        self.journal = path or folder / "adaptive_weights" / "journal.jsonl"
        self.run, self.config = run, config
        self.adaptive = ADAPTIVE if adaptive is None else adaptive
        self.fixed = FIXED if fixed is None else fixed
        self.states = {name: initial_state(config, weight) for name, weight in self.adaptive.items()}
        self.decisions = []
        self._random = random.Random(seed)
        self._levels = dict.fromkeys((*self.adaptive, *self.fixed), 1.0)
        self._begin()

    @property
    def step(self):
        """Number of the last step."""
        return max(state.step for state in self.states.values())

    @property
    def events(self):
        """The decisions other than HOLD."""
        return [decision for decision in self.decisions if decision.is_event]

    @property
    def header(self):
        """What the steps to come belong to."""
        terms = {
            name: TermStart(weight, self.config, self.states[name].to_dict()) for name, weight in self.adaptive.items()
        }
        terms |= {name: TermStart(weight) for name, weight in self.fixed.items()}
        return Header(self.run, terms, self.step)

    def _begin(self):
        self.writer = JournalWriter(self.journal, self.header)

    def observe(self, steps, per_execution=1):
        for _ in range(steps // per_execution):
            first = self.step + 1
            self.execute([self._next(first + number) for number in range(per_execution)])
        return self

    def execute(self, seen):
        """Let all controllers decide on the steps of one execution."""
        decisions = []
        for name in self.adaptive:
            steps = [step.of(name) for step in seen]
            self.states[name], decision = guide_rule.step(self.config, self.states[name], steps)
            decisions.append(decision._replace(term=name))
        self.writer.note(seen, decisions)
        self.decisions += decisions
        return self

    def by_hand(self, action, note, term):
        state, config = self.states[term], self.config
        self.states[term], decision = {
            "disable": lambda: envelope.disable(state, note),
            "enable": lambda: envelope.enable(config, state, note),
            "rollback": lambda: envelope.rollback(config, state, note),
            "reset": lambda: envelope.reset(state, note),
        }[action]()
        decision = decision._replace(term=term)
        self.writer.note((), [decision])
        self.decisions.append(decision)
        return self

    @property
    def checkpoint(self):
        """What `resume` goes on from."""
        self.writer.note_save(self.step)
        return dict(self.states), list(self.decisions)

    def resume(self, checkpoint):
        """Go on from a checkpoint, as a process does that was killed and started again."""
        self.writer.close()
        self.states, self.decisions = dict(checkpoint[0]), list(checkpoint[1])
        self._begin()
        return self

    def die(self):
        """Leave the journal as SIGKILL does."""
        self.writer._backlog.flush()
        self.writer._backlog._closed = True
        self.writer._file.close()
        let_go(self.journal, self.writer)
        return self

    def close(self):
        self.writer.close()
        return self

    def _next(self, step):
        """Losses that shift on their own, one that is not finite now and then, one that is missing now and then."""
        draw, bad, losses = self._random, step % 347 == 0, {}
        for number, name in enumerate(self._levels):
            if draw.random() < 1 / 150:
                self._levels[name] *= draw.choice((0.6, 1.5))
            level = self._levels[name] = min(max(self._levels[name], 0.2), 4.0)
            losses[name] = 10.0**number * level * draw.lognormvariate(0.0, 0.05)
        if bad:
            losses["mel_loss"] = math.nan
        elif step % 91 == 0:
            del losses["stop_loss"]
        total = sum(losses.values())
        norm = math.nan if bad else 3.0 * draw.lognormvariate(0.0, 0.1)
        return JointObservation(step, losses, total, norm, {}, not bad, non_finite="mel_loss" if bad else None)


def eventful(folder, *, steps=1500, **kwargs):
    """A finished run of three adaptive terms and a fixed one, with requests by hand for one and for all of them."""
    run = SeveralTerms(folder, **kwargs).observe(steps // 2)
    for term in run.adaptive:
        run.by_hand("disable", "all of them", term)
    run.observe(40)
    for term in run.adaptive:
        run.by_hand("enable", "all of them", term)
    run.observe(steps // 4).by_hand("rollback", "sounds worse", "mel_loss").by_hand("reset", "new data", "stop_loss")
    return run.observe(steps - run.step).close()
