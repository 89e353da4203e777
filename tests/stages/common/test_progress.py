import pytest

from stages.common import progress


def test_a_short_task_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("reading", 3, "drawings") as add:
        add(3)
    assert capsys.readouterr() == ("", "")


def test_a_long_task_prints_plain_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 12.0, 13.0, 15.0, 15.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress.progress("reading", 4000, "drawings", done=1000) as add:
        for _ in range(3):
            add(1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 3,000 of 4,000 drawings (75%), 167 a second, 0:06 left",
        "reading: 4,000 of 4,000 drawings (100%), 200 a second",
    ]


def test_a_task_shows_a_bar_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress("reading", 4000, "drawings") as add:
        add(4000)
    assert "reading: 100%" in capsys.readouterr().err
