"""Checks that look at one generated history in every way: to make one takes longer than to look at it."""


class Checks:
    """A decorator of checks, and what runs them all."""

    def __init__(self):
        self._all = []

    def __call__(self, check):
        self._all.append(check)
        return check

    def look_at(self, history):
        """Run all checks, in the order in which they were written; there must be some."""
        assert self._all
        for check in self._all:
            check(history)
