"""A run as a Hugging Face repository: its export, a card made of its summary, its samples; for experiments/push.py.

The folder is that of a run, so that `sample.py run=<folder>` draws with it, and `load_lora_weights` of a stock pipeline
reads its LoRA from the subfolder `export`. The pipeline of an export that carries one lies at the top too, where
diffusers looks for it.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unigen.config.files import write_text
from unigen.config.values import ConfigError, read_config
from unigen.pipeline.export import PIPELINE_FILE
from unigen.training.card import LICENCE, figures
from unigen.weights.lora_files import LORA_FILE

# What the Hub's field `license` says of each base (docs/families.md); a second word is the name of an `other` licence.
LICENCES = {
    "shipped:": ("cc-by-sa-4.0",),
    "zai-org/CogVideoX1.5-5B": ("other", "cogvideox-license"),
    "black-forest-labs/FLUX.1-": ("other", "flux-1-dev-non-commercial-license"),
    "black-forest-labs/FLUX.2-klein-base-4B": ("apache-2.0",),
    "black-forest-labs/FLUX.2-": ("other", "flux-non-commercial-license"),
    "Wan-AI/": ("apache-2.0",),
    "Qwen/": ("apache-2.0",),
    "hunyuanvideo-community/": ("other", "tencent-hunyuan-community"),
}
EMOJI = "datamodules.emoji", "datamodules.scenes", "shipped:"  # what shows or has seen the bundled glyphs
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name; a path with one slash is told from it by LICENCES


def prepare(run: Path, out: Path, licence: str | None = None) -> Path:
    """Write the repository's folder from a finished run, and return it. `licence` is one of the Hub's words for it.

    Raises ConfigError for a folder without a finished run, for a base whose licence is not known and not given, and for
    an output folder that holds something.
    """
    config = read_config(run)
    missing = next((name for name in ("summary.json", "export") if not (run / name).exists()), None)
    if missing:
        raise ConfigError(f"{run} has no {missing}: only a finished run can be pushed")
    terms = licensed(config, licence)
    if out.is_file():
        raise ConfigError(f"{out} is a file; give a folder: out=<folder>")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds something already; give another folder: out=<folder>")
    shutil.copytree(run / "export", out / "export", dirs_exist_ok=True)
    for name in ("config.yaml", "summary.json"):
        shutil.copyfile(run / name, out / name)
    if carried := (out / "export" / PIPELINE_FILE).is_file():
        shutil.copyfile(out / "export" / PIPELINE_FILE, out / PIPELINE_FILE)
    grid = _last_grid(run / "samples")
    if grid is not None:
        shutil.copyfile(grid, out / "samples.png")
    summary = json.loads((run / "summary.json").read_text())
    lora = any((out / "export").glob(f"{Path(LORA_FILE).stem}*"))  # an adapter by role has its name in the file's
    lines = card(config, summary, terms, lora=lora, grid=grid is not None, carried=carried)
    write_text(out / "README.md", "\n".join(lines) + "\n")
    return out


def licensed(config: Mapping[str, Any], given: str | None) -> tuple[str, ...]:
    """Return the Hub's word for the licence, and the name of an `other` one: that of the base, unless one is given."""
    base = config["backbone"].get("pretrained")
    found = next((terms for name, terms in LICENCES.items() if base and str(base).startswith(name)), None)
    if given:
        if not re.fullmatch(r"[a-z0-9.+-]+", given):
            raise ConfigError(f"licence={given!r} is no word of the Hub; legal are such as apache-2.0, other")
        return (given,)
    if base is None and _shows_emoji(config):
        return LICENCES["shipped:"]  # no base, but the images are under this licence
    if found is None:
        raise ConfigError(
            f"backbone.pretrained is {base!r}, whose licence is not known here; say which one the weights are under: "
            "licence=apache-2.0, cc-by-4.0, other, ... (the Hub's words)"
        )
    return found


def card(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    terms: tuple[str, ...],
    lora: bool,
    grid: bool,
    carried: bool = False,
) -> Iterator[str]:
    """Yield the lines of the model card: metadata, how it was made, how to load it, figures with their protocol.

    `lora`, `grid` and `carried` say whether the repository has a LoRA, a grid of samples, and a pipeline of diffusers.
    """
    base = str(config["backbone"].get("pretrained"))
    name = config["name"]
    yield from ("---", f"license: {terms[0]}", *(f"license_name: {word}" for word in terms[1:]))
    if REPOSITORY.fullmatch(base) and base.startswith(tuple(LICENCES)):
        yield from (f"base_model: {base}", f"base_model_relation: {'adapter' if lora else 'finetune'}")
    yield from (
        "library_name: diffusers",
        "pipeline_tag: image-to-image",
        "tags: [unigen, in-context, image-generation]",
    )
    yield from ("---", f"# {name}", "")
    task = config.get("task", {}).get("name")
    yield f"{_kind(config, lora)}, the experiment `{name}`{f' on the task {task}' if task else ''}"
    yield f"for {summary['steps']:,} steps ({summary['samples_seen']:,} samples), seed {summary['seed']},"
    yield f"at {config['data']['size']} pixels, with unigen. `config.yaml` holds every key."
    if config.get("paper"):
        yield from ("", f"Paper: {config['paper']}.")
    if grid:
        yield from ("", "![conditions, outputs and truth on held-out items](samples.png)")
    yield from ("", "## Use", "", "```bash", "hf download <this repository> --local-dir model")
    yield from ('python experiments/sample.py run=model condition=mine.png prompt="..." out=out.png', "```", "")
    if carried:
        yield from _in_diffusers(base)
    if lora:
        yield "A stock pipeline of diffusers reads the LoRA by"
        yield f'`load_lora_weights("<this repository>", subfolder="export", weight_name="{LORA_FILE}")`; what else'
        yield "was trained is in `export/unigen_modules.safetensors`, and `export/unigen.json` says what it is for."
    yield from ("", "## Licence", "")
    yield f"{' '.join(terms)}: {'that of the base, ' + base if base != 'None' else 'no base was used'}."
    if _shows_emoji(config):
        yield from ("", LICENCE)
    yield from ("", "## Figures", "", *figures(summary))


def _in_diffusers(base: str) -> Iterator[str]:
    """Yield the lines on the pipeline that the repository carries."""
    yield from ("Without unigen, in diffusers (`pipeline.py` is short, and runs on your machine: read it first):", "")
    yield from ("```python", "from diffusers import DiffusionPipeline", "")
    yield "code = dict(custom_pipeline='<this repository>', trust_remote_code=True)"
    yield f"pipe = DiffusionPipeline.from_pretrained({base!r}, **code).load_export('<this repository>')"
    yield "image = pipe(image=condition, prompt='...', seed=0).images[0]  # condition: as the model sees it"
    yield from ("```", "")


def upload(folder: Path, repo: str, private: bool) -> str | None:
    """Upload the folder to the Hub and return its address; None where nobody is logged in. The token needs `write`.

    Raises ConfigError with the Hub's words for a name that it does not take or a token that may not write.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        return None
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Add a run of unigen")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"repo={repo}: the Hub refused it: {said[:300]}") from error
    return str(url)


def command(folder: Path, repo: str) -> str:
    """Return the line by which one uploads the folder later."""
    return f"hf upload {shlex.quote(repo)} {shlex.quote(str(folder))}"


def _kind(config: Mapping[str, Any], lora: bool) -> str:
    family = config["backbone"]["_target_"].rpartition(".")[2]
    return f"{'A LoRA' if lora else 'Weights'} of {family}"


def _shows_emoji(config: Mapping[str, Any]) -> bool:
    """Return whether the run saw the bundled glyphs, or began with weights that have."""
    words = json.dumps(config.get("data", {})) + str(config["backbone"].get("pretrained"))
    return any(word in words for word in EMOJI)


def _last_grid(samples: Path) -> Path | None:
    """Return the sample grid of the last step, the first of its signatures; None without any."""
    grids = sorted(path for path in samples.glob("step_*.png") if path.stem.count("_") == 1)
    return grids[-1] if grids else None
