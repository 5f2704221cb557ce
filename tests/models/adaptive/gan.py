"""A generative adversarial network with two optimizers; what it generates is to have the mean of the data, too."""

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

WIDTH, NOISE = 6, 3


class GAN(kaw.StableTrainStepMixin, keras.Model):
    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(WIDTH)])
        self.critic = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
        self.seeds = keras.random.SeedGenerator(13)

    def call(self, noise):
        return self.generator(noise)

    def compile(self, critic_optimizer, optimizer, **arguments):
        super().compile(optimizer, **arguments)
        self.critic_optimizer = critic_optimizer

    def train_step(self, data):
        (real, *_), before = data, self.remember_state()
        noise = keras.random.normal((keras.ops.shape(real)[0], NOISE), seed=self.seeds)
        with tf.GradientTape() as tape:
            scores = keras.ops.concatenate([self.critic(real), -self.critic(self.generator(noise))])
            loss = keras.ops.mean(keras.ops.softplus(-scores))
        variables = self.critic.trainable_variables
        self.critic_optimizer.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            fake = self.generator(noise)
            fooled = keras.ops.softplus(-self.critic(fake)[:, 0])
            away = keras.ops.mean(keras.ops.abs(fake - keras.ops.mean(real, axis=0)), axis=-1)
            measured = self.measure_losses(real, None, {"fooled": fooled, "away": away})
        variables = self.generator.trainable_variables
        gradients = tape.gradient(measured.objective, variables)
        return self.apply_if_finite(measured, gradients, before, variables)


def make(**arguments):
    model = GAN()
    model.critic(np.zeros((1, WIDTH)))
    model(np.zeros((1, NOISE)))
    optimizers = keras.optimizers.Adam(0.002), keras.optimizers.Adam(0.001)
    model.compile(*optimizers, loss=kaw.CompositeLoss.of_outputs(fooled=1.0, away=kaw.AdaptiveWeight(2.5)), **arguments)
    return model


def data(samples, rng):
    return (np.arange(WIDTH) + rng.normal(size=(samples, WIDTH))).astype("float32"), None


def spoil(x, y, sample):
    x[sample] = np.nan
