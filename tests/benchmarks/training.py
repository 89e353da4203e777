"""The time and memory that a training step takes with TFP's PixelCNN in a `tf.function` and with this project's.

    python -m tests.benchmarks.training [--steps 7] [--model R,H,F,BATCH …] [implementation …]

A model is num_resnet, num_hierarchies, num_filters and the number of drawings per batch; the defaults are 1,3,32,8,
2,3,64,32 and 5,3,128,8. An implementation is `tfp`, `float32` or `bfloat16`, with options after a `+`: `muon` (with
Muon and noise on the input, otherwise Adam without noise), and on a GPU `tf32` (TensorFloat-32, as in the pipeline)
and `deterministic` (bitwise reproducible). Each runs in a process of its own; their steps alternate, so that other load
slows all of them. A figure is the median of the steps, and the ratio is that of the medians. On a GPU this project's
step is one XLA program, as in the pipeline. Prints a table, and then all figures as one line of JSON:

- build_s: seconds to build the distribution, including the initial weights (for this project's, with data-dependent
  initialisation).
- first_s: seconds of the first step, including tracing and compilation (for TFP's, with data-dependent initialisation).
- step_s: seconds of a later step.
- peak_mib: peak memory of the process; on a GPU, of the GPU memory.

On one H100, (5, 3, 128) × 32:

                          build    first     step        peak    step of tfp ÷ this
tfp+tf32                 19.4 s  139.0 s  0.148 s    5420 MiB                  1.00
float32+tf32              6.6 s  100.5 s  0.030 s    3895 MiB                  4.89
float32+tf32+muon         6.6 s  105.0 s  0.032 s    3645 MiB                  4.57
bfloat16+tf32+muon        6.2 s  156.4 s  0.023 s    2668 MiB                  6.35

On two slow cores, float32 without and with Muon, before oneDNN and the gradients by matrix products, with which a step
of (1, 3, 48) × 8 with Muon takes 0.81 of its time (20 steps of each in turns, without AVX-512):

(1, 3, 32) × 8: the step of tfp ÷ this 1.41 and 1.38; with Muon ÷ without 1.03
(2, 3, 64) × 32: 1.84 and 1.98; 0.93
(5, 3, 128) × 8: 1.48 and 1.33; 1.12
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stages.common import device
from tests.benchmarks.alternate import PEAK, Model, alternate, gpu_name, serve_actions, start_processes

MODELS = ("1,3,32,8", "2,3,64,32", "5,3,128,8")
IMPLEMENTATIONS = ("tfp", "float32", "float32+muon", "bfloat16")
GPU_IMPLEMENTATIONS = (
    "tfp",
    "tfp+tf32",
    "float32",
    "float32+tf32",
    "float32+tf32+muon",
    "float32+tf32+muon+deterministic",
    "bfloat16+tf32+muon",
)

Step = Callable[[], float]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("implementations", nargs="*", metavar="implementation")
    parser.add_argument("--model", action="append", help="num_resnet,num_hierarchies,num_filters,batch")
    parser.add_argument("--steps", type=int, default=7, help="steps of each implementation after the first")
    parser.add_argument("--implementation", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.implementation:
        run_implementation(options.implementation, Model.parse(options.model[0]))
        return
    gpu = gpu_name()
    print(f"{gpu or 'CPU'}, {os.cpu_count()} cores\n")
    names = options.implementations or (GPU_IMPLEMENTATIONS if gpu else IMPLEMENTATIONS)
    results: dict[str, Any] = {"device": gpu, "cores": os.cpu_count()}
    for text in options.model or MODELS:
        print(Model.parse(text))
        print(f"{'':22}{'build':>9}{'first':>9}{'step':>9}{'peak':>12}{'step of tfp ÷ this':>22}")
        figures = compare(text, names, options.steps)
        for name, row in figures.items():
            ratio = f"{figures['tfp']['step_s'] / row['step_s']:.2f}" if "tfp" in figures else ""
            times = f"{row['build_s']:>7.1f} s{row['first_s']:>7.1f} s{row['step_s']:>7.3f} s"
            print(f"{name:22}{times}{row[PEAK]:>8.0f} MiB{ratio:>22}", flush=True)
        print()
        results[text] = figures
    print(json.dumps(results))


def compare(model: str, names: Sequence[str], steps: int) -> dict[str, dict[str, float]]:
    """The figures of each implementation."""
    with start_processes("tests.benchmarks.training", model, names) as request:
        figures = {name: {action: request(name, action) for action in ("build_s", "first_s")} for name in names}
        medians = alternate(request, names, "step_s", steps)
        return {name: figures[name] | {"step_s": medians[name], PEAK: request(name, PEAK)} for name in names}


def run_implementation(name: str, model: Model) -> None:
    """Run one implementation; this project's with the device configured as in the pipeline."""
    if not name.startswith("tfp"):
        device.configure("gpu" if gpu_name() else "cpu")
    import tensorflow_probability  # noqa: F401 (imported here, so that the import is not measured)

    from stages.pixelcnn import training  # noqa: F401

    steps: list[Step] = []

    def step() -> None:
        assert np.isfinite(steps[0]())

    serve_actions({"build_s": lambda: steps.append(build(name, model)), "first_s": step, "step_s": step})


def build(name: str, model: Model) -> Step:
    """A function that runs a training step and returns the loss."""
    import tensorflow as tf

    implementation, *options = name.split("+")
    tf.config.experimental.enable_tensor_float_32_execution("tf32" in options)
    if "deterministic" in options:
        tf.config.experimental.enable_op_determinism()
    return build_tfp(model) if implementation == "tfp" else build_pixelcnn(model, implementation, "muon" in options)


def build_tfp(model: Model) -> Step:
    import tensorflow as tf
    import tf_keras
    from tensorflow_probability import distributions as tfd

    dist = tfd.PixelCNN(**model.arguments())
    adam = tf_keras.optimizers.Adam(0.001)
    images, condition = map(tf.constant, model.data())

    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(images, conditional_input=condition, training=True))
        variables = dist.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    compiled = tf.function(step)
    return lambda: float(compiled())


def build_pixelcnn(model: Model, precision: str, muon: bool) -> Step:
    """A step as in the pipeline; unless with Muon, without the options that TFP's step does not have."""
    import tensorflow as tf

    from stages.pixelcnn import network
    from stages.pixelcnn.likelihood import scale_pixels
    from stages.pixelcnn.network import Config
    from stages.pixelcnn.training import Trainer, TrainingConfig

    config = Config(**model.arguments())
    images, condition = model.data()
    scaled = scale_pixels(config, tf.constant(images))
    parameters = network.data_dependent_initialisation(
        config, network.initialise(config, 0), scaled, condition, dropout_seed=tf.constant([0, 0])
    )
    training = TrainingConfig(steps=1_000, learning_rate=0.001, dtype=tf.as_dtype(precision))
    if muon:
        training = dataclasses.replace(training, muon_learning_rate=0.02, input_noise=0.1)
    trainer = Trainer(config, training, parameters, jit_compile=bool(tf.config.list_physical_devices("GPU")))
    pixels, number = images.astype(np.uint8), iter(range(1_000))
    return lambda: float(trainer.step(next(number), pixels, condition)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
