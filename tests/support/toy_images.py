"""Small random images, and folders of them."""

import io

import numpy as np
from PIL import Image

SIZE, COUNT = 16, 24


def pixels(count=COUNT, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, images):
    root.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        (root / f"{i:05d}.png").write_bytes(png(image))
    return root
