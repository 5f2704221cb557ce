"""The steps of a journal as one term sees them, put together by hand from its lines."""

import json
from pathlib import Path

from keras_adaptive_weights.journal.lines import encode

FIGURES = ("smoothed_loss", "running_average", "loss_ratio", "loss_variance", "average_gradient_norm")


def rows_of(path, term="mel_loss"):
    """Return a dictionary for each step line, with the term's own `weight`, `loss`, `action`, `reason` and figures."""
    rows, weight = [], None
    for line in Path(path).read_text().splitlines():
        if not line.startswith('{"kind": "step"'):
            continue
        row = json.loads(line)
        weight = row.get("weights", {}).get(term, weight)
        row |= {"weight": weight, "loss": row["losses"].get(term)}
        if term in row.get("decided", {}):
            row |= dict(zip(("action", "reason", *FIGURES), row["decided"][term], strict=True))
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def texts(decisions):
    """Return decisions as lines of JSON: NaN is not equal to itself."""
    return [encode(decision.to_dict()) for decision in decisions]
