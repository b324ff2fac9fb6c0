"""What can be measured on a decoded frame: brightness, contrast, saturation, sharpness. It decides nothing.

Legend: S the side of the square a frame is scaled to.
"""

import numpy as np

from curation.frames.samples import Pixels


def measure(image_SS3: Pixels) -> tuple[float, float, float, float, float, float]:
    """Brightness, contrast, saturation, sharpness, dark share and bright share, as in schema.MEASURES.

    On luma in [0, 1]: mean; standard deviation; mean HSV saturation; variance of the 4-neighbour Laplacian
    (0 for a frame below 3 pixels); share of pixels below 0.06; share above 0.94.
    """
    rgb = image_SS3.astype(np.float32) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    saturation = (high - low) / np.maximum(high, 1e-6)
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return (
        float(luma.mean()),
        float(luma.std()),
        float(saturation.mean()),
        float(laplacian.var()) if laplacian.size else 0.0,
        float((luma < 0.06).mean()),
        float((luma > 0.94).mean()),
    )
