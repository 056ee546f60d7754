"""One rank of a small run under a strategy: `worker.py FOLDER STEPS[,STEPS...] override...`.

For each number of steps the run in FOLDER goes on to it, as a resumed run would; the last one finishes.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "strategies")]


def main(folder: str, stops: str, *words: str) -> None:
    import torch

    torch.set_num_threads(1)
    from small_runs import LORA, line
    from tiny import composed

    from unigen.training import experiment as training

    run_dir, numbers = Path(folder), stops.split(",")
    training.quiet()
    for number in numbers:
        if number != numbers[0]:
            torch.distributed.barrier()
            (run_dir / "summary.json").unlink(missing_ok=True)
            torch.distributed.barrier()
        own = (f"trainer.max_steps={number}", f"run_dir={folder}", *LORA, *words)
        config = composed(*line("logger=[jsonl]", *own))
        training.run(config, run_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
