"""The samplers draw what the whole network, run for every pixel, would draw from the same noise."""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from stages.pixelcnn import network, sampler_cpu, sampling
from stages.pixelcnn.network import Config
from tests.stages.pixelcnn import tfp_reference

TINY = Config((4, 4, 1), conditional_shape=(3,), num_resnet=1, num_hierarchies=2, num_filters=4, num_logistic_mix=2)
CONFIGS = {
    "one level": Config((5, 7, 1), None, 1, 1, 4, 2, (2, 3)),
    "a condition": TINY,
    "three channels, three levels, a label": Config((4, 8, 3), (), 2, 3, 4, 3, position="coordinates"),
    "a wide field": Config((8, 8, 1), None, 1, 3, 4, 3, (3, 5), use_weight_norm=False),
    "a high field, elu": Config((8, 8, 1), (2, 2), 2, 3, 4, 3, (4, 3), resnet_activation="elu"),
    "two channels, relu, another range": Config(
        (4, 8, 2), None, 1, 2, 4, 2, (5, 7), resnet_activation="relu", position="ones", high=15, low=-3
    ),
}


def kernels(config: Config, seed: int = 1) -> dict[str, Any]:
    """Random kernels and biases that keep the mixtures lively."""
    parameters = network.initialise(config, seed)
    rng = np.random.default_rng(seed)
    for name, value in parameters.items():
        if name.endswith("/b"):
            parameters[name] = tf.constant(0.3 * rng.standard_normal(value.shape), tf.float32)
    return network.kernels(config, parameters)


def conditions(config: Config, size: int) -> Any:
    if config.conditional_shape is None:
        return None
    return np.random.default_rng(0).standard_normal((size, *config.conditional_shape))


def keys(*numbers: int) -> Any:
    return np.array([(26, number) for number in numbers])


def noise(*numbers: int) -> sampling.Noise:
    return sampling.noise(TINY, 3, keys(*numbers))


@functools.cache
def tiny_kernels() -> dict[str, Any]:
    return kernels(TINY)


def tiny(of: sampling.Noise, **options: Any) -> Any:
    """Drawings of TINY, all under one condition."""
    condition = np.tile([1.0, 0.0, 0.5], (len(of.logistic), 1))
    return sampling.sample(TINY, tiny_kernels(), of, condition, **options)


def check_exact(config: Config, *cases: dict[str, Any]) -> None:
    """`sample` draws what the whole network for every pixel does."""
    weights, of, condition = kernels(config), sampling.noise(config, 3, keys(0, 1, 2, 3)), conditions(config, 4)
    for case in cases:
        drawn = sampling.sample(config, weights, of, condition, **case)
        assert drawn.shape == (4, *config.image_shape)
        assert drawn.min() >= config.low and drawn.max() <= config.high
        assert len(np.unique(drawn)) > 5
        np.testing.assert_array_equal(
            drawn, sampling.sample_reference(config, weights, of, condition, **case), err_msg=str(case)
        )


def guided(config: Config) -> dict[str, Any]:
    """Led away from another condition; nothing where there is none."""
    if config.conditional_shape is None:
        return {"temperature": 1.2}
    return {"guidance": 2.5, "reference": np.full(config.conditional_shape, 0.2)}


def completion(config: Config) -> dict[str, Any]:
    """Of each of four drawings other pixels known, here and there."""
    rng = np.random.default_rng(1)
    given = rng.integers(config.low, config.high + 1, (4, *config.image_shape))
    return {"given": given, "known": rng.random(given.shape[:3]) < 0.4, "temperature": 0.7}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program for a GPU, on whatever is here."""
    monkeypatch.setattr(sampling, "_has_gpu", lambda: True)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_the_whole_network_for_every_pixel(config: Config) -> None:
    check_exact(config, {}, {"quantised": False}, completion(config), guided(config))


@pytest.mark.usefixtures("compiled")
def test_compiled_equals_the_whole_network_for_every_pixel() -> None:
    config = CONFIGS["one level"]  # the others take XLA longer
    check_exact(config, {}, completion(config))


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_compiled_equals_the_whole_network_for_every_pixel_of_any_network(config: Config) -> None:
    check_exact(config, {}, {"quantised": False}, completion(config), guided(config))


def test_a_drawing_is_the_same_in_any_batch_and_order() -> None:
    together = tiny(noise(0, 1, 2, 3, 4, 5))
    np.testing.assert_array_equal(tiny(noise(4, 1)), together[[4, 1]])
    assert (together[0] != together[1]).any()


def test_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = tiny(noise(*range(7)))
    monkeypatch.setattr(sampling, "MIN_TILE", 1)
    monkeypatch.setattr(sampling, "MAX_TILE", 2)
    monkeypatch.setattr(sampling, "usable_cores", lambda: 2)
    done: list[int] = []
    np.testing.assert_array_equal(tiny(noise(*range(7)), progress=done.append), at_once)
    assert sum(done) == 7 * TINY.image_shape[0]


@pytest.mark.parametrize("filters", [24, 48])
def test_no_bit_of_the_sums_depends_on_the_batch(filters: int) -> None:
    """What pixels are drawn from: a difference in its last bit shows in few drawings, but it does show.

    OpenBLAS has a way of its own for small products on AVX-512: those of 48 filters are large in large batches only.
    """
    config = Config((6, 8, 1), (3,), 1, 2, filters, 3, position="coordinates")
    weights, most = kernels(config), 40
    matrices, condition = sampler_cpu.Matrices(config, weights), conditions(config, most).astype(np.float32)
    pixels = np.random.default_rng(2).uniform(-1, 1, (*config.image_shape, most)).astype(np.float32)

    def outputs(which: slice) -> Any:
        batch = sampler_cpu.Batch(config, matrices, condition[which], len(condition[which]))
        found: list[Any] = []
        for row in pixels[..., which]:
            batch.begin_row(len(found) // 8)
            for column, pixel in enumerate(row):
                found.append(batch.outputs(column).copy())
                batch.put(column, pixel)
        return np.array(found)

    with sampling._blas().limit(limits=1, user_api="blas"):
        together = outputs(slice(most))
        for start, stop in [(0, 1), (3, 5), (0, 8), (7, 20), (0, 16), (24, 40), (5, 38), (39, 40)]:
            np.testing.assert_array_equal(outputs(slice(start, stop)), together[..., start:stop], err_msg=str(stop))


@pytest.mark.slow
@pytest.mark.parametrize(("cores", "most"), [(1, 128), (2, 128), (3, 5), (5, 40), (16, 128)])
def test_cores_and_batches_do_not_show_in_drawings(cores: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config((28, 28, 1), (3,), 1, 3, 16, 3, position="coordinates")
    of, weights = sampling.noise(config, 3, keys(*range(70))), kernels(config)
    told = conditions(config, 70)
    options: dict[str, Any] = {"guidance": 2.0, "reference": told.mean(axis=0)}
    at_once = sampling.sample(config, weights, of, told, **options)
    monkeypatch.setattr(sampling, "usable_cores", lambda: cores)
    monkeypatch.setattr(sampling, "MIN_TILE", 1)
    monkeypatch.setattr(sampling, "MAX_TILE", most)
    np.testing.assert_array_equal(sampling.sample(config, weights, of, told, **options), at_once)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_compiled_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = tiny(noise(*range(7)))
    monkeypatch.setattr(sampling, "MAX_GPU_BATCH", 3)
    done: list[int] = []
    np.testing.assert_array_equal(tiny(noise(*range(7)), progress=done.append), at_once)
    assert sum(done) == 7 * TINY.image_shape[0]


@pytest.mark.parametrize(("size", "cores"), [(1, 2), (31, 2), (160, 2), (1000, 2), (160, 16), (5000, 16)])
def test_batches_are_even_and_bounded(size: int, cores: int) -> None:
    sizes = [part.stop - part.start for part in sampling._parts(size, cores)]
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= sampling.MAX_TILE
    assert len(sizes) == 1 or min(sizes) >= sampling.MIN_TILE


def test_completion_keeps_what_is_known_and_only_that() -> None:
    fresh = tiny(noise(0, 1, 2))
    known = np.zeros((4, 4), bool)
    np.testing.assert_array_equal(tiny(noise(0, 1, 2), given=fresh[0], known=known), fresh)
    known[:2] = True
    completed = tiny(noise(0, 1, 2), given=255 - fresh[0], known=known)
    assert (completed[:, :2] == 255 - fresh[0, :2]).all()
    assert (completed[:, 2:] != fresh[:, 2:]).any()


def test_guidance_goes_from_the_reference_through_the_condition_and_beyond() -> None:
    of, own, other = noise(*range(64)), np.array([1.0, 0.0, 0.5]), np.array([-1.0, 2.0, 0.0])

    def mean(condition: Any, **options: Any) -> Any:
        drawn = sampling.sample(TINY, tiny_kernels(), of, np.tile(condition, (64, 1)), **options)
        return drawn.mean(axis=0).ravel()

    np.testing.assert_array_equal(mean(own, guidance=1.0, reference=other), mean(own))
    np.testing.assert_array_equal(mean(own, guidance=0.0, reference=other), mean(other))
    towards, beyond = mean(own) - mean(other), mean(own, guidance=3.0, reference=other) - mean(own)
    assert np.corrcoef(towards, beyond)[0, 1] > 0.5


def test_temperature_nought_takes_the_mode() -> None:
    drawn = tiny(noise(0, 1), temperature=0.0)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    weights, condition = tiny_kernels(), np.array([[1.0, 0.0, 0.5]])
    mixture = network.forward(TINY, weights, tf.constant(2.0 * drawn[:1] / 255 - 1, tf.float32), condition)
    likeliest = np.argmax(mixture.logits, axis=-1)[..., np.newaxis]
    locs = np.take_along_axis(mixture.locs.numpy()[..., 0], likeliest, axis=-1)
    np.testing.assert_allclose(drawn[:1], np.clip(127.5 * (locs + 1), 0, 255), atol=0.5 + 1e-3)


def test_redraw_finds_what_was_drawn_before_it_was_rounded() -> None:
    config = CONFIGS["three channels, three levels, a label"]
    weights, of, condition = kernels(config), sampling.noise(config, 3, keys(0, 1, 2, 3)), conditions(config, 4)
    options = {"temperature": 0.8, **guided(config)}
    drawn = sampling.sample(config, weights, of, condition, **options)
    again = sampling.resample_teacher_forced(config, weights, of, drawn, condition, **options)
    off = np.abs(drawn - again)
    assert off.max() <= 0.5 + 1e-3
    assert off.mean() > 0.1  # before rounding
    others = sampling.noise(config, 4, keys(0, 1, 2, 3))
    assert np.abs(drawn - sampling.resample_teacher_forced(config, weights, others, drawn, condition)).max() > 1


def test_noise_belongs_to_seed_and_key() -> None:
    gumbel, logistic = noise(5, 6)
    assert gumbel.shape == (2, 4, 4, 2) and logistic.shape == (2, 4, 4, 1)
    for one, other in zip(noise(6, 5), (gumbel, logistic), strict=True):
        np.testing.assert_array_equal(one, other[::-1])
    assert len(np.unique(np.concatenate([gumbel, sampling.noise(TINY, 4, keys(5, 6)).gumbel]))) == 2 * gumbel.size
    assert (sampling.noise(TINY, 3, np.array([[5, 26]])).gumbel != gumbel[0]).all()
    # The same on every machine and with every NumPy: changed numbers mean other samples from the same settings.
    np.testing.assert_allclose(gumbel[0, 0, 0], [0.22295596, -1.0770785], rtol=1e-6)
    np.testing.assert_allclose(logistic[0, 0, 0], [-0.24418816], rtol=1e-6)


def test_noise_is_distributed_as_it_should() -> None:
    config = Config((28, 28, 1), None, 1, 1, 4, 5)
    of = sampling.noise(config, 0, np.arange(60)[:, np.newaxis])
    uniforms = np.exp(-np.exp(-of.gumbel.astype(np.float64))), 1 / (1 + np.exp(-of.logistic.astype(np.float64)))
    for uniform in uniforms:
        expected = (np.arange(uniform.size) + 0.5) / uniform.size
        # Kolmogorov and Smirnov: further off once in 10,000 times.
        assert np.abs(np.sort(uniform, axis=None) - expected).max() < 2.23 / np.sqrt(uniform.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"known": np.ones((4, 4))}, "belong together"),
        ({"given": np.zeros((4, 4, 1)), "known": np.ones((2, 2))}, r"known of shape \(2, 2\)"),
        ({"given": np.full((4, 4, 1), 256), "known": np.ones((4, 4))}, "low=0 to high=255"),
        ({"guidance": 2.0}, "guidance is 2.0, and there is no reference"),
        ({"guidance": 2.0, "reference": np.zeros(4)}, r"reference of shape \(4,\)"),
        ({"condition": None}, "condition is missing"),
        ({"condition": np.zeros((2, 4))}, r"condition of shape \(2, 4\)"),
    ],
)
def test_refuses_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    arguments = {"condition": np.zeros(3)} | options
    with pytest.raises(ValueError, match=message):
        sampling.sample(TINY, tiny_kernels(), noise(0), **arguments)


def test_an_error_in_the_progress_ends_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MIN_TILE", 1)
    monkeypatch.setattr(sampling, "usable_cores", lambda: 2)
    rows: list[int] = []

    def interrupt(drawings: int) -> None:
        rows.append(drawings)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(noise(*range(8)), progress=interrupt)
    assert len(rows) < 2 * TINY.image_shape[0]


@pytest.mark.slow
def test_pixels_are_as_frequent_as_in_tfp() -> None:
    """With TFP's continuous feedback, against TFP's own sampler: every pixel, and every pair of neighbours."""
    config = Config((4, 4, 1), None, 1, 1, 8, 3, high=3)
    ours, other, size = tfp_reference.shake(config, 2), tfp_reference.shake(config, 3), 4_000
    tf.random.set_seed(0)
    theirs = ours.to_tfp().sample(size).numpy()[..., 0].astype(int)

    def least_likely(dist: Any) -> float:
        """The least p-value, times the number of tests."""
        weights = network.kernels(config, dist.network.parameters)
        of = sampling.noise(config, 0, np.arange(size)[:, np.newaxis])
        drawn = sampling.sample(config, weights, of, quantised=False)[..., 0]
        found = []
        for step, axis in [(0, 1), (1, 1), (1, 2)]:
            both = [4 * x + np.roll(x, step, axis) if step else x for x in (drawn, theirs)]
            for place in np.ndindex(4, 4):
                counts = np.stack([np.bincount(x[(slice(None), *place)], minlength=16) for x in both])
                found.append(stats.chi2_contingency(counts[:, counts.sum(axis=0) > 10]).pvalue)
        return float(min(found) * len(found))

    assert least_likely(ours) > 1e-3
    assert least_likely(other) < 1e-6


@pytest.mark.slow
def test_redraws_160_drawings_of_the_full_model() -> None:
    config = Config((28, 28, 1), (20,), 5, 3, 128, 5, position="coordinates")
    dist = tfp_reference.shake(config, 0)
    weights = network.kernels(config, dist.network.parameters)
    of = sampling.noise(config, 0, np.stack([np.arange(160) // 8, np.arange(160) % 8], axis=1))
    condition = np.eye(20)[np.arange(160) // 8]
    drawn = sampling.sample(config, weights, of, condition)
    assert drawn.std() > 20
    for part in np.split(np.arange(160), 8):
        again = sampling.resample_teacher_forced(
            config, weights, sampling.Noise(*(x[part] for x in of)), drawn[part], condition[part]
        )
        # Half a grey level, and what is rounded otherwise on the way.
        off = np.abs(drawn[part] - again)
        assert off.max() < 0.51, off.max()
