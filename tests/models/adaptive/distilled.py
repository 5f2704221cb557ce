"""Knowledge distillation with a `compute_loss` of one's own: a student learns from labels and from a frozen teacher."""

import keras
import numpy as np

import keras_adaptive_weights as kaw

WIDTH, KINDS = 10, 4


class Distilled(kaw.StableTrainStepMixin, keras.Model):
    def __init__(self):
        super().__init__()
        self.student = keras.Sequential([keras.layers.Dense(6, activation="relu"), keras.layers.Dense(KINDS)])
        self.teacher = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(KINDS)])
        self.teacher.trainable = False

    def call(self, x):
        return {"student": self.student(x), "teacher": keras.ops.softmax(self.teacher(x) / 3.0)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        label = keras.losses.sparse_categorical_crossentropy(y, y_pred["student"], from_logits=True)
        soft = keras.losses.kl_divergence(y_pred["teacher"], keras.ops.softmax(y_pred["student"] / 3.0))
        terms = {"label": label, "soft": soft}
        return super().compute_loss(x, None, terms, sample_weight, training)


def make(**arguments):
    model = Distilled()
    model.compile("adam", kaw.CompositeLoss.of_outputs(label=0.5, soft=kaw.AdaptiveWeight(2.5)), **arguments)
    return model


def data(samples, rng):
    x = rng.normal(size=(samples, WIDTH)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + 2 * (x[:, 1] > 0)


def spoil(x, y, sample):
    x[sample] = np.inf
