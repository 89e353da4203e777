"""A repository with the project's graph and settings, and stages that take almost no time."""

import json
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.run_settings import update_params_file
from stages import params
from tests.settings import FULL, ROOT

# A stage writes a digest of its settings and dependencies into each output. The values of the metrics depend on it. The
# stage appends its name and settings to the file `ran` in the control folder: the one that FAKE_PROJECT names, or the
# current one. Two files in it control the stages. `broken` names the stage that fails: `train`, or `train where
# num_resnet=5`. `block` names the stage that waits until the file is deleted, or is empty for every stage; the stage
# appends its process ID to the file `blocked`.
STAGE = """
    import hashlib, json, os, pathlib, sys

    name, keys, deps, outs = map(json.loads, sys.argv[1:])
    text = pathlib.Path("params.yaml").read_text(encoding="utf-8")
    if text.startswith("{"):
        settings = json.loads(text)  # JSON is YAML too, and its reader starts faster
    else:
        from ruamel.yaml import YAML
        settings = YAML(typ="safe", pure=True).load(text)
    control = pathlib.Path(os.environ.get("FAKE_PROJECT", "."))
    with open(control / "ran", "a") as ran:
        print(json.dumps({"stage": name, "settings": settings}), file=ran)
    if (control / "broken").exists():
        stage, _, condition = (control / "broken").read_text().partition(" where ")
        key, _, value = condition.partition("=")
        if stage == name and (not condition or str(settings[key]) == value):
            sys.exit("error: the stage is broken")
    try:
        waits = (control / "block").read_text() in ("", name)
    except FileNotFoundError:
        waits = False
    if waits:
        import signal, time
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("training: 1 of 4 steps (25%), 1.5 bits, 0.1 a second, 0:30 left", file=sys.stderr, flush=True)
        with open(control / "blocked", "a") as blocked:
            print(os.getpid(), file=blocked)
        deadline = time.monotonic() + 600
        while (control / "block").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    inputs = json.dumps([settings[key] for key in keys])
    for dep in map(pathlib.Path, deps):
        inputs += "".join(file.read_text() for file in (sorted(dep.rglob("*")) if dep.is_dir() else [dep]))
    for out in map(pathlib.Path, outs):
        file = out if out.suffix else out / "content"
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.md5(inputs.encode()).hexdigest()
        text = json.dumps({name: digest})
        if out.name in ("metrics.json", "metrics.csv"):
            values = iter(int(digest[start:start + 4], 16) / 65536 for start in range(0, 32, 4))
            names = ["heldout_bits_per_dim", "class_accuracy", "mmd"]
            if out.name == "metrics.csv":
                names += ["recall", "label_accuracy"]
                rows = [f"{metric},,,{value!r},,,{value!r}," for metric, value in zip(names, values)]
                text = "\\n".join(["metric,label,name,value,low,high,reference,better", *rows, ""])
            else:
                metrics = dict(zip(names, values))
                for key, folder in (("heldout", "data/filter"), ("judge", "data/judge")):
                    metrics[key] = hashlib.md5((pathlib.Path(folder) / "content").read_bytes()).hexdigest()[:8]
                text = json.dumps(metrics | {"generated": settings["eval_samples_per_class"]})
        file.write_text(text)
    """


def write(folder: Path, **settings: Any) -> None:
    """Write the project into `folder` and commit it.

    Args:
      folder: an empty folder.
      settings: changes to the settings of the full run.
    """
    graph: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    stages = {}
    for name, stage in graph["stages"].items():
        deps = [dep for dep in stage["deps"] if not dep.startswith("stages/")]
        arguments = [json.dumps(argument) for argument in (name, stage["params"], deps, stage["outs"])]
        command = shlex.join([sys.executable, "stage.py", *arguments])
        entries = {key: value for key, value in stage.items() if key in ("desc", "meta", "params", "outs")}
        stages[name] = {"cmd": command, "deps": deps, **entries}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages, "metrics": graph["metrics"]}), encoding="utf-8")
    (folder / "stage.py").write_text(textwrap.dedent(STAGE), encoding="utf-8")
    for name in ("params.yaml", "dvc.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    update_params_file(folder / "params.yaml", params.read(folder / "params.yaml"), FULL | settings)
    shutil.copytree(ROOT / "reviews", folder / "reviews")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "start")


def block(control: Path, stage: str = "") -> None:
    """Make each run of a stage, or of every stage, wait for `unblock`.

    Args:
      control: the control folder of the stages.
      stage: the stage's name.
    """
    unblock(control)
    (control / "block").write_text(stage)


def blocked(control: Path) -> list[int]:
    """The process IDs of the stages that have started to wait since the last call of `block`."""
    file = control / "blocked"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def unblock(control: Path) -> None:
    """Let the stages that wait finish."""
    for name in ("block", "blocked"):
        (control / name).unlink(missing_ok=True)


def git(folder: Path, *arguments: str) -> str:
    """Run a Git command in a folder and return its output."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def stages_run(folder: Path) -> list[str]:
    """The stages that ran since the last call; skipped and restored ones do not count."""
    return [entry["stage"] for entry in recorded_runs(folder)]


def recorded_runs(folder: Path) -> list[dict[str, Any]]:
    """The stages that ran since the last call, each with the settings it read: `stage` and `settings`."""
    file = folder / "ran"
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return entries
