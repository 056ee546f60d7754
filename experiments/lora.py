"""Merge LoRA files: `python experiments/lora.py merge loras=[a.safetensors,b.pth] weights=[0.7,0.3] out=c.safetensors`.

merge    write one LoRA whose update is the weighted sum of several
           loras=[...]    the files, each as below, of one base model
           weights=[...]  a number for each
           out=           the .safetensors to write
convert  write any LoRA in diffusers' format, for load_lora_weights of its pipelines; of a CogVideoX with
         conditioning/modulation=shared the modulation of text and of images is joined, as the stock model has it
           lora=          a .safetensors or .pth file, or a folder with one: a run's export, or a LoRA for Flux,
                          FLUX.2, CogVideoX, Wan, Qwen-Image or HunyuanVideo-1.5 by diffusers, peft, BFL, Wan's
                          authors, ComfyUI, kohya, x-flux or VisualCloze (docs/visualcloze.md). Adapters
                          by role are refused: a LoRA is for all tokens
           for=           diffusers (the default) or comfyui: names, biases and scale as ComfyUI reads them
                          (docs/comfyui.md)
           out=           the .safetensors to write, which must not be there
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

KEYS = {"merge": ("loras", "weights", "out"), "convert": ("lora", "for", "out")}


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    command, *rest = words
    try:
        if command not in KEYS:
            raise ValueError(f"unknown command '{command}' (known: {', '.join(KEYS)})")
        given = parse(rest, legal=KEYS[command], required=[k for k in KEYS[command] if k != "for"])
        from unigen.tools import lora

        said = lora.merge(given) if command == "merge" else lora.convert(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0


if __name__ == "__main__":
    program(main)
