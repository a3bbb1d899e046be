"""Questions are registered once, and their results are written and read back as they are typed."""

from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from latentdiff import cli
from latentdiff.cli import diagnose as commands
from latentdiff.diagnose import QUESTIONS
from latentdiff.diagnose.report import Report, read_results, run_question
from latentdiff.errors import UserError

PACKAGE = Path(cli.__file__).parent.parent
NAMES = [question.name for question in QUESTIONS]


@pytest.mark.parametrize("question", QUESTIONS, ids=NAMES)
def test_a_question_is_a_package_with_a_function_and_help(question):
    assert callable(question.load())
    folder = PACKAGE.joinpath(*question.package.split(".")[1:])
    assert {"__init__.py", "measure.py", "report.py"} <= {path.name for path in folder.iterdir()}
    command = cli.cli.commands["diagnose"].commands[question.name]
    assert command.help and command.help.splitlines()[0] == question.help.splitlines()[0]


def test_every_package_is_registered():
    packages = {path.parent.name for path in (PACKAGE / "diagnose").glob("*/__init__.py")}
    assert packages == {name.replace("-", "_") for name in NAMES}
    assert list(cli.cli.commands["diagnose"].commands) == NAMES
    assert set(commands.OPTIONS) <= set(NAMES)


def test_the_readme_lists_questions_that_exist():
    text = (PACKAGE.parent / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| `latentdiff diagnose ([a-z-]+)", text, re.M)
    assert len(listed) >= 7 and set(listed) <= set(NAMES)


def test_the_registry_imports_nothing_heavy():
    code = "import sys, latentdiff.diagnose; assert not {'torch', 'pydantic'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@dataclass(frozen=True)
class Row:
    steps: int
    error: float | None


@dataclass(frozen=True)
class Found:
    rows: list[Row]
    by_name: dict[str, Row]
    added_later: float | None = None


FOUND = Found([Row(1, 0.5), Row(2, None)], {"a": Row(3, math.inf)})


def ask(directory, measure=lambda: Report(FOUND, "the verdict"), n=1, **options):
    return run_question("q", Found, measure, directory, settings={"n": n}, **options)


def test_results_are_written_and_read_back(tmp_path, caplog):
    caplog.set_level(logging.INFO, "latentdiff")
    files = {"audio/a.txt": lambda path: path.write_text("sound")}
    assert ask(tmp_path / "q", lambda: Report(FOUND, "the verdict", files)) == FOUND
    written = json.loads((tmp_path / "q" / "q.json").read_text())
    assert written["rows"][1] == {"steps": 2, "error": None}
    assert (tmp_path / "q" / "audio" / "a.txt").read_text() == "sound"
    caplog.clear()
    assert ask(tmp_path / "q", lambda: pytest.fail("measured again")) == FOUND
    assert "the verdict" in caplog.text


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask(None) == FOUND
    assert ask(tmp_path / "q", dry_run=True) is None
    assert not list(tmp_path.iterdir())


def test_an_interrupted_report_does_not_block_one_with_other_settings(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "q", interrupt, n=8)
    assert ask(tmp_path / "q", n=4) == FOUND
    with pytest.raises(UserError, match="made with other settings or inputs"):
        ask(tmp_path / "q", n=8)


def test_files_of_older_versions_are_read(tmp_path):
    old = {"rows": [{"steps": 1, "error": 2}], "by_name": {}, "gone": "since"}
    (tmp_path / "q.json").write_text(json.dumps(old))
    assert read_results(tmp_path / "q.json", Found) == Found([Row(1, 2.0)], {})


@pytest.mark.parametrize("text", ["{", '{"rows": 3, "by_name": {}}'])
def test_a_damaged_file_is_a_user_error(tmp_path, text):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(UserError, match="cannot read the report") as error:
        read_results(tmp_path / "q.json", Found)
    assert "--overwrite" in error.value.do_this
