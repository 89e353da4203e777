"""Pictures in every format, imported by the command."""

import csv
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.importing import strokes, table
from pipeline.importing.command import SHEET
from pipeline.importing.options import Options
from stages.quickdraw import npy_header
from stages.quickdraw.file_types import IMPORT

Images = npt.NDArray[np.uint8]


def pictures(number: int, *shape: int, seed: int = 0) -> Images:
    """Pictures of dark noise with a bright spot, so that they are neither inverted nor of another scale."""
    images = np.random.default_rng(seed).integers(0, 90, (number, *shape), np.uint8)
    images[:, 3] = 200
    return images


GREY = pictures(6, 28, 28)
COLOUR = pictures(6, 32, 32, 3)
LABELS = np.array([3, 1, 3, 3, 1, 3])


def imported(what: Path, *options: str) -> dict[str, Images]:
    """Import into a new folder beside `what`; returns the arrays of the classes."""
    folder = what.parent / "imported"
    assert main(["import", str(what), str(folder), *options]) == 0
    assert (folder / SHEET).exists()
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def assert_classes(actual: Mapping[str, Images], images: Images, labels: npt.NDArray[Any], shape: Any = None) -> None:
    assert actual.keys() == set(labels.astype(str))
    for name, array in actual.items():
        expected = images[labels.astype(str) == name]
        np.testing.assert_array_equal(array, expected.reshape(len(expected), *(shape or images.shape[1:])))


# --- Arrays ---


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("images", "labels"), []),
        (("x_train", "y_train"), []),
        (("X", "Y"), []),
        (("arr_0", "arr_1"), []),
        (("train_images", "train_labels"), []),
        (("a", "b"), ["--images", "a", "--labels", "b"]),
    ],
)
def test_an_npz_file_by_the_names_of_its_arrays(tmp_path: Path, names: tuple[str, str], options: list[str]) -> None:
    arrays: dict[str, Any] = dict(zip(names, (GREY, LABELS), strict=True))
    np.savez(tmp_path / "a.npz", **arrays)
    assert_classes(imported(tmp_path / "a.npz", *options), GREY, LABELS, (784,))


def test_an_npz_file_with_a_training_and_a_test_part(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "mnist.npz", x_train=GREY[:4], y_train=LABELS[:4], x_test=GREY[4:], y_test=LABELS[4:]
    )
    assert_classes(imported(tmp_path / "mnist.npz"), GREY, LABELS, (784,))


LAYOUTS: dict[str, tuple[Callable[[Images], npt.NDArray[Any]], Images]] = {
    "N H W": (lambda images: images, GREY),
    "N H W 1": (lambda images: images[..., np.newaxis], GREY),
    "N values": (lambda images: images.reshape(len(images), -1), GREY),
    "H W N": (lambda images: np.moveaxis(images, 0, -1), GREY),
    "N H W C": (lambda images: images, COLOUR),
    "N C H W": (lambda images: np.moveaxis(images, -1, 1), COLOUR),
    "H W C N": (lambda images: np.moveaxis(images, 0, -1), COLOUR),
    "planar values, as in CIFAR": (lambda images: np.moveaxis(images, -1, 1).reshape(len(images), -1), COLOUR),
    "Fortran order": (np.asfortranarray, GREY),
    "oblong": (lambda images: images, pictures(6, 20, 36)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_axes_of_an_array_are_found(tmp_path: Path, name: str) -> None:
    arrange, images = LAYOUTS[name]
    np.savez(tmp_path / "a.npz", x=arrange(images), y=LABELS)
    height, width, *channels = images.shape[1:]
    shape = (height * width,) if height == width and not channels else (height, width, *(channels or [1]))
    assert_classes(imported(tmp_path / "a.npz"), images, LABELS, shape)


TYPES: dict[str, Callable[[Images], npt.NDArray[Any]]] = {
    "floats from 0 to 1": lambda images: images / np.float32(255),
    "floats from -1 to 1": lambda images: images / np.float64(127.5) - 1,
    "floats from 0 to 255": lambda images: images.astype(np.float32),
    "whole numbers": lambda images: images.astype(np.int64),
    "16 bits": lambda images: images.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("name", TYPES)
def test_values_of_any_type_become_0_to_255(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", x=TYPES[name](GREY | np.eye(28, dtype=np.uint8) * 255), y=LABELS)
    assert_classes(imported(tmp_path / "a.npz"), GREY | np.eye(28, dtype=np.uint8) * 255, LABELS, (784,))


def test_ink_or_paper_and_sixteen_shades(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY > 100, y=LABELS)
    assert_classes(imported(tmp_path / "a.npz"), np.where(GREY > 100, 255, 0).astype(np.uint8), LABELS, (784,))
    digits = np.arange(17, dtype=np.uint8).repeat(8)[:128].reshape(2, 8, 8)
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "a.npz", x=digits, y=[0, 0])
    assert imported(tmp_path / "b" / "a.npz")["0"].max() == round(15 / 16 * 255)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["bee", "cat", "bee", "bee", "cat", "bee"]), None),
        (np.array([b"bee", b"cat", b"bee", b"bee", b"cat", b"bee"]), np.array(["bee", "cat"] * 3)[[0, 1, 0, 0, 1, 0]]),
        (np.eye(4)[LABELS], LABELS),
        (LABELS[:, np.newaxis], LABELS),
        (LABELS.astype(np.float32), LABELS),
    ],
)
def test_labels_of_any_kind(tmp_path: Path, labels: npt.NDArray[Any], names: npt.NDArray[Any] | None) -> None:
    np.savez(tmp_path / "a.npz", x=GREY, y=labels)
    assert_classes(imported(tmp_path / "a.npz"), GREY, labels if names is None else names, (784,))


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("named", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_with_either_of_the_two_named(tmp_path: Path, suffix: str, named: str) -> None:
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", GREY)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", LABELS.astype(np.uint8))
    assert_classes(imported(tmp_path / f"train-{named}-ubyte{suffix}"), GREY, LABELS, (784,))


@pytest.mark.parametrize("header", [True, False])
def test_a_csv_file_with_a_label_and_the_pixels_in_each_line(tmp_path: Path, header: bool) -> None:
    with open(tmp_path / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(["label", *(f"pixel{i}" for i in range(784))])
        writer.writerows([label, *image.ravel()] for label, image in zip(LABELS, GREY, strict=True))
    assert_classes(imported(tmp_path / "train.csv"), GREY, LABELS, (784,))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("options", [(), ("--labels", "last"), ("--labels", "784")])
def test_labels_in_the_last_column_of_a_csv_file_are_found(
    tmp_path: Path, options: tuple[str, ...], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = GREY.copy()
    images[:, 0, 0] = 0  # a corner of drawings is empty, so the first column cannot be the label
    lines = "".join(
        ",".join(map(str, [*image.ravel(), label])) + "\n" for label, image in zip(LABELS, images, strict=True)
    )
    open_file = gzip.open if suffix.endswith(".gz") else open
    with open_file(tmp_path / f"train{suffix}", "wt") as file:
        file.write(lines)
    assert_classes(imported(tmp_path / f"train{suffix}", *options), images, LABELS, (784,))
    assert ("the labels are in the last column" in capsys.readouterr().out) == (not options)


def test_labels_of_a_csv_file_that_numpy_takes_for_equal(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"label,a,b,c,d\nbee\0,1,2,3,250\nbee,4,5,6,250\n")
    batches = list(table.read_csv(tmp_path / "a.csv", Options(), print))
    assert [(name, images.ravel().tolist()) for name, images in batches] == [
        ("bee\0", [1, 2, 3, 250]),
        ("bee", [4, 5, 6, 250]),
    ]


def test_a_column_of_labels_that_is_not_there_and_a_damaged_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("kind,a,b\n1,2,3\n")
    assert main(["import", str(tmp_path / "a.csv"), str(tmp_path / "out"), "--labels", "type"]) == 1
    assert "it has no column 'type'; expected: a name in its first line, first or last" in capsys.readouterr().err
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"1,2,3\n" * 5000)[:40])
    assert main(["import", str(tmp_path / "b.csv.gz"), str(tmp_path / "out")]) == 1
    assert "b.csv.gz: it cannot be read (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "filename", ["cat.npy", "full_numpy_bitmap_cat.npy", "full%2Fnumpy_bitmap%2Fcat.npy", "cat (1).npy"]
)
def test_a_file_as_a_browser_saves_it_names_its_class(
    tmp_path: Path, filename: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / filename, GREY.reshape(6, 784))
    np.testing.assert_array_equal(imported(tmp_path / filename)["cat"], GREY.reshape(6, 784))
    assert ("the class is cat" in capsys.readouterr().out) == (filename != "cat.npy")


def test_a_folder_of_arrays_is_imported_as_one(tmp_path: Path) -> None:
    (tmp_path / "what").mkdir()
    np.save(tmp_path / "what" / "bee.npy", GREY)
    np.save(tmp_path / "what" / "full_numpy_bitmap_sea turtle.npy", GREY[:2] / 255)
    (tmp_path / "what" / "._bee.npy").write_bytes(b"\0\5\26\7")
    assert {name: len(array) for name, array in imported(tmp_path / "what").items()} == {"bee": 6, "sea turtle": 2}


@pytest.mark.parametrize(
    ("shape", "dtype", "is_transposed"),
    [
        ((5, 28, 28), "u1", True),
        ((5, 28, 28, 1), "<u2", False),
        ((5, 28, 28, 4), "u1", False),
        ((5, 3, 28, 28), "f4", False),
        ((5, 784), "?", False),
        ((5, 784), "<i8", False),
        ((5, 784), "u1", True),
        ((5, 1024), "<u2", False),
        ((5, 3 * 784), "u1", False),
        ((784,), "u1", False),
        ((5, 783), "u1", False),
        ((5, 28, 28, 2), "u1", False),
        ((5, 1, 28, 28, 1), "u1", False),
        ((0, 28, 28), "<u2", False),
        ((5, 784), "c16", False),
        ((5, 784), "U1", False),
    ],
)
def test_a_mirror_names_the_import_for_exactly_the_arrays_that_it_reads(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, is_transposed: bool
) -> None:
    array = np.zeros(shape, dtype)
    np.save(tmp_path / "bee.npy", np.asfortranarray(array) if is_transposed else array)
    content = (tmp_path / "bee.npy").read_bytes()
    with pytest.raises(ValueError, match=r"^(has|holds|is)") as caught:
        npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))
    is_imported = main(["import", str(tmp_path / "bee.npy"), str(tmp_path / "imported")]) == 0
    assert str(caught.value).endswith(f"; convert it: {IMPORT}") == is_imported


# --- Pictures ---


def save(path: Path, image: Images, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def class_folders(root: Path) -> Path:
    for index, (image, label) in enumerate(zip(GREY, LABELS, strict=True)):
        suffix = ("png", "bmp", "tiff", "gif")[index % 4]
        save(root / str(label) / f"{index}.{suffix}", image)
    (root / ".DS_Store").write_bytes(b"\0")
    (root / "1" / "notes.txt").write_text("two bees")
    return root


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    assert_classes(imported(class_folders(tmp_path / "what")), GREY, LABELS, (784,))


def test_a_zip_file_of_class_folders_is_not_unpacked(tmp_path: Path) -> None:
    folder, below = class_folders(tmp_path / "what"), tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with zipfile.ZipFile(below / "a.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"../../data/{path.relative_to(folder)}")
        archive.writestr("__MACOSX/data/1/._1.png", b"\0")
    assert_classes(imported(below / "a.zip"), GREY, LABELS, (784,))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_formats_with_losses(tmp_path: Path, suffix: str) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)
    save(tmp_path / "what" / "bee" / f"a.{suffix}", np.dstack([smooth] * 3), quality=95)
    [image] = imported(tmp_path / "what", "--grey")["bee"].reshape(-1, 32, 32)
    assert np.abs(image.astype(int) - smooth).max() <= 6


def test_pictures_of_any_size_are_fitted_into_one(tmp_path: Path) -> None:
    wide = np.full((50, 100, 3), (250, 240, 230), np.uint8)
    wide[20:30, 40:60] = 0
    save(tmp_path / "what" / "bee" / "wide.png", wide)
    save(tmp_path / "what" / "bee" / "tall.png", wide.transpose(1, 0, 2))
    tall, first = imported(tmp_path / "what", "--size", "28", "--grey", "--invert")["bee"].reshape(2, 28, 28)
    np.testing.assert_allclose(tall, first.T, atol=12)
    assert first[14, 14] == 255 and set(first[:6].ravel()) == {13}, "paper above a wide picture"


def test_transparency_is_paper_and_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[:14, :, 3] = 255
    save(tmp_path / "what" / "bee" / "clear.png", clear)
    [image] = imported(tmp_path / "what", "--grey")["bee"].reshape(-1, 28, 28)
    assert (image[:14] == 0).all() and (image[14:] == 255).all()

    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    photograph = np.zeros((28, 28), np.uint8)
    photograph[:4] = 250
    save(tmp_path / "b" / "what" / "bee" / "a.png", photograph, exif=exif)
    [image] = imported(tmp_path / "b" / "what")["bee"].reshape(-1, 28, 28)
    assert (image[:, -4:] == 250).all() and (image[:, :-4] == 0).all()


def test_a_sheet_of_tiles(tmp_path: Path) -> None:
    sheet = np.zeros((56, 84), np.uint8)
    for index, image in enumerate(GREY[:5]):
        row, column = divmod(index, 3)
        sheet[28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = image
    save(tmp_path / "sheet.png", sheet)
    actual = imported(tmp_path / "sheet.png", "--tile", "28x28", "--class", "bee")["bee"]
    np.testing.assert_array_equal(actual, GREY[:5].reshape(5, 784))


# --- Strokes ---


SQUARE = [[[0, 255, 255, 0, 0], [0, 0, 255, 255, 0]]]
# The first lines of the files of simplified drawings: an owl and apples of Quick, Draw!, by Google, CC BY 4.0.
PUBLISHED: dict[str, list[Any]] = {
    "owl": [
        [
            [[56, 30, 9, 0, 4, 15, 26, 62, 94, 111, 118, 143, 152, 149, 143, 129, 108, 86, 68, 46, 33, 28],
             [19, 29, 51, 75, 106, 133, 143, 151, 149, 144, 139, 102, 66, 34, 24, 14, 5, 0, 1, 7, 16, 25]],
            [[45, 32, 26, 26, 36, 47, 56, 65, 69, 64, 56, 37, 30, 30], [45, 53, 67, 90, 100, 101, 95, 79,
             59, 48, 42, 37, 37, 40]],
            [[109, 92, 83, 82, 88, 96, 112, 122, 125, 121, 112], [45, 57, 71, 87, 101, 104, 101, 87, 55, 46, 48]],
            [[66, 73, 69, 67], [97, 98, 108, 99]],
            [[47, 47, 51, 51, 46, 43, 47, 50, 45, 42, 44, 48, 48], [67, 71, 70, 66, 68, 76, 76, 69, 68, 71,
             75, 75, 69]],
            [[107, 100, 101, 105, 110, 108, 103, 102, 106, 107, 105], [69, 74, 78, 80, 74, 70, 75, 78, 78, 73, 77]],
            [[38, 20, 14, 4], [14, 10, 28, 40]],
            [[128, 141, 151, 150], [13, 0, 19, 37]],
            [[49, 41, 50, 65, 85, 98, 117, 132, 144, 153, 152, 143, 137, 120], [150, 193, 226, 239, 250,
             255, 254, 249, 236, 194, 164, 142, 134, 132]],
        ],
    ],
    "apple": [
        [
            [[255, 255], [0, 0]],
            [[255, 255], [0, 0]],
            [[255, 255], [0, 0]],
            [[255, 254], [0, 1]],
            [[131, 124, 114, 69, 37, 10, 0, 0, 5, 16, 31, 50, 68, 86, 101, 115, 126, 135, 137, 135, 122,
             106], [50, 39, 39, 59, 89, 127, 172, 194, 215, 233, 244, 249, 249, 241, 225, 203, 174, 143,
             114, 88, 65, 45]],
            [[84, 77, 81, 88, 99, 122, 138, 161, 180], [97, 85, 52, 34, 18, 4, 1, 2, 12]],
        ],
        [
            [[95, 79, 68, 31, 17, 9, 1, 0, 4, 54, 103, 130, 168, 190, 204, 219, 228, 222, 210, 200, 194,
             197, 203, 192, 189, 190, 209, 207, 197, 179, 107, 100], [62, 50, 49, 74, 91, 113, 163, 220,
             226, 249, 255, 255, 244, 231, 215, 187, 152, 151, 160, 160, 156, 140, 137, 134, 115, 109, 88,
             82, 71, 63, 62, 65]],
            [[100, 100, 104, 110, 115, 115, 108, 107], [58, 17, 1, 0, 12, 22, 44, 64]],
        ],
        [
            [[121, 107, 45, 17, 1, 0, 4, 21, 58, 118, 173, 197, 209, 224, 244, 254, 254, 209, 164, 124],
             [47, 57, 56, 75, 93, 114, 123, 140, 162, 187, 196, 187, 177, 164, 136, 115, 101, 83, 71, 43]],
            [[123, 126], [43, 0]],
        ],
        [
            [[104, 80, 54, 28, 11, 0, 1, 8, 20, 51, 90, 111, 147, 170, 198, 213, 229, 248, 255, 255, 243,
             221, 213, 161, 120, 111, 110, 117, 141, 115], [54, 38, 38, 53, 80, 128, 164, 183, 201, 228,
             244, 249, 250, 244, 232, 220, 197, 157, 126, 97, 68, 45, 41, 35, 54, 66, 50, 32, 0, 61]],
        ],
        [
            [[85, 76, 61, 45, 34, 10, 4, 0, 4, 30, 58, 87], [112, 101, 96, 96, 104, 134, 148, 199, 209, 227, 240, 247]],
            [[89, 126, 162, 213, 236, 254, 254, 243, 236, 218, 189, 143, 123, 107], [243, 242, 226, 208,
             192, 172, 143, 111, 99, 83, 75, 72, 77, 93]],
            [[69, 68, 75, 77, 83, 87, 109, 118, 119, 113, 102, 75], [107, 91, 52, 15, 1, 1, 21, 37, 58, 85, 103, 103]],
        ],
        [
            [[184, 160, 135, 100, 50, 14, 4, 0, 27, 50, 70, 108, 156, 201, 218, 221, 223, 212, 196, 180],
             [250, 229, 224, 251, 255, 234, 175, 118, 77, 58, 56, 68, 68, 106, 131, 145, 163, 203, 218,
             218]],
            [[111, 107, 100], [61, 55, 0]],
            [[99, 76, 70, 74, 83], [42, 37, 27, 25, 28]],
        ],
        [
            [[59, 31, 4, 0, 7, 43, 74, 114, 144, 164, 195, 207, 217, 231, 231, 225, 206, 187, 141, 86, 43],
             [59, 78, 115, 156, 180, 223, 245, 255, 254, 249, 231, 218, 199, 153, 125, 110, 90, 79, 63, 60,
             65]],
            [[89, 87, 89, 96, 93, 92], [49, 13, 38, 65, 42, 0]],
            [[81, 52, 48, 51, 85, 102], [19, 18, 24, 27, 32, 30]],
        ],
        [
            [[86, 48, 22, 10, 4, 0, 0, 4, 15, 36, 69, 110, 156, 196, 209, 229, 240, 239, 229, 217, 151, 118,
             103, 95, 76, 54], [91, 84, 85, 90, 99, 124, 153, 166, 185, 211, 235, 252, 255, 244, 235, 199,
             131, 72, 62, 59, 60, 70, 81, 94, 63, 39]],
            [[83, 103, 113, 130, 130, 122, 97], [65, 22, 11, 0, 44, 58, 91]],
        ],
    ],
}  # fmt: skip


def test_strokes_are_white_lines_of_the_bitmap_s_width(tmp_path: Path) -> None:
    lines = [
        {"word": "bee", "drawing": SQUARE},
        {"word": "cat", "drawing": [[[10, 20], [0, 5], [0, 7]]]},
        {"word": "bee"},
    ]
    (tmp_path / "a.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    actual = imported(tmp_path / "a.ndjson")
    assert {name: array.shape for name, array in actual.items()} == {"bee": (1, 784), "cat": (1, 784)}
    bee = actual["bee"].reshape(28, 28)
    # A margin of 16 units of 304, so the middle of the line is 24 units, or 2.2 pixels, from the edge; it is 1.5 wide.
    assert (bee[0] == 0).all() and (bee[:, 0] == 0).all()
    assert (bee[2, 3:25] > 200).all() and (bee[3:25, 2] > 200).all()
    assert (bee[5:23, 5:23] == 0).all()
    np.testing.assert_array_equal(bee, bee.T)
    assert bee.sum() / 255 == pytest.approx(4 * 255 * 16 * (28 / 304) ** 2, rel=0.02), "the area of the line"


def test_strokes_are_drawn_as_in_the_published_bitmaps(real_mirror: Path) -> None:
    for name, drawings in PUBLISHED.items():
        published = np.load(real_mirror / f"{name}.npy")[: len(drawings)].astype(int)
        drawn = np.stack([strokes.draw(drawing, (28, 28)).reshape(-1) for drawing in drawings]).astype(int)
        assert np.abs(drawn - published).mean(axis=1).max() < 1.4
        assert np.abs(drawn - published).max() <= 24
        assert np.abs(drawn.sum(axis=1) / published.sum(axis=1) - 1).max() < 0.01, "as much ink"


def test_a_table_of_strokes(tmp_path: Path) -> None:
    with open(tmp_path / "bee.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["countrycode", "drawing", "key_id", "recognized", "timestamp", "word"])
        writer.writerow(["DE", json.dumps(SQUARE), 1, True, "2017-01-01", "bee"])
        writer.writerow(["DE", "[[", 2, True, "2017-01-01", "bee"])
    expected = strokes.draw(SQUARE, (28, 28)).reshape(1, 784)
    np.testing.assert_array_equal(imported(tmp_path / "bee.csv")["bee"], expected)


# --- What the command says ---


def test_the_command_ends_with_what_was_done_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.stack([np.full((28, 28), 250, np.uint8)] * 6)
    images[:, 5] = 0
    np.savez(tmp_path / "a.npz", x=images, y=["bee"] * 5 + ["cat"])
    imported(tmp_path / "a.npz")
    lines = capsys.readouterr().out.splitlines()
    assert "6 pictures of 28×28 pixels, grey, of 2 classes:" in lines and "  bee: 5" in lines
    assert any(line.startswith("WARNING: 95% of the paper is white.") and "--invert" in line for line in lines)
    folder = tmp_path / "imported"
    assert lines[-1] == (
        f"Learn from them: python -m pipeline run --profile quick --source {folder} -S 'classes=[bee, cat]'"
    )
    write_idx(tmp_path / "b-images-idx3-ubyte", GREY)
    write_idx(tmp_path / "b-labels-idx1-ubyte", LABELS.astype(np.uint8))
    assert main(["import", str(tmp_path / "b-images-idx3-ubyte"), str(tmp_path / "my digits")]) == 0
    assert f"""--source '{tmp_path}/my digits' -S 'classes=["3", "1"]'\n""" in capsys.readouterr().out
    content = (folder / "bee.npy").read_bytes()
    assert npy_header.parse(content, len(content)).rows == 5, "as the pipeline reads it"
    with Image.open(folder / SHEET) as sheet:
        assert sheet.size == (8 * 30 * 2, 2 * 30 * 2)


ERRORS: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {}


def error(name: str, message: str, *options: str) -> Callable[[Callable[[Path], Path]], None]:
    """Register a file that cannot be imported, as a function that writes it and returns its path."""

    def register(write: Callable[[Path], Path]) -> None:
        ERRORS[name] = (write, list(options), message)

    return register


@error("no such file", "{what} does not exist")
def _(folder: Path) -> Path:
    return folder / "nothing.npz"


@error("an unknown kind", "{what}: unknown kind of file; expected: ")
def _(folder: Path) -> Path:
    (folder / "a.mat").write_bytes(b"MATLAB")
    return folder / "a.mat"


@error("pickled objects", "{what}: it holds pickled objects, which are never loaded: they could run any code")
def _(folder: Path) -> Path:
    np.save(folder / "bee.npy", np.array([{}], object), allow_pickle=True)
    return folder / "bee.npy"


@error("pickled objects in an archive", "{what}: x.npy: it holds pickled objects, which are never loaded")
def _(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=np.array([{}], object), y=np.array([1]))
    return folder / "a.npz"


@error("a web page", "{what}: it is not a .npy file, but a web page; copy or download the file again")
def _(folder: Path) -> Path:
    (folder / "bee.npy").write_text("<html>Not found</html>")
    return folder / "bee.npy"


@error("names that control a terminal", "{what}: \N{REPLACEMENT CHARACTER}[2J.npy: it holds pickled objects")
def _(folder: Path) -> Path:
    arrays: dict[str, Any] = {"\x1b[2J": np.array([{}], object)}
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


@error("arrays of unknown names", "{what}: no pictures and labels were found in its arrays 'p' and 'q'; name them: ")
def _(folder: Path) -> Path:
    np.savez(folder / "a.npz", p=GREY, q=LABELS)
    return folder / "a.npz"


@error("an array that is not there", "{what}: --images is 'z'; it has the arrays 'x' and 'y'", "--images", "z")
def _(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=GREY, y=LABELS)
    return folder / "a.npz"


@error("labels of another number", "{what}: x.npy: it has 6 pictures, and there are 5 labels")
def _(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=GREY, y=LABELS[:5])
    return folder / "a.npz"


@error("values that are not real numbers", "{what}: it holds values of type complex128; expected: numbers")
def _(folder: Path) -> Path:
    np.save(folder / "bee.npy", GREY.astype(complex))
    return folder / "bee.npy"


@error("values of no picture", "{what}: x.npy: its values are from -500 to 500; expected: 0 to 1, or 0 to 255")
def _(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=np.linspace(-500, 500, 6 * 784).reshape(6, 784), y=LABELS)
    return folder / "a.npz"


@error(
    "an archive that claims more than it holds", "{what}: x.npy: it is cut short: its header claims 1,000,000 entries"
)
def _(folder: Path) -> Path:
    content = io.BytesIO()
    np.save(content, GREY)
    text = content.getvalue().replace(b"(6, 28, 28), }      ", b"(1000000, 28, 28), }")
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", text)
        content = io.BytesIO()
        np.save(content, np.zeros(1_000_000, np.uint8))
        archive.writestr("y.npy", content.getvalue())
    return folder / "a.npz"


@error("a cut IDX file", "{what}: it is cut short: its header claims 6 entries", "--class", "bee")
def _(folder: Path) -> Path:
    write_idx(folder / "train-images-idx3-ubyte", GREY)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    return path


@error("no labels beside an IDX file", "{what}: there is no file train-labels-idx1-ubyte beside it; --class NAME")
def _(folder: Path) -> Path:
    write_idx(folder / "train-images-idx3-ubyte", GREY)
    return folder / "train-images-idx3-ubyte"


@error("pictures in no class", "{what}: a.png is in no folder of a class; --class NAME gives all pictures one class")
def _(folder: Path) -> Path:
    save(folder / "what" / "a.png", GREY[0])
    return folder / "what"


@error("pictures of different sizes", "{what}: pictures of 20×20 pixels, grey, where those before")
def _(folder: Path) -> Path:
    save(folder / "what" / "bee" / "a.png", GREY[0])
    save(folder / "what" / "bee" / "b.png", GREY[0, :20, :20])
    return folder / "what"


@error("pictures that are too large", "{what}: pictures of 100×100 pixels; expected: 8 to 64 each way; choose a size")
def _(folder: Path) -> Path:
    save(folder / "what" / "bee" / "a.png", np.zeros((100, 100), np.uint8))
    return folder / "what"


@error("no pictures at all", "{what}: it holds no pictures and no .npy files, but '.pdf' and '.txt'")
def _(folder: Path) -> Path:
    (folder / "what").mkdir()
    for name in ("a.txt", "b.pdf", ".hidden.png"):
        (folder / "what" / name).write_text("?")
    return folder / "what"


@error("only broken pictures", "{what}: 1 picture left out, as they cannot be read: bee/a.png (")
def _(folder: Path) -> Path:
    (folder / "what" / "bee").mkdir(parents=True)
    (folder / "what" / "bee" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder / "what"


@error("encrypted pictures", "{what}: 1 picture left out, as they cannot be read: bee/a.png (File ")
def _(folder: Path) -> Path:
    save(folder / "a.png", GREY[0])
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.png", "bee/a.png")
    content = bytearray((folder / "a.zip").read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    (folder / "a.zip").write_bytes(content)
    return folder / "a.zip"


@error("a picture that Pillow fails on", "{what}: 1 picture left out, as they cannot be read: bee/a.tiff (")
def _(folder: Path) -> Path:
    save(folder / "what" / "bee" / "a.tiff", GREY[0])
    path = folder / "what" / "bee" / "a.tiff"
    offset_as_integer, offset_as_fraction = b"\x11\x01\x04\x00", b"\x11\x01\x05\x00"
    assert offset_as_integer in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(offset_as_integer, offset_as_fraction))
    return folder / "what"


@error("a very long name of a column", "{what}: its columns beside ")
def _(folder: Path) -> Path:
    (folder / "a.csv").write_text(f"{'x' * 3000},b\n1,[\n")
    return folder / "a.csv"


@error("a sheet without its tiles", "{what}: it is one picture; if it is a sheet of many, say how large each is")
def _(folder: Path) -> Path:
    save(folder / "a.png", GREY[0])
    return folder / "a.png"


@error(
    "tiles that do not fill the sheet",
    "{what}: it has 28×28 pixels, which tiles of 9×9 do not fill",
    "--tile",
    "9",
    "--class",
    "a",
)
def _(folder: Path) -> Path:
    save(folder / "a.png", GREY[0])
    return folder / "a.png"


@error("a blank sheet", "{what}: it holds no pictures", "--tile", "14", "--class", "a", "--size", "28")
def _(folder: Path) -> Path:
    save(folder / "a.png", np.zeros((28, 28), np.uint8))
    return folder / "a.png"


@error("a class that is no file name", "{what}: 'a/b' cannot be the name of a class", "--class", "a/b")
def _(folder: Path) -> Path:
    np.save(folder / "bee.npy", GREY)
    return folder / "bee.npy"


@error(
    "a size out of range",
    "--size is '7'; expected: a height and a width from 8 to 64, as in 28 or 20x36",
    "--size",
    "7",
)
def _(folder: Path) -> Path:
    np.save(folder / "bee.npy", GREY)
    return folder / "bee.npy"


@error("lines that are no drawings", "{what}: no line is a drawing with the keys word and drawing (")
def _(folder: Path) -> Path:
    (folder / "a.ndjson").write_text('{"word": "bee", "drawing": [[["a"], [1]]]}\n[]\n' + "[" * 100_000)
    return folder / "a.ndjson"


@error("columns that are no numbers", "{what}: its columns beside 'label' are not numbers")
def _(folder: Path) -> Path:
    (folder / "a.csv").write_text("label,a,b,c,d\nbee,1,2,3,x\n")
    return folder / "a.csv"


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write, options, message = ERRORS[name]
    what = write(tmp_path)
    assert main(["import", str(what), str(tmp_path / "imported"), *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message.format(what=what)}") and err.count("\n") == 1, err
    assert len(err) < 700, "also where a name in the file is long"
    assert not (tmp_path / "imported").exists()


def test_a_folder_that_is_in_use_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "bee.npy", GREY)
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "mine").touch()
    assert main(["import", str(tmp_path / "bee.npy"), str(tmp_path / "imported")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'imported'} is not empty; choose a new folder\n"
    assert [path.name for path in (tmp_path / "imported").iterdir()] == ["mine"]


def test_links_out_of_the_folder_and_broken_pictures_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "secret.png", GREY[0])
    save(tmp_path / "what" / "bee" / "a.png", GREY[1])
    (tmp_path / "what" / "bee" / "b.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "what" / "bee" / "c.png").write_bytes(b"GIF89a")
    np.testing.assert_array_equal(imported(tmp_path / "what")["bee"], GREY[1:2].reshape(1, 784))
    out = capsys.readouterr().out
    assert "1 link out of the folder left out" in out
    assert "1 picture left out, as they cannot be read: bee/c.png (" in out


def test_a_picture_that_claims_a_huge_size_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "what" / "bee" / "a.png", GREY[0])
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    (tmp_path / "what" / "bee" / "b.png").write_bytes(bomb.getvalue())
    assert len(imported(tmp_path / "what")["bee"]) == 1
    assert "b.png (" in capsys.readouterr().out
