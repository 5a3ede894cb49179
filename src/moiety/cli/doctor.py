"""``moiety doctor``: what this machine and this installation offer, and what is missing."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from moiety import ring
from moiety.cli.output import own_version, paper, print_json
from moiety.models import files

NEEDED: Final = ("moiety", "numpy", "cryptography", "msgspec", "typer", "rich")
OWNERS: Final = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
SLOW: Final = ("numpy", "portable")
ROOMY: Final = 12 << 30


def doctor(*, as_json: bool) -> None:
    """Look, and print what was found."""
    found = look()
    if as_json:
        print_json(found)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    machine = found["machine"]
    table.add_row("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.1f} GB memory")
    table.add_row("system", f"{machine['system']}, Python {machine['python']}")
    table.add_row("kernels", ", ".join(f"{key} {value}" for key, value in found["kernels"].items() if key in ("isa", "prg")))
    for title, names in (("packages", NEEDED), ("for owners", OWNERS)):
        table.add_row(title, ", ".join(f"{name} {found['packages'][name] or '-'}" for name in names))
    for name, where in found["models"].items():
        table.add_row(name, where or "not installed")
    table.add_row("cache", f"{found['cache']['folder']}, {found['cache']['free_bytes'] / 1e9:.0f} GB free")
    console = paper()
    console.print(table)
    for advice in found["advice"]:
        console.print(f"! {advice}", style="yellow", markup=False)
    if not found["advice"]:
        console.print("all is well; try `moiety demo`", style="green")


def look() -> dict[str, Any]:
    """Everything as plain data."""
    packages = {name: version(name) for name in (*NEEDED, *OWNERS)}
    folder = files.cache_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    found: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
        },
        "kernels": ring.features(),
        "packages": packages,
        "models": {"SmolLM2": place(files.SMOLLM2), "MiniLM": place(files.MINILM), "data folder": data()},
        "cache": {"folder": str(folder), "free_bytes": shutil.disk_usage(there).free},
    }
    return found | {"advice": advise(found)}


def advise(found: dict[str, Any]) -> list[str]:
    """What to do about what is missing."""
    out = []
    if found["kernels"]["isa"] in SLOW:
        out.append("slow kernels: install a C++17 compiler and run `make setup`, or use a processor with AVX2")
    if missing := [name for name in OWNERS if found["packages"][name] is None]:
        out.append(f"{', '.join(missing)} missing: compute parties need none of it, model owners do; run `make setup`")
    if missing := [name for name in ("SmolLM2", "MiniLM") if found["models"][name] is None]:
        out.append(f"{' and '.join(missing)} missing: run `make setup`")
    if found["machine"]["memory_bytes"] < ROOMY:
        out.append("less than 12 GB of memory: three parties with SmolLM2 on one machine will not fit (about 9 GB)")
    return out


def version(package: str) -> str | None:
    """The installed version, or None."""
    if package == "moiety":
        return own_version()
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
