"""Make `sslgraph/data/digits.npz` from the copy of UCI optdigits that scikit-learn ships.

Needs scikit-learn, which the package itself does not. The file is the same on every run, so git
shows whether anything changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sslgraph.files import replacing

TARGET = Path(__file__).parents[1] / "sslgraph" / "data" / "digits.npz"
LARGEST = 60_000


def main() -> None:
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    if images.shape != (1797, 8, 8) or not np.array_equal(images, digits.images):
        sys.exit(f"expected 1797 whole-numbered 8x8 images, got {images.shape}")
    with replacing(TARGET) as temporary:
        np.savez_compressed(temporary, images=images, labels=digits.target.astype(np.uint8))
        if temporary.stat().st_size > LARGEST:
            sys.exit(f"{TARGET.name} would be larger than {LARGEST} bytes")
    print(f"{TARGET}: {len(images)} digits, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
