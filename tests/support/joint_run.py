"""A run whose weights are balanced, without a model: a real joint envelope over made-up observations."""

import json

from joint_streams import QUICK, by_hand, steady

from keras_adaptive_weights.deciding.described_strategy import describe
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.writer import JournalWriter

SHARE = GradientShare({"mel_loss": 0.6}, measure_every=5, calibrate_steps=10)
NORMS = {"mel_loss": 0.02, "stop_loss": 1.0, "energy_loss": 0.5}


class JointRun:
    """Writes a journal step by step; `decisions` are all that were taken, HOLDs too, `events` the others."""

    def __init__(self, folder, *, run="run-a", strategy=SHARE, config=QUICK):
        self.journal = folder / "adaptive_weights" / "journal.jsonl"
        self.run, self.strategy, self.config = run, strategy, config
        self.terms = (Term.adaptive("mel_loss", 1.0), Term.adaptive("stop_loss", 2.0), Term("energy_loss", 0.5))
        self.envelope = JointEnvelope(strategy, self.terms, config)
        self.state, self.decisions = self.envelope.initial(), []
        self._seen = iter(steady(5000, NORMS, every=5, noise=0.1))
        self.begin()

    @property
    def events(self):
        """The decisions other than HOLD."""
        return [decision for decision in self.decisions if decision.is_event]

    def begin(self):
        """Open the journal."""
        starts = {}
        for term in self.terms:
            starts[term.name] = TermStart(term.weight)
            if not term.fixed:
                settings = {**self.config.to_dict(), "min_weight": term.low, "max_weight": term.high}
                starts[term.name] = TermStart(
                    term.weight, type(self.config).from_dict(settings), self.state.core.of(term.name).to_dict()
                )
        state = json.loads(json.dumps(self.envelope.to_dict(self.state)))
        balance = {"strategy": describe(self.strategy), "state": state}
        self.writer = JournalWriter(self.journal, Header(self.run, starts, self.state.core.step, balance=balance))
        return self

    def observe(self, steps, per_execution=1):
        for _ in range(steps // per_execution):
            first = self.state.core.step + 1
            seen = [next(self._seen)._replace(step=first + number) for number in range(per_execution)]
            if not hasattr(self.strategy, "variables"):  # nothing is measured for it
                seen = [step._replace(term_norms={}) for step in seen]
            self.state, decision = self.envelope.step(self.state, seen)
            self._note(seen, decision)
        return self

    def by_hand(self, name):
        self.state, decision = by_hand(self.envelope, self.state, name)
        self._note((), decision)
        return self

    def resume(self, state, decisions):
        """Go on from a checkpoint."""
        self.writer.close()
        self.state, self.decisions = state, list(decisions)
        return self.begin()

    def close(self):
        self.writer.close()
        return self

    def _note(self, seen, decision):
        self.writer.note(seen, [decision])
        self.decisions.append(decision)
