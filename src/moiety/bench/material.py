"""What a workload is made of: the module, its inputs, and the job on disk with what float64 makes of them.

python -m moiety.bench.material WORKLOAD FOLDER RUNS
"""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from moiety.bench.jobs import Job
from moiety.bench.workloads import DECODE, MODULE, PROMPT, WORKLOADS, Workload
from moiety.models.quiet import quiet

ASKED: Final = 0
EXAMPLE: Final = 1
"""Seeds of the inputs that are asked about, and of the public example like them that a model is compiled from."""
WEIGHTS: Final = 2


def module(workload: Workload) -> Any:
    """The module of a workload, always with the same weights."""
    with quiet():
        made = workload.make().eval()
    made.randomise(torch.Generator().manual_seed(WEIGHTS))
    return made


def inputs(workload: Workload, seed: int) -> tuple[torch.Tensor, ...]:
    """Normal values of the workload's deviation."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) * workload.deviation for shape in workload.shapes)


def tokens(workload: Workload, tokenizer: Any) -> torch.Tensor:
    """A text of as many tokens as the workload takes."""
    text = "Three parties compute together what none of them may know alone: the owner of a model, the owner of the data, and " * 2
    return torch.tensor([tokenizer(text)["input_ids"][: workload.shapes[0][1]]])


def write(workload: Workload, folder: Path) -> None:
    """The job, and ``reference.npy``: its output in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        if workload.kind == MODULE:
            made, given = module(workload), inputs(workload, ASKED)
            job = Job(workload.name, made.family, dict(made.settings), workload.runs, workload.counted)
            arrays = {f"w.{name}": array for name, array in made.arrays().items()}
            arrays |= {f"x.{i}": made.given(x) for i, x in enumerate(given)}
            stored: dict[str, Any] = {name: np.ascontiguousarray(array.numpy()) for name, array in arrays.items()}
            np.savez(folder / "arrays.npz", **stored)
            reference = made.double()(*(x.double() for x in given))
        else:
            job = Job(workload.name, "", {}, workload.runs, workload.counted)
            reference = _logits(workload)
    np.save(folder / "reference.npy", reference.numpy())
    (folder / "job.json").write_bytes(msgspec.json.encode(job))


def _logits(workload: Workload) -> torch.Tensor:
    """After the prompt, or after every token that follows it."""
    tokenizer, model = workload.make()
    logits: torch.Tensor = model.double()(tokens(workload, tokenizer), use_cache=False).logits[0]
    return logits[PROMPT:] if workload.kind == DECODE else logits[-1:]


if __name__ == "__main__":
    write(WORKLOADS[sys.argv[1]], Path(sys.argv[2]))
