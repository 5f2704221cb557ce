"""What the files that are built say about the project."""

from __future__ import annotations

from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("address", [None, "https://example.org/team/keras-adaptive-weights/"])
def test_addresses_are_told_where_they_are_known(monkeypatch, address):
    monkeypatch.delenv("PROJECT_URL", raising=False)
    if address:
        monkeypatch.setenv("PROJECT_URL", address)
    urls = ProjectMetadata(str(ROOT), PluginManager()).core.urls
    assert list(urls) == (["Source", "Documentation", "Changelog", "Issues"] if address else [])
    for url in urls.values():
        page = url.removeprefix(address.rstrip("/")).rpartition("/main/")[2]
        assert page in ("", "/issues") or (ROOT / page).exists()


def test_a_package_index_gets_the_readme_without_what_it_does_not_have():
    readme = ProjectMetadata(str(ROOT), PluginManager()).core.readme
    assert readme.startswith("# keras-adaptive-weights")
    assert "](" not in readme
