"""What would the weight have done under other settings? A recorded run, decided again, without training again.

    python examples/what_if.py runs/1 --set cooling_period=100
    python examples/what_if.py runs/1 --set loss_ratio_high=1.2 --set loss_ratio_low=0.8 --png what_if.png

Reads the journal of a run, checks that the recorded settings lead to the recorded decisions, and takes all decisions
again under the settings given. Both weight paths and their decisions are printed side by side, and drawn. What was
asked for by hand (disable, enable, rollback, reset) happens again at the same steps. Needs no TensorFlow; a run of a
hundred thousand steps takes a few seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import keras_adaptive_weights as kaw
from keras_adaptive_weights.recording.run_folder import find_journal
from keras_adaptive_weights.recording.what_if import SHADOW, WhatIf, parse_settings, what_if
from keras_adaptive_weights.showing.picture import write_picture
from keras_adaptive_weights.showing.what_if_picture import draw_what_if

CANNOT_TELL = """\
What this cannot tell: every loss and gradient norm in the journal was measured under the weight in force at that step.
Another weight would have led to other parameters, and these to other losses. So this shows when the rule would have
moved the weight on the losses there were: how often it would have acted, and on what. It does not show that training
would have gone better or worse, and least of all whether a rollback was right: a trial here judges a change that this
training never saw. To know that, train again."""
_WIDTH = 52


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return 0, or 2 where the journal or a setting cannot be used."""
    options = _parse(arguments)
    try:
        journal = kaw.read_journal(find_journal(options.journal))
        recorded = journal.headers[0].config
        config = parse_settings(options.set, recorded)
    except (OSError, ValueError) as error:
        print(f"what_if: {error}", file=sys.stderr)
        return 2
    if not what_if(journal).same:
        print(
            "Warning: the recorded settings do not lead to the recorded decisions. The journal was written by another"
        )
        print(f"version ({journal.headers[0].version}; this is {kaw.__version__}), or was changed.\n")
    result = what_if(journal, config)
    print("\n".join(report(journal, result)))
    if options.png:
        write_picture(options.png, draw_what_if(result, journal))
        print(f"\nDrawn: {options.png}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("journal", help="the journal.jsonl of a run, or the run's log dir")
    parser.add_argument("--set", action="append", required=True, metavar="NAME=VALUE", help="a setting; repeatable")
    parser.add_argument("--png", metavar="FILE", help="draw both weight paths into this file")
    return parser.parse_args(arguments)


def report(journal: kaw.Journal, result: WhatIf) -> Iterator[str]:
    """Yield the lines to print: what was changed, both lists of decisions side by side, sums, and the limits of it."""
    before, after = journal.headers[0].config.to_dict(), result.config.to_dict()
    changes = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    steps = [seen.step for seen in journal.observations]
    yield f"{len(steps):,} steps of {journal.headers[0].term}; {', '.join(changes) or 'no setting is changed'}"
    if result.first_difference is None:
        yield "Every decision would have been the same."
    else:
        yield f"The same before step {result.first_difference:,}; from there on, the two paths differ."
    if any(header.shadow for header in journal.headers):
        yield SHADOW
    yield ""
    yield f"{'recorded':<{_WIDTH}} | what if"
    yield f"{'-' * _WIDTH}-+-{'-' * _WIDTH}"
    for ours, theirs in side_by_side(result):
        yield f"{_line(ours):<{_WIDTH}} | {_line(theirs)}".rstrip()
    yield ""
    for name, path, events in _sides(result):
        counts = Counter(str(event.action) for event in events)
        weights = [weight for _, weight in path]
        listed = ", ".join(f"{count} {action}" for action, count in counts.most_common()) or "no decision but HOLD"
        yield f"{name:<9} {listed}; weight {min(weights):.3f} to {max(weights):.3f}, at the end {weights[-1]:.3f}"
    held = ", ".join(f"{count:,} {reason}" for reason, count in result.holds.items())
    yield f"{'held by':<9} {held or 'nothing'} (what if)"
    yield ""
    yield CANNOT_TELL


def side_by_side(result: WhatIf) -> Iterator[tuple[kaw.Decision | None, kaw.Decision | None]]:
    """Yield the decisions of both sides in the order of their steps; the same action at the same step as a pair."""
    left, right = list(result.recorded), list(result.decided)
    while left and right:
        if (left[0].step, left[0].action) == (right[0].step, right[0].action):
            yield left.pop(0), right.pop(0)
        elif left[0].step <= right[0].step:
            yield left.pop(0), None
        else:
            yield None, right.pop(0)
    yield from ((decision, None) for decision in left)
    yield from ((None, decision) for decision in right)


def _sides(result: WhatIf) -> Iterator[tuple[str, list[tuple[int, float]], list[kaw.Decision]]]:
    yield "recorded", result.recorded_path, result.recorded
    yield "what if", result.path, result.decided


def _line(event: kaw.Decision | None) -> str:
    if event is None or not math.isfinite(event.new_weight):
        return ""
    return f"{event.step:>7,} {event.action:<8} {event.new_weight:.3f}  {event.reason}"


if __name__ == "__main__":
    sys.exit(main())
