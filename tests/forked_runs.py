"""Small runs in processes of their own, forked from this one (which has imported everything), to be killed and started
again; and what they leave behind, without what the clock decides."""

import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors import safe_open
from small_runs import log, small, summary, train

from unigen.launch.preemption import NOTICE

EVERYTHING = (
    "trainer.max_steps=8 trainer.accumulate_grad_batches=2 trainer.log_every_n_steps=1 validation.every=3 "
    "callback.checkpoint.every=2 callback.checkpoint.monitor=val/loss optimizer.warmup=2 optimizer.cooldown=0.5 "
    "conditioning/adapter=lora conditioning.adapter.rank=4 conditioning.adapter.alpha=4 "
    "conditioning.adapter.dropout=0.2 metric=[rmse]"
).split()


def forked(task: Callable[[], object], out: Path) -> int:
    """The id of a child that runs `task` and exits as a program would, with `out` for stdout and stderr."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
        NOTICE.given = False
        NOTICE.listen()
        task()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def code_of(child: int, patience: float = 120.0) -> int:
    """Its exit code, once it has ended; minus the number of the signal that ended it. One that hangs is an error."""
    end = time.monotonic() + patience
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"process {child} hangs")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def started(config: dict[str, Any], before: Callable[[], object] = lambda: None) -> int:
    """The id of a process that trains; `before` prepares its surroundings in it."""
    run_dir = Path(config["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    return forked(lambda: (before(), train(config)), run_dir / "out.txt")


def finished(config: dict[str, Any]) -> float:
    """Run it to its end; returns the seconds it took."""
    began = time.monotonic()
    assert code_of(started(config)) == 0, (Path(config["run_dir"]) / "out.txt").read_text()
    return time.monotonic() - began


def killed(config: dict[str, Any], after: float) -> bool:
    """Start it and kill -9 it and its workers so many seconds later; False if it had ended, well, by then."""
    child = started(config)
    time.sleep(after)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.killpg(child, signal.SIGKILL)
    return code_of(child) == -signal.SIGKILL


@cache
def uninterrupted() -> dict[str, Any]:
    """What a run of EVERYTHING leaves behind. It runs here, so that the forks have everything imported."""
    with tempfile.TemporaryDirectory(prefix="unigen-whole-") as folder:
        train(small(Path(folder), *EVERYTHING))
        return left_behind(Path(folder))


def left_behind(run_dir: Path) -> dict[str, Any]:
    """Everything that a run's configuration decides: its log without times, its states, results and files."""
    found: dict[str, Any] = {}
    for line in log(run_dir):
        kept = {k: v for k, v in line.items() if k != "time" and not k.startswith("speed/")}
        found.setdefault("log", []).append(kept)
    for name in ("last", "best"):
        state = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
        state["callbacks"] = {k: v for k, v in state["callbacks"].items() if k != "Throughput"}
        kept = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")
        found |= {f"{name}/{key}": state[key] for key in kept}
    found["metrics"] = summary(run_dir)["metrics"]
    for path in sorted([*run_dir.glob("export/*"), *run_dir.glob("samples/*"), run_dir / "scores.jsonl"]):
        if path.suffix in (".png", ".jsonl"):
            found[str(path.relative_to(run_dir))] = path.read_bytes()
        elif path.suffix == ".safetensors":  # its bytes are in any order
            with safe_open(path, "pt") as file:
                found[path.name] = {"about": file.metadata(), **{name: file.get_tensor(name) for name in file.keys()}}
    return found


def differing(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """The places in which two nested values differ, bit for bit."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [d for k in ours for d in differing(ours[k], theirs[k], f"{where}/{k}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differing(a, b, f"{where}/{i}")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [where]
    return [] if type(ours) is type(theirs) and ours == theirs else [where]


def kill_and_go_on(config: dict[str, Any], whole: float, kills: int, rng: random.Random) -> int:
    """Kill a run of `whole` seconds at random moments, up to `kills` times, then let it end; returns the kills."""
    done = 0
    for _ in range(kills):
        if not killed(config, rng.uniform(0.0, whole)):
            break
        done += 1
    finished(config)
    return done


def two_ranks(config: dict[str, Any], *before: Callable[[], object]) -> list[int]:
    """The ids of two processes that train together, as torchrun would start them; `before` by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    children = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}

        def surroundings(rank=rank, own=own):
            os.environ.update(shared | own)
            rank_zero_only.rank = rank
            if before:
                before[rank]()

        children.append(started(config, surroundings))
    return children
