"""What pytest assumes of the tests: all are run in one process, where a module is found by its name alone."""

import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASKED_BY_PATH = {"conftest"}  # pytest gives each of these a name of its own


def test_no_two_modules_have_one_name():
    """The second would be the first: which one is imported would hang on the order in which files are run."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    folders = {ROOT / folder for folder in settings["pythonpath"]}
    folders |= {file.parent for file in (ROOT / "tests").rglob("test_*.py")}
    names = Counter(file.stem for folder in folders for file in folder.glob("*.py"))
    names.update(file.parent.name for folder in folders for file in folder.glob("*/__init__.py"))

    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1 and name not in ASKED_BY_PATH] == []
