"""Losses of several weighted terms, and the shared weights that they read.

Here a term's value is computed and multiplied by its weight; `AdaptiveWeight` joins the rule of `deciding` to the
`tf.Variable` that the graph reads. Nothing here knows a model, a callback or a file.
Open `composite` first; `xtts` is the same with the terms of a speech model.
"""

from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.loss_term import LossTerm

__all__ = ["CompositeLoss", "LossTerm"]  # where pickles and models from before the wings look for them
