"""A thousand mutated configuration keys: one sentence or a sound run, never a traceback. Minutes: `-m slow`."""

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tiny import CONF, composed

from unigen.config import ranges
from unigen.config.preflight import preflight
from unigen.config.quoting import readable
from unigen.config.values import ConfigError, plain
from unigen.launch.machine import able
from unigen.launch.start import USER_ERRORS
from unigen.pipeline.build import build
from unigen.training import experiment as training

LINES = (
    *(f"+exp={name}" for name in ("fcd_mask_a", "wo_uce", "visualcloze_fill", "visualcloze_dev", "visualcloze_code")),
    *(f"+exp=mini/{name}" for name in ("codec", "judge", "plain_base", "infill_base", "video_motion")),
    "loss=min_snr solver=dpm conditioning/adapter=lora_mini",
    "+exp=cross_grid_flux_fcd_a strategy=ddp metric=[fid,kid,lpips,depth_rmse,clip_i_segmented]",
    "callback=[ema,checkpoint] logger=[] metric=[]",
)
NUMBERS = """
    nan inf -inf -1 0 -0.0 1e400 1e30 1e-30 1.5 9223372036854775807 99999999999999999999999999 007 1_0 1 2 3 0.5 17 64
    1000
""".split()
OTHERS = """
    null true abc '' [] [1,2] [nan] [[[1]]] {} {a:1} {a:{b:inf}} 'nan' '1' ${seed} ${nope} ??? 猫 a=b text,text
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
""".split()
SIGNED = ("process.density.mean", "published", "shift_factor", "_shift", "trainer.devices")  # may be below 0


def leaves(node: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*parts, str(key)))
    else:
        yield ".".join(parts), node


def misspelt(rng: random.Random, key: str) -> str:
    """A key with one letter gone, doubled or strange, a part too many or too few."""
    i = rng.randrange(len(key))
    odd = [key[:i] + key[i + 1 :], key[:i] + key[i] + key[i:], key[:i] + rng.choice("éx/@ ~") + key[i:], key.upper()]
    return rng.choice(
        [*odd, f"{key}.deep.er", key.rpartition(".")[0] or "x", f"{key}.0", f"+{key}", f"++{key}", f"~{key}"]
    )


def mutations(count: int, seed: int = 0) -> Iterator[list[str]]:
    """Command lines with one value or key changed."""
    rng = random.Random(seed)
    keys = {
        line: [key for key, _ in leaves(composed(*line.split())) if " " not in key and ">" not in key] for line in LINES
    }
    for _ in range(count):
        line = rng.choice(LINES)
        key, value = rng.choice(keys[line]), rng.choice([*NUMBERS, *NUMBERS, *OTHERS])
        key = misspelt(rng, key) if rng.random() < 0.1 else key
        yield [*line.split(), f"{key}={value}"]


UNREAD = ("backbone.compile",)  # a mapping or null, which a backbone says when it is built; a codec's run builds none


def is_sound(config: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """What is wrong with an accepted configuration, without asking the table: a wild number, or none."""
    default, wrong = dict(leaves(usual)), []
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            wrong.append(f"{key} is not finite")
        elif ranges.is_number(value) and value < 0 and not any(word in key for word in SIGNED):
            wrong.append(f"{key} is negative")
        elif ranges.is_number(value) and abs(value) > 2**63 - 1 and key not in UNREAD:
            wrong.append(f"{key} is huge")
        elif ranges.is_number(default.get(key)) and not ranges.is_number(value) and value not in (None, "auto"):
            wrong.append(f"{key} is no number")
    return wrong


def outcome(words: list[str]) -> str:
    """ "refused: ..." or "accepted"; raises what is a defect."""
    words = readable(words)
    try:
        preflight(CONF, words)
    except ConfigError as error:
        return f"refused: {error}"
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            config = plain(compose("config", overrides=["run_dir=run", *words]))
            training.dry_run(config)
            able(config)
            for node in config["metric"].values():
                build(node)
            training.make_trainer(config | {"logger": {}})
        except USER_ERRORS as error:
            return f"refused: {error}"
    wrong = is_sound(config, composed(*words[:-1]))
    wrong += [".".join(found.parts) for found in ranges.refusals((), config, lambda parts: True)]
    assert not wrong, f"{words}: {wrong}"
    return "accepted"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_a_thousand_mutated_keys_give_one_sentence_or_a_sound_run(capsys, start: int):
    training.quiet()
    torch.set_num_threads(1)
    said = {}
    for words in islice(mutations(1000), start, start + 100):
        try:
            said[" ".join(words)] = outcome(words)
        except Exception as error:
            pytest.fail(f"{words}: {type(error).__name__}: {error}")
    refused = [text for text in said.values() if text != "accepted"]
    assert all("\n" not in text and 20 < len(text) < 4000 for text in refused)
    assert 20 < len(refused) < len(said), "both kinds are there"


def test_the_oracle_sees_what_is_not_sound():
    """Negative control."""
    usual = {"optimizer": {"lr": 0.1, "betas": [0.9]}, "seed": 0}
    assert is_sound(usual, usual) == []
    for bad in ({"lr": math.nan}, {"lr": -1}, {"lr": "abc"}, {"lr": 2**64}, {"lr": 0.1, "betas": [math.inf]}):
        assert len(is_sound({"optimizer": bad, "seed": 0}, usual)) == 1
