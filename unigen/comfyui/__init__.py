"""A node for ComfyUI that samples with a run of this project: what no LoRA can hold (docs/comfyui.md).

ComfyUI loads this folder, or a file that imports it, from its folder custom_nodes, and reads the two tables below.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("unigen") is None:  # the folder of a checkout that is linked, and not installed
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from unigen.comfyui.node import UnigenSample

NODE_CLASS_MAPPINGS = {"UnigenSample": UnigenSample}
NODE_DISPLAY_NAME_MAPPINGS = {"UnigenSample": "unigen sample"}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
