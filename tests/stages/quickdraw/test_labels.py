import subprocess
import sys

import pytest

from stages.quickdraw.labels import check_name, explain_unknown, files_by_class, labels, numbered, published


def test_labels_are_line_numbers() -> None:
    names = labels()
    assert len(names) == len(set(names)) == 345
    assert names[26] == "bee"
    assert names[309] == "The Eiffel Tower"
    assert names[308] == "tent"
    assert (names[16], names[17]) == ("baseball bat", "baseball")  # not quite in alphabetical order


def test_the_bucket_has_a_file_of_whole_drawings_for_every_class() -> None:
    files = published()
    assert files.keys() == set(labels())
    assert {file.size % 784 for file in files.values()} == {80}
    assert sum(file.size for file in files.values()) == 39_534_220_144
    assert all(len(file.sha256) == 64 for file in files.values())


def test_unpublished_classes_get_labels_after_the_published_ones() -> None:
    class_labels = numbered(["zorro", "bee", "abacus", "aircraft carrier"])
    assert list(class_labels.items()) == [("aircraft carrier", 0), ("bee", 26), ("abacus", 345), ("zorro", 346)]


def test_a_class_name_has_one_form_of_unicode() -> None:
    assert check_name("e\u0301clair") == check_name("\u00e9clair") == "\u00e9clair"
    assert files_by_class(["bee", "e\u0301clair"]) == {"bee": "bee", "\u00e9clair": "e\u0301clair"}
    with pytest.raises(ValueError, match=r"^'\u00e9clair' has two files, in two forms of Unicode; delete one"):
        files_by_class(["\u00e9clair", "e\u0301clair"])


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a\\b", "a\nb", " bee", "x" * 201, "*", "a\x00", "\udcff"])
def test_an_invalid_class_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a class"):
        check_name(name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["zoro"], "'zoro' is not a class of the source. Did you mean 'zorro'?"),
        (["sun", "moon"], "'sun' and 'moon' are not classes of the source."),
        (["a", "b", "zoro", "c"], "'a', 'b', 'zoro' and 'c' are not classes of the source."),  # another mirror's
    ],
)
def test_unknown_classes_are_explained_together(names: list[str], message: str) -> None:
    assert explain_unknown(names, ["zorro", "bee"], "the source") == message


def test_hidden_files_are_not_classes() -> None:
    assert files_by_class(["._bee", "bee", ""]) == {"bee": "bee"}


@pytest.mark.parametrize(
    "stem",
    [
        "full_numpy_bitmap_sea turtle",
        "full%2Fnumpy_bitmap%2Fsea turtle",
        "sea turtle (1)",
        "numpy_bitmap_sea turtle(2)",
        "quickdraw_sea turtle",
        "full_numpy_bitmap_Sea Turtle",
    ],
)
def test_a_missing_class_names_the_file_that_was_probably_meant(stem: str) -> None:
    explanation = explain_unknown(["sea turtle"], ["bee", "turtle", stem], "the source")
    assert explanation == (f"'sea turtle' is not a class of the source. Rename '{stem}.npy' to 'sea turtle.npy'.")


def test_several_files_with_a_prefix_are_explained_by_one() -> None:
    names = ["bee", "cat", "sun", "tree"]
    explanation = explain_unknown(names, [f"full_numpy_bitmap_{name}" for name in names], "the source")
    assert explanation.endswith("Rename 'full_numpy_bitmap_bee.npy' to 'bee.npy', and 3 other files likewise.")


@pytest.mark.parametrize(("name", "known"), [("shirt", "t-shirt"), ("fish", "blowfish"), ("car", "police car")])
def test_a_class_that_ends_with_the_same_word_is_not_a_misnamed_file(name: str, known: str) -> None:
    assert "Rename" not in explain_unknown([name], [known], "the source")


def test_labels_import_neither_tensorflow_nor_tensorflow_datasets() -> None:
    code = "import sys; from stages.quickdraw.labels import labels; labels(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "tensorflow_datasets", "numpy"} & set(modules)
