"""Two inputs, two outputs, dictionaries of losses: which queue a ticket goes to, and how urgent it is."""

import keras
import numpy as np

import keras_adaptive_weights as kaw

WORDS, TAGS, QUEUES = 30, 5, 4


def make(**arguments):
    title = keras.Input((8,), dtype="int32", name="title")
    tags = keras.Input((TAGS,), name="tags")
    words = keras.layers.Embedding(WORDS, 6)(title)
    read = keras.layers.LSTM(6)(words)
    both = keras.layers.concatenate([read, tags])
    priority = keras.layers.Dense(1, activation="sigmoid", name="priority")(both)
    queue = keras.layers.Dense(QUEUES, activation="softmax", name="queue")(both)
    model = kaw.stable(keras.Model([title, tags], {"priority": priority, "queue": queue}))
    model.compile(
        "adam",
        loss={"priority": "binary_crossentropy", "queue": keras.losses.SparseCategoricalCrossentropy()},
        loss_weights={"priority": kaw.AdaptiveWeight(2.5), "queue": 1.0},
        metrics={"queue": ["accuracy"]},
        **arguments,
    )
    return model


def data(samples, rng):
    title = rng.integers(0, WORDS, (samples, 8))
    tags = rng.normal(size=(samples, TAGS)).astype("float32")
    priority = (tags.sum(axis=1, keepdims=True) > 0).astype("float32")
    return {"title": title, "tags": tags}, {"priority": priority, "queue": title[:, 0] % QUEUES}


def spoil(x, y, sample):
    y["priority"][sample] = np.nan
