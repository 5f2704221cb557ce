"""A transformer that transcribes sound: padded text with masks, a label-smoothed loss, and how long the text is."""

import keras
import numpy as np

import keras_adaptive_weights as kaw

FRAMES, BANDS, SYMBOLS, LENGTH = 10, 6, 12, 5


@keras.saving.register_keras_serializable(package="tests.models")
class Smoothed(keras.losses.Loss):
    """Cross entropy with a tenth of the probability spread over all symbols."""

    def call(self, y_true, y_pred):
        wanted = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), SYMBOLS) * 0.9 + 0.1 / SYMBOLS
        return keras.losses.categorical_crossentropy(wanted, y_pred, from_logits=True)


def make(**arguments):
    sound = keras.Input((FRAMES, BANDS), name="sound")
    text = keras.Input((LENGTH,), dtype="int32", name="text")
    heard = keras.layers.Dense(8)(sound)
    heard = keras.layers.LayerNormalization()(heard + keras.layers.MultiHeadAttention(2, 4)(heard, heard))
    said = keras.layers.Embedding(SYMBOLS, 8, mask_zero=True)(text)
    said = keras.layers.LayerNormalization()(said + keras.layers.MultiHeadAttention(2, 4)(said, heard))
    symbols = keras.layers.Dense(SYMBOLS, name="symbols")(said)
    length = keras.layers.Dense(1, name="length")(keras.layers.GlobalAveragePooling1D()(heard))
    model = kaw.stable(keras.Model({"sound": sound, "text": text}, {"symbols": symbols, "length": length}))
    weights = {"symbols": kaw.AdaptiveWeight(2.5), "length": 0.5}
    model.compile("adam", {"symbols": Smoothed(), "length": "mae"}, weights, **arguments)
    return model


def data(samples, rng):
    lengths = rng.integers(2, LENGTH + 1, samples)
    text = np.where(np.arange(LENGTH) < lengths[:, None], rng.integers(1, SYMBOLS, (samples, LENGTH)), 0)
    sound = rng.normal(size=(samples, FRAMES, BANDS)).astype("float32")
    sound[:, :LENGTH, 0] += text
    return {"sound": sound, "text": text}, {"symbols": text, "length": lengths[:, None].astype("float32")}


def spoil(x, y, sample):
    x["sound"][sample] = np.nan
