"""The samplers give the same drawings as the whole network, run for every pixel with the same noise."""

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
    "three channels, padding to 8 by 8": Config((6, 5, 3), (3,), 1, 3, 4, 2, position="coordinates"),
    "two channels, relu, another range": Config(
        (4, 8, 2), None, 1, 2, 4, 2, (5, 7), resnet_activation="relu", position="ones", high=15, low=-3
    ),
}


def kernels(config: Config, seed: int = 1) -> dict[str, Any]:
    """Random kernels and biases with which pixels vary."""
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


def tiny_noise(*numbers: int) -> sampling.Noise:
    return sampling.noise(TINY, 3, keys(*numbers))


@functools.cache
def tiny_kernels() -> dict[str, Any]:
    return kernels(TINY)


def sample_tiny(noise: sampling.Noise, **options: Any) -> Any:
    """Drawings of TINY, all with the same condition."""
    condition = np.tile([1.0, 0.0, 0.5], (len(noise.logistic), 1))
    return sampling.sample(TINY, tiny_kernels(), noise, condition, **options)


def assert_equals_reference(config: Config, *option_sets: dict[str, Any]) -> None:
    """`sample` gives the same drawings as `sample_reference`."""
    weights, noise, condition = kernels(config), sampling.noise(config, 3, keys(0, 1, 2, 3)), conditions(config, 4)
    for options in option_sets:
        drawings = sampling.sample(config, weights, noise, condition, **options)
        assert drawings.shape == (4, *config.image_shape)
        assert drawings.min() >= config.low and drawings.max() <= config.high
        assert len(np.unique(drawings)) > 5
        np.testing.assert_array_equal(
            drawings, sampling.sample_reference(config, weights, noise, condition, **options), err_msg=str(options)
        )


def guidance_options(config: Config) -> dict[str, Any]:
    """Options for guidance, or for a temperature if the network has no condition."""
    if config.conditional_shape is None:
        return {"temperature": 1.2}
    return {"guidance": 2.5, "reference": np.full(config.conditional_shape, 0.2)}


def completion_options(config: Config) -> dict[str, Any]:
    """Options for the completion of four drawings, with random known pixels in each."""
    rng = np.random.default_rng(1)
    given = rng.integers(config.low, config.high + 1, (4, *config.image_shape))
    return {"given": given, "known": rng.random(given.shape[:3]) < 0.4, "temperature": 0.7}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples with the program for a GPU, on any device."""
    monkeypatch.setattr(sampling, "_has_gpu", lambda: True)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=[pytest.mark.slow] if config.num_resnet > 1 else [])
        for name, config in CONFIGS.items()
    ],
)
def test_equals_the_whole_network_run_for_every_pixel(config: Config) -> None:
    assert_equals_reference(config, {}, {"quantised": False}, completion_options(config), guidance_options(config))


@pytest.mark.usefixtures("compiled")
def test_the_compiled_program_equals_the_whole_network_run_for_every_pixel() -> None:
    config = CONFIGS["one level"]  # the other architectures take longer to compile
    assert_equals_reference(config, {}, completion_options(config))


# Compiling takes a minute. Each kind of layer, channel and position is in one of these.
@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name)
        for name, config in CONFIGS.items()
        if name not in ("one level", "a condition", "a wide field")
    ],
)
def test_the_compiled_program_equals_the_whole_network_for_other_architectures(config: Config) -> None:
    assert_equals_reference(config, {}, completion_options(config))  # one compilation for both


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_the_compiled_program_equals_the_whole_network_with_guidance() -> None:
    config = CONFIGS["three channels, three levels, a label"]
    assert_equals_reference(config, {"quantised": False, **guidance_options(config)})


def test_a_drawing_is_the_same_in_any_batch_and_order() -> None:
    together = sample_tiny(tiny_noise(0, 1, 2, 3, 4, 5))
    np.testing.assert_array_equal(sample_tiny(tiny_noise(4, 1)), together[[4, 1]])
    assert (together[0] != together[1]).any()


def test_drawings_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sample_tiny(tiny_noise(*range(7)))
    monkeypatch.setattr(sampling, "MIN_CPU_BATCH", 1)
    monkeypatch.setattr(sampling, "MAX_CPU_BATCH", 2)
    monkeypatch.setattr(sampling, "usable_cores", lambda: 2)
    done: list[int] = []
    np.testing.assert_array_equal(sample_tiny(tiny_noise(*range(7)), progress=done.append), expected)
    assert sum(done) == 7 * TINY.image_shape[0]
    np.testing.assert_array_equal(sample_tiny(tiny_noise(*range(7)), max_batch=3), expected)


def test_only_a_small_network_samples_larger_batches() -> None:
    batches = [
        sampling.fast_batch(Config((28, 28, 1), (3,), num_resnet, hierarchies, filters, 5))
        for num_resnet, hierarchies, filters in ((1, 1, 8), (1, 3, 48), (5, 3, 128))
    ]
    assert batches == [512, 128, 128]


@pytest.mark.parametrize("filters", [24, 48])
def test_the_outputs_do_not_depend_on_the_batch_to_the_bit(filters: int) -> None:
    """Checks the network's outputs, because a difference in the last bit changes only few drawings.

    OpenBLAS computes small products differently on AVX-512: those of 48 filters are large in large batches only.
    """
    config = Config((6, 8, 1), (3,), 1, 2, filters, 3, position="coordinates")
    weights, size = kernels(config), 40
    matrices, condition = sampler_cpu.Matrices(config, weights), conditions(config, size).astype(np.float32)
    pixels = np.random.default_rng(2).uniform(-1, 1, (*config.image_shape, size)).astype(np.float32)

    def outputs(drawings: slice) -> Any:
        batch = sampler_cpu.Batch(config, matrices, condition[drawings], len(condition[drawings]))
        results: list[Any] = []
        for row in pixels[..., drawings]:
            batch.begin_row(len(results) // 8)
            for column, pixel in enumerate(row):
                results.append(batch.outputs(column).copy())
                batch.put(column, pixel)
        return np.array(results)

    with sampling._blas().limit(limits=1, user_api="blas"):
        together = outputs(slice(size))
        for start, stop in [(0, 1), (3, 5), (0, 8), (7, 20), (0, 16), (24, 40), (5, 38), (39, 40)]:
            np.testing.assert_array_equal(outputs(slice(start, stop)), together[..., start:stop], err_msg=str(stop))


@pytest.mark.slow
@pytest.mark.parametrize(("cores", "max_batch"), [(1, 128), (2, 128), (3, 5), (5, 40), (16, 128)])
def test_drawings_do_not_depend_on_cores_and_batches(
    cores: int, max_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config((28, 28, 1), (3,), 1, 3, 16, 3, position="coordinates")
    noise, weights = sampling.noise(config, 3, keys(*range(70))), kernels(config)
    condition = conditions(config, 70)
    options: dict[str, Any] = {"guidance": 2.0, "reference": condition.mean(axis=0)}
    expected = sampling.sample(config, weights, noise, condition, **options)
    monkeypatch.setattr(sampling, "usable_cores", lambda: cores)
    monkeypatch.setattr(sampling, "MIN_CPU_BATCH", 1)
    monkeypatch.setattr(sampling, "MAX_CPU_BATCH", max_batch)
    np.testing.assert_array_equal(sampling.sample(config, weights, noise, condition, **options), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_the_compiled_program_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sample_tiny(tiny_noise(*range(7)))
    monkeypatch.setattr(sampling, "MAX_GPU_BATCH", 3)
    done: list[int] = []
    np.testing.assert_array_equal(sample_tiny(tiny_noise(*range(7)), progress=done.append), expected)
    assert sum(done) == 7 * TINY.image_shape[0]


@pytest.mark.parametrize(("size", "cores"), [(1, 2), (31, 2), (160, 2), (1000, 2), (160, 16), (5000, 16)])
def test_batches_are_equal_in_size_and_bounded(size: int, cores: int) -> None:
    sizes = [part.stop - part.start for part in sampling._batches(size, cores, sampling.MAX_CPU_BATCH)]
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= sampling.MAX_CPU_BATCH
    assert len(sizes) == 1 or min(sizes) >= sampling.MIN_CPU_BATCH


def test_completion_keeps_the_known_pixels_and_no_others() -> None:
    fresh = sample_tiny(tiny_noise(0, 1, 2))
    known = np.zeros((4, 4), bool)
    np.testing.assert_array_equal(sample_tiny(tiny_noise(0, 1, 2), given=fresh[0], known=known), fresh)
    known[:2] = True
    completed = sample_tiny(tiny_noise(0, 1, 2), given=255 - fresh[0], known=known)
    assert (completed[:, :2] == 255 - fresh[0, :2]).all()
    assert (completed[:, 2:] != fresh[:, 2:]).any()


def test_guidance_extrapolates_from_the_reference_beyond_the_condition() -> None:
    noise, condition, reference = tiny_noise(*range(64)), np.array([1.0, 0.0, 0.5]), np.array([-1.0, 2.0, 0.0])

    def mean(condition: Any, **options: Any) -> Any:
        drawings = sampling.sample(TINY, tiny_kernels(), noise, np.tile(condition, (64, 1)), **options)
        return drawings.mean(axis=0).ravel()

    np.testing.assert_array_equal(mean(condition, guidance=1.0, reference=reference), mean(condition))
    np.testing.assert_array_equal(mean(condition, guidance=0.0, reference=reference), mean(reference))
    towards, beyond = (
        mean(condition) - mean(reference),
        mean(condition, guidance=3.0, reference=reference) - mean(condition),
    )
    assert np.corrcoef(towards, beyond)[0, 1] > 0.5


def test_temperature_0_gives_the_likeliest_component() -> None:
    drawings = sample_tiny(tiny_noise(0, 1), temperature=0.0)
    np.testing.assert_array_equal(drawings[0], drawings[1])
    weights, condition = tiny_kernels(), np.array([[1.0, 0.0, 0.5]])
    mixture = network.forward(TINY, weights, tf.constant(2.0 * drawings[:1] / 255 - 1, tf.float32), condition)
    likeliest = np.argmax(mixture.logits, axis=-1)[..., np.newaxis]
    locs = np.take_along_axis(mixture.locs.numpy()[..., 0], likeliest, axis=-1)
    np.testing.assert_allclose(drawings[:1], np.clip(127.5 * (locs + 1), 0, 255), atol=0.5 + 1e-3)


def test_teacher_forced_resampling_gives_the_drawings_before_rounding() -> None:
    config = CONFIGS["three channels, three levels, a label"]
    weights, noise, condition = kernels(config), sampling.noise(config, 3, keys(0, 1, 2, 3)), conditions(config, 4)
    options = {"temperature": 0.8, **guidance_options(config)}
    drawings = sampling.sample(config, weights, noise, condition, **options)
    resampled = sampling.resample_teacher_forced(config, weights, noise, drawings, condition, **options)
    difference = np.abs(drawings - resampled)
    assert difference.max() <= 0.5 + 1e-3
    assert difference.mean() > 0.1  # before rounding
    other_noise = sampling.noise(config, 4, keys(0, 1, 2, 3))
    assert (
        np.abs(drawings - sampling.resample_teacher_forced(config, weights, other_noise, drawings, condition)).max() > 1
    )


def test_noise_depends_on_seed_and_key_only() -> None:
    gumbel, logistic = tiny_noise(5, 6)
    assert gumbel.shape == (2, 4, 4, 2) and logistic.shape == (2, 4, 4, 1)
    for swapped, original in zip(tiny_noise(6, 5), (gumbel, logistic), strict=True):
        np.testing.assert_array_equal(swapped, original[::-1])
    assert len(np.unique(np.concatenate([gumbel, sampling.noise(TINY, 4, keys(5, 6)).gumbel]))) == 2 * gumbel.size
    assert (sampling.noise(TINY, 3, np.array([[5, 26]])).gumbel != gumbel[0]).all()
    # The same on every machine and with every version of NumPy: other numbers would change the generated drawings.
    np.testing.assert_allclose(gumbel[0, 0, 0], [0.22295596, -1.0770785], rtol=1e-6)
    np.testing.assert_allclose(logistic[0, 0, 0], [-0.24418816], rtol=1e-6)


def test_noise_has_the_right_distributions() -> None:
    config = Config((28, 28, 1), None, 1, 1, 4, 5)
    noise = sampling.noise(config, 0, np.arange(60)[:, np.newaxis])
    uniforms = np.exp(-np.exp(-noise.gumbel.astype(np.float64))), 1 / (1 + np.exp(-noise.logistic.astype(np.float64)))
    for uniform in uniforms:
        expected = (np.arange(uniform.size) + 0.5) / uniform.size
        # Kolmogorov-Smirnov test: fails by chance once in 10,000 times.
        assert np.abs(np.sort(uniform, axis=None) - expected).max() < 2.23 / np.sqrt(uniform.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"known": np.ones((4, 4))}, "must be passed together"),
        ({"given": np.zeros((4, 4, 1)), "known": np.ones((2, 2))}, r"known has shape \(2, 2\)"),
        ({"given": np.full((4, 4, 1), 256), "known": np.ones((4, 4))}, "low=0 to high=255"),
        ({"guidance": 2.0}, "guidance 2.0 needs a condition and a reference"),
        ({"guidance": 2.0, "reference": np.zeros(4)}, r"reference has shape \(4,\)"),
        ({"condition": None}, "condition is missing"),
        ({"condition": np.zeros((2, 4))}, r"condition has shape \(2, 4\)"),
    ],
)
def test_rejects_invalid_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"condition": np.zeros(3)} | options
    with pytest.raises(ValueError, match=message):
        sampling.sample(TINY, tiny_kernels(), tiny_noise(0), **arguments)


@pytest.mark.parametrize("on_gpu", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_are_reported_as_they_are_in_the_drawings(on_gpu: bool, request: pytest.FixtureRequest) -> None:
    """Of several batches: on a CPU each core has its own, on a GPU the last one repeats drawings of the one before."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    if on_gpu:
        request.getfixturevalue("compiled")
    monkeypatch.setattr(sampling, "MAX_GPU_BATCH", 3)
    monkeypatch.setattr(sampling, "MIN_CPU_BATCH", 1)
    monkeypatch.setattr(sampling, "usable_cores", lambda: 3)
    rows: dict[tuple[int, int], Any] = {}

    def row_done(drawings: slice, row: int, pixels: Any) -> None:
        for drawing, values in zip(range(7)[drawings], pixels, strict=True):
            assert rows.setdefault((drawing, row), values) is values, "each once"

    drawings = sample_tiny(tiny_noise(*range(7)), row_done=row_done)
    assert len(rows) == 7 * 4
    for (drawing, row), values in rows.items():
        np.testing.assert_array_equal(values, drawings[drawing, row])


def test_an_error_in_the_progress_callback_stops_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MIN_CPU_BATCH", 1)
    monkeypatch.setattr(sampling, "usable_cores", lambda: 2)
    rows: list[int] = []

    def interrupt(drawings: int) -> None:
        rows.append(drawings)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_tiny(tiny_noise(*range(8)), progress=interrupt)
    assert len(rows) < 2 * TINY.image_shape[0]


@pytest.mark.slow
def test_pixels_have_the_same_frequencies_as_in_tfp() -> None:
    """With TFP's continuous feedback, compared with TFP's sampler: every pixel, and every pair of neighbours."""
    config = Config((4, 4, 1), None, 1, 1, 8, 3, high=3)
    same, different, size = (
        tfp_reference.random_distribution(config, 2),
        tfp_reference.random_distribution(config, 3),
        4_000,
    )
    tf.random.set_seed(0)
    tfp_drawings = same.to_tfp().sample(size).numpy()[..., 0].astype(int)

    def smallest_p_value(dist: Any) -> float:
        """The smallest p-value, times the number of tests."""
        weights = network.kernels(config, dist.network.parameters)
        noise = sampling.noise(config, 0, np.arange(size)[:, np.newaxis])
        drawings = sampling.sample(config, weights, noise, quantised=False)[..., 0]
        p_values = []
        for step, axis in [(0, 1), (1, 1), (1, 2)]:
            both = [4 * x + np.roll(x, step, axis) if step else x for x in (drawings, tfp_drawings)]
            for position in np.ndindex(4, 4):
                counts = np.stack([np.bincount(x[(slice(None), *position)], minlength=16) for x in both])
                p_values.append(stats.chi2_contingency(counts[:, counts.sum(axis=0) > 10]).pvalue)
        return float(min(p_values) * len(p_values))

    assert smallest_p_value(same) > 1e-3
    assert smallest_p_value(different) < 1e-6


@pytest.mark.slow
def test_teacher_forced_resampling_gives_two_drawings_a_class_of_the_full_model() -> None:
    config = Config((28, 28, 1), (20,), 5, 3, 128, 5, position="coordinates")
    dist = tfp_reference.random_distribution(config, 0)
    weights = network.kernels(config, dist.network.parameters)
    noise = sampling.noise(config, 0, np.stack([np.arange(40) // 2, np.arange(40) % 2], axis=1))
    condition = np.eye(20)[np.arange(40) // 2]
    drawings = sampling.sample(config, weights, noise, condition)
    assert drawings.std() > 20
    for part in np.split(np.arange(40), 2):
        resampled = sampling.resample_teacher_forced(
            config, weights, sampling.Noise(*(x[part] for x in noise)), drawings[part], condition[part]
        )
        # Half a grey level, and a difference in float rounding.
        difference = np.abs(drawings[part] - resampled)
        assert difference.max() < 0.51, difference.max()
