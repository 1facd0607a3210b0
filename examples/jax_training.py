"""Train a small convolutional network on a .gsd file in JAX.

It shows that `gsdata.to_numpy` gives the set as arrays, without PyTorch, that DLPack hands them to JAX, and that the file's recipe says
what to subtract and divide by. JAX is no dependency of gsdata: pip install jax.

    gsd-encode --data mnist-5k --gaussians 20 -o digits.gsd
    python examples/jax_training.py digits.gsd --steps 200
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import gsdata

Params = dict[str, jax.Array]


def load(path: str) -> tuple[jax.Array, jax.Array, int]:
    """Normalised images (N, H, W, C), labels (N,) and the number of classes."""
    pixels, labels = gsdata.to_numpy(path, dtype="float32")
    with gsdata.open(path) as file:
        mean, std, classes = file.recipe.mean, file.recipe.std, file.class_count
    images = jax.dlpack.from_dlpack(pixels)
    if mean is not None:
        images = (images - jnp.asarray(mean)) / jnp.asarray(std)
    return images, jnp.asarray(labels), classes


def start(channels: int, classes: int, seed: int) -> Params:
    """Weights of two convolutions and one linear layer."""
    a, b, c = jax.random.split(jax.random.key(seed), 3)
    return {
        "first": jax.random.normal(a, (3, 3, channels, 32)) * (2 / (9 * channels)) ** 0.5,
        "second": jax.random.normal(b, (3, 3, 32, 64)) * (2 / (9 * 32)) ** 0.5,
        "linear": jax.random.normal(c, (64, classes)) * 0.1,
    }


def scores(params: Params, images: jax.Array) -> jax.Array:
    """Convolution, ReLU and striding, twice; the mean over the image; a linear layer."""
    x = images
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x)
    return x.mean(axis=(1, 2)) @ params["linear"]


def loss(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy."""
    return -jax.nn.log_softmax(scores(params, images))[jnp.arange(len(labels)), labels].mean()


@jax.jit
def step(params: Params, images: jax.Array, labels: jax.Array, rate: float) -> tuple[Params, jax.Array]:
    """One step of gradient descent."""
    value, gradient = jax.value_and_grad(loss)(params, images, labels)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient), value


def main(argv: list[str] | None = None) -> float:
    """Train; returns the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a .gsd with labels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    images, labels, classes = load(options.file)
    params = start(images.shape[-1], classes, options.seed)
    draws = np.random.default_rng(options.seed)
    value = jnp.inf
    for number in range(options.steps):
        batch = draws.integers(0, len(images), options.batch_size)
        params, value = step(params, images[batch], labels[batch], options.lr)
        if number % 50 == 0 or number == options.steps - 1:
            print(f"step {number}: loss {value:.3f}")
    share = (scores(params, images).argmax(axis=1) == labels).mean()
    print(f"{len(images)} images, {share:.1%} of them classified as labelled")
    return float(value)


if __name__ == "__main__":
    main()
