"""An index over a journal that may be long and still growing: what an overview, a window or a report asks for.

A window is answered from the blocks in it, or from its own lines where the blocks would be too coarse.
"""

from __future__ import annotations

import os
from copy import copy

from keras_adaptive_weights.deciding.described_strategy import intents_of, loss_limits_of
from keras_adaptive_weights.journal.lines import Values
from keras_adaptive_weights.journal.scan import Scan, Span, Standing
from keras_adaptive_weights.journal.terms import block_of, event_of, header_of


class JournalIndex:
    """What is known so far of one term of a journal. Every method may be called from any thread.

    Args:
        path: The `journal.jsonl` file, or its URL.
        term: Name of the term, adaptive or not. `None`: the first adaptive one of the last header.

    Attributes:
        path: The file.

    The lines are read once for all terms: `of` gives the index of another one.
    """

    def __init__(self, path: str | os.PathLike[str], term: str | None = None) -> None:
        self.path = os.fspath(path)
        self._term = term
        self._scan = Scan(self.path)

    def of(self, term: str | None) -> JournalIndex:
        """Return the index of another term over the same scan of the file; `None`: of the first adaptive one.

        Raises:
            ValueError: There is no such term.
        """
        other = copy(self)
        other._term = term  # noqa: SLF001 - of this class
        if self._scan.headers:
            other.term  # noqa: B018 - refuses what is not there
        return other

    def refresh(self) -> bool:
        """Take in what was written since; return whether there was anything new.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is no journal, or its format is newer than this package.
        """
        return self._scan.refresh()

    @property
    def terms(self) -> list[str]:
        """Names of the terms whose weights are or were adaptive, in the order of the last header."""
        return [name for name, adaptive in self._scan.terms.items() if adaptive]

    @property
    def fixed(self) -> dict[str, float]:
        """The weights of the other terms by name, as far as anything of them was ever measured."""
        known = self._scan.headers[-1].terms if self._scan.headers else {}
        measured, terms = self._scan.with_figure("loss"), self._scan.terms.items()
        return {n: known[n].weight for n, ever in terms if not ever and n in known and n in measured}

    @property
    def term(self) -> str:
        """Name of the term; empty as long as there is no header.

        Raises:
            ValueError: There is no such term.
        """
        if not self._scan.headers:
            return ""
        if self._term is not None and self._term not in self._scan.terms:
            raise ValueError(f"{self.path!r} has no term {self._term!r:.60}; there are {list(self._scan.terms)}.")
        return self._scan.headers[-1].term if self._term is None else self._term

    @property
    def together(self) -> bool:
        """Whether it is of no term in particular, in a run of several adaptive weights or of balanced ones."""
        return self._term is None and (len(self.terms) > 1 or self.balance is not None)

    @property
    def balance(self) -> Values | None:
        """The strategy by which the weights are decided on together, as plain values; `None`: each by itself."""
        balance = self._scan.headers[-1].balance if self._scan.headers else None
        return None if balance is None else balance["strategy"]

    @property
    def intent(self) -> float | None:
        """Part of the gradient that the term is to make, as the balance or its decisions say; `None`: none does."""
        header, term = self._scan.headers[-1] if self._scan.headers else None, self.term
        if header is None or header.balance is None:
            return None
        found = intents_of(header.balance["strategy"], header.adaptive, self._scan.with_figure("share"))
        if found is not None:
            return found.get(term)
        said = (event for event in reversed(self._scan.events) if not event["term"] and event["step"] > header.step)
        return next((event["evidence"].get(f"intent.{term}") for event in said), None)

    @property
    def loss_limit(self) -> float | None:
        """What a balance keeps the term's loss at; `None`: nothing does."""
        return None if self.balance is None else loss_limits_of(self.balance).get(self.term)

    @property
    def headers(self) -> list[Values]:
        """What the headers that know the term say of it."""
        return [header_of(header, self.term) for header in self._scan.headers if self.term in header.terms]

    @property
    def events(self) -> list[Values]:
        """The term's event lines in force, oldest first, each with its `index` in this list."""
        term = self.term
        mine = (found for event in self._scan.events if (found := event_of(event, term)) is not None)
        return [{**event, "index": number} for number, event in enumerate(mine)]

    @property
    def all_events(self) -> list[Values]:
        """The event lines of all terms in force, oldest first."""
        return list(self._scan.events)

    @property
    def spans(self) -> list[Span]:
        """All runs of steps with the term, oldest first, with those that are not yet complete."""
        term = self.term
        known = [span for span in self._scan.spans if term in span.block["terms"]]
        return [Span(span.start, span.end, block_of(span.block, term), span.last, span.header) for span in known]

    def rows(self, span: Span) -> list[Values]:
        """Return what the step lines of a span say of the term; those that cannot be read are left out."""
        rows = self._scan.rows(span)
        return [row[self.term] for row in rows if self.term in row and row[self.term]["step"] <= span.last]

    @property
    def weight(self) -> float:
        """Weight in force after the last line."""
        return self._scan.standing.get(self.term, Standing()).weight

    @property
    def proposed(self) -> float:
        """Weight decided on after the last line: in a shadow run only proposed, else the same."""
        return self._scan.standing.get(self.term, Standing()).proposed

    @property
    def disabled(self) -> bool:
        """Whether adaptation is disabled after the last line."""
        return self._scan.standing.get(self.term, Standing()).disabled

    @property
    def shadow(self) -> bool:
        """Whether the last `fit` was a shadow run."""
        return bool(self._scan.headers) and self._scan.headers[-1].shadow

    @property
    def ended(self) -> bool:
        """Whether the last writer closed the journal in an orderly way."""
        return self._scan.ended

    @property
    def problems(self) -> int:
        """How many lines could not be read."""
        return self._scan.problems

    @property
    def problem_texts(self) -> list[str]:
        """The first 20 of them, one sentence each."""
        return list(self._scan.problem_texts)

    @property
    def superseded(self) -> int:
        """How many events, of whatever term, were superseded by a resume from an earlier step."""
        return self._scan.superseded

    @property
    def generation(self) -> int:
        """Grows when something already told was taken back (the file was replaced, or a run resumed)."""
        return self._scan.generation

    @property
    def size(self) -> int:
        """Bytes taken in so far."""
        return self._scan.position
