"""Models that were written without this package, in plain Keras and with one adaptive weight: see `comparing.py`."""

from __future__ import annotations

from pathlib import Path

import comparing
import pytest

LINES = {
    "tickets": 2,
    "backbone": 2,
    "speech": 2,
    "transcriber": 2,
    "recogniser": 2,
    "distilled": 4,
    "vae": 6,
    "gan": 6,
}


@pytest.mark.slow
@pytest.mark.usefixtures("graphs_as_traced")
@pytest.mark.filterwarnings(
    "ignore:Gradients do not exist for variables",  # of a head without a loss
    "ignore:.*shuffle=True.*:UserWarning",  # a tf.data.Dataset keeps its order
)
@pytest.mark.parametrize("name", comparing.NAMES)
def test_few_lines_change_and_nothing_else(name):
    """Frozen, it is plain Keras; adaptive, it loses one batch that is NaN and nothing more."""
    result = comparing.compare(name, steps=50)
    assert result.lines <= LINES[name]
    assert result.deviation <= result.limit
    assert result.skipped == 1
    assert result.finite


def test_the_readme_counts_them_so():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| model | lines |")[2].partition("\n\n")[0]
    counts = [int(row.split("|")[2]) for row in table.splitlines()[2:] for _ in row.split("|")[1].split(",")]
    assert counts == [comparing.lines_changed(name) for name in comparing.NAMES]


def test_the_table_has_a_row_for_each():
    result = comparing.Result(2, 0.0, 0.0, 1, 0, True, (2.0, 1.0))
    assert comparing.table({"tickets": result}).splitlines()[2] == "| tickets | 2 | 0 | 1 | 0 | 2 -> 1 |"
