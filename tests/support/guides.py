"""README and guides as the tests read them: fenced blocks, headings, links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GUIDES = ROOT / "examples" / "guides"
ENGLISH = [ROOT / "README.md", *sorted(GUIDES.glob("*.md"))]
PERSIAN = {ROOT / "README.fa.md": ROOT / "README.md"} | {
    path: GUIDES / path.name for path in sorted((GUIDES / "fa").glob("*.md"))
}


def blocks(path, language="[a-z]*"):
    """The fenced blocks of a page, each with the line it begins at."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(rf"^```({language})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start()].count("\n") + 2, match[2]) for match in found]


def prose(path):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(path):
    """Run a page's blocks of Python, in order and in one namespace, in the working directory."""
    names = {"__name__": "__main__"}
    for line, code in blocks(path, "python"):
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)  # a failure names page and line


def commands(path):
    """The arguments of a page's lines of our command, but for those that want a training which is going on."""
    lines = [line for _, block in blocks(path, "sh") for line in block.splitlines()]
    ours = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("keras-adaptive-weights ")]
    return [command for command in ours if command[0] in ("report", "replay")]
