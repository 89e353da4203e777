"""What a model draws of its classes."""

import numpy as np
import pytest

from stages import sample
from stages.pixelcnn import network, sampling
from tests.stages import models


def test_a_drawing_is_its_own_whatever_their_number() -> None:
    trained = models.tiny()
    drawn = sample.draw(trained, 3, seed=1)
    assert drawn.shape == (3, 3, 28, 28, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(sample.draw(trained, 2, seed=1), drawn[:, :2])
    assert (sample.draw(trained, 3, seed=2) != drawn).any(axis=(2, 3, 4)).all()


@pytest.mark.parametrize(("conditioning", "average"), [("one_hot", [5 / 3, 5 / 3, 5 / 3]), ("label", 604 / 3)])
def test_guidance_leads_away_from_the_average_class(conditioning: str, average: object) -> None:
    trained = models.tiny(conditioning)
    tree = [known.name for known in trained.classes].index("tree")
    drawn = sample.draw(trained, 2, seed=1, temperature=0.5, guidance=4.0)[tree]
    expected = sampling.sample(
        trained.config,
        network.kernels(trained.config, trained.weights),
        sampling.noise(trained.config, 1, np.array([[323, 0], [323, 1]])),
        trained.condition([323, 323]),
        temperature=0.5,
        guidance=4.0,
        reference=np.asarray(average, np.float32),
    )
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert np.abs(drawn.astype(int) - sample.draw(trained, 2, seed=1, temperature=0.5)[tree]).max() > 1
