"""The drawings that a model generates of its classes."""

import numpy as np
import pytest

from stages import sample
from stages.pixelcnn import network, sampling
from tests.stages import models


def test_a_drawing_does_not_depend_on_the_number_of_drawings() -> None:
    trained = models.tiny()
    generated = sample.generate(trained, 3, seed=1)
    assert generated.shape == (3, 3, 28, 28, 1) and generated.dtype == np.uint8
    np.testing.assert_array_equal(sample.generate(trained, 2, seed=1), generated[:, :2])
    assert (sample.generate(trained, 3, seed=2) != generated).any(axis=(2, 3, 4)).all()


@pytest.mark.parametrize(("conditioning", "mean_condition"), [("one_hot", [5 / 3, 5 / 3, 5 / 3]), ("label", 604 / 3)])
def test_the_guidance_reference_is_the_mean_condition(conditioning: str, mean_condition: object) -> None:
    trained = models.tiny(conditioning)
    tree = [entry.name for entry in trained.classes].index("tree")
    generated = sample.generate(trained, 2, seed=1, temperature=0.5, guidance=4.0)[tree]
    expected = sampling.sample(
        trained.config,
        network.kernels(trained.config, trained.weights),
        sampling.noise(trained.config, 1, np.array([[323, 0], [323, 1]])),
        trained.condition([323, 323]),
        temperature=0.5,
        guidance=4.0,
        reference=np.asarray(mean_condition, np.float32),
    )
    assert np.abs(generated.astype(int) - expected).max() <= 1
    assert np.abs(generated.astype(int) - sample.generate(trained, 2, seed=1, temperature=0.5)[tree]).max() > 1
