"""The command `run`: its profiles, overrides and source, and the errors before a stage starts.

Runs with DVC are in tests/pipeline/dvc.
"""

import base64
import contextlib
import http.server
import os
import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import run_settings, server
from pipeline.__main__ import main, parser
from stages import params
from stages.common.errors import SettingsError
from stages.quickdraw import labels
from tests import fake_project
from tests.settings import FULL, ROOT


@pytest.mark.parametrize("name", run_settings.profiles())
def test_profiles_are_valid_settings(name: str) -> None:
    changes = run_settings.profiles()[name]
    assert changes.keys() <= FULL.keys()
    params.check(FULL | changes, name)


@pytest.mark.parametrize("name", run_settings.profiles())
def test_every_profile_trains_the_judge_alike(name: str) -> None:
    """So that a class accuracy of 85% means the same in each."""
    assert not {"judge_steps", "judge_seed"} & run_settings.profiles()[name].keys()


def test_the_profile_post_is_the_published_recipe() -> None:
    post = params.check(FULL | run_settings.profiles()["post"], "")
    assert (post.conditioning, post.position, post.ema_decay, post.clip_norm) == ("label", "none", 0, 0)
    assert (post.num_drawings, post.num_resnet, post.num_hierarchies, post.num_filters) == (500_000, 5, 3, 128)
    assert (post.num_logistic_mix, post.dropout_p, post.learning_rate, post.epochs) == (5, 0.5, 0.001, 10)
    assert (post.learning_rate_decay, post.dtype, post.temperature, len(post.classes)) == (1, "float32", 1, 20)
    assert (post.optimizer, post.input_noise, post.guidance) == ("adam", 0, 1)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("num_resnet=3", "num_resnet", 3),
        ("learning_rate=2e-5", "learning_rate", 2e-5),
        ("prefetch=true", "prefetch", True),
        ("device=cpu", "device", "cpu"),
        ("classes=[cat,dog]", "classes", ["cat", "dog"]),
        ("classes=[The Eiffel Tower, sea turtle]", "classes", ["The Eiffel Tower", "sea turtle"]),
        ("classes=[]", "classes", []),
        ("num_resnet=1,2,3", "num_resnet", "1,2,3"),  # rejected later, with the other values that are not numbers
        ("num_resnet=", "num_resnet", None),
        ("source=/a b, c=d/[e]{f}: #g'\"\\${h}", "source", "/a b, c=d/[e]{f}: #g'\"\\${h}"),
        ("source=", "source", ""),
    ],
)
def test_override_values_are_parsed_like_params_yaml(text: str, key: str, value: Any) -> None:
    assert run_settings.parse_override(text) == (key, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_resnet", "-S num_resnet; expected: -S key=value"),
        ("=3", "-S =3; expected: -S key=value"),
        ("num_resnt=3", "-S num_resnt=3: num_resnt is not a setting. Did you mean 'num_resnet'?"),
        ("mirror=../x", "-S mirror=../x: mirror is no longer a setting: give its value to source"),
        ("classes=[cat", "-S classes=[cat, line 1: not YAML: "),
    ],
)
def test_invalid_overrides_are_rejected(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        run_settings.parse_override(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("argument", "setting"),
    [
        ("../drawings", "../drawings"),
        ("drawings", "./drawings"),
        ("sub/../drawings", "./drawings"),
        ("doodles", "doodles"),
        ("./doodles", "./doodles"),
        ("digits", "digits"),
        ("./digits", "./digits"),
        ("tfds:emnist/letters", "tfds:emnist/letters"),
        ("./auto", "./auto"),
        ("/srv/drawings", "/srv/drawings"),
        ("https://host/a b", "https://host/a b"),
        ("file:///srv", "file:///srv"),
        ("", ""),
    ],
)
def test_a_folder_is_made_relative_to_the_root(argument: str, setting: str) -> None:
    root = Path("/home/person/project")
    assert run_settings.resolve_source(argument, root, root) == setting


def test_a_relative_folder_is_relative_to_the_current_folder() -> None:
    root = Path("/home/person/project")
    assert run_settings.resolve_source("drawings", root / "reports", root) == "reports/drawings"
    assert run_settings.resolve_source("../drawings", root / "reports", root) == "./drawings"


class Bucket(http.server.BaseHTTPRequestHandler):
    """A bucket whose only file is full/bee.npy."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/full/bee.npy" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def running_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server on this machine; yields its URL."""
    with pytest.MonkeyPatch.context() as patch, http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        patch.setenv("no_proxy", "*")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def bucket() -> Iterator[str]:
    with running_server(Bucket) as address:
        yield address


def test_auto_uses_the_bucket_if_it_is_reachable(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(params, "BUCKET", f"{bucket}/full")
    assert run_settings.resolve_source("auto", ROOT, ROOT) == f"{bucket}/full"
    assert "DOODLES" not in capsys.readouterr().out


@pytest.mark.parametrize("path", ["{}/empty", "http://127.0.0.1:1"])
def test_auto_warns_about_doodles_if_the_bucket_is_unreachable(
    path: str, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(params, "BUCKET", path.format(bucket))
    assert run_settings.resolve_source("auto", ROOT, ROOT) == "doodles"
    assert "DOODLES" in capsys.readouterr().out
    assert run_settings.resolve_source("doodles", ROOT, ROOT) == "doodles"
    assert capsys.readouterr().out == ""


class PasswordServer(Bucket):
    """A Prefect server that requires a password, except for its health."""

    def do_GET(self) -> None:
        credentials = f"Basic {base64.b64encode(b'admin:secret').decode()}"
        is_public = self.path == "/api/health"
        self.send_response(200 if is_public or self.headers["Authorization"] == credentials else 401)
        self.end_headers()


def test_a_prefect_server_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(PasswordServer) as address:
        for password, accepted in (("", False), ("admin:secret", True), ("admin:other", False)):
            monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
            assert server.server_answers(f"{address}/api")
            assert server.server_answers(f"{address}/api", "work_pools/quickdraw") is accepted


def test_a_server_is_mentioned_only_if_one_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)
    assert server.find_server() is None
    assert capsys.readouterr() == ("", "")

    monkeypatch.setattr(server, "configured_server", lambda: "http://127.0.0.1:1/api")
    assert server.find_server() is None
    assert capsys.readouterr().out == (
        "The Prefect server at http://127.0.0.1:1/api does not answer: progress is shown in this terminal only.\n"
    )


def test_a_server_of_another_protocol_is_not_a_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class SshServer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH\r\n")

    monkeypatch.setenv("no_proxy", "*")
    with socketserver.TCPServer(("127.0.0.1", 0), SshServer) as ssh_server:
        threading.Thread(target=ssh_server.handle_request).start()
        assert not server.server_answers(f"http://127.0.0.1:{ssh_server.server_address[1]}/api")
    assert not server.server_answers("no address")


def test_an_update_of_params_yaml_preserves_comments_and_other_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    run_settings.update_params_file(path, params.read(path), FULL)
    before = path.read_text(encoding="utf-8")
    mirror = "../my drawings, [all]: #1 'and' \"more\" " + "long " * 40
    changes = {"source": mirror, "learning_rate": 2e-5, "prefetch": True, "classes": ["yes", "The Eiffel Tower"]}
    run_settings.update_params_file(path, FULL, FULL | changes)

    after = path.read_text(encoding="utf-8")
    assert params.read(path) == FULL | changes
    comments = [line for line in before.splitlines() if line.startswith("#") or not line]
    assert [line for line in after.splitlines() if line.startswith("#") or not line] == comments
    assert len(after.splitlines()) == len(before.splitlines()) - 18, "each value is on one line, even if long"
    assert "params.yaml: prefetch False -> True" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]

    run_settings.update_params_file(path, FULL | changes, FULL)
    assert path.read_text(encoding="utf-8") == before, "the reverse update restores every byte"


def test_settings_that_the_committed_file_lacks_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("# A removed setting.\nold: 1\n\n# Random seed.\nseed: 1\n", encoding="utf-8")
    run_settings.update_params_file(path, {"old": 1, "seed": 1}, {"seed": 1})
    assert params.read(path) == {"seed": 1}


def test_params_yaml_is_not_rewritten_if_nothing_differs(tmp_path: Path) -> None:
    run_settings.update_params_file(tmp_path / "params.yaml", FULL, dict(FULL))
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_depends_on_values_and_not_on_order() -> None:
    assert run_settings.fingerprint(FULL) == run_settings.fingerprint(dict(reversed(FULL.items())))
    assert run_settings.fingerprint(FULL) != run_settings.fingerprint(FULL | {"seed": 1})


# --- The command ---


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_project.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WHOLE = "expected: a whole number from 1 to 20"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-S", "num_resnet=0"], f"the settings of this run: num_resnet is 0; {WHOLE}"),
        (["-S", "num_resnet=abc"], f"the settings of this run: num_resnet is 'abc'; {WHOLE}"),
        (["-S", "num_resnet=1,2,3"], f"the settings of this run: num_resnet is '1,2,3'; {WHOLE}"),
        (["-S", "num_resnt=3"], "-S num_resnt=3: num_resnt is not a setting. Did you mean 'num_resnet'?"),
        (
            ["-S", "classes=[bee, bycicle]", "--source", "doodles"],
            "the settings of this run: classes: 'bycicle' is not a class of Quick, Draw!. Did you mean 'bicycle'?",
        ),
        (
            ["-S", "classes=[]"],
            "the settings of this run: classes is empty; expected: a list of one or more class names",
        ),
        (
            ["-S", "classes=[bee, bee]"],
            "the settings of this run: classes: 'bee' is listed twice; list each class once",
        ),
        (
            ["--profile", "quick", "--source", ""],
            "the settings of this run: source is ''; expected: a URL, a folder, tfds:NAME, doodles or "
            "digits",
        ),
    ],
)  # fmt: skip
def test_an_invalid_setting_runs_no_stage(
    repository: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    assert capfd.readouterr() == ("", f"error: {message}\n")
    assert fake_project.git(repository, "status", "--porcelain") == ""
    assert not (repository / "data").exists()


@pytest.mark.parametrize("command", ["run", "serve"])
def test_the_former_option_mirror_works_and_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args([command, "--source", "auto", "--mirror", "../x"]).source == "../x"
    assert capsys.readouterr().err == "--mirror is now called --source, and MIRROR of `make run` SOURCE\n"
    assert parser().parse_args([command, "--mirror", "../x", "--source", "doodles"]).source == "doodles"
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    help_text = capsys.readouterr().out
    assert "--source SOURCE" in help_text and "mirror" not in help_text


def test_an_invalid_params_yaml_runs_no_stage(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = (repository / "params.yaml").read_text(encoding="utf-8")
    (repository / "params.yaml").write_text(text.replace("num_resnet: 5", "num_resnet: 0"), encoding="utf-8")
    assert main(["run"]) == 2
    assert capfd.readouterr().err == f"error: params.yaml: num_resnet is 0; {WHOLE}\n"


def test_a_missing_package_is_a_one_line_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The class names ship with tensorflow-datasets, and params.check reads them."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    labels.labels.cache_clear()
    try:
        assert main(["run", "-S", "classes=[bee]"]) == 1
    finally:
        labels.labels.cache_clear()
    _, err = capfd.readouterr()
    assert (
        err.startswith("error: ")
        and "tensorflow-datasets" in err
        and "is not installed" in err
        and err.count("\n") == 1
    )


def test_the_error_for_an_unknown_profile_lists_the_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--profile", "quik"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name in run_settings.profiles())


def test_error_outside_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 1
    assert capfd.readouterr().err == f"error: {tmp_path} is not in a copy of the project: no dvc.yaml here or above\n"


@pytest.mark.parametrize("initialised", [False, True])
def test_error_outside_a_git_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], initialised: bool
) -> None:
    (tmp_path / "dvc.yaml").touch()
    if initialised:
        fake_project.git(tmp_path, "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: {tmp_path} is not a Git repository with a commit")
    assert "git init && git add" in error
    assert len(error.splitlines()) == 1


def test_error_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run"]) == 1
    assert capfd.readouterr().err == "error: git is not installed, and DVC saves runs in a Git repository\n"


def test_a_profile_needs_a_committed_params_yaml(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake_project.git(repository, "rm", "--quiet", "--cached", "params.yaml")
    fake_project.git(
        repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "remove"
    )
    assert main(["run", "--profile", "quick"]) == 1
    assert capfd.readouterr().err.startswith("error: params.yaml is not committed")
