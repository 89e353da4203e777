"""`python -m pipeline export`: what it writes can be used and checked elsewhere, and it refuses what is not one run."""

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

import pipeline
from pipeline import dvc
from pipeline.__main__ import main
from stages.inference import trained_model
from stages.outputs import model, samples
from stages.pixelcnn import network
from tests import fake_project
from tests.pipeline.exporting import project
from tests.settings import FULL
from tests.stages import models

TEXTS = {"config.json", "weights.safetensors", "settings.json", "params.yaml", "README.md", "SHA256SUMS"}


def random_model(position: str) -> model.Model:
    """A model in which every layer affects the result."""
    untrained = models.tiny()
    config = dataclasses.replace(untrained.config, position=position)
    random = np.random.default_rng(0)
    weights = {
        name: np.asarray(value) + np.float32(0.2) * random.normal(size=value.shape).astype(np.float32)
        for name, value in network.initialise(config, 0).items()
    }
    return dataclasses.replace(untrained, config=config, weights=weights)


@pytest.fixture(scope="module")
def project_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run whose network has no input for the position, and another run in the experiment `trial`."""
    root = tmp_path_factory.mktemp("project")
    project.make(root, random_model("coordinates"), source="doodles", seed=1)
    (root / ".gitignore").write_text("")
    fake_project.git(root, "add", "--all")
    dvc.Workspace(root).save("trial")
    project.add_run(root, random_model("none"), source="https://me:secret@example.com/drawings", position="none")
    return root


@pytest.fixture
def root(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project, as the current folder; what a test changes in its run is restored."""
    monkeypatch.chdir(project_root)
    paths = [path for path in (Path("params.yaml"), Path("dvc.lock"), *Path("data").rglob("*.*")) if path.is_file()]
    contents = {path: path.read_bytes() for path in paths}
    yield project_root
    for path, content in contents.items():
        path.write_bytes(content)


@pytest.fixture(scope="module")
def exported(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in all formats."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project_root)
        assert main(["export", str(folder), "--tfp", "--savedmodel"]) == 0
    return folder


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error of a command, which must fail with one line and write nothing."""
    assert main(list(arguments)) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line.removeprefix("error: ").rstrip()


# --- What is exported ---


def test_the_exported_model_is_that_of_the_run(root: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == TEXTS | {
        "drawings.npy",
        "drawings.png",
        "tfp.npz",
        "savedmodel",
    }
    for name in (model.WEIGHTS, model.CONFIG):
        assert (exported / name).read_bytes() == (model.FOLDER / name).read_bytes()
    original, loaded = pipeline.load_model(root), pipeline.load_model(exported)
    assert loaded.settings == original.settings
    assert loaded.sample("tree", 3).tobytes() == original.sample("tree", 3).tobytes()
    assert trained_model.load(exported).classes == original.classes
    drawings = np.load(exported / "drawings.npy")
    assert np.array_equal(drawings, np.load(samples.FOLDER / samples.IMAGES))
    with Image.open(exported / "drawings.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (3 * 30 * 3, 3 * 30 * 3)
    assert np.array_equal(pixels[3 * 31 : 3 * 59 : 3, 3 * 61 : 3 * 89 : 3], drawings[1, 2, ..., 0]), "row 1, column 2"


def test_an_experiment_is_exported_without_a_checkout(root: Path, tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "new" / "model"), "trial"]) == 0
    loaded = pipeline.load_model(tmp_path / "new" / "model")
    assert loaded.settings.seed == 1
    assert loaded.distribution.config.position == "coordinates"
    assert {path.name for path in (tmp_path / "new" / "model").iterdir()} == TEXTS | {"drawings.npy", "drawings.png"}
    card = (tmp_path / "new" / "model" / "README.md").read_text(encoding="utf-8")
    assert "TensorFlow Probability alone" not in card and "TensorFlow alone" not in card


def test_an_older_run_has_its_sampling_settings_in_params(root: Path, tmp_path: Path) -> None:
    (samples.FOLDER / samples.SETTINGS).unlink()
    assert main(["export", str(tmp_path / "model")]) == 0
    assert pipeline.load_model(tmp_path / "model").settings.guidance == FULL["guidance"]


def test_no_password_leaves_the_machine(exported: Path) -> None:
    assert 'source: "https://example.com/drawings"' in (exported / "params.yaml").read_text()
    for path in exported.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


# --- The model card ---


def front_matter(card: str) -> dict[str, object]:
    _, text, _ = card.split("---\n", 2)
    values: dict[str, object] = YAML(typ="safe", pure=True).load(text)
    return values


def test_the_card_describes_the_model(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert front_matter(card)["pipeline_tag"] == "unconditional-image-generation"
    assert front_matter(card)["library_name"] == "quickdraw-pixelcnn"
    assert "1. sea turtle\n" in card
    assert "| Class accuracy | 85% | 81% to 87% | 92% (the judge on held-out drawings) | higher |\n" in card
    assert "| Bits per dimension | 1.604 | 1.500 to 1.700 |  | lower |\n" in card
    assert "right class for 85% of the generated drawings and for 92% of real drawings" in card
    assert f"{hashlib.sha256((exported / model.WEIGHTS).read_bytes()).hexdigest()}  {model.WEIGHTS}\n" in card
    assert "## Limits" in card


@pytest.mark.parametrize(
    ("settings", "name", "sentence"),
    [
        ({}, "cc-by-4.0", "by Google, licensed under"),
        ({"mirror": "../mine", "source": "tfds"}, "cc-by-4.0", "by Google, licensed under"),
        ({"source": "tfds:quickdraw_bitmap"}, "cc-by-4.0", "by Google, licensed under"),
        ({"source": "digits"}, "cc-by-4.0", "Optical Recognition of Handwritten Digits"),
        ({"source": "doodles"}, "apache-2.0", "the pipeline draws itself"),
        ({"source": "../mine"}, "unknown", "their licence is not recorded"),
        ({"source": "tfds:mnist"}, "unknown", "their licence is not recorded"),
    ],
)
def test_the_licence_is_that_of_the_drawings(settings: dict[str, str], name: str, sentence: str) -> None:
    from pipeline.exporting import card

    licence = card.license_of(FULL | settings)
    assert licence.name == name
    assert sentence in licence.sentences


def test_names_of_classes_are_shown_as_they_are(root: Path, tmp_path: Path) -> None:
    trained = random_model("none")
    odd = dataclasses.replace(trained.classes[0], name="[a](b) {{ 7 }} `c`")
    model.save(dataclasses.replace(trained, classes=(odd, *trained.classes[1:])), model.FOLDER)
    assert main(["export", str(tmp_path / "model")]) == 0
    assert r"0. \[a\]\(b\) \{\{ 7 \}\} \`c\`" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


# --- The other formats, in a process that cannot import this project ---


@pytest.fixture(scope="module")
def printed(exported: Path) -> list[str]:
    """What the scripts of the card print, one after the other in one process, as TensorFlow starts slowly."""
    scripts = re.findall(r"^```python\n(.*?)^```$", (exported / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    blocked = "import sys\nsys.modules['stages'] = sys.modules['pipeline'] = None\n"
    script = blocked + "print('---')\n".join(text for text in scripts if "pipeline" not in text)
    done = subprocess.run([sys.executable, "-c", script], cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("---\n")


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1], ids=["tfp", "saved model"])
def test_the_scripts_of_the_card_give_the_likelihood_of_the_run(printed: list[str], exported: Path, index: int) -> None:
    values = [float(text) for text in printed[index].splitlines()[0].strip("[]").split(",")]
    loaded = pipeline.load_model(exported)
    expected = -loaded.bits_by_pixel(np.load(exported / "drawings.npy")[0], "bee").sum(axis=(1, 2)) * np.log(2)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_saved_model_gives_the_mixtures_of_any_number_of_images(exported: Path, printed: list[str]) -> None:
    import tensorflow as tf

    assert "logits (3, 28, 28, 2)" in printed[1]
    saved = tf.saved_model.load(str(exported / "savedmodel"))
    distribution = pipeline.load_model(exported).distribution
    for number in (1, 5):
        images = np.random.default_rng(number).integers(0, 256, (number, 28, 28, 1)).astype(np.float32)
        condition = np.random.default_rng(number).normal(size=(number, 3)).astype(np.float32)
        inputs = {"images": tf.constant(images), "condition": tf.constant(condition)}
        mixture = saved.signatures["forward"](**inputs)
        logits, locs, scales = distribution.network([images * 2 / 255 - 1, condition])
        for name, expected in {"logits": logits, "locs": locs, "scales": scales}.items():
            np.testing.assert_allclose(mixture[name], expected, rtol=1e-5, atol=1e-5)
        expected = distribution.log_prob(images, conditional_input=condition)
        np.testing.assert_allclose(saved.signatures["log_prob"](**inputs)["log_prob"], expected, rtol=1e-5)


def test_tfps_class_has_no_input_for_the_position(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error(capsys, "export", str(tmp_path / "model"), "trial", "--tfp")
    assert message == (
        "--tfp: the run has position coordinates, and TFP's PixelCNN has no input for the position; train a model with "
        "-S position=none, or leave out --tfp"
    )
    assert list(tmp_path.iterdir()) == []


# --- What is not one run, and folders that are in use ---


def test_a_folder_that_is_not_empty_is_left_alone(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert error(capsys, "export", str(tmp_path)) == f"{tmp_path} is not empty; choose a new folder"
    assert error(capsys, "export", str(tmp_path / "mine")) == f"{tmp_path / 'mine'} is not empty; choose a new folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def delete(path: Path) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


SETTINGS = {"seed": FULL["seed"]}
REMEDY = "finish the run first, or name an experiment (dvc exp list)"
NOT_ONE_RUN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a stage that has not run": (
        lambda root: project.write_lock(root, SETTINGS, ("train", "sample")),
        "dvc.lock of the workspace has no run of the stage evaluate: " + REMEDY,
    ),
    "nothing has run": (
        lambda root: (root / "dvc.lock").write_text('schema: "2.0"\n'),
        "dvc.lock of the workspace has no run of the stage train: " + REMEDY,
    ),
    "a setting changed since": (
        lambda root: project.write_lock(root, {"seed": 7}),
        "seed is 0 in params.yaml of the workspace, but the stage train ran with 7: " + REMEDY,
    ),
    "metrics of an earlier model": (
        lambda root: project.write_lock(root, SETTINGS, read_by_last="2"),
        "the stage evaluate of the workspace has read another data/train than it has now: " + REMEDY,
    ),
    "another source, whose password is not shown": (
        lambda root: project.write_lock(root, {"source": "https://me:hidden@example.com/others"}),
        "source is https://example.com/drawings in params.yaml of the workspace, but the stage train ran with "
        "https://example.com/others: " + REMEDY,
    ),
    "no weights": (
        delete(model.FOLDER / model.WEIGHTS),
        "the workspace has no data/train/weights.safetensors, or it is not in DVC's cache: apply and run the "
        "experiment, or fetch the file with dvc fetch or dvc exp pull",
    ),
    "no drawings": (
        delete(samples.FOLDER / samples.IMAGES),
        "the workspace has no data/sample/samples.npy, or it is not in DVC's cache: apply and run the experiment, or "
        "fetch the file with dvc fetch or dvc exp pull",
    ),
    "drawings of another model": (
        lambda root: np.save(root / samples.FOLDER / samples.IMAGES, np.zeros((3, 2, 14, 14, 1), np.uint8)),
        "data/sample/samples.npy of the workspace does not hold drawings of its model: run the stage sample again",
    ),
    "a file that holds no array": (
        lambda root: (root / samples.FOLDER / samples.IMAGES).write_bytes(b"\x93NUMPY"),
        "data/sample/samples.npy of the workspace cannot be read (",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", NOT_ONE_RUN)
def test_what_is_not_one_finished_run_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    apply, message = NOT_ONE_RUN[change]
    apply(root)
    assert error(capsys, "export", str(tmp_path / "model")).startswith(message)
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"


def test_a_run_that_is_not_here_is_an_error(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "export", str(tmp_path / "model"), "nothing").startswith("unknown Git revision 'nothing'")


def test_push_says_how_to_install_what_it_needs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    assert error(capsys, "export", str(tmp_path / "model"), "--push", "me/drawings") == (
        "--push needs huggingface_hub, which is not installed: pip install -c constraints.txt -e '.[hub]'"
    )
    assert list(tmp_path.iterdir()) == []


# --- Checking a folder ---


def test_verify_compares_every_file(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    number = sum(path.is_file() for path in folder.rglob("*")) - 1
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder} matches its checksums: {number} files\n"
    assert number > len(TEXTS) + 3, "those of the SavedModel too"
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert main(["verify", str(folder)]) == 1
        out, err = capsys.readouterr()
        assert out == f"{path.relative_to(folder)}: differs from the file that was exported\n"
        assert err == f"error: {folder} does not match its checksums; the differences are listed above\n"
        path.write_bytes(content)
    (folder / "params.yaml").unlink()
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out == "params.yaml: does not exist\n"


def test_coreutils_read_the_checksums(exported: Path) -> None:
    if not (command := shutil.which("sha256sum")):
        pytest.skip("sha256sum is missing")
    done = subprocess.run([command, "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=exported, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"README.md",
        b"%s  ../x" % (b"0" * 64),
        b"%s  /etc/passwd" % (b"0" * 64),
        b"%s  a\x1b" % (b"0" * 64),
    ],
)
def test_checksums_are_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "SHA256SUMS").write_bytes(content)
    assert error(capsys, "verify", str(tmp_path)) == (
        f"{tmp_path / 'SHA256SUMS'} does not list checksums: {tmp_path} is not an exported folder"
    )


def test_a_folder_without_checksums_is_not_an_exported_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "verify", str(tmp_path)) == f"{tmp_path} has no SHA256SUMS: it is not an exported folder"
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  device\n")
    (tmp_path / "device").symlink_to("/dev/zero")
    error(capsys, "verify", str(tmp_path))
