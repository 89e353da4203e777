"""Models for tests: the smallest network that has all components."""

import numpy as np

from stages.outputs.model import Class, Model
from stages.pixelcnn import network

CLASSES = (Class(26, "bee"), Class(255, "sea turtle"), Class(323, "tree"))


def tiny(conditioning: str = "one_hot", num_hierarchies: int = 2) -> Model:
    """An untrained model of 28×28 drawings."""
    shape = (len(CLASSES),) if conditioning == "one_hot" else ()
    config = network.Config((28, 28, 1), shape, 1, num_hierarchies, 2, 2, position="coordinates")
    weights = {name: np.asarray(value) for name, value in network.initialise(config, 0).items()}
    return Model(config, CLASSES, conditioning, weights)
