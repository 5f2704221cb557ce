"""A variational autoencoder with a `train_step` of its own, in the manner of Keras's guide."""

import keras
import numpy as np
import tensorflow as tf

WIDTH, LATENT = 12, 2


class VAE(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2 * LATENT)])
        self.decoder = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(WIDTH)])
        self.seeds = keras.random.SeedGenerator(11)

    def call(self, x):
        mean, log_var = keras.ops.split(self.encoder(x), 2, axis=-1)
        z = mean + keras.ops.exp(0.5 * log_var) * keras.random.normal(keras.ops.shape(mean), seed=self.seeds)
        reconstruction = keras.ops.sum((x - self.decoder(z)) ** 2, axis=-1)
        kl = -0.5 * keras.ops.sum(1.0 + log_var - mean**2 - keras.ops.exp(log_var), axis=-1)
        return reconstruction, kl

    def train_step(self, data):
        (x,) = data
        with tf.GradientTape() as tape:
            reconstruction, kl = self(x)
            loss = 2.5 * keras.ops.mean(reconstruction) + keras.ops.mean(kl)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def make(**arguments):
    model = VAE()
    model.compile("adam", **arguments)
    return model


def data(samples, rng):
    return rng.normal(size=(samples, WIDTH)).astype("float32"), None


def spoil(x, y, sample):
    x[sample] = np.nan
