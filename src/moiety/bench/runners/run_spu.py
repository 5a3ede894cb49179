"""Evaluate a job with SecretFlow SPU: three parties (ABY3, FM64), each a process, brpc over loopback. Runs in SPU's own environment.

    python run_spu.py JOB OUT [--functions puma|jax]     compile, share, run; prints one line of JSON
    python run_spu.py JOB OUT --party RANK               one of the parties, started by the former

All inputs and weights are secret; every setting that is not named here is SPU's default (18 fraction bits among them). Bytes are
what SPU says that its parties sent, rounds the messages that party 0 received, which is SPU's own count and an upper bound.
"""

import argparse
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
import spu
from job import Job, answer, peak_bytes
from networks import evaluate
from spu import api, libspu
from spu.utils import frontend
from together import run_all

PARTIES = 3
LARGEST = 1 << 23
"""Weights of a matrix that is shared in one piece; SPU takes some 140 bytes of memory for each of them while it does so."""
WAIT_MS = 600_000
SENT = re.compile(r"total send bytes (\d+), recv bytes \d+, send actions \d+, recv actions (\d+)")


class Jax:
    """Operations as SPU compiles them from JAX."""

    def gelu(self, x: Any, form: str) -> Any:
        return jax.nn.gelu(x, approximate=True)

    def silu(self, x: Any) -> Any:
        return jax.nn.silu(x)

    def relu(self, x: Any) -> Any:
        return jnp.maximum(x, 0)

    def softmax(self, x: Any) -> Any:
        return jax.nn.softmax(x, axis=-1)

    def argmax(self, x: Any) -> Any:
        return jnp.argmax(x, axis=-1)

    def mean(self, x: Any) -> Any:
        return jnp.mean(x, -1, keepdims=True)

    def rsqrt(self, x: Any) -> Any:
        return jax.lax.rsqrt(x)

    def swap(self, x: Any, one: int, other: int) -> Any:
        return jnp.swapaxes(x, one, other)

    def join(self, parts: list[Any], axis: int) -> Any:
        return jnp.concatenate(parts, axis)

    def public(self, array: Any) -> Any:
        return jnp.asarray(array)


class Puma(Jax):
    """With the approximations that PUMA (arXiv 2307.12533, section 3) brought to SPU."""

    def gelu(self, x: Any, form: str) -> Any:
        """Two polynomials between -4, -1.95 and 3; 0 and x outside."""
        square = jnp.square(x)
        cube, fourth = square * x, jnp.square(square)
        sixth = jnp.square(cube)
        left = -0.5054031199708174 - 0.42226581151983866 * x - 0.11807612951181953 * square - 0.011034134030615728 * cube
        right = 0.008526321541038084 + 0.5 * x + 0.3603292692789629 * square - 0.037688200365904236 * fourth + 0.0018067462606141187 * sixth
        below, low, high = x < -4.0, x < -1.95, x > 3.0
        return high * x + (below ^ low) * left + (low ^ high ^ True) * right

    def softmax(self, x: Any) -> Any:
        """An exponential that is 0 below -14, and one reciprocal a row."""
        x = x - jnp.max(x, -1, keepdims=True)
        powers = jnp.exp(x) * (x > -14.0)
        return powers * jnp.reciprocal(jnp.sum(powers, -1, keepdims=True))


def write(file: BinaryIO, *blobs: bytes) -> None:
    for blob in blobs:
        file.write(len(blob).to_bytes(8, "little"))
        file.write(blob)


def read(file: BinaryIO) -> bytes:
    return file.read(int.from_bytes(file.read(8), "little"))


def write_share(file: BinaryIO, share: Any) -> None:
    chunks = list(share.share_chunks)
    write(file, share.meta, len(chunks).to_bytes(8, "little"), *chunks)


def read_share(file: BinaryIO) -> Any:
    share = libspu.Share()
    share.meta = read(file)
    share.share_chunks = [read(file) for _ in range(int.from_bytes(read(file), "little"))]
    return share


def config() -> Any:
    """Of every party. Without the profile SPU tells no bytes."""
    chosen = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64)
    chosen.enable_pphlo_profile = chosen.enable_hal_profile = True
    return chosen


def sliced(job: Job) -> dict[str, Any]:
    """The weights, large matrices of networks in slices of their columns."""
    weights = job.weights()
    for name, array in weights.items():
        if job.family != "matmul" and array.size > LARGEST and array.ndim == 2:
            weights[name] = np.array_split(array, -(-array.size // LARGEST), axis=1)
    return weights


def party(out: Path, rank: int) -> None:
    """Load the shares, run, leave the share of the answer and what it took."""
    options = libspu.logging.LogOptions()
    options.enable_console_logger, options.system_log_path = False, str(out / f"log.{rank}")
    libspu.logging.setup_logging(options)
    told = json.loads((out / "parties.json").read_text(encoding="utf-8"))
    description = libspu.link.Desc()
    description.recv_timeout_ms = description.http_timeout_ms = WAIT_MS
    description.http_max_payload_size = 32 << 20
    for number, port in enumerate(told["ports"]):
        description.add_party(f"party{number}", f"127.0.0.1:{port}")
    program = libspu.Executable()
    program.ParseFromString((out / "program").read_bytes())
    link = libspu.link.create_brpc(description, rank)
    runtime = api.Runtime(link, config())
    with (out / f"shares.{rank}").open("rb") as file:
        for name in told["names"]:
            runtime.set_var(name, read_share(file))
    walls, cpu_s = [], 0.0
    for _ in range(told["runs"]):
        link.all_gather("ready")
        began, before = time.perf_counter(), time.process_time()
        runtime.run(program)
        walls.append(time.perf_counter() - began)
        cpu_s = time.process_time() - before
    with (out / f"answer.{rank}").open("wb") as file:
        write_share(file, runtime.get_var("out0"))
    link.all_gather("done")
    (out / f"party.{rank}.json").write_text(json.dumps({"walls": walls, "cpu_s": cpu_s, "peak_bytes": peak_bytes()}), encoding="utf-8")
    link.stop_link()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def share(io: Any, arrays: list[Any], out: Path) -> float:
    """Write the shares of every array for every party; returns the seconds of making them."""
    seconds = 0.0
    files = [(out / f"shares.{rank}").open("wb") for rank in range(PARTIES)]
    for array in arrays:
        began = time.perf_counter()
        shares = io.make_shares(np.array(array), libspu.Visibility.VIS_SECRET)
        seconds += time.perf_counter() - began
        for file, one in zip(files, shares, strict=True):
            write_share(file, one)
    for file in files:
        file.close()
    return seconds


def coordinate(job_folder: str, out: Path, functions: str) -> None:
    job, ops = Job(job_folder), {"jax": Jax, "puma": Puma}[functions]()
    arguments = (sliced(job), job.inputs())
    arrays, _ = jax.tree_util.tree_flatten((arguments, {}))
    names = [f"in{i}" for i in range(len(arrays))]

    def network(weights: Any, inputs: Any) -> Any:
        return evaluate(ops, job.family, job.settings, weights, inputs)

    began = time.perf_counter()
    secret = [libspu.Visibility.VIS_SECRET] * len(arrays)
    program, _ = frontend.compile(
        frontend.Kind.JAX, network, arguments, {}, names, secret, lambda outputs: [f"out{i}" for i in range(len(outputs))]
    )
    compile_s = time.perf_counter() - began
    io = api.Io(PARTIES, config())
    share_s = share(io, arrays, out)
    (out / "program").write_bytes(program.SerializeToString())
    (out / "parties.json").write_text(json.dumps({"ports": free_ports(PARTIES), "names": names, "runs": job.runs}), encoding="utf-8")
    del arguments, arrays
    run_all([[sys.executable, __file__, job_folder, str(out), "--party", str(rank)] for rank in range(PARTIES)], out)
    parties = [json.loads((out / f"party.{rank}.json").read_text(encoding="utf-8")) for rank in range(PARTIES)]
    counted = [SENT.findall((out / f"log.{rank}").read_text(encoding="utf-8", errors="replace"))[-1] for rank in range(PARTIES)]
    shares = []
    for rank in range(PARTIES):
        with (out / f"answer.{rank}").open("rb") as file:
            shares.append(read_share(file))
    answer(
        str(out),
        io.reconstruct(shares),
        walls=[max(times) for times in zip(*(one["walls"] for one in parties), strict=True)],
        cpu_s=[one["cpu_s"] for one in parties],
        peak_bytes=[one["peak_bytes"] for one in parties],
        sent_bytes=sum(int(sent) for sent, _ in counted),
        among_bytes=sum(int(sent) for sent, _ in counted),
        rounds=int(counted[0][1]),
        compile_s=compile_s,
        share_s=share_s,
        versions={"spu": spu.__version__, "jax": jax.__version__, "numpy": np.__version__},
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("out", type=Path)
    parser.add_argument("--functions", choices=["puma", "jax"], default="puma")
    parser.add_argument("--party", type=int)
    given = parser.parse_args()
    if given.party is None:
        coordinate(given.job, given.out, given.functions)
    else:
        party(given.out, given.party)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # brpc's threads may not end by themselves


if __name__ == "__main__":
    main()
