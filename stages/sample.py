"""Generate drawings of every class with the trained model.

reads    data/train/, and data/filter/ for the drawings to complete
writes   data/sample/samples.npy   (classes, samples, height, width, channels) uint8, classes in the model's order;
                                    samples is the larger of samples_per_class and eval_samples_per_class
         data/sample/settings.json  the seed, the temperature and the guidance
         data/sample/completions.*  completions of held-out drawings, unless completions_per_class is 0
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
from stages.common.errors import SettingsError
from stages.common.progress import progress
from stages.metrics.subsets import rank_in_class
from stages.outputs import completions, dataset, model
from stages.outputs.samples import FOLDER, IMAGES, SETTINGS, Settings, write_settings
from stages.params import Params


def main(settings: Params) -> None:
    """Run the stage."""
    per_class = settings.completions_per_class
    data = dataset.load() if per_class else None  # before the work, as it may be missing
    trained = model.load()
    rows = given_rows(settings.completion_rows, trained.config.image_shape[0])
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
        if data:
            completions.write(folder, complete(trained, data, per_class, rows, *options))
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


def complete(
    trained: model.Model,
    data: dataset.Drawings,
    per_class: int,
    rows: int,
    seed: int,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> completions.Completions:
    """Complete the first held-out drawings of each class: keep the upper rows, and generate the others.

    The completions of a class have the random numbers of its first generated drawings. So without a kept row, they are
    these drawings.

    Args:
      trained: the model.
      data: drawings of its classes.
      per_class: how many drawings of each class; fewer if fewer are held out.
      rows: how many upper rows are kept.
      seed, temperature, guidance: as in `generate`.
    """
    from stages.pixelcnn import network, sampling

    height, width, _ = trained.config.image_shape
    heldout = np.flatnonzero(data.heldout)
    ranks = rank_in_class(data.labels[heldout])
    chosen = np.concatenate(
        [heldout[(data.labels[heldout] == entry.label) & (ranks < per_class)] for entry in trained.classes]
    )
    drawings = np.repeat(chosen, completions.COMPLETIONS)
    labels = data.labels[drawings]
    keys = np.stack([labels.astype(np.int64), rank_in_class(labels)], axis=1)
    weights = network.kernels(trained.config, trained.weights)
    known = np.broadcast_to(np.arange(height)[:, np.newaxis] < rows, (height, width))
    images = np.empty((len(drawings), *trained.config.image_shape), np.uint8)
    with progress("sample: completions", len(drawings) * height, "rows of pixels") as add:
        for start in range(0, len(drawings), sampling.batch_capacity()):
            batch = slice(start, start + sampling.batch_capacity())
            images[batch] = sampling.sample(
                trained.config,
                weights,
                sampling.noise(trained.config, seed, keys[batch]),
                trained.condition(labels[batch]),
                temperature=temperature,
                guidance=guidance,
                reference=trained.guidance_reference(),
                given=data.images[drawings[batch]],
                known=np.broadcast_to(known, (len(drawings[batch]), height, width)),
                progress=add,
            )
    images = images.reshape(len(chosen), completions.COMPLETIONS, *trained.config.image_shape)
    return completions.Completions(images, rows, chosen)


def given_rows(setting: int | str, height: int) -> int:
    """How many rows of a drawing the setting `completion_rows` keeps. Raises `SettingsError` if it has fewer."""
    rows = height // 2 if setting == "half" else int(setting)
    if rows > height:
        raise SettingsError(f"completion_rows is {rows}; expected: at most {height}, the height of a drawing")
    return rows


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="samples_per_class and eval_samples_per_class, or guidance to 1"))
