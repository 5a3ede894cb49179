"""The table of file and function sizes. Exit status 1 if a hard limit is broken; a missed target is only shown.

Lines are all lines, comments and docstrings included. Functions are Python's, nested ones counted on their own and in the outer one.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "native", "tests", "bench", "tools", "examples")
SUFFIXES = (".py", ".cpp", ".h", ".inl")
FILE_LIMIT, FUNCTION_LIMIT = 600, 80
TARGETS = {"median file": 150, "p90 file": 350, "p95 function": 30}


@dataclass(frozen=True, slots=True)
class Piece:
    """A file or a function, and how many lines it has."""

    name: str
    lines: int


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file())


def functions(path: Path) -> Iterator[Piece]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Piece(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)


def quantile(pieces: list[Piece], fraction: float) -> int:
    """The smallest size that at least this fraction of the pieces does not exceed."""
    sizes = sorted(piece.lines for piece in pieces)
    return sizes[min(len(sizes) - 1, int(fraction * len(sizes)))] if sizes else 0


def row(name: str, of_files: list[Piece], of_functions: list[Piece]) -> str:
    cells = (
        len(of_files),
        sum(piece.lines for piece in of_files),
        quantile(of_files, 0.5),
        quantile(of_files, 0.9),
        max((piece.lines for piece in of_files), default=0),
        len(of_functions),
        quantile(of_functions, 0.5),
        quantile(of_functions, 0.95),
        max((piece.lines for piece in of_functions), default=0),
    )
    return f"{name:<22}" + "".join(f"{cell:>10,}" for cell in cells)


def measure(folder: Path) -> tuple[list[Piece], list[Piece]]:
    paths = list(files(folder))
    of_files = [Piece(str(path.relative_to(ROOT)), len(path.read_text(encoding="utf-8").splitlines())) for path in paths]
    return of_files, [piece for path in paths if path.suffix == ".py" for piece in functions(path)]


def main() -> int:
    header = ("files", "lines", "median", "p90", "largest", "functions", "median", "p95", "largest")
    print(f"{'':<22}" + "".join(f"{title:>10}" for title in header))
    for room in sorted(path for path in (ROOT / "src" / "moiety").iterdir() if path.is_dir()):
        if (measured := measure(room))[0]:
            print(row(f"  moiety.{room.name}", *measured))
    everything: tuple[list[Piece], list[Piece]] = ([], [])
    for name in FOLDERS:
        measured_files, measured_functions = measure(ROOT / name)
        if measured_files:
            print(row(name, measured_files, measured_functions))
            everything[0].extend(measured_files)
            everything[1].extend(measured_functions)
    print(row("all", *everything))
    return verdict(*everything)


def verdict(of_files: list[Piece], of_functions: list[Piece]) -> int:
    reached = {
        "median file": quantile(of_files, 0.5),
        "p90 file": quantile(of_files, 0.9),
        "p95 function": quantile(of_functions, 0.95),
    }
    for name, target in TARGETS.items():
        print(f"{name}: {reached[name]} lines, target under {target}: {'reached' if reached[name] < target else 'MISSED'}")
    for kind, pieces in (("file", of_files), ("function", of_functions)):
        largest = max(pieces, key=lambda piece: piece.lines, default=Piece("none", 0))
        print(f"largest {kind}: {largest.name} ({largest.lines} lines)")
    broken = [p for p in of_files if p.lines > FILE_LIMIT] + [p for p in of_functions if p.lines > FUNCTION_LIMIT]
    for piece in broken:
        print(f"too long: {piece.name} has {piece.lines} lines; files may have {FILE_LIMIT}, functions {FUNCTION_LIMIT}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
