"""The decision rule against noise, shifts, trials and plants: every target, by simulation over many seeds."""

import pytest
from bounds import binomial_lower, binomial_upper, poisson_upper
from experiments import cases, measure
from table import main, pool

CASES = list(cases())


@pytest.fixture(scope="module")
def executor():
    with pool(2) as processes:
        yield processes


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[f"{case.group}: {case.name}".replace(" ", "-") for case in CASES])
def test_target(case, executor, rows):
    row = measure(case, executor, case.few)
    rows.append(row)
    assert row.met, f"{row.group}: {row.case}: {row.measured}; the target is {row.target}"


@pytest.mark.parametrize(("count", "upper"), [(0, 2.9957), (1, 4.7439), (5, 10.5130), (20, 29.0620)])
def test_poisson_bound_is_that_of_the_tables(count, upper):
    assert poisson_upper(count) == pytest.approx(upper, abs=1e-4)


@pytest.mark.parametrize(
    ("hits", "runs", "lower", "upper"),
    [(0, 10, 0.0, 0.2589), (10, 10, 0.7411, 1.0), (3, 10, 0.0873, 0.6066), (485, 500, 0.9541, 0.9814)],
)
def test_binomial_bounds_are_those_of_the_tables(hits, runs, lower, upper):
    assert binomial_lower(hits, runs) == pytest.approx(lower, abs=1e-4)
    assert binomial_upper(hits, runs) == pytest.approx(upper, abs=1e-4)


def test_a_missed_target_is_exit_code_1(capsys, monkeypatch):
    """The command says so, rather than printing a table that looks well."""
    import experiments
    import table

    impossible = experiments.Case("group", "name", float, lambda results: ("none", f"{len(results)} runs", False), 3, 1)
    monkeypatch.setattr(table, "cases", lambda: iter([impossible]))
    assert main(["--factor", "2", "--processes", "1"]) == 1
    assert "| group | name | none | 6 runs | **no** |" in capsys.readouterr().out
