"""Prints the table of what was measured at the end of the tests."""

import pytest
from table import markdown

_ROWS = pytest.StashKey()


@pytest.fixture(scope="session")
def rows(request):
    """The rows measured so far, for the table at the end."""
    return request.config.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(terminalreporter, config):
    """Print the table."""
    if measured := config.stash.get(_ROWS, []):
        terminalreporter.section("calibration")
        terminalreporter.write_line(markdown(measured))
