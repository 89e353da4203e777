import re
from pathlib import Path
from typing import Any

import pytest

from stages import params
from stages.common.errors import SettingsError
from stages.params import Params
from stages.quickdraw.labels import BUCKET
from tests.settings import FULL, ROOT

NOT_TEXT = 'not text; put such names in quotes, as in classes=["1", "2"]'
INVALID_ADDRESS = (
    "source: the part after {}:// is not an address; expected: a URL, a folder, tfds:NAME, doodles or digits"
)


def message(changes: dict[str, Any]) -> str:
    """Return the error message for the full run's settings with these changes."""
    with pytest.raises(SettingsError) as caught:
        params.check(FULL | changes, "params.yaml")
    return str(caught.value)


def test_the_committed_params_yaml_has_the_full_run(full_run: Params) -> None:
    assert full_run.num_drawings == 500_000
    assert full_run.source == BUCKET
    assert len(full_run.classes) == 20
    expected = {"num_resnet": 5, "num_hierarchies": 3, "num_filters": 128, "num_logistic_mix": 5}
    expected |= {"epochs": 10, "samples_per_class": 8}
    assert full_run.model_dump(include=set(expected)) == expected


def test_the_comments_of_params_yaml_are_the_descriptions_of_the_settings() -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    comments = {}
    for block in text.split("\n\n"):
        if match := re.search(r"^(\w+):", block, re.MULTILINE):
            lines = [line.removeprefix("# ") for line in block[: match.start()].splitlines()]
            comments[match[1]] = " ".join(lines)
    expected = {
        key: f"{field.description} Expected: {params.expected(key)}." for key, field in Params.model_fields.items()
    }
    assert comments == expected
    assert list(comments) == list(Params.model_fields), "the order is that of Params"


def test_the_list_of_params_yaml_is_last_and_in_block_style() -> None:
    # When DVC rewrites the file it puts lists in block style, and drops the comments that follow one.
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert re.search(r"\nclasses:\n(- [\w ]+\n){20}$", text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_resnet": 0}, "num_resnet is 0; expected: a whole number from 1 to 20"),
        ({"num_resnet": 21}, "num_resnet is 21; expected: a whole number from 1 to 20"),
        ({"num_resnet": "abc"}, "num_resnet is 'abc'; expected: a whole number from 1 to 20"),
        ({"num_resnet": True}, "num_resnet is True; expected: a whole number from 1 to 20"),
        ({"num_resnet": 1.5}, "num_resnet is 1.5; expected: a whole number from 1 to 20"),
        ({"num_resnet": None}, "num_resnet is None; expected: a whole number from 1 to 20"),
        ({"num_drawings": -1}, "num_drawings is -1; expected: a whole number from 1 to 2147483648, or all"),
        ({"num_drawings": True}, "num_drawings is True; expected: a whole number from 1 to 2147483648, or all"),
        ({"num_drawings": "every"}, "num_drawings is 'every'; expected: a whole number from 1 to 2147483648, or all"),
        ({"max_steps": 2**31 + 1}, "max_steps is 2147483649; expected: a whole number from 0 to 2147483648"),
        ({"dropout_p": True}, "dropout_p is True; expected: a number from 0 to 0.95"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected: a number above 0 and at most 1"),
        ({"clip_norm": float("inf")}, "clip_norm is inf; expected: a number of at least 0"),
        ({"ema_decay": 1}, "ema_decay is 1; expected: a number of at least 0 and below 1"),
        ({"prefetch": "yes"}, "prefetch is 'yes'; expected: true or false"),
        ({"prefetch": 1}, "prefetch is 1; expected: true or false"),
        ({"device": "tpu"}, "device is 'tpu'; expected: auto, gpu or cpu"),
        ({"source": ""}, "source is ''; expected: a URL, a folder, tfds:NAME, doodles or digits"),
        ({"source": 5}, "source is 5; expected: a URL, a folder, tfds:NAME, doodles or digits"),
        ({"source": "htps://host/x"}, "source: htps:// is not supported; expected: https, http, gs, s3 or file"),
        ({"source": "https://[x"}, INVALID_ADDRESS.format("https")),
        ({"source": "https://"}, INVALID_ADDRESS.format("https")),
        ({"source": "https://me:pass[word@host/x"}, INVALID_ADDRESS.format("https")),
        ({"source": "https://host:abc/x"}, INVALID_ADDRESS.format("https")),
        ({"source": "https://host:99999/x"}, INVALID_ADDRESS.format("https")),
        ({"source": "http://a..b/x"}, INVALID_ADDRESS.format("http")),
        ({"source": "gs://"}, INVALID_ADDRESS.format("gs")),
        ({"source": "file://[x"}, INVALID_ADDRESS.format("file")),
        ({"source": "file:///a%00b"}, INVALID_ADDRESS.format("file")),
        ({"classes": []}, "classes is empty; expected: a list of one or more class names"),
        ({"classes": "bee"}, "classes is 'bee'; expected: a list of one or more class names"),
        ({"classes": ["bee", 5]}, f"classes: 5 is {NOT_TEXT}"),
        ({"classes": [1, 2]}, f"classes: 1, 2 are {NOT_TEXT}"),
        ({"classes": [True, None, 1.5, "bee", ["sun"]]}, f"classes: True, None, 1.5, ['sun'] are {NOT_TEXT}"),
        ({"source": "mine", "classes": ["\u00e9clair", "e\u0301clair"]}, "classes: '\u00e9clair' is listed twice; "
                                                                         "list each class once"),
        ({"classes": ["bee", "sun", "bee"]}, "classes: 'bee' is listed twice; list each class once"),
        ({"classes": ["../bee"]}, "classes: '../bee' cannot be the name of a class, which must be a valid file name"),
        ({"source": "mine", "classes": ["my:dog"]}, "classes: 'my:dog' cannot be the name of a class, which must "
                                                    "be a valid file name"),
        ({"classes": ["bee", "bycicle"]}, "classes: 'bycicle' is not a class of Quick, Draw!. Did you mean 'bicycle'?"),
        ({"classes": ["bycicle", "bee", "qqqqqqq"]}, "classes: 'bycicle' and 'qqqqqqq' are not classes of Quick, "
                                                     "Draw!. Did you mean 'bicycle'?"),
        ({"classes": ["see turtle"]}, "classes: 'see turtle' is not a class of Quick, Draw!. Did you mean "
                                      "'sea turtle'?"),
        ({"classes": ["Bee"]}, "classes: 'Bee' is not a class of Quick, Draw!. Did you mean 'bee'?"),
        ({"classes": ["qqqqqqq"]}, "classes: 'qqqqqqq' is not a class of Quick, Draw!."),
        ({"source": "doodles", "classes": ["tre"]}, "classes: 'tre' is not a class of Quick, Draw!. Did you mean "
                                                    "'tree'?"),
        ({"num_resnt": 5}, "num_resnt is not a setting. Did you mean 'num_resnet'?"),
        ({"xyzzy": 5}, "xyzzy is not a setting."),
        ({7: 5}, "7 is not a setting."),
        ({"mirror": "../drawings"}, "mirror is no longer a setting: give its value to source"),
        ({"data_dir": "x"}, "data_dir is no longer a setting: set source to tfds:quickdraw_bitmap, and the environment "
                            "variable TFDS_DATA_DIR to the folder"),
        ({"source": "mirror"}, "source: 'mirror' has another meaning than before; set it to the URL or the folder, or "
                               "./mirror for a folder"),
        ({"source": "tfds:../x"}, "source: 'tfds:../x' does not name a dataset; expected: such as tfds:mnist"),
        ({"holdout": 0.6}, "holdout is 0.6; expected: a number from 0.01 to 0.5, or test"),
        ({"holdout": True}, "holdout is True; expected: a number from 0.01 to 0.5, or test"),
        ({"holdout": "train"}, "holdout is 'train'; expected: a number from 0.01 to 0.5, or test"),
        ({"holdout": "test"}, "holdout: 'test' needs a source with a split test, such as tfds:mnist; set it to a "
                              "number"),
        ({"source": "tfds:quickdraw_bitmap", "holdout": "test"}, "holdout: 'test' needs a source with a split test, "
                                                                 "such as tfds:mnist; set it to a number"),
        ({"source": "tfds"}, "source: 'tfds' has another meaning than before; set it to tfds:quickdraw_bitmap, or "
                             "./tfds for a folder"),
    ],
)  # fmt: skip
def test_an_error_names_the_key_the_value_and_what_is_expected(changes: dict[str, Any], expected: str) -> None:
    assert message(changes) == f"params.yaml: {expected}"


def test_a_long_value_is_shortened() -> None:
    assert len(message({"num_resnet": "x" * 10_000})) < 250


def test_several_errors_have_one_line_each() -> None:
    lines = message({"num_resnet": 0, "epochs": "many", "num_filtres": 8}).splitlines()
    assert [line.split()[1] for line in lines] == ["num_resnet", "epochs", "num_filtres"]


@pytest.mark.parametrize("key", Params.model_fields)
def test_every_setting_is_required(key: str) -> None:
    values = {name: value for name, value in FULL.items() if name != key}
    with pytest.raises(SettingsError, match=rf"^params\.yaml: {key} is missing; expected: \w"):
        params.check(values, "params.yaml")


@pytest.mark.parametrize("text", ["2e-05", "2e-5", "0.00002", " 2e-05 "])
def test_text_that_is_a_number_is_accepted(text: str) -> None:
    assert params.check(FULL | {"learning_rate": text}, "").learning_rate == 2e-05


def test_a_whole_number_can_have_an_exponent() -> None:
    drawings = params.check(FULL | {"num_drawings": 5e4}, "").num_drawings
    assert drawings == 50_000
    assert isinstance(drawings, int)


def test_all_drawings_of_the_source() -> None:
    assert params.check(FULL | {"num_drawings": "all"}, "").num_drawings == "all"


def test_class_names_have_one_form_of_unicode() -> None:
    decomposed, composed = "e\u0301clair", "\u00e9clair"
    assert params.check(FULL | {"source": "mine", "classes": [decomposed]}, "").classes == (composed,)
    assert params.parse(f"source: {decomposed}\nclasses: [{decomposed}, 1]", "") == {
        "source": decomposed,  # a folder has the name that it has
        "classes": [composed, 1],
    }


def test_a_folder_can_have_other_classes() -> None:
    settings = params.check(FULL | {"source": "my drawings", "classes": ["grandmother", "bee"]}, "")
    assert settings.classes == ("grandmother", "bee")


@pytest.mark.parametrize(
    "source",
    ["https://host", "http://127.0.0.1:8080/x/", "https://[::1]/x", "https://me:word@my_host./a%20b?key=x", "gs://a/b",
     "https://münchen.example/x", "s3://arn:aws:s3:us-west-2:1:accesspoint/a", "file:///a%20b", "a [b", "/a%00b"],
)  # fmt: skip
def test_a_source_can_be_any_valid_address_or_folder(source: str) -> None:
    assert params.check(FULL | {"source": source}, "").source == source


@pytest.mark.parametrize("source", ["tfds:mnist", "tfds:emnist/letters", "tfds:mnist:3.0.1", "tfds:a/b-1.2:1.0.0"])
def test_a_dataset_can_have_a_configuration_and_a_version(source: str) -> None:
    settings = params.check(FULL | {"source": source, "holdout": "test", "classes": ["T-shirt-top"]}, "")
    assert (settings.source, settings.holdout) == (source, "test")


@pytest.mark.parametrize(
    "source", ["tfds:", "tfds:Mnist", "tfds:a/../b", "tfds:a/..", "tfds:a b", "tfds:kaggle:x", "tfds:/a"]
)
def test_other_names_are_not_those_of_datasets(source: str) -> None:
    assert "does not name a dataset" in message({"source": source})


def test_settings_cannot_be_changed(full_run: Params) -> None:
    with pytest.raises(ValueError, match="frozen"):
        full_run.seed = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml contains no settings; expected: lines of the form `key: value`"),
        ("- bee\n- sun\n", "params.yaml contains no settings; expected: lines of the form `key: value`"),
        ("just words", "params.yaml contains no settings; expected: lines of the form `key: value`"),
        ("seed: 1\nclasses: [bee\nepochs: 1\n", r"params.yaml, line \d: not YAML: .+"),
        ("seed: 1\n\tepochs: 2\n", r"params.yaml, line 2: not YAML: .+"),
        ("seed: 1\nepochs: 1\nseed: 2\n", r'params.yaml, line 3: not YAML: found duplicate key "seed".+'),
        ("seed: !!python/object:os.system 1\n", r"params.yaml, line 1: not YAML: .+"),
        ("seed: \x07\n", r"params.yaml: not YAML: .+"),
    ],
)  # fmt: skip
def test_a_file_without_settings_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        params.load()
    assert re.fullmatch(message, str(caught.value)), caught.value
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(SettingsError, match=r"is not UTF-8 text$"):
        params.load(tmp_path / "params.yaml")


def test_a_missing_file_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"^params.yaml is missing: run from the root of the repository$"):
        params.load()
