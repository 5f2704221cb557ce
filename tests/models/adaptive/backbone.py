"""A frozen image backbone with two heads on top."""

import keras
import numpy as np

import keras_adaptive_weights as kaw

SIZE, KINDS = 32, 3


def make(**arguments):
    backbone = keras.applications.MobileNet((SIZE, SIZE, 3), alpha=0.25, include_top=False, weights=None)
    backbone.trainable = False
    image = keras.Input((SIZE, SIZE, 3), name="image")
    features = keras.layers.GlobalAveragePooling2D()(backbone(image, training=False))
    kind = keras.layers.Dense(KINDS, activation="softmax", name="kind")(features)
    angle = keras.layers.Dense(1, name="angle")(features)
    model = kaw.stable(keras.Model(image, [kind, angle]))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        loss=["sparse_categorical_crossentropy", "mse"],
        loss_weights=[1.0, kaw.AdaptiveWeight(2.5)],
        **arguments,
    )
    return model


def data(samples, rng):
    images = rng.uniform(-1.0, 1.0, (samples, SIZE, SIZE, 3)).astype("float32")
    return images, [rng.integers(0, KINDS, samples), images.mean(axis=(1, 2, 3))[:, None]]


def spoil(x, y, sample):
    x[sample] = np.nan
