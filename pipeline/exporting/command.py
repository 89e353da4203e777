"""Export the model of a run into a folder of its own, with all that somebody else needs to use and to check it."""

from __future__ import annotations

import io
import shlex
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import dvc
from pipeline.compare import overall
from pipeline.exporting import card, checksums, hub
from pipeline.exporting.checksums import ExportError
from stages import params
from stages.common import device, files
from stages.common.errors import one_line
from stages.common.urls import hide_secrets
from stages.inference.trained_model import TrainedModel, load

FILES = {"data/train/config.json": "config.json", "data/train/weights.safetensors": "weights.safetensors"}
SAMPLING = "data/sample/settings.json"
SAMPLES = "data/sample/samples.npy"
REMEDY = "finish the run first, or name an experiment (dvc exp list)"
RUN_STAGES = ("train", "sample", "evaluate")  # those whose outputs are exported
SHOWN, SHEET_CLASSES, SHEET_SCALE = 8, 50, 3  # drawings of a class, classes, and the size of a pixel in the sheet


def export(
    folder: Path, run: str | None, *, tfp: bool = False, saved_model: bool = False, push: str | None = None
) -> None:
    """Write the model of a run into a new folder, and print what to do with it.

    Args:
      folder: must be new or empty. If the export fails or is killed, it is as it was.
      run: a DVC experiment or a Git revision, whose files are read from DVC's cache; None for the checkout.
      tfp: whether to add the weights of `tfp.distributions.PixelCNN`.
      saved_model: whether to add a TensorFlow SavedModel.
      push: the name of a repository on the Hugging Face Hub, to which the folder is uploaded; None for none.

    Raises:
      ExportError: the run is not finished, or cannot be exported in this form.
      DvcError: there is no such run, or its files are not here.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is not empty; choose a new folder")
    if push is not None:
        hub.check(push)
    snapshot = dvc.Snapshot(dvc.project_root(Path.cwd()), run)
    settings_text = snapshot.read_text("params.yaml")
    settings = params.parse(settings_text, f"params.yaml of {snapshot.name}")
    check_run(snapshot, settings)
    metrics, _ = overall(snapshot)
    with files.atomic_folder(folder) as temporary:
        for path, name in FILES.items():
            (temporary / name).write_bytes(snapshot.read(path))
        with suppress(dvc.NoSuchFile):  # an older run has these settings in params.yaml only
            (temporary / "settings.json").write_bytes(snapshot.read(SAMPLING))
        (temporary / "params.yaml").write_text(hide_secrets(settings_text), encoding="utf-8")
        trained = load(temporary)
        drawings = read_drawings(snapshot, trained)
        np.save(temporary / "drawings.npy", drawings)
        write_sheet(drawings, temporary / "drawings.png")
        write_formats(trained, temporary, tfp=tfp, saved_model=saved_model)
        formats = ["tfp"] * tfp + ["saved_model"] * saved_model
        text = card.render(trained, settings, metrics, checksums.compute(temporary), formats)
        (temporary / "README.md").write_text(text, encoding="utf-8")
        (temporary / checksums.FILE).write_text(checksums.render(checksums.compute(temporary)), encoding="utf-8")
    print(f"exported the model of {snapshot.name}; {folder / 'README.md'} says what it is and how to use it")
    print(f"`python -m pipeline verify {shlex.quote(str(folder))}` checks the folder")
    if push is not None:
        print(f"uploaded to {hub.push(folder, push)}")


def check_run(snapshot: dvc.Snapshot, settings: Mapping[str, Any]) -> None:
    """Check that a model, its settings and its metrics are of one finished run, as dvc.lock has recorded it.

    Raises:
      ExportError: they are not.
    """
    recorded = (
        params.parse(snapshot.read_text(dvc.LOCK_FILE), f"{dvc.LOCK_FILE} of {snapshot.name}").get("stages") or {}
    )
    if missing := [name for name in RUN_STAGES if name not in recorded]:
        raise ExportError(f"{dvc.LOCK_FILE} of {snapshot.name} has no run of the stage {missing[0]}: {REMEDY}")
    written = {out["path"]: out.get("md5") for stage in recorded.values() for out in stage.get("outs", ())}
    for name, stage in recorded.items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if _as_text(value) != _as_text(settings.get(key)):
                now, then = (one_line(hide_secrets(str(value))) for value in (settings.get(key), value))
                raise ExportError(
                    f"{one_line(key)} is {now} in params.yaml of {snapshot.name}, but the stage {name} ran with "
                    f"{then}: {REMEDY}"
                )
        for dep in stage.get("deps", ()):
            if written.get(dep["path"], dep.get("md5")) != dep.get("md5"):
                raise ExportError(
                    f"the stage {name} of {snapshot.name} has read another {one_line(dep['path'])} than it has now: "
                    f"{REMEDY}"
                )


def _as_text(value: object) -> str:
    """A setting's value, the same for 2e-05 as a number and as text, and for both of Unicode's forms of a name."""
    return unicodedata.normalize("NFC", str(value))


def read_drawings(snapshot: dvc.Snapshot, trained: TrainedModel) -> npt.NDArray[np.uint8]:
    """The first generated drawings of each class, (classes, at most SHOWN, height, width, channels)."""
    try:
        drawings = np.load(io.BytesIO(snapshot.read(SAMPLES)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ExportError(f"{SAMPLES} of {snapshot.name} cannot be read ({one_line(error)})") from None
    expected = (len(trained.classes), *trained.image_shape)
    if drawings.dtype != np.uint8 or drawings.ndim != 5 or (len(drawings), *drawings.shape[2:]) != expected:
        raise ExportError(
            f"{SAMPLES} of {snapshot.name} does not hold drawings of its model: run the stage sample again"
        )
    return np.ascontiguousarray(drawings[:, :SHOWN])


def write_sheet(drawings: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a PNG with a row of drawings for each class, of at most SHEET_CLASSES classes."""
    from PIL import Image

    framed = np.pad(drawings[:SHEET_CLASSES], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=96)
    classes, number, height, width, channels = framed.shape
    sheet = framed.swapaxes(1, 2).reshape(classes * height, number * width, channels)
    sheet = sheet.repeat(SHEET_SCALE, axis=0).repeat(SHEET_SCALE, axis=1)
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(path, format="PNG")


def write_formats(trained: TrainedModel, folder: Path, *, tfp: bool, saved_model: bool) -> None:
    """Add the model in other formats to a folder. Raises `ExportError` if it cannot be written in one of them."""
    if not tfp and not saved_model:
        return
    with device.capture_stderr():
        from stages.inference import formats

        position = trained.distribution.config.position
    if tfp and position != "none":
        raise ExportError(
            f"--tfp: the run has position {position}, and TFP's PixelCNN has no input for the position; train a model "
            "with -S position=none, or leave out --tfp"
        )
    with device.capture_stderr():
        if tfp:
            formats.write_tfp(trained, folder / "tfp.npz")
        if saved_model:
            formats.write_saved_model(trained, folder / "savedmodel")
