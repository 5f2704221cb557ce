"""What the tests of the examples share."""

import os

import pytest


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """Where the corpus and its spectrograms are kept: made once for all processes that test side by side."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
