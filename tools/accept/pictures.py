"""Photographs in private and in the clear: whether the model sees the same in them."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counted import deploy

from moiety.cli.source import resolve
from moiety.compile.builder import Options
from moiety.engine.federation import Federation
from moiety.models import images
from moiety.private.classify import classify, top

CARRIED = (("skimage", "data"), ("sklearn", "datasets/images"))
"""Packages with photographs, and where in them they lie."""


def photographs() -> list[Path]:
    """Image files of the packages that are installed."""
    found = []
    for package, folder in CARRIED:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            lies = Path(spec.origin).parent / folder
            found += sorted(file for file in lies.iterdir() if file.suffix in (".jpg", ".png"))
    return found


def efficientnet(owner: Federation, client: Federation) -> dict[str, Any]:
    source, began = resolve("efficientnet"), time.perf_counter()
    [(_, make)] = source.drafts(options=Options(margin=source.margin))
    compiled = make().compiled()
    compiling = time.perf_counter() - began
    counted, sharing = deploy(owner, client, source.name, [compiled.plan], compiled.weights)
    rows = []
    for file in photographs():
        image = images.read(file)
        answer = classify(counted, image)  # type: ignore[arg-type]
        with torch.no_grad():
            clear = source.model(torch.from_numpy(image))[0].numpy()
        ours, theirs = answer.top(5), top(clear, 5)
        rows.append(
            {
                "image": file.name,
                "class": ours[0][0],
                "probability": round(ours[0][1], 4),
                "in_the_clear": round(theirs[0][1], 4),
                "same_class": ours[0][0] == theirs[0][0],
                "same_five": [place for place, _ in ours] == [place for place, _ in theirs],
                "logit_error": float(np.abs(answer.logits - clear).max()),
                "seconds": round(answer.report.seconds, 3),
            }
        )
    return {
        "points": {"same_class_in_every_image": all(row["same_class"] for row in rows), "counters_equal_plan": not counted.differences},
        "images": rows,
        "same_class": f"{sum(row['same_class'] for row in rows)} of {len(rows)}",
        "largest_logit_error": max(row["logit_error"] for row in rows),
        "compile_seconds": round(compiling, 1),
        "share_seconds": round(sharing, 1),
        "traffic": counted.summary(),
    }
