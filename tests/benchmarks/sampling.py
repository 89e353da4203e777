"""The time and memory that sampling takes with TFP's PixelCNN and with this project's.

    python -m tests.benchmarks.sampling [--rounds 3] [--model R,H,F,DRAWINGS …]

A model is num_resnet, num_hierarchies, num_filters and the number of drawings per batch; the defaults are 1,2,32,8,
2,3,64,160 and 5,3,128,160. The implementations are processes that alternate, so that other load on the machine slows
all of them; a figure is the median of the rounds.

- tfp forward: one run of TFP's network, in a `tf.function`. TFP's sampler runs it 785 times, once for every pixel and
  once before, so its time is estimated as 785 times this figure. For the first model `tfp sample` is the sampler.
- forward: one run of this project's network.
- sample: this project's sampler.

Prints a table, and writes all figures to build/benchmarks/sampling.json:

- first_s: seconds of the first call, including tracing and compilation.
- again_s: seconds of a later call.
- peak_mib: peak memory of the process; on a GPU, of the GPU memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.alternate import PEAK, Model, alternate, gpu_name, serve_actions, start_processes

MODELS = ("1,2,32,8", "2,3,64,160", "5,3,128,160")
IMPLEMENTATIONS = ("tfp forward", "forward", "sample")
PASSES = 785
FIGURES_FILE = Path("build/benchmarks/sampling.json")

Figures = dict[str, dict[str, float]]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="num_resnet,num_hierarchies,num_filters,drawings")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each implementation after the first")
    parser.add_argument("--implementation", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.implementation:
        run_implementation(options.implementation, Model.parse(options.model[0]))
        return
    device = gpu_name()
    print(f"{device or 'CPU'}, {os.cpu_count()} cores\n")
    results: dict[str, Any] = {"device": device, "cores": os.cpu_count()}
    for text in options.model or MODELS:
        print(Model.parse(text))
        figures = compare(text, IMPLEMENTATIONS, options.rounds)
        if text == MODELS[0]:
            figures |= compare(text, ("tfp sample",), 1)
        report(figures)
        results[text] = figures
    FIGURES_FILE.parent.mkdir(parents=True, exist_ok=True)
    FIGURES_FILE.write_text(json.dumps(results, indent=1) + "\n")


def report(figures: Figures) -> None:
    """Print the table of one model."""
    print(f"{'':14}{'first':>11}{'again':>11}{'785 times':>11}{'peak':>12}")
    for name, row in figures.items():
        all_passes = f"{PASSES * row['again_s']:>9,.0f} s" if name == "tfp forward" else ""
        times = f"{row['first_s']:>9.2f} s{row['again_s']:>9.2f} s{all_passes:>11}"
        print(f"{name:14}{times}{row[PEAK]:>8.0f} MiB")
    sample_s = figures["sample"]["again_s"]
    print(f"785 passes of TFP's network ÷ sample: {PASSES * figures['tfp forward']['again_s'] / sample_s:.0f}")
    if "tfp sample" in figures:
        print(f"TFP's sampler ÷ sample: {figures['tfp sample']['again_s'] / sample_s:.0f}")
    print(f"sample ÷ forward: {sample_s / figures['forward']['again_s']:.2f}\n", flush=True)


def compare(model: str, names: Sequence[str], rounds: int) -> Figures:
    """The figures of each implementation."""
    with start_processes("tests.benchmarks.sampling", model, names) as request:
        first = {name: request(name, "run") for name in names}
        again = alternate(request, names, "run", rounds)
        return {name: {"first_s": first[name], "again_s": again[name], PEAK: request(name, PEAK)} for name in names}


def run_implementation(name: str, model: Model) -> None:
    """Run one implementation."""
    run = build(name, model)

    def checked() -> None:
        assert np.isfinite(run()).all()

    serve_actions({"run": checked})


def build(name: str, model: Model) -> Callable[[], Any]:
    import tensorflow as tf
    from tensorflow_probability import distributions as tfd

    from stages.pixelcnn import network, sampling
    from stages.pixelcnn.network import Config

    tf.config.experimental.enable_tensor_float_32_execution(False)
    images, condition = model.data()
    scaled, conditional = tf.constant(images / 127.5 - 1), tf.constant(condition)
    if name.startswith("tfp"):
        dist = tfd.PixelCNN(**model.arguments())
        passes = tf.function(lambda: dist.network([scaled, conditional], training=False)[0], autograph=False)
        sample = tf.function(lambda: dist.sample(model.batch, conditional_input=conditional), autograph=False)
        return lambda: (passes if name == "tfp forward" else sample)().numpy()
    config = Config(**model.arguments())
    weights = network.kernels(config, network.initialise(config, 0))
    if name == "forward":
        forward = tf.function(functools.partial(network.forward, config), autograph=False)
        return lambda: forward(weights, scaled, conditional).logits.numpy()
    noise = sampling.noise(config, 0, np.arange(model.batch)[:, np.newaxis])
    return lambda: sampling.sample(config, weights, noise, condition)


if __name__ == "__main__":
    main(sys.argv[1:])
