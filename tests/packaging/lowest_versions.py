"""Does it work with the lowest versions that it declares? Installs them in an environment of their own and runs tests.

    python tests/packaging/lowest_versions.py [environment]

The lowest version of each dependency is read from pyproject.toml. Exit code and last lines are pytest's.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TESTS = ["tests/test_guide.py", "tests/losses/test_xtts.py", "tests/training/test_stable.py"]
ITS_TENSORBOARD = "setuptools<82"  # tensorboard before 2.21 imports pkg_resources, which later ones have no more


def lowest():
    """The declared dependencies, each at its lowest version."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    pairs = [re.match(r"([\w-]+)>=([\d.]+)", dependency).groups() for dependency in project["dependencies"]]
    return [f"{name}=={version}.*" for name, version in pairs]


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="lowest-versions-"))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *lowest(), ITS_TENSORBOARD, "pytest", "pytest-timeout", "hypothesis"], check=True)
    subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    print("with", *lowest(), flush=True)
    return subprocess.run([python, "-m", "pytest", "--durations=0", *TESTS], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
