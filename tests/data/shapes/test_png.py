import io

import numpy as np
import pytest
from PIL import Image

from focal_plugin.data.shapes.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (200, 300)])  # the last needs three blocks
def test_pillow_reads_back_the_same_pixels(shape):
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3), dtype=np.uint8)
    decoded = Image.open(io.BytesIO(encode_png(image)))
    decoded.verify()  # checksums
    decoded = Image.open(io.BytesIO(encode_png(image)))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), image)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_anything_but_rgb_bytes_is_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        encode_png(image)
