"""The kind of processor that draws: on one kind, with the same libraries, a drawing has the same bytes."""

from __future__ import annotations

import platform
import re

import numpy as np


def processor() -> str:
    """The processor and the libraries that decide how sums are rounded, such as `x86_64-Haswell-openblas-0.3.31-…`.

    It consists of letters, digits and `_.-`.
    """
    import tensorflow as tf
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        words = [details.get("device_name", "GPU"), "tensorflow", tf.__version__]
    else:
        # SciPy brings a BLAS library of its own.
        libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
        libraries.sort(key=lambda library: "numpy" not in library["filepath"])
        blas = libraries[0] if libraries else {}
        words = [platform.machine(), blas.get("architecture") or "unknown", blas.get("internal_api") or "blas"]
        words += [blas.get("version") or "unknown", "numpy", np.__version__]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(map(str, words)))[:100]
