"""Miniatures of the published model repositories, in the layout of the Hugging Face cache.

Each has the files of its original (folders, names, shards with an index, precision, tokenizer files), the same classes
of diffusers and transformers, and random weights at sizes that a CPU runs in milliseconds. `sizes` are the words that
bring a configuration at `scale=paper` down to them; nothing else is changed.
"""

from published.hub import offline, publish, repository_folder
from published.repositories import REPOSITORIES, make
from published.sizes import sizes

__all__ = ["REPOSITORIES", "make", "offline", "publish", "repository_folder", "sizes"]
