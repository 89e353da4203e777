"""Draw new drawings of every class from the trained model.

reads    data/train/
writes   data/sample/samples.npy   (classes, samples, 28, 28, 1) uint8, classes in the order of the model;
                                    as many as are to be shown or measured, whichever is more
keeps    checkpoints in the user's cache, until it ends: killed and run again, it goes on, and ends with the same bytes
command  python -m stages.sample
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import checkpoints, device, files
from stages.common.checkpoints import Checkpoint, Checkpoints
from stages.common.progress import progress
from stages.outputs import model
from stages.outputs.samples import FOLDER, IMAGES
from stages.params import Params


def main(settings: Params) -> None:
    """Run the stage."""
    trained = model.load()
    gpus = device.configure(settings.device, settings.deterministic)
    number = max(settings.samples_per_class, settings.eval_samples_per_class)
    how = settings.seed, settings.temperature, settings.guidance

    from stages.pixelcnn import sampling

    where = bool(gpus), settings.deterministic, sampling.batch_capacity()
    described = trained.config, trained.classes, trained.conditioning, number, how, where
    kept = Checkpoints(checkpoints.run_key(described, trained.weights.values(), ("numpy", "tensorflow")))
    with files.atomic_folder(FOLDER) as folder:
        samples = draw(trained, number, *how, kept)
        with open(folder / IMAGES, "wb") as file:  # not np.save, which says nothing of a full disk
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(samples))
            file.write(samples.data)
    kept.clear()


def draw(
    trained: model.Model,
    number: int,
    seed: int,
    temperature: float = 1.0,
    guidance: float = 1.0,
    kept: Checkpoints | None = None,
) -> npt.NDArray[np.uint8]:
    """`number` drawings of each class, (classes, number, 28, 28, 1) uint8, from the last checkpoint on.

    A drawing depends on the model, the seed, temperature and guidance, its class's label and its number alone: more
    drawings beside it change nothing.

    Guidance leads away from the mean of all classes' conditions: the model was told none such, and what it makes of it
    lies between the classes, which is all that guidance wants.
    """
    from stages.pixelcnn import network, sampling

    each = [known.label for known in trained.classes]
    labels = np.repeat(each, number)
    numbers = np.tile(np.arange(number), len(trained.classes))
    weights = network.kernels(trained.config, trained.weights)
    # As many at a time as the machine has room for, each time the same number, as a GPU's program is compiled for one:
    # the last may begin with drawings that are there already.
    portions = -(-len(labels) // sampling.batch_capacity())
    size = -(-len(labels) // portions)
    images = np.empty((len(labels), *trained.config.image_shape), np.uint8)
    done = 0
    if kept and (last := kept.newest()):
        done = last.step
        images[:done] = last.arrays["images"]
        print(f"sample: goes on after drawing {done} of {len(labels)}", file=sys.stderr, flush=True)
    rows = trained.config.image_shape[0]
    with progress("sample", portions * size * rows, "rows", done * rows) as add:
        while done < len(labels):
            done = min(done + size, len(labels))
            which = slice(done - size, done)
            images[which] = sampling.sample(
                trained.config,
                weights,
                sampling.noise(trained.config, seed, np.stack([labels[which], numbers[which]], axis=1)),
                trained.condition(labels[which]),
                temperature=temperature,
                guidance=guidance,
                reference=trained.condition(each).mean(axis=0),
                progress=add,
            )
            if kept and kept.due():
                kept.save(Checkpoint(done, {"images": images[:done]}))
    return images.reshape(len(trained.classes), number, *trained.config.image_shape)


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="samples_per_class and eval_samples_per_class, or guidance to 1"))
