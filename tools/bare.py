"""What an installation without PyTorch has to do, run by its own Python: ``python tools/bare.py [KERNELS]``.

It loads all that a compute party runs, compares every kernel of this build and processor with plain numpy, and calls two commands.
KERNELS is the implementation that must be the best one here; without it a build without kernels passes too. One line at the end.
"""

import contextlib
import importlib
import io
import json
import platform
import sys

import numpy as np

from moiety import ring
from moiety.cli import main as moiety

ABSENT = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "accelerate")
PARTY = ("moiety", "moiety.ring", "moiety.net", "moiety.mpc.ops", "moiety.engine.party", "moiety.engine.party_main", "moiety.engine.launch")


def said(*arguments: str) -> str:
    """What the command prints; an exit status other than 0 is this check's."""
    sys.argv, out = ["moiety", *arguments], io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            moiety()
        except SystemExit as end:
            if end.code:
                raise
    return out.getvalue()


def kernels() -> None:
    """Products, look-ups, bits and truncation of every implementation against numpy's integers."""
    source = np.random.default_rng(64)
    a, b, w = (source.integers(0, 2**64, shape, dtype=np.uint64) for shape in ((5, 67), (67, 130), (3, 1000)))
    selectors, index = source.integers(0, 256, (1000, 32), dtype=np.uint8), w[0] & np.uint64(255)
    for isa in ring.isas():
        with ring.use(isa):
            assert np.array_equal(ring.matmul(a, b), a @ b), isa
            assert np.array_equal(ring.multiply(a, ring.pack(b)), a @ b), isa
            assert np.array_equal(ring.unplanes(ring.planes(w[0], 64), 1000), w[0]), isa
            assert np.array_equal(ring.shift_right(w, 13), w >> np.uint64(13)), isa
            assert np.array_equal(ring.picked(ring.flip(selectors, index), index), ring.picked(selectors, index) ^ np.uint64(1)), isa
            made = ring.table_sums(selectors, index, w[:, :256]), ring.wrap_truncate(w[0], w[1], w[2], 16, True)
        with ring.use("numpy"):
            truth = ring.table_sums(selectors, index, w[:, :256]), ring.wrap_truncate(w[0], w[1], w[2], 16, True)
        assert all(map(np.array_equal, made, truth)), isa


def main() -> None:
    for name in ABSENT:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            sys.exit(f"bare: this is no bare installation: {name} can be imported")
    for module in PARTY:
        importlib.import_module(module)
    kernels()
    best = ring.isas()[0]
    assert best in sys.argv[1:] or not sys.argv[1:], f"the best kernels here are {best}, expected {sys.argv[1:]}"
    assert "party" in said("--help")
    assert json.loads(said("doctor", "--json"))["kernels"]["isa"] == best
    print(f"bare: {platform.machine()}, Python {platform.python_version()}: kernels {', '.join(ring.isas())} agree; party modules load")


if __name__ == "__main__":
    main()
