"""Is scaling while decoding worth it? A 1280 x 1024 JPEG to 224 px, against Pillow's full decode and resize.

Floor: what libjpeg needs to decode at the reduced scale alone, without our resize and checks.
"""

import io
import tempfile

import numpy as np
from harness import paired, report, seconds
from PIL import Image

from curation.frames import decoding
from curation.phantom import colonoscopy

SIZE = 224


def frame() -> bytes:
    """A phantom frame at 1280 x 1024, as JPEG."""
    with tempfile.TemporaryDirectory() as folder:
        config = colonoscopy.PhantomConfig(
            output=folder, procedures=1, scenes=1, frames_per_scene=1, width=1280, height=1024, invalid_share=0
        )
        path = colonoscopy.draw(config)["path"][0].as_py()
        with Image.open(f"{folder}/frames/{path}") as image:
            sink = io.BytesIO()
            image.save(sink, "JPEG", quality=92)
    return sink.getvalue()


def main() -> None:
    """Compare and report."""
    data = frame()

    def full() -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def floor() -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (SIZE, SIZE))
            image.load()

    ours, peer = paired(lambda: decoding.decode(data, SIZE), full, repeats=41)
    least = seconds(floor, repeats=41)
    difference = np.abs(decoding.decode(data, SIZE).astype(int) - full()).mean()
    rows = [
        {"way": "Pillow, full decode and resize", "ms": peer * 1e3, "ratio": 1.0, "mean difference": 0.0},
        {"way": "images.decode", "ms": ours * 1e3, "ratio": peer / ours, "mean difference": float(difference)},
        {"way": "floor: libjpeg at 1/4 scale", "ms": least * 1e3, "ratio": peer / least},
    ]
    report("decode", rows, f"one frame of 1280 x 1024 ({len(data) // 1024} KB) to {SIZE} px; goal: ratio of at least 3")


if __name__ == "__main__":
    main()
