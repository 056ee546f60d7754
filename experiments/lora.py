"""LoRA files: `python experiments/lora.py merge loras=[a.safetensors,b.pth] weights=[0.7,0.3] out=c.safetensors`.

merge    one LoRA that adds the weighted sum of what several add
           loras=[...]    the files, each as below, of one base model
           weights=[...]  a number for each
           out=           the .safetensors to write
convert  any LoRA in diffusers' format, for load_lora_weights of its pipelines; of a CogVideoX with
         conditioning/modulation=shared the modulation of text and of images is joined, as the stock model has it
           lora=          a .safetensors or .pth file, or a folder with one: a run's export, or a LoRA for Flux or
                          CogVideoX by diffusers, peft, BFL, ComfyUI, kohya, x-flux or VisualCloze (docs/visualcloze.md)
           out=           the .safetensors to write, which must not be there
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from unigen.arguments import parse  # noqa: E402
from unigen.terminal import program  # noqa: E402

KEYS = {"merge": ("loras", "weights", "out"), "convert": ("lora", "out")}


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    command, *rest = words
    try:
        if command not in KEYS:
            raise ValueError(f"unknown command '{command}' (known: {', '.join(KEYS)})")
        given = parse(rest, legal=KEYS[command], required=KEYS[command])
        from unigen import lora_commands

        said = lora_commands.merge(given) if command == "merge" else lora_commands.convert(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0


if __name__ == "__main__":
    program(main)
