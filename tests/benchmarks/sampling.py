"""What it costs to draw samples: TFP's PixelCNN, and this project's.

    python -m tests.benchmarks.sampling [--rounds 3] [--model R,H,F,DRAWINGS …]

A model is num_resnet, num_hierarchies, num_filters and the drawings that are drawn at once; without one these are
1,2,32,8, 2,3,64,160 and 5,3,128,160. The contenders are processes that take turns, so that what else the machine does
slows all of them; a figure is the median of the rounds.

- tfp forward: TFP's network once, in a `tf.function`. Its sampler needs it 785 times, once for every pixel and once
  before; 785 times the figure stands for it, and at the first model `tfp sample` is the sampler itself.
- forward: this project's network once.
- sample: this project's sampler.

Prints a table, and keeps all figures in build/benchmarks/sampling.json:

- first_s: the first time, tracing and compilation included.
- again_s: after that.
- peak_mib: the most memory that the process took; on a GPU, of the GPU's.
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

from tests.benchmarks.alternate import PEAK, Model, ask_device, contend, contenders, in_turn

MODELS = ("1,2,32,8", "2,3,64,160", "5,3,128,160")
CONTENDERS = ("tfp forward", "forward", "sample")
PASSES = 785
KEPT = Path("build/benchmarks/sampling.json")

Figures = dict[str, dict[str, float]]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="num_resnet,num_hierarchies,num_filters,drawings")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender after the first")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contend:
        compete(options.contend, Model.parse(options.model[0]))
        return
    device = ask_device()
    print(f"{device or 'CPU'}, {os.cpu_count()} cores\n")
    found: dict[str, Any] = {"device": device, "cores": os.cpu_count()}
    for text in options.model or MODELS:
        print(Model.parse(text))
        figures = compare(text, CONTENDERS, options.rounds)
        if text == MODELS[0]:
            figures |= compare(text, ("tfp sample",), 1)
        report(figures)
        found[text] = figures
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(found, indent=1) + "\n")


def report(figures: Figures) -> None:
    """Prints the table of one model."""
    print(f"{'':14}{'first':>11}{'again':>11}{'785 times':>11}{'peak':>12}")
    for name, row in figures.items():
        all_passes = f"{PASSES * row['again_s']:>9,.0f} s" if name == "tfp forward" else ""
        times = f"{row['first_s']:>9.2f} s{row['again_s']:>9.2f} s{all_passes:>11}"
        print(f"{name:14}{times}{row[PEAK]:>8.0f} MiB")
    ours = figures["sample"]["again_s"]
    print(f"785 passes of TFP's network ÷ sample: {PASSES * figures['tfp forward']['again_s'] / ours:.0f}")
    if "tfp sample" in figures:
        print(f"TFP's sampler ÷ sample: {figures['tfp sample']['again_s'] / ours:.0f}")
    print(f"sample ÷ forward: {ours / figures['forward']['again_s']:.2f}\n", flush=True)


def compare(model: str, names: Sequence[str], rounds: int) -> Figures:
    """The figures of each contender."""
    with contenders("tests.benchmarks.sampling", model, names) as ask:
        first = {name: ask(name, "run") for name in names}
        again = in_turn(ask, names, "run", rounds)
        return {name: {"first_s": first[name], "again_s": again[name], PEAK: ask(name, PEAK)} for name in names}


def compete(name: str, model: Model) -> None:
    """One contender."""
    run = build(name, model)

    def checked() -> None:
        assert np.isfinite(run()).all()

    contend({"run": checked})


def build(name: str, model: Model) -> Callable[[], Any]:
    import tensorflow as tf
    from tensorflow_probability import distributions as tfd

    from stages.pixelcnn import network, sampling
    from stages.pixelcnn.network import Config

    tf.config.experimental.enable_tensor_float_32_execution(False)
    images, condition = model.data()
    scaled, given = tf.constant(images / 127.5 - 1), tf.constant(condition)
    if name.startswith("tfp"):
        dist = tfd.PixelCNN(**model.arguments())
        passes = tf.function(lambda: dist.network([scaled, given], training=False)[0], autograph=False)
        draw = tf.function(lambda: dist.sample(model.batch, conditional_input=given), autograph=False)
        return lambda: (passes if name == "tfp forward" else draw)().numpy()
    config = Config(**model.arguments())
    weights = network.kernels(config, network.initialise(config, 0))
    if name == "forward":
        forward = tf.function(functools.partial(network.forward, config), autograph=False)
        return lambda: forward(weights, scaled, given).logits.numpy()
    noise = sampling.noise(config, 0, np.arange(model.batch)[:, np.newaxis])
    return lambda: sampling.sample(config, weights, noise, condition)


if __name__ == "__main__":
    main(sys.argv[1:])
