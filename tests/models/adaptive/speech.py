"""A text-to-spectrogram model in the manner of FastSpeech 2: five outputs in a tuple."""

import keras
import numpy as np

import keras_adaptive_weights as kaw

SYMBOLS, STEPS, MEL = 20, 6, 8


def make(**arguments):
    text = keras.Input((STEPS,), dtype="int32")
    hidden = keras.layers.Embedding(SYMBOLS, 8)(text)
    hidden = keras.layers.Conv1D(8, 3, padding="same", activation="relu")(hidden)
    duration = keras.layers.Dense(1, name="duration")(hidden)
    pitch = keras.layers.Dense(1, name="pitch")(hidden)
    energy = keras.layers.Dense(1, name="energy")(hidden)
    varied = keras.layers.concatenate([hidden, pitch, energy])
    mel = keras.layers.Dense(MEL, name="mel")(keras.layers.UpSampling1D(2)(varied))
    refined = keras.layers.Conv1D(MEL, 3, padding="same", name="refined")(mel)
    model = kaw.stable(keras.Model(text, (mel, refined, duration, pitch, energy)))
    model.compile(
        keras.optimizers.Adam(0.003, global_clipnorm=1.0),
        loss=("mae", "mae", "mse", "mse", "mse"),
        loss_weights=(kaw.AdaptiveWeight(2.5), kaw.AdaptiveWeight(2.5), 0.1, 0.1, 0.1),
        **arguments,
    )
    return model


def data(samples, rng):
    text = rng.integers(0, SYMBOLS, (samples, STEPS))
    mel = np.repeat(np.sin(text[:, :, None] * np.arange(1, MEL + 1) / 5.0), 2, axis=1).astype("float32")
    variances = [np.cos(text[:, :, None] / scale).astype("float32") for scale in (2.0, 3.0, 4.0)]
    return text, (mel, mel, *variances)


def spoil(x, y, sample):
    y[0][sample, 0] = np.inf
