"""Follows README and guides as a stranger does: the built wheel, an empty folder, every block of Python and the shell.

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
SKIPPED = (
    "pip install",
    "tensorboard",
    "venv",
    "python examples",
    "runs/1",
    "srun",
)  # long, or of a run that is not ours
RUN_PAGE = "import sys; sys.path.insert(0, sys.argv[1]); import guides, pathlib; guides.run(pathlib.Path(sys.argv[2]))"


def run(*command, **options):
    """Run a command that must succeed."""
    return subprocess.run([str(part) for part in command], check=True, **options)


def follow(page, tools, support, folder):
    """Run the blocks of one page; returns how many of Python and of the shell."""
    from guides import blocks

    folder.mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    run(tools / "python", "-c", RUN_PAGE, support, page, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    lines = [line for _, block in blocks(page, "sh") for line in block.splitlines() if line.strip()]
    lines = [line for line in lines if not any(part in line for part in SKIPPED)]
    for line in lines:
        if not line.startswith("keras-adaptive-weights disable") and not line.startswith(
            "keras-adaptive-weights enable"
        ):
            subprocess.run(line, shell=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return len(blocks(page, "python")), len(lines)


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
            f"{page.name}: {python} blocks of Python, {shell} lines of shell, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    for persian, english in PERSIAN.items():
        assert [code for _, code in blocks(persian)] == [code for _, code in blocks(english)], persian
        print(f"{persian.relative_to(source)}: the same blocks", flush=True)
    if "--source" in sys.argv:
        run(tools / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile", cwd=source)


if __name__ == "__main__":
    main()
