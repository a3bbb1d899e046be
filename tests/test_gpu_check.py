"""scripts/gpu_check.sh in miniature, and its table where parts fail."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("gpu_check")


def table(text):
    """Rows of the Markdown table, by column."""
    names, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_miniature_measures_every_line(check, tmp_path):
    out = tmp_path / "new" / "table.md"
    done = subprocess.run(
        ["bash", SCRIPTS / "gpu_check.sh", "--cpu", "--out", out, "--seconds", "900"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = out.read_text()
    assert text in done.stdout and "In miniature" in text and "torch" in text
    rows = table(text)
    names = [name for name, part in check.PARTS.items() if not part.optional]
    expected = [line for name in names for line in check.promised(check.jobs_of(name, "cpu"))]
    assert [row["what"] for row in rows] == [line.name for line in expected]
    for row in rows:
        if row["what"].startswith("tests"):
            assert row["result"].endswith("skipped")
            continue
        assert row["result"] == "ok" and float(row["TFLOP/s"]) > 0, row
        assert float(row["utilisation %"]) > 0
        trains = row["what"].startswith("train-")
        assert bool(row["steps/s"]) == bool(row["data wait %"]) == trains
        assert row["what"] == check.LIMIT or float(row["audio s/s"]) > 0
    limits = [row for row in rows if row["what"] == check.LIMIT]
    assert [float(row["utilisation %"]) for row in limits] == [100, 100]


def test_parts_that_fail_are_lines_with_their_reason(check, tmp_path, monkeypatch):
    log = tmp_path / "log"
    log.write_text("")
    late = check.run_part("tests", "cpu", 0, log)
    # Without what it needs, a part ends before its first line.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SCRIPTS.parent)]))
    (tmp_path / "torch.py").write_text("raise ImportError('none here')")
    broken = check.run_part("rave", "cpu", 200, log)
    assert [line.reason for line in late] == ["no time left after 0 s"]
    assert len(broken) == 6
    assert {line.reason for line in broken} == {"its process ended with 1: ImportError: none here"}
    rows = table(check.report([*late, *broken], "cpu", 1.0))
    assert rows[0]["result"] == "FAILED: no time left after 0 s"
    assert all("none here" in row["result"] and not row["steps/s"] for row in rows[1:])


def test_a_compiled_step_has_the_operations_of_the_plain_one(check):
    lines = [
        check.Line(check.LIMIT, "bf16", figures=check.Figures(flops=1e12)),
        check.Line("a step", "bf16", figures=check.Figures(steps=2.0, flops=1e11)),
        check.Line("a step", "bf16", True, check.Figures(steps=6.0)),
        check.Line("a step", "tf32", True, check.Figures(steps=6.0)),
    ]
    rows = [check.row(line, lines) for line in lines]
    assert [row["utilisation %"] for row in rows] == pytest.approx([100, 10, 30, None])
    assert [row["compile"] for row in rows] == [None, "off", "on", "on"]
