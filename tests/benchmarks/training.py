"""What a training step costs: TFP's PixelCNN in a `tf.function`, and this project's.

    python -m tests.benchmarks.training [--steps 7] [--model R,H,F,BATCH …] [contender …]

A model is num_resnet, num_hierarchies, num_filters and the drawings of a batch; without one these are 2,3,64,32 and
5,3,128,8. A contender is `tfp`, `float32`, `bfloat16`, or with a GPU also `tfp+tf32`, `float32+tf32` and
`float32+deterministic`, which repeats itself to the bit; without one all run. Each is a process of its own. They take
their steps in turn, so that what else the machine does slows all of them; a figure is the median of its steps, and the
ratio that of the medians. On a GPU a step of ours is one XLA program, as in the pipeline. Prints a table, and then all
figures as one line of JSON:

- build_s: to make the distribution, the network's first weights among it (for ours, initialised by data).
- first_s: the first step, tracing and compilation included (for TFP's, initialisation by data as well).
- step_s: a step after it.
- peak_mib: the most memory that the process took; on a GPU, of the GPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.alternate import PEAK, Model, ask_device, contend, contenders, in_turn

MODELS = ("2,3,64,32", "5,3,128,8")
CONTENDERS = ("tfp", "float32", "bfloat16")
WITH_GPU = ("tfp", "tfp+tf32", "float32", "float32+tf32", "float32+deterministic", "bfloat16")

Step = Callable[[], float]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", metavar="contender")
    parser.add_argument("--model", action="append", help="num_resnet,num_hierarchies,num_filters,batch")
    parser.add_argument("--steps", type=int, default=7, help="steps of each contender after the first")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contend:
        compete(options.contend, Model.parse(options.model[0]))
        return
    device = ask_device()
    print(f"{device or 'CPU'}, {os.cpu_count()} cores\n")
    names = options.contenders or (WITH_GPU if device else CONTENDERS)
    found: dict[str, Any] = {"device": device, "cores": os.cpu_count()}
    for text in options.model or MODELS:
        print(Model.parse(text))
        print(f"{'':14}{'build':>9}{'first':>9}{'step':>9}{'peak':>12}{'step of tfp ÷ this':>22}")
        figures = compare(text, names, options.steps)
        for name, row in figures.items():
            ratio = f"{figures['tfp']['step_s'] / row['step_s']:.2f}" if "tfp" in figures else ""
            times = f"{row['build_s']:>7.1f} s{row['first_s']:>7.1f} s{row['step_s']:>7.3f} s"
            print(f"{name:14}{times}{row[PEAK]:>8.0f} MiB{ratio:>22}", flush=True)
        print()
        found[text] = figures
    print(json.dumps(found))


def compare(model: str, names: Sequence[str], steps: int) -> dict[str, dict[str, float]]:
    """The figures of each contender."""
    with contenders("tests.benchmarks.training", model, names) as ask:
        figures = {name: {what: ask(name, what) for what in ("build_s", "first_s")} for name in names}
        medians = in_turn(ask, names, "step_s", steps)
        return {name: figures[name] | {"step_s": medians[name], PEAK: ask(name, PEAK)} for name in names}


def compete(name: str, model: Model) -> None:
    """One contender."""
    import tensorflow_probability  # noqa: F401 (to import it is none of what is measured)

    from stages.pixelcnn import training  # noqa: F401

    steps: list[Step] = []

    def step() -> None:
        assert np.isfinite(steps[0]())

    contend({"build_s": lambda: steps.append(build(name, model)), "first_s": step, "step_s": step})


def build(name: str, model: Model) -> Step:
    """A function that takes a step and returns the loss."""
    import tensorflow as tf

    who, _, how = name.partition("+")
    tf.config.experimental.enable_tensor_float_32_execution(how == "tf32")
    if how == "deterministic":
        tf.config.experimental.enable_op_determinism()
    return build_tfp(model) if who == "tfp" else build_ours(model, who)


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


def build_ours(model: Model, precision: str) -> Step:
    """As the pipeline trains, without the options that TFP's step has not."""
    import tensorflow as tf

    from stages.pixelcnn import network
    from stages.pixelcnn.likelihood import scale_pixels
    from stages.pixelcnn.network import Config
    from stages.pixelcnn.training import OptimizerConfig, Trainer

    config = Config(**model.arguments())
    images, condition = model.data()
    scaled = scale_pixels(config, tf.constant(images))
    parameters = network.data_dependent_initialisation(config, network.initialise(config, 0), scaled, condition)
    recipe = OptimizerConfig(steps=1_000, learning_rate=0.001, dtype=tf.as_dtype(precision))
    trainer = Trainer(config, recipe, parameters, jit_compile=bool(tf.config.list_physical_devices("GPU")))
    pixels, number = images.astype(np.uint8), iter(range(1_000))
    return lambda: float(trainer.step(next(number), pixels, condition)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
