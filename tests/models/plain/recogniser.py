"""A text recogniser whose last layer adds the CTC loss itself, and a head that counts the characters."""

import keras
import numpy as np

FRAMES, BANDS, SYMBOLS, LENGTH = 8, 5, 6, 3


class CTCLayer(keras.layers.Layer):
    """Hands the scores on, and adds their CTC loss to the model's."""

    def call(self, labels, scores):
        batch = keras.ops.shape(labels)[0]
        lengths = keras.ops.full((batch,), LENGTH, "int32"), keras.ops.full((batch,), FRAMES, "int32")
        self.add_loss(keras.ops.mean(keras.ops.ctc_loss(labels, scores, *lengths, mask_index=0)))
        return scores


def make(**arguments):
    image = keras.Input((FRAMES, BANDS), name="image")
    labels = keras.Input((LENGTH,), dtype="int32", name="labels")
    hidden = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))(image)
    scores = CTCLayer(name="scores")(labels, keras.layers.Dense(SYMBOLS)(hidden))
    count = keras.layers.Dense(1, name="count")(keras.layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model({"image": image, "labels": labels}, {"scores": scores, "count": count})
    model.compile("adam", {"scores": None, "count": "mse"}, {"scores": None, "count": 2.5}, **arguments)
    return model


def data(samples, rng):
    labels = rng.integers(1, SYMBOLS, (samples, LENGTH))
    image = rng.normal(size=(samples, FRAMES, BANDS)).astype("float32")
    image[:, ::3, 0] += labels
    inputs = {"image": image, "labels": labels}
    return inputs, {"scores": np.zeros((samples, 1), "float32"), "count": labels.max(axis=1, keepdims=True) / 5.0}


def spoil(x, y, sample):
    x["image"][sample] = np.nan
