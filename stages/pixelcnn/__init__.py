"""A PixelCNN++ that is autoregressive from the first training step, and fast to train and to sample."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.pixelcnn.distribution import PixelCNN

__all__ = ["PixelCNN"]


def __getattr__(name: str) -> Any:
    # TensorFlow Probability takes seconds to import, and only the distribution needs it.
    if name == "PixelCNN":
        from stages.pixelcnn.distribution import PixelCNN

        return PixelCNN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
