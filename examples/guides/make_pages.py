"""Writes `parameters.md` from the docstrings of the public classes, and `first_run.ipynb` from its guide.

    python examples/guides/make_pages.py

A test compares, and says so where a page is no longer what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import keras_adaptive_weights as kaw

HERE = Path(__file__).parent
NAMES = (
    *("AdaptiveWeightConfig", "AdaptiveWeight", "AdaptiveWeightCallback", "ModelRecovery", "CompositeLoss", "LossTerm"),
    *("XTTSLoss", "GradientShare", "Constraint", "SqrtLoss", "TrainingConfig"),
)
WHEN = {
    "enabled": "to have the skips, the dampening and the record alone",
    "min_weight": "where the base weight is not around 2.5",
    "max_weight": "where the base weight is not around 2.5",
    "max_change_percent": "hardly ever: 0.02 where a run must not be disturbed",
    "warmup_steps": "longer, where the first epochs say nothing about the rest",
    "cooling_period": "longer, where a change shows late in the loss",
    "variance_threshold": "higher, for batches of very different difficulty",
    "loss_smoothing_factor": "smaller, for noisy losses; larger with many steps per execution",
    "max_loss_spike_threshold": "higher, where a doubled loss is nothing unusual",
    "gradient_norm_threshold": "to what is usual in your model, or None",
    "reference_steps": "a multiple of an epoch's steps, where losses rise through each epoch",
    "significance": "6, where losses wander slowly; lower, to hear more and err more",
}


def arguments(documented: type) -> dict[str, str]:
    """Return what the docstring says of each argument."""
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(said.split()) for name, said in found}


def table(name: str) -> str:
    """Return the section of one public class."""
    documented = getattr(kaw, name)
    said = arguments(documented)
    lines = [f"## {name}", "", f"{(inspect.getdoc(documented) or '').splitlines()[0]}", ""]
    lines += ["| parameter | default | what it does | change it |", "|---|---|---|---|"]
    for parameter in inspect.signature(documented).parameters.values():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        if "factory" in default:
            default = ""
        when = WHEN.get(parameter.name, "") if name == "AdaptiveWeightConfig" else ""
        lines.append(
            f"| `{parameter.name}` | {default} | {said[parameter.name].replace('|', chr(92) + '|')} | {when} |"
        )
    return "\n".join(lines)


def parameters() -> str:
    """Return the guide to all parameters."""
    head = "# Every parameter\n\nSteps are training steps (batches); weights, losses and ratios have no unit."
    return "\n\n".join([head, *(table(name) for name in NAMES)]) + "\n"


def notebook() -> str:
    """Return the first run as a notebook: its blocks of Python are the cells, its shell blocks stay text."""
    parts = re.split(
        r"^```python\n(.*?)^```\n", (HERE / "first_run.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    cells = []
    for i, part in enumerate(parts):
        kind: dict[str, object] = {"cell_type": "code", "execution_count": None, "outputs": []} if i % 2 else {}
        lines = part.strip().splitlines(keepends=True)
        cells.append({"cell_type": "markdown", **kind, "id": f"cell-{i}", "metadata": {}, "source": lines})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


PAGES = {"parameters.md": parameters, "first_run.ipynb": notebook}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
