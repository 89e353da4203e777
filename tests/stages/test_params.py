import re
from pathlib import Path
from typing import Any

import pytest

from stages import params
from stages.common.errors import SettingsError
from stages.params import Params
from stages.quickdraw.labels import BUCKET
from tests.settings import FULL, ROOT

NO_ADDRESS = "mirror: what follows {}:// is no address; permitted: a URL, a folder, or doodles"


def message(changes: dict[str, Any]) -> str:
    """What is said about the full run's settings with some of them changed."""
    with pytest.raises(SettingsError) as caught:
        params.check(FULL | changes, "params.yaml")
    return str(caught.value)


def test_params_yaml_is_committed_with_the_full_run(full_run: Params) -> None:
    assert full_run.num_drawings == 500_000
    assert full_run.mirror == BUCKET
    assert len(full_run.classes) == 20
    wanted = {"num_resnet": 5, "num_hierarchies": 3, "num_filters": 128, "num_logistic_mix": 5, "dropout_p": 0.5}
    wanted |= {"learning_rate": 0.001, "epochs": 10, "samples_per_class": 8}
    assert full_run.model_dump(include=set(wanted)) == wanted


def test_comments_of_params_yaml_are_the_schemas() -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    found = {}
    for block in text.split("\n\n"):
        if match := re.search(r"^(\w+):", block, re.MULTILINE):
            comment = [line.removeprefix("# ") for line in block[: match.start()].splitlines()]
            found[match[1]] = " ".join(comment)
    wanted = {
        key: f"{field.description} Permitted: {params.expected(key)}." for key, field in Params.model_fields.items()
    }
    assert found == wanted
    assert list(found) == list(Params.model_fields), "the order is the schema's"


def test_the_list_of_params_yaml_stands_last_and_in_block_style() -> None:
    # When DVC rewrites the file it puts lists in block style, and drops the comments that follow one.
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert re.search(r"\nclasses:\n(- [\w ]+\n){20}$", text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_resnet": 0}, "num_resnet is 0; permitted: a whole number from 1 to 20"),
        ({"num_resnet": 21}, "num_resnet is 21; permitted: a whole number from 1 to 20"),
        ({"num_resnet": "abc"}, "num_resnet is 'abc'; permitted: a whole number from 1 to 20"),
        ({"num_resnet": True}, "num_resnet is True; permitted: a whole number from 1 to 20"),
        ({"num_resnet": 1.5}, "num_resnet is 1.5; permitted: a whole number from 1 to 20"),
        ({"num_resnet": None}, "num_resnet is None; permitted: a whole number from 1 to 20"),
        ({"num_drawings": -1}, "num_drawings is -1; permitted: a whole number from 1 to 2147483648"),
        ({"max_steps": 2**31 + 1}, "max_steps is 2147483649; permitted: a whole number from 0 to 2147483648"),
        ({"dropout_p": True}, "dropout_p is True; permitted: a number from 0 to 0.95"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; permitted: a number above 0 to 1"),
        ({"clip_norm": float("inf")}, "clip_norm is inf; permitted: a number from 0 up"),
        ({"ema_decay": 1}, "ema_decay is 1; permitted: a number from 0 to below 1"),
        ({"prefetch": "yes"}, "prefetch is 'yes'; permitted: true or false"),
        ({"prefetch": 1}, "prefetch is 1; permitted: true or false"),
        ({"device": "tpu"}, "device is 'tpu'; permitted: auto or gpu or cpu"),
        ({"mirror": ""}, "mirror is ''; permitted: a URL, a folder, or doodles"),
        ({"mirror": 5}, "mirror is 5; permitted: a URL, a folder, or doodles"),
        ({"mirror": "htps://host/x"}, "mirror: htps:// is none of https://, http://, gs://, s3://, file://"),
        ({"mirror": "https://[x"}, NO_ADDRESS.format("https")),
        ({"mirror": "https://"}, NO_ADDRESS.format("https")),
        ({"mirror": "https://me:pass[word@host/x"}, NO_ADDRESS.format("https")),
        ({"mirror": "https://host:abc/x"}, NO_ADDRESS.format("https")),
        ({"mirror": "https://host:99999/x"}, NO_ADDRESS.format("https")),
        ({"mirror": "http://a..b/x"}, NO_ADDRESS.format("http")),
        ({"mirror": "gs://"}, NO_ADDRESS.format("gs")),
        ({"mirror": "file://[x"}, NO_ADDRESS.format("file")),
        ({"mirror": "file:///a%00b"}, NO_ADDRESS.format("file")),
        ({"classes": []}, "classes is empty; permitted: a list of class names, one or more"),
        ({"classes": "bee"}, "classes is 'bee'; permitted: a list of class names, one or more"),
        ({"classes": ["bee", 5]}, "classes, entry 2, is 5; permitted: a list of class names, one or more"),
        ({"classes": ["bee", "sun", "bee"]}, "classes: 'bee' is there twice; name each class once"),
        ({"classes": ["../bee"]}, "classes: '../bee' cannot be the name of a class, which is also that of a file"),
        ({"mirror": "mine", "classes": ["my:dog"]}, "classes: 'my:dog' cannot be the name of a class, which is also "
                                                    "that of a file"),
        ({"classes": ["bee", "bycicle"]}, "classes: 'bycicle' is no class of Quick, Draw!. Did you mean 'bicycle'?"),
        ({"classes": ["see turtle"]}, "classes: 'see turtle' is no class of Quick, Draw!. Did you mean 'sea turtle'?"),
        ({"classes": ["Bee"]}, "classes: 'Bee' is no class of Quick, Draw!. Did you mean 'bee'?"),
        ({"classes": ["qqqqqqq"]}, "classes: 'qqqqqqq' is no class of Quick, Draw!."),
        ({"mirror": "doodles", "classes": ["tre"]}, "classes: 'tre' is no class of Quick, Draw!. Did you mean 'tree'?"),
        ({"num_resnt": 5}, "num_resnt is not a setting. Did you mean 'num_resnet'?"),
        ({"xyzzy": 5}, "xyzzy is not a setting."),
        ({7: 5}, "7 is not a setting."),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_key_and_what_is_permitted(changes: dict[str, Any], said: str) -> None:
    assert message(changes) == f"params.yaml: {said}"


def test_a_long_value_is_cut_short() -> None:
    assert len(message({"num_resnet": "x" * 10_000})) < 250


def test_each_of_several_errors_has_its_line() -> None:
    lines = message({"num_resnet": 0, "epochs": "many", "num_filtres": 8}).splitlines()
    assert [line.split()[1] for line in lines] == ["num_resnet", "epochs", "num_filtres"]


@pytest.mark.parametrize("key", Params.model_fields)
def test_every_setting_is_needed(key: str) -> None:
    values = {name: value for name, value in FULL.items() if name != key}
    with pytest.raises(SettingsError, match=rf"^params\.yaml: {key} is missing; permitted: \w"):
        params.check(values, "params.yaml")


@pytest.mark.parametrize("written", ["2e-05", "2e-5", "0.00002", " 2e-05 "])
def test_a_number_written_as_text_is_a_number(written: str) -> None:
    assert params.check(FULL | {"learning_rate": written}, "").learning_rate == 2e-05


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    drawings = params.check(FULL | {"num_drawings": 5e4}, "").num_drawings
    assert drawings == 50_000
    assert isinstance(drawings, int)


def test_a_folder_may_hold_classes_of_its_own() -> None:
    own = params.check(FULL | {"mirror": "my drawings", "classes": ["grandmother", "bee"]}, "")
    assert own.classes == ("grandmother", "bee")


@pytest.mark.parametrize(
    "mirror",
    ["https://host", "http://127.0.0.1:8080/x/", "https://[::1]/x", "https://me:word@my_host./a%20b?key=x", "gs://a/b",
     "https://münchen.example/x", "s3://arn:aws:s3:us-west-2:1:accesspoint/a", "file:///a%20b", "a [b", "/a%00b"],
)  # fmt: skip
def test_a_mirror_is_at_any_address_or_in_any_folder(mirror: str) -> None:
    assert params.check(FULL | {"mirror": mirror}, "").mirror == mirror


def test_settings_cannot_be_changed(full_run: Params) -> None:
    with pytest.raises(ValueError, match="frozen"):
        full_run.seed = 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "params.yaml holds no settings; each line of it is `key: value`"),
        ("- bee\n- sun\n", "params.yaml holds no settings; each line of it is `key: value`"),
        ("just words", "params.yaml holds no settings; each line of it is `key: value`"),
        ("seed: 1\nclasses: [bee\nepochs: 1\n", r"params.yaml, line \d: not YAML: .+"),
        ("seed: 1\n\tepochs: 2\n", r"params.yaml, line 2: not YAML: .+"),
        ("seed: 1\nepochs: 1\nseed: 2\n", r'params.yaml, line 3: not YAML: found duplicate key "seed".+'),
        ("seed: !!python/object:os.system 1\n", r"params.yaml, line 1: not YAML: .+"),
        ("seed: \x07\n", r"params.yaml: not YAML: .+"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_settings_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        params.load()
    assert re.fullmatch(said, str(caught.value)), caught.value
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(SettingsError, match=r"is not text in UTF-8$"):
        params.load(tmp_path / "params.yaml")


def test_a_missing_file_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"^params.yaml is not here; run from the root of the repository$"):
        params.load()
