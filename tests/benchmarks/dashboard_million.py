"""How long a journal of a million steps takes to open in the dashboard.

    python tests/benchmarks/dashboard_million.py                    # a minute or two
    python tests/benchmarks/dashboard_million.py --journal RUN/adaptive_weights/journal.jsonl

Writes such a journal (2,000 events, 1,000 skipped steps), starts TensorBoard on it, and opens the page in headless
Chromium, the frame of the plugin by itself, so that TensorBoard's own page is not counted. Each row is the median of
several openings by fresh TensorBoard processes: until the curve of the whole run with all its markers is drawn; and the
same for a reload, when the server already knows the journal.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from markdown import publish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # what the browser tests have

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.writer import JournalWriter


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--journal", type=Path, help="use this journal")
    parser.add_argument("--times", type=int, default=3, help="openings to take the median of")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "run" / "adaptive_weights" / "journal.jsonl"
        if options.journal:
            journal.parent.mkdir(parents=True)
            journal.symlink_to(options.journal.resolve())
        else:
            write_journal(journal, options.steps)
        rows = measure(Path(folder), journal, options.times)
    publish(table(("what", "seconds"), rows), options.output)


def write_journal(path: Path, steps: int) -> None:
    """Write a journal as long as that, with an event every 500 steps and a skipped step every 1,000."""
    draw = random.Random(1)
    config = AdaptiveWeightConfig()
    weight = 2.5
    writer = JournalWriter(path, Header.of("run", "mel_loss", weight, config, initial_state(config, weight).to_dict()))
    average = 1.0
    for step in range(1, steps + 1):
        bad = step % 1000 == 999
        loss = math.nan if bad else 0.8 * draw.lognormvariate(0.0, 0.1)
        norm = math.nan if bad else 3.0 * draw.lognormvariate(0.0, 0.1)
        average += 0.01 * (0.0 if bad else loss - average)
        seen = Observation(step, loss, weight * loss, norm, applied=not bad, non_finite="mel_loss" if bad else None)
        evidence = {
            "smoothed_loss": average,
            "running_average": average,
            "loss_ratio": loss / average,
            "loss_variance": 0.01,
            "average_gradient_norm": 3.0,
        }
        if step % 500:
            reason = Reason.COOLING if step % 500 < 50 else Reason.WITHIN_BAND
            decision = Decision(step, Action.HOLD, reason, weight, weight, evidence)
        else:
            up = weight < 2.4 or (weight < 3.0 and draw.random() < 0.5)
            new = weight * 1.05 if up else weight / 1.05
            action, reason = (Action.INCREASE, Reason.LOSS_HIGH) if up else (Action.DECREASE, Reason.LOSS_LOW)
            decision = Decision(step, action, reason, weight, new, evidence)
        writer.observe((seen,), decision)
        weight = decision.new_weight
    writer.close()


def measure(folder: Path, journal: Path, times: int) -> list[tuple[str, str]]:
    """Return the rows of the table."""
    index_seconds, first, again = [], [], []
    for _ in range(times):
        begin = time.perf_counter()
        index = JournalIndex(journal)
        index.refresh()
        index_seconds.append(time.perf_counter() - begin)
        opened, reloaded = open_page(folder, len(index.events), index.spans[-1].last)
        first.append(opened)
        again.append(reloaded)
    size = f"{journal.stat().st_size / 1e6:,.0f} MB, {index.spans[-1].last:,} steps, {len(index.events):,} events"
    return [
        (f"index of the journal ({size})", f"{statistics.median(index_seconds):.2f}"),
        ("page opened, TensorBoard just started", f"{statistics.median(first):.2f}"),
        ("page opened again", f"{statistics.median(again):.2f}"),
    ]


def open_page(folder: Path, events: int, last: int) -> tuple[float, float]:
    """Return the seconds until the page shows the whole run: by a server that has not seen it, and once more."""
    from playwright.sync_api import sync_playwright
    from tensorboard_page import FLAGS, tensorboard

    drawn = (
        "([events, last]) => document.querySelector('#panel-weight .weight-line')"
        " && document.querySelector('.range-text').textContent.replaceAll(',', '').endsWith(String(last))"
        " && [...document.querySelectorAll('.marker[data-index], .marker:not([data-kind=skipped])')]"
        ".reduce((sum, n) => sum + Number(n.dataset.count), 0) === events"
    )
    seconds = []
    chromium = shutil.which("chromium") or sys.exit("Needs Chromium: apt-get install chromium.")
    with tensorboard(folder) as address, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1100})
        page.goto("about:blank")
        for _ in range(2):
            begin = time.perf_counter()
            page.goto(f"{address}data/plugin_entry.html?name=adaptive_weights")
            page.wait_for_function(drawn, arg=[events, last], polling=20)
            seconds.append(time.perf_counter() - begin)
        browser.close()
    return seconds[0], seconds[1]


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
