"""Commands that run something on parties started for them."""

import signal
import time
from pathlib import Path

import pytest

from .conftest import Running, data, gone, moiety

pytestmark = pytest.mark.slow
DEMO = ("demo", "--model", "stories", "--prompt", "Once upon a time")


def test_demo_as_data(stories: str) -> None:
    found = data(*DEMO, "--tokens", "6")
    assert found["agree"]
    assert found["tokens"] == found["clear"]["tokens"]
    assert found["text"] == found["clear"]["text"] == ", there was a little g"
    assert found["largest_logit_error"] < 0.1
    assert set(found["seconds"]) == {"start", "tokenise", "load", "compile", "share", "prefill", "tokens", "check"}
    p0, *_ = found["members"]
    assert p0["received_bytes"] == 0
    assert found["costs"]["payload_bytes"] == sum(member["sent_bytes"] for member in found["members"])
    assert found["costs"]["wire_bytes"] > found["costs"]["payload_bytes"]
    assert not any(member["loads_torch"] for member in found["members"])  # until the answer is there; then it checks it in the clear
    assert any("semi-honest" in found[key] for key in ("promise", "protocol"))


def test_chaos() -> None:
    found = data("chaos", "--runs", "10", "--seed", "2", "--jobs", "2")
    assert (found["runs"], found["unexpected"], len(found["outcomes"])) == (10, 0, 10)
    assert sum(sum(row.values()) for row in found["table"].values()) == 10
    assert all(outcome["expected"] and outcome["seconds"] > 0 for outcome in found["outcomes"])


def test_chaos_interrupted() -> None:
    running = Running("chaos", "--runs", "100000", "--jobs", "2")
    deadline = time.monotonic() + 60
    while len(running.children()) < 6:  # both federations
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = running.children()
    assert running.end(signal.SIGTERM, 60) == 128 + signal.SIGTERM
    assert gone(children)


def test_demo_for_people(stories: str) -> None:
    done = moiety(*DEMO, "--tokens", "4", "--reveal", "token")
    assert done.returncode == 0, done.stderr
    assert "All 4 tokens agree" in done.stdout
    assert "4 tokens, nothing else" in done.stdout
    for word in ("party0", "model owner", "prompt of 5 tokens", "each of 3 further tokens", "semi-honest", "leakage"):
        assert word in done.stdout
    assert "model owner compiles the plans" in done.stderr


def test_generate_prints_the_text_alone(stories: str) -> None:
    done = moiety("generate", "Once upon a time", "--model", stories, "--tokens", "3")
    assert (done.returncode, done.stdout) == (0, ", there was\n")
    assert "5 prompt tokens, 3 new" in done.stderr


def test_embed() -> None:
    found = data("embed", "A girl is styling her hair.", "A girl is brushing her hair.", "No.")
    assert [len(vector) for vector in found["embeddings"]] == [384] * 3
    assert found["cosines"][0][1] > 0.7 > 0.3 > found["cosines"][0][2]
    assert sum(value**2 for value in found["embeddings"][0]) == pytest.approx(1, abs=1e-4)


PHOTOGRAPHS = {"chelsea.png": "tiger cat", "coffee.png": "espresso", "rocket.jpg": "missile"}
"""The first one has two likely classes, whose logits differ by 0.08."""


def test_classify(photographs: Path) -> None:
    found = data("classify", *(str(photographs / name) for name in PHOTOGRAPHS), timeout=115)
    assert [image["top"][0]["label"] for image in found["images"]] == list(PHOTOGRAPHS.values())
    for image in found["images"]:
        assert image["agree"]
        assert [place["class"] for place in image["top"][:2]] == [place["class"] for place in image["clear"][:2]]
        assert image["logit_error"] < 0.02
    assert found["costs"]["runs"] == 3
    assert found["members"][0]["received_bytes"] == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_outlives_an_interruption(stories: str, number: int, status: int) -> None:
    running = Running(*DEMO)
    try:
        running.wait_for("model owner loads the model")
        children = running.children()
        assert len(children) == 4
    finally:
        ended = running.end(number)
    assert ended == status
    assert gone(children)
    assert not any("Traceback" in line for line in running.lines)
