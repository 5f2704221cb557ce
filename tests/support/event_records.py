"""TensorBoard's event files, read back by tag and step."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util


def read(folder):
    """Return {tag: {step: value}}: floats for scalars, text for texts."""
    records = {}
    for path in sorted(folder.glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                array = tensor_util.make_ndarray(value.tensor)
                content = float(array) if array.dtype.kind == "f" else array.item()
                records.setdefault(value.tag, {})[event.step] = content
    return records
