"""``moiety doctor``: what this machine, this installation and, with a federation file, its connections offer; and what to do."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

import moiety
from moiety import ring
from moiety.cli.connections import Check, bad, examine, good, poor
from moiety.cli.output import paper, print_json
from moiety.cli.status import as_data
from moiety.models import files

NEEDED: Final = ("moiety", "numpy", "cryptography", "msgspec", "typer", "rich")
OWNERS: Final = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
SLOW: Final = ("numpy", "portable")
ROOMY: Final = 12 << 30
CRAMPED: Final = 2 << 30
ABSENT: Final = {"test data": "not here; only some tests and the model `stories` want it (MOIETY_DATA names its folder)"}
STYLES: Final = {"ok": "green", "poor": "yellow", "bad": "red"}


def doctor(federation: str | None, party: str | None, identity: str | None, *, as_json: bool) -> bool:
    """Look, and print what was found. Returns whether nothing is bad. Raises ConfigError for a federation file that cannot be read."""
    found = look()
    checks = machine(found)
    reached: list[Any] = []
    if federation is not None:
        further, reached = examine(federation, party, identity)
        checks += further
    ok = all(check.verdict != "bad" for check in checks)
    if as_json:
        advice = [check.do for check in checks if check.do]
        parties = [as_data(reach) for reach in reached]
        print_json(found | {"ok": ok, "checks": msgspec.to_builtins(checks), "parties": parties, "advice": advice})
        return ok
    console = paper()
    _print_machine(console, found)
    _print_checks(console, checks)
    if ok and federation is None:
        console.print("all is well; try `moiety demo`", style="green")
    return ok


def _print_machine(console: Console, found: dict[str, Any]) -> None:
    here = found["machine"]
    rows = [
        ("machine", f"{here['processor']}, {here['cores']} cores, {here['memory_bytes'] / 1e9:.1f} GB memory"),
        ("system", f"{here['system']}, Python {here['python']}"),
        ("kernels", ", ".join(f"{key} {value}" for key, value in found["kernels"].items() if key in ("isa", "prg"))),
    ]
    for title, names in (("packages", NEEDED), ("for owners", OWNERS)):
        rows.append((title, ", ".join(f"{name} {found['packages'][name] or '-'}" for name in names)))
    rows += [(name, where or ABSENT.get(name, "not installed")) for name, where in found["models"].items()]
    rows.append(("cache", f"{found['cache']['folder']}, {found['cache']['free_bytes'] / 1e9:.0f} GB free"))
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        _line(console, Text(f"{title:<{width}}", "bold"), Text(text))


def _print_checks(console: Console, checks: list[Check]) -> None:
    verdicts, whats = (max(map(len, column)) for column in zip(*((check.verdict, check.what) for check in checks), strict=True))
    for check in checks:
        verdict = Text(f"{check.verdict:<{verdicts}}", STYLES[check.verdict])
        _line(console, verdict, Text(f"{check.what:<{whats}}", "bold"), Text(check.found))
        if check.do:
            _line(console, Text(" " * verdicts), Text(" " * whats), Text(f"do: {check.do}", "yellow"))


def _line(console: Console, *cells: Text) -> None:
    """Not wrapped: a path stays in one piece, to be copied."""
    console.print(Text("  ").join(cells), soft_wrap=True)


def look() -> dict[str, Any]:
    """The machine and the installation as plain data."""
    folder = files.cache_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
        },
        "kernels": ring.features(),
        "packages": {name: version(name) for name in (*NEEDED, *OWNERS)},
        "models": {"SmolLM2": place(files.SMOLLM2), "MiniLM": place(files.MINILM), "test data": data()},
        "cache": {"folder": str(folder), "free_bytes": shutil.disk_usage(there).free},
    }


def machine(found: dict[str, Any]) -> list[Check]:
    """Verdicts on what was found here."""
    isa, prg, memory = found["kernels"]["isa"], found["kernels"]["prg"], found["machine"]["memory_bytes"]
    checks = [good("randomness", f"{prg}, by the cryptography library")]
    slow = "install a C++17 compiler and run `make setup`, or use a processor with AVX2"
    checks.append(poor("kernels", f"{isa}: right, but many times slower", slow) if isa in SLOW else good("kernels", isa))
    if missing := [name for name in NEEDED if found["packages"][name] is None]:
        checks.append(bad("packages", f"{', '.join(missing)} missing", "install moiety again: every member needs them"))
    if missing := [name for name in OWNERS if found["packages"][name] is None]:
        checks.append(poor("for owners", f"{', '.join(missing)} missing", "nothing at a compute party; a model owner runs `make setup`"))
    if missing := [name for name in ("SmolLM2", "MiniLM") if found["models"][name] is None]:
        checks.append(poor("models", f"{' and '.join(missing)} missing", "run `make setup`, if you want `moiety demo`"))
    if memory < CRAMPED:
        checks.append(bad("memory", f"{memory / 1e9:.1f} GB", "even a small party needs 2 GB; see what yours needs with `moiety plan`"))
    elif memory < ROOMY:
        few = "three parties with SmolLM2 on this one machine will not fit (about 9 GB); one party will"
        checks.append(poor("memory", f"{memory / 1e9:.1f} GB", few))
    else:
        checks.append(good("memory", f"{memory / 1e9:.1f} GB"))
    return checks


def version(package: str) -> str | None:
    """The installed version, or None."""
    if package == "moiety":
        return str(moiety.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def place(file: files.ModelFile) -> str | None:
    """Where a model lies, or None."""
    try:
        return str(file.find())
    except FileNotFoundError:
        return None


def data() -> str | None:
    """The folder of test data, or None."""
    try:
        return str(files.data_folder())
    except FileNotFoundError:
        return None


def processor() -> str:
    """Its name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
