"""Follows README and guides as a stranger does: the built wheel, an empty folder, every block and command of ours.

    python tests/packaging/follow.py [--source]

Builds wheel and sdist, installs the wheel into a fresh environment that knows nothing of the source tree, unpacks the
sdist for pages and tests, and runs each page's blocks in a folder of its own. The Persian pages have the same blocks.
`--source` also runs the sdist's own tests against the installed wheel. Exit code 0: everything ran.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUN_PAGE = "import sys; sys.path.insert(0, sys.argv[1]); import guides, pathlib; guides.run(pathlib.Path(sys.argv[2]))"


def run(*command, **options):
    """Run a command that must succeed."""
    return subprocess.run([str(part) for part in command], check=True, **options)


def follow(page, tools, support, folder):
    """Run the blocks of one page, and the commands after them; returns how many of each."""
    from guides import blocks, commands

    folder.mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    run(tools / "python", "-c", RUN_PAGE, support, page, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    for command in commands(page):
        run(tools / "keras-adaptive-weights", *command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    return len(blocks(page, "python")), len(commands(page))


def main():
    folder = Path(tempfile.mkdtemp(prefix="follow-"))
    run(sys.executable, "-m", "venv", folder / "built")
    tools = folder / "built" / ("Scripts" if sys.platform == "win32" else "bin")
    run(tools / "python", "-m", "pip", "install", "--quiet", "build")
    run(tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    extra = "test" if "--source" in sys.argv else "plot"
    run(tools / "python", "-m", "pip", "install", "--quiet", f"{wheel}[{extra}]")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    # pages and tests come from the sdist, the package from the wheel
    (source / "keras_adaptive_weights").rename(folder / "not-to-be-imported")
    support = source / "tests" / "support"
    sys.path.insert(0, str(support))
    from guides import ENGLISH, PERSIAN, blocks

    for page in ENGLISH:
        began = time.perf_counter()
        python, shell = follow(page, tools, support, folder / "empty" / page.stem)
        print(
            f"{page.name}: {python} blocks of Python, {shell} commands, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    for persian, english in PERSIAN.items():
        assert [code for _, code in blocks(persian)] == [code for _, code in blocks(english)], persian
        print(f"{persian.relative_to(source)}: the same blocks", flush=True)
    if "--source" in sys.argv:
        run(tools / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile", cwd=source)


if __name__ == "__main__":
    main()
