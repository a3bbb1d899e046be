"""CONTRIBUTING.md: its recipes are followed in a copy of the package, its map names every file."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OLD_RUN = ROOT / "tests" / "data" / "version-0.1" / "run"


def recipes():
    """Title -> Python blocks, each with the place that its first line names."""
    found = {}
    for part in re.split(r"^### ", TEXT, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        blocks = re.findall(r"```python\n# ([^\n]+)\n(.*?)```", body, re.S)
        if blocks:
            found[title] = blocks
    return found


RECIPES = recipes()


def follow(place, code, root):
    """Apply one block of a recipe to the package in `root`; returns the file."""
    if place.startswith("new file: "):
        path = root / place.removeprefix("new file: ")
        assert not path.exists(), path
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
        return path
    name, where, anchor = re.fullmatch(r"in (\S+), (in|before) (\w+)", place).groups()
    path = root / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (line,) = [k for k, text in enumerate(lines) if re.match(rf"{anchor}\b.*=", text)]
    if where == "in":
        # Past the opening bracket; `NETWORKS = Networks(` opens on the next line.
        line += 2 if lines[line].rstrip().endswith("Networks(") else 1
    else:
        code += "\n\n"
    path.write_text("".join([*lines[:line], code, *lines[line:]]), encoding="utf-8")
    return path


def test_there_is_a_recipe_for_each_thing_that_grows():
    assert [title.split()[-1] for title in RECIPES] == [
        "sampler",
        "schedule",
        "network",
        "condition",
        "question",
    ]


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_stands(title, tmp_path):
    shutil.copytree(
        ROOT / "latentdiff", tmp_path / "latentdiff", ignore=shutil.ignore_patterns("__pycache__")
    )
    *steps, (last, check) = RECIPES[title]
    assert last == "check"
    for place, code in steps:
        path = follow(place, code, tmp_path)
        ast.parse(path.read_text(encoding="utf-8"))
    (tmp_path / "check.py").write_text(f"OLD_RUN = {str(OLD_RUN)!r}\n{check}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "check.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_touches_one_file_or_package_and_one_registry_line(title):
    *steps, _ = RECIPES[title]
    lines = [code for place, code in steps if ", in " in place]
    assert len(lines) == 1 and len(lines[0].splitlines()) == 1
    others = {place.split(",")[0].split()[-1] for place, _ in steps if ", in " not in place}
    assert len({Path(name) if name.count("/") == 2 else Path(name).parent for name in others}) == 1


def test_the_map_says_what_the_docstrings_say():
    script = [sys.executable, ROOT / "scripts" / "code_map.py", "--check"]
    done = subprocess.run(script, cwd=ROOT)
    assert done.returncode == 0, "run scripts/code_map.py"


def test_the_map_names_every_file_once():
    block = re.search(r"## Map of the code\n.*?```text\n(.*?)```", TEXT, re.S).group(1)
    named, folder = [], Path()
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        name = line.split()[0]
        depth = indent // 2
        folder = Path(*folder.parts[:depth])
        if name.endswith("/"):
            folder = folder / name
        else:
            assert len(line.split(maxsplit=1)) == 2, f"no phrase: {line}"
            named.append(folder / name)
    files = [path.relative_to(ROOT) for path in (ROOT / "latentdiff").rglob("*.py")]
    assert sorted(named) == sorted(p for p in files if p.name != "__init__.py")
