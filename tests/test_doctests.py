"""The examples in the docstrings of the public names run, and print what they say."""

import doctest
import pathlib
import shutil

import pytest

import keras_adaptive_weights as kaw

EXAMPLES = {
    name: doctest.DocTestFinder(recurse=True).find(getattr(kaw, name), name)
    for name in kaw.__all__
    if name != "__version__"
}

RECORDED = pathlib.Path(__file__).parent / "data" / "before_the_wings" / "run"


def test_every_public_name_has_an_example():
    without = {name for name, found in EXAMPLES.items() if not any(test.examples for test in found)}
    assert without <= {"calibrate", "AdaptiveWeightCallback", "AdaptiveMelWeightCallback"}, "these show one to read"


@pytest.mark.parametrize("name", [name for name, found in EXAMPLES.items() if any(test.examples for test in found)])
def test_the_example_runs(name, tmp_path, monkeypatch):
    """In a folder of its own with a recorded run in `runs/1`, with the public names, Keras and NumPy at hand."""
    import keras
    import numpy as np

    shutil.copytree(RECORDED, tmp_path / "runs" / "1")
    monkeypatch.chdir(tmp_path)
    public = {known: getattr(kaw, known) for known in kaw.__all__}
    said = []
    for test in EXAMPLES[name]:
        test.globs = {**public, "kaw": kaw, "keras": keras, "np": np}
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=said.append)  # `-v` is pytest's
    assert not said, "".join(said)
