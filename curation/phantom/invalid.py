"""Draw frames that are of no use: out of focus, black, white, outside the body, without a signal.

Shapes as in curation/phantom/scene.py: CHW pictures of floats in [0, 1].
"""

import numpy as np
from PIL import Image, ImageDraw

from curation.phantom.scene import Plane, pixel_grid, pixels, split_planes

PLANTED = ("blurred", "black", "white", "out_of_body")  # the default
INVALID_KINDS = (*PLANTED, "static")
FABRICS = ("#466eaf", "#28827d", "#e1e1d7", "#787d82", "#3c414b", "#c8b496", "#235096", "#8c3c32")


def spoilt(kind: str, picture_CHW: Plane, rng: np.random.Generator) -> Plane:
    """Return an invalid picture in place of a clean one; `kind` is one of KINDS."""
    height, width = picture_CHW.shape[1:]
    if kind == "blurred":
        return split_planes(Image.fromarray(pixels(picture_CHW)), rng.uniform(0.03, 0.05) * height)
    if kind == "white":
        return 1 - 0.08 * (1 - picture_CHW)
    if kind == "black":
        return 0.02 * picture_CHW
    return (_static if kind == "static" else _room)(rng, width, height)


def _room(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Return a CHW picture from outside the body: wall, drape, gauze and instruments under a lamp."""
    x_HW, y_HW = pixel_grid(width, height)
    colours = [str(colour) for colour in rng.permutation(FABRICS)[: rng.integers(4, 8)]]
    image = Image.new("RGB", (width, height), colours[0])
    pen = ImageDraw.Draw(image)
    for colour in colours[1:]:
        arms = np.array([[1, 0], [0.3, 1], [-1, 0.4], [-0.4, -1]]) * rng.uniform(0.15, 0.8, (4, 1))
        corners = (rng.uniform(0, 1, 2) + arms) * (width, height)
        pen.polygon([(x, y) for x, y in corners.tolist()], fill=colour)
    turn, lamp = np.exp(1j * rng.uniform(0, np.pi)), rng.uniform(-1, 1, 2)
    thread_HW = 90 * turn * (x_HW + 1j * y_HW)
    weave_HW = 1 + 0.06 * np.sin(thread_HW.real) * np.sin(thread_HW.imag)
    lamp_HW = 0.65 + 0.55 * np.exp(-np.square(x_HW - lamp[0]) - np.square(y_HW - lamp[1]))
    return np.asarray(split_planes(image, height / 200) * lamp_HW * weave_HW)


def _static(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Return a CHW picture of a lost signal: grains of noise, gray or in colours, about a colour of its own."""
    grain, colours = int(rng.integers(1 + height // 100, 2 + height // 36)), int(rng.choice([1, 3]))
    rough = rng.uniform(-1, 1, (colours, -(-height // grain), -(-width // grain)))
    noise_CHW = np.repeat(np.repeat(rough, grain, axis=1), grain, axis=2)[:, :height, :width]
    return np.asarray(rng.uniform(0, 1, (3, 1, 1)) + rng.uniform(0.1, 0.4) * noise_CHW, np.float32)
