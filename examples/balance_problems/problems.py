"""The problems: what is drawn, the model, the terms of its loss, and what the trained model is scored by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH = 32


@dataclass(frozen=True)
class Problem:
    """A problem of one seed.

    Attributes:
        outputs: `(inputs, outputs)` of the model, freshly initialised.
        terms: Term -> function of targets and outputs, per sample.
        batch: Batch of a step, `(x, y)`, from the two numbers of a seed; in the graph.
        score: What a trained model is worth, smaller is better.
        rate: Learning rate of Adam.
    """

    outputs: Callable[[], tuple[Any, Any]]
    terms: Mapping[str, Callable[[Any, Any], Any]]
    batch: Callable[[Any], tuple[Any, Any]]
    score: Callable[[keras.Model], float]
    rate: Any

    def dataset(self, seed: int, steps: int) -> tf.data.Dataset:
        """Return a batch for each step, the same for everybody."""
        numbers = tf.data.Dataset.range(steps)
        return numbers.map(lambda step: self.batch(tf.stack([tf.constant(seed, tf.int64), step]))).prefetch(20)


def problem(name: str, seed: int, steps: int) -> Problem:
    """Return a problem; the seed also initialises Keras."""
    keras.utils.set_random_seed(seed)
    return _PROBLEMS[name](np.random.default_rng(seed), steps)


def mean_square(key: str) -> Callable[[Any, Any], Any]:
    """Return the mean squared error of an output."""
    return lambda y, out: tf.reduce_mean(tf.square(y[key] - out[key]), axis=-1)


# --- regressions of several scales ----------------------------------------------------------------------------

_INPUTS, _TARGETS, _WIDTH = 250, 16, 48


def _toy(
    draw: np.random.Generator,
    steps: int,
    scales: tuple[float, ...] = (1.0, 100.0),
    rate: float = 0.002,
    noise: float = 0.0,
) -> Problem:
    """`scale * tanh(W x)`, with a W for each task that has most in common with the others.

    Args:
        draw: Generator of W and of the points that are scored.
        steps: Steps over which the learning rate decays.
        scales: Scale of each task.
        rate: Learning rate at the start.
        noise: Standard deviation of the noise on the labels of the first task, in units of its scale.
    """
    common = 10.0 * draw.standard_normal((_INPUTS, _TARGETS))
    shrink = 1.5 / (10.0 * math.sqrt(_INPUTS))
    tables = [tf.constant(shrink * (common + 3.5 * draw.standard_normal(common.shape)), tf.float32) for _ in scales]
    names = [f"task{number}" for number in range(1, len(scales) + 1)]
    fresh = tf.constant(draw.standard_normal((400, _INPUTS)), tf.float32)

    def targets(x: Any) -> dict[str, Any]:
        return {name: scale * tf.tanh(x @ table) for name, scale, table in zip(names, scales, tables, strict=True)}

    def batch(seed: Any) -> tuple[Any, Any]:
        x = tf.random.stateless_normal([BATCH, _INPUTS], seed)
        y = targets(x)
        if noise:
            y[names[0]] += noise * scales[0] * tf.random.stateless_normal([BATCH, _TARGETS], seed + 1_000_003)
        return x, y

    def outputs() -> tuple[Any, Any]:
        inputs = hidden = keras.Input((_INPUTS,))
        for _ in range(2):
            hidden = keras.layers.Dense(_WIDTH, activation="relu")(hidden)
        return inputs, {name: keras.layers.Dense(_TARGETS, name=name)(hidden) for name in names}

    def score(model: keras.Model) -> float:
        y, out = targets(fresh), model(fresh, training=False)
        parts = [float(tf.reduce_mean(tf.square(y[n] - out[n])) / tf.math.reduce_variance(y[n])) for n in names]
        return float(np.mean(np.minimum(parts, 1.0)))

    decay = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01)
    return Problem(outputs, {f"{name}_loss": mean_square(name) for name in names}, batch, score, decay)


# --- digits ---------------------------------------------------------------------------------------------------

_TRAINED, _COPIES, _LARGEST_ANGLE = 1300, 8, 45.0


def _digits(draw: np.random.Generator, steps: int) -> Problem:
    """Rotated digits: which one it is, by how many degrees it was turned, and its ink."""
    del steps
    images, kinds = _images()
    order = draw.permutation(len(kinds))
    train, test = (_rotated(images[part], kinds[part], draw) for part in (order[:_TRAINED], order[_TRAINED:]))
    pixels, *known = (tf.constant(part) for part in train)

    def batch(seed: Any) -> tuple[Any, Any]:
        chosen = tf.random.stateless_uniform([BATCH], seed, 0, len(train[0]), tf.int32)
        kind, angle, ink = (tf.gather(part, chosen) for part in known)
        return tf.gather(pixels, chosen), {"class": kind, "angle": angle, "ink": ink}

    def outputs() -> tuple[Any, Any]:
        inputs = hidden = keras.Input((64,))
        for width in (64, 64, 32):
            hidden = keras.layers.Dense(width, activation="relu")(hidden)
        heads = {"class": 10, "angle": 1, "ink": 1}
        return inputs, {name: keras.layers.Dense(width, name=name)(hidden) for name, width in heads.items()}

    def class_loss(y: Any, out: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y["class"], out["class"], from_logits=True)

    def score(model: keras.Model) -> float:
        x, kind, angle, ink = test
        out = {name: np.asarray(value) for name, value in model(x, training=False).items()}
        errors = [
            np.mean(out["class"].argmax(axis=1) != kind) / 0.9,
            np.mean((out["angle"] - angle) ** 2) / np.var(angle),
            np.mean((out["ink"] - ink) ** 2) / np.var(ink),
        ]
        return float(np.exp(np.mean(np.log(np.maximum(errors, 1e-12)))))

    terms = {"class_loss": class_loss, "angle_loss": mean_square("angle"), "ink_loss": mean_square("ink")}
    return Problem(outputs, terms, batch, score, 0.003)


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _rotated(images: np.ndarray, kinds: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return pixels, kinds, angles in degrees and mean ink of several copies of each image, each turned otherwise."""
    from scipy.ndimage import rotate

    angles = draw.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE, _COPIES * len(images))
    turned = [rotate(images[i % len(images)], angle, reshape=False, order=1) for i, angle in enumerate(angles)]
    pixels = (np.stack(turned) / 16.0).reshape(len(angles), -1).astype("float32")
    ink = pixels.mean(axis=1, keepdims=True)
    return pixels, np.tile(kinds, _COPIES).astype("int32"), angles[:, None].astype("float32"), ink


# --- a differential equation ----------------------------------------------------------------------------------


class WithDerivatives(keras.layers.Layer):
    """A dense layer of a function of the plane: its value, first and second derivatives by both coordinates.

    Takes and returns `[batch, 5, width]`: u, u_x, u_y, u_xx, u_yy. So the equation needs no tapes within tapes.

    Args:
        width: Of what it returns.
        bends: Whether a tanh follows.
    """

    def __init__(self, width: int, *, bends: bool = True) -> None:
        super().__init__()
        self.width, self.bends = width, bends

    def build(self, shape: Any) -> None:
        """Create kernel and bias."""
        self.kernel = self.add_weight(shape=(shape[-1], self.width), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")

    def call(self, parts: Any) -> Any:
        """Carry value and derivatives on, by the chain rule."""
        u, u_x, u_y, u_xx, u_yy = tf.unstack(parts @ self.kernel, axis=1)
        u += self.bias
        if self.bends:
            u = tf.tanh(u)
            slope = 1.0 - u * u
            bend = -2.0 * u * slope
            u_xx, u_yy = slope * u_xx + bend * u_x * u_x, slope * u_yy + bend * u_y * u_y
            u_x, u_y = slope * u_x, slope * u_y
        return tf.stack([u, u_x, u_y, u_xx, u_yy], axis=1)


def _seeds(points: Any) -> Any:
    """Return points of shape [n, 2] as the first layer takes them, [n, 5, 2]."""
    ones = tf.ones_like(points[:, 0])
    none = tf.zeros_like(points)
    return tf.stack([points, tf.stack([ones, 0.0 * ones], 1), tf.stack([0.0 * ones, ones], 1), none, none], axis=1)


def _helmholtz(draw: np.random.Generator, steps: int) -> Problem:
    """u_xx + u_yy + u = q with u = sin(pi x) sin(2 pi y), which is 0 on the boundary of [-1, 1]^2.

    A sample is two points inside and one on the boundary.
    """
    del draw

    def solution(points: Any) -> Any:
        return tf.sin(math.pi * points[..., 0]) * tf.sin(2.0 * math.pi * points[..., 1])

    def batch(seed: Any) -> tuple[Any, Any]:
        inside = tf.random.stateless_uniform([BATCH, 2, 2], seed, -1.0, 1.0)
        along, side = tf.unstack(tf.random.stateless_uniform([2, BATCH], seed + 1_000_003, -1.0, 1.0))
        end = tf.where(tf.abs(side) < 0.5, 1.0, -1.0)
        edge = tf.where(side[:, None] < 0.0, tf.stack([along, end], 1), tf.stack([end, along], 1))
        source = (1.0 - 5.0 * math.pi**2) * solution(inside)
        return tf.concat([inside, edge[:, None]], axis=1), {"source": source}

    def outputs() -> tuple[Any, Any]:
        inputs = keras.Input((3, 2))
        hidden = keras.layers.Lambda(lambda points: _seeds(tf.reshape(points, [-1, 2])))(inputs)
        for width in (24, 24, 24):
            hidden = WithDerivatives(width)(hidden)
        parts = WithDerivatives(1, bends=False)(hidden)
        return inputs, keras.layers.Lambda(lambda parts: tf.reshape(parts, [-1, 3, 5]))(parts)

    def residual(y: Any, parts: Any) -> Any:
        left = parts[:, :2, 3] + parts[:, :2, 4] + parts[:, :2, 0]
        return tf.reduce_mean(tf.square(left - y["source"]), axis=1)

    def boundary(y: Any, parts: Any) -> Any:
        del y
        return tf.square(parts[:, 2, 0])

    def score(model: keras.Model) -> float:
        line = np.linspace(-1.0, 1.0, 33, dtype="float32")
        points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 3, 2)
        error = model(points, training=False)[..., 0] - solution(tf.constant(points))
        return float(tf.norm(error) / tf.norm(solution(tf.constant(points))))

    decay = keras.optimizers.schedules.CosineDecay(0.003, steps)
    return Problem(outputs, {"residual_loss": residual, "boundary_loss": boundary}, batch, score, decay)


# --- a variational autoencoder --------------------------------------------------------------------------------

_LATENT = 8


class Sampled(keras.layers.Layer):
    """Draws from the normal distribution of a mean and a logarithm of a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, parts: Any) -> Any:
        """Return a draw for each sample."""
        mean, log_variance = parts
        return mean + keras.ops.exp(0.5 * log_variance) * keras.random.normal(mean.shape, seed=self.seed_generator)


def _vae(draw: np.random.Generator, steps: int, limit: float = 1.5) -> Problem:
    """Digits whose reconstruction error is to be at a limit, at the least information."""
    del steps
    images, _ = _images()
    pixels = (images[draw.permutation(len(images))[:_TRAINED]] / 16.0).reshape(_TRAINED, -1).astype("float32")
    table = tf.constant(pixels)

    def batch(seed: Any) -> tuple[Any, Any]:
        x = tf.gather(table, tf.random.stateless_uniform([BATCH], seed, 0, _TRAINED, tf.int32))
        return x, x

    def outputs() -> tuple[Any, Any]:
        inputs = keras.Input((64,), batch_size=BATCH)
        hidden = keras.layers.Dense(48, activation="relu")(inputs)
        mean, log_variance = keras.layers.Dense(_LATENT)(hidden), keras.layers.Dense(_LATENT)(hidden)
        hidden = keras.layers.Dense(48, activation="relu")(Sampled()([mean, log_variance]))
        return inputs, {"image": keras.layers.Dense(64)(hidden), "mean": mean, "log_variance": log_variance}

    def reconstruction(x: Any, out: Any) -> Any:
        return tf.reduce_sum(tf.square(x - out["image"]), axis=1)

    def divergence(x: Any, out: Any) -> Any:
        del x
        mean, log_variance = out["mean"], out["log_variance"]
        return 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance, axis=1)

    def score(model: keras.Model) -> float:
        whole = len(pixels) // BATCH * BATCH
        errors = [reconstruction(x, model(x, training=False)) for x in np.split(pixels[:whole], whole // BATCH)]
        return abs(float(np.mean(errors)) / limit - 1.0)

    return Problem(outputs, {"rec_loss": reconstruction, "kl_loss": divergence}, batch, score, 0.002)


_PROBLEMS: dict[str, Callable[[np.random.Generator, int], Problem]] = {
    "toy2": _toy,
    "toy2-long": _toy,
    "toy1": functools.partial(_toy, scales=(1.0, 1.0)),
    "toy3": functools.partial(_toy, scales=(1.0, 30.0, 900.0)),
    "toy2-noise": functools.partial(_toy, noise=1.0),
    "toy2-fast": functools.partial(_toy, rate=0.006),
    "digits": _digits,
    "helmholtz": _helmholtz,
    "vae-1.5": functools.partial(_vae, limit=1.5),
    "vae-2.0": functools.partial(_vae, limit=2.0),
}
