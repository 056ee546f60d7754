"""Write the JSON schema of configuration files, for editors: `python experiments/schema.py out=unigen.schema.json`.

config=      config: files of exp, table, task, family and scale (default); evaluate: files of bench
config_dir=  a folder with files of your own, whose choices and keys count too
out=         the file to write (default: it is printed)

Editors with the YAML language server (VS Code, Neovim and others) complete keys and choices and underline what is
misspelt once the first lines of a file name the schema:
    # @package _global_
    # yaml-language-server: $schema=unigen.schema.json
A run checks more than that: which keys the chosen parts have.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("config", "config_dir", "out"), required=())
        from unigen.config.files import write_text
        from unigen.config.schema import FILES, schema

        name = given.get("config", "config")
        if name not in FILES:
            raise ValueError(f"config={name} is unknown; legal are {' and '.join(FILES)}")
        folders = [ROOT / "experiments" / "conf", *([Path(given["config_dir"])] if "config_dir" in given else [])]
        text = json.dumps(schema(folders, name), indent=1)
        if "out" in given:
            write_text(Path(given["out"]), f"{text}\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"schema: {given['out']}" if "out" in given else text)
    return 0


if __name__ == "__main__":
    program(main)
