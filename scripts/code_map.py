"""Write the map of the code in CONTRIBUTING.md: a phrase a file, from the docstrings.

python scripts/code_map.py            rewrite it
python scripts/code_map.py --check    only check whether it is up to date (exit code 1: it is not)
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
MAP = re.compile(r"(?<=```text\n)latentdiff/\n.*?(?=```)", re.S)


def main() -> int:
    """Rewrite or check the map."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    block = "latentdiff/\n" + "".join(f"{line}\n" for line in lines(ROOT / "latentdiff", 1))
    new = MAP.sub(lambda _: block, text)
    if check:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def lines(folder: Path, depth: int) -> Iterator[str]:
    """The files of a folder, then its folders, each with the summary of its docstring."""
    files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    for path in files:
        yield f"{'  ' * depth}{path.name:24}{phrase(path)}"
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield f"{'  ' * depth}{inner.name + '/':24}{phrase(inner / '__init__.py')}"
        yield from lines(inner, depth + 1)


def phrase(path: Path) -> str:
    """The first sentence of a file's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`][.?]) ", first)[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
