"""The device that TensorFlow computes on, and whether its results are deterministic."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages.common.errors import SettingsError


def configure(device: str, deterministic: bool = False) -> list[Any]:
    """Configure TensorFlow's device, determinism and convolutions. Call this before TensorFlow is imported.

    Args:
      device: "gpu" requires a GPU, "cpu" hides all GPUs, "auto" uses the GPUs if any are available.
      deterministic: whether a GPU must give the same bits in every run, which slows some sums. A CPU always does.

    Returns:
      The GPUs to compute on; empty on a CPU.

    Raises:
      SettingsError: `device` is "gpu", and no GPU is available.
    """
    # TensorFlow uses oneDNN by itself on recent CPUs only; training is faster with it on one without AVX-512 as well.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with capture_stderr():
        import tensorflow as tf

        gpus = [] if device == "cpu" else tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise SettingsError(
            "device is gpu, and TensorFlow sees no GPU; install the extra `gpu` and NVIDIA's driver, "
            "or set device to auto or cpu"
        )
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic or not gpus:
        tf.config.experimental.enable_op_determinism()
    if device == "auto":
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        print(f"device: auto uses {', '.join(names) or 'the CPU; TensorFlow sees no GPU'}", file=sys.stderr, flush=True)
    return gpus


@contextmanager
def capture_stderr() -> Iterator[None]:
    """Discard what native code writes to standard error, unless the block raises: then print it.

    TensorFlow prints start-up messages at every log level.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
