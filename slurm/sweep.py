"""A sweep as one SLURM array: `python slurm/sweep.py +table=realgeneral_masks seed=0,1,2 cluster=slurm`.

<overrides> cluster=NAME      what run.py takes, swept as by run.py -m; NAME: a file of experiments/conf/cluster, or a
                              path of one; cluster.KEY=VALUE replaces a key of it; --dry-run prints and submits nothing
status [SWEEP] [--watch]      a table of its tasks (default: the newest sweep below runs/sweeps), once or live
retry SWEEP [sbatch options]  submits again what is neither finished nor queued, e.g. retry SWEEP --time=48:00:00
look SWEEP                    takes the next step of a sweep that tunes or adds seeds (until=resolved seeds=4..16); a
                              job of its own does so by itself when an array has ended
cancel SWEEP                  ends what waits or runs
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from unigen.config.commands import as_here, command  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    from slurm import commands
    from unigen.config.values import ConfigError

    flags = [word for word in words[1:] if word.startswith("-")]
    folders = [Path(word) for word in words[1:] if not word.startswith("-")]
    try:
        if words[0] in ("status", "retry", "look", "cancel"):
            if len(folders) > 1 or (not folders and words[0] != "status"):
                raise ConfigError(f"give one sweep's folder: {command('sweep')} {words[0]} runs/sweeps/<sweep>")
            legal = {"status": ["--watch"], "look": [], "cancel": [], "retry": flags}[words[0]]
            if set(flags) - set(legal):
                raise ConfigError(f"'{flags[0]}' is no option of {words[0]}; --help lists them")
        lines: list[str] = []
        if words[0] == "status":
            commands.status(folders[0] if folders else None, watch="--watch" in flags)
        elif words[0] == "retry":
            lines = commands.retry(folders[0], flags)
        elif words[0] == "look":
            lines = commands.look(ROOT / "experiments" / "conf", folders[0])
        elif words[0] == "cancel":
            lines = commands.cancel(folders[0])
        else:
            dry = "--dry-run" in words
            lines = commands.submit(ROOT / "experiments" / "conf", [w for w in words if w != "--dry-run"], dry)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(lines), end="\n" if lines else "")
    return 0


if __name__ == "__main__":
    program(main)
