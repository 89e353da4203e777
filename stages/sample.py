"""Generate drawings of every class with the trained model.

reads    data/train/
writes   data/sample/samples.npy   (classes, samples, height, width, channels) uint8, classes in the model's order;
                                    samples is the larger of samples_per_class and eval_samples_per_class
         data/sample/settings.json  the seed, the temperature and the guidance
caches   checkpoints, until the stage ends: a killed stage that is run again resumes, and writes the same bytes
command  python -m stages.sample
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import device, files
from stages.common.checkpoints import Checkpoint, Checkpoints, run_key
from stages.common.progress import progress
from stages.outputs import model
from stages.outputs.samples import FOLDER, IMAGES, SETTINGS, Settings, write_settings
from stages.params import Params


def main(settings: Params) -> None:
    """Run the stage."""
    trained = model.load()
    gpus = device.configure(settings.device, settings.deterministic)
    number = max(settings.samples_per_class, settings.eval_samples_per_class)
    options = settings.seed, settings.temperature, settings.guidance

    from stages.pixelcnn import sampling

    machine = bool(gpus), settings.deterministic, sampling.batch_capacity()
    described = trained.config, trained.classes, trained.conditioning, number, options, machine
    checkpoints = Checkpoints(run_key(described, trained.weights.values(), ("numpy", "tensorflow")))
    with files.atomic_folder(FOLDER) as folder:
        samples = generate(trained, number, *options, checkpoints)
        with open(folder / IMAGES, "wb") as file:  # np.save does not report a full disk
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(samples))
            file.write(samples.data)
        write_settings(folder / SETTINGS, Settings(*options))
    checkpoints.clear()


def generate(
    trained: model.Model,
    number: int,
    seed: int,
    temperature: float = 1.0,
    guidance: float = 1.0,
    checkpoints: Checkpoints | None = None,
) -> npt.NDArray[np.uint8]:
    """Generate drawings of each class, after those that the last checkpoint holds.

    A drawing depends only on the model, the seed, the temperature, the guidance, its label and its number within the
    class. Generating more drawings does not change it.

    Args:
      trained: the model.
      number: drawings per class.
      seed: the random seed.
      temperature: the sampling temperature.
      guidance: the classifier-free guidance scale.
      checkpoints: where to save the finished drawings; None saves none.

    Returns:
      (classes, number, height, width, channels) uint8.
    """
    from stages.pixelcnn import network, sampling

    class_labels = [entry.label for entry in trained.classes]
    labels = np.repeat(class_labels, number)
    numbers = np.tile(np.arange(number), len(trained.classes))
    weights = network.kernels(trained.config, trained.weights)
    # All batches have the same size, at most the machine's capacity, because a GPU's program is compiled for one size.
    # The last batch may overlap the previous one.
    num_batches = -(-len(labels) // sampling.batch_capacity())
    batch_size = -(-len(labels) // num_batches)
    images = np.empty((len(labels), *trained.config.image_shape), np.uint8)
    done = 0
    if checkpoints and (last := checkpoints.newest()):
        done = last.step
        images[:done] = last.arrays["images"]
        print(f"sample: resumes after drawing {done} of {len(labels)}", file=sys.stderr, flush=True)
    rows = trained.config.image_shape[0]
    with progress("sample", num_batches * batch_size * rows, "rows of pixels", done * rows) as add:
        while done < len(labels):
            done = min(done + batch_size, len(labels))
            batch = slice(done - batch_size, done)
            images[batch] = sampling.sample(
                trained.config,
                weights,
                sampling.noise(trained.config, seed, np.stack([labels[batch], numbers[batch]], axis=1)),
                trained.condition(labels[batch]),
                temperature=temperature,
                guidance=guidance,
                reference=trained.guidance_reference(),
                progress=add,
            )
            if checkpoints and checkpoints.due():
                checkpoints.save(Checkpoint(done, {"images": images[:done]}))
    return images.reshape(len(trained.classes), number, *trained.config.image_shape)


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="samples_per_class and eval_samples_per_class, or guidance to 1"))
