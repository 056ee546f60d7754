"""The miniatures are what they say: the published files, read by the stock libraries, in a whole cache of links."""

import json
from pathlib import Path

import pytest
import torch
from published import REPOSITORIES, repository_folder
from published.hub import REVISION

WAN, TI2V = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
QWEN, HUNYUAN = "Qwen/Qwen-Image", "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v"
COGVIDEOX, DEV, FILL = "zai-org/CogVideoX1.5-5B", "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Fill-dev"
KLEIN = "black-forest-labs/FLUX.2-klein-base-4B"


def snapshot(cache: Path, repository: str) -> Path:
    return repository_folder(cache, repository) / "snapshots" / REVISION


def test_every_file_is_a_link_to_a_blob_and_every_weight_map_is_whole(published_cache):
    for repository in REPOSITORIES:
        folder = snapshot(published_cache, repository)
        found = [path for path in folder.rglob("*") if not path.is_dir()]
        assert found and all(path.is_symlink() and path.resolve().parent.name == "blobs" for path in found)
        for index in folder.rglob("*.index.json"):
            shards = set(json.loads(index.read_text())["weight_map"].values())
            assert len(shards) > 1 and all((index.parent / name).is_file() for name in shards)
    assert len(list(snapshot(published_cache, COGVIDEOX).rglob("*.index.json"))) == 2


@pytest.mark.parametrize(
    ("repository", "folder", "files"),
    [
        (COGVIDEOX, "tokenizer", {"added_tokens.json", "special_tokens_map.json", "spiece.model"}),
        (DEV, "tokenizer", {"merges.txt", "special_tokens_map.json", "vocab.json"}),
        (FILL, "tokenizer_2", {"special_tokens_map.json", "spiece.model", "tokenizer.json"}),
        (WAN, "tokenizer", {"special_tokens_map.json", "spiece.model", "tokenizer.json"}),
        (QWEN, "tokenizer", {"added_tokens.json", "merges.txt", "special_tokens_map.json", "vocab.json"}),
    ],
)
def test_tokenizer_folders_have_the_published_files(repository, folder, files, published_cache):
    found = {path.name for path in (snapshot(published_cache, repository) / folder).iterdir()}
    assert found == files | {"tokenizer_config.json"}


@pytest.mark.parametrize(
    ("repository", "pipeline", "kinds"),
    [
        (COGVIDEOX, "CogVideoXPipeline", {torch.bfloat16}),
        (DEV, "FluxPipeline", {torch.bfloat16}),
        (FILL, "FluxFillPipeline", {torch.bfloat16}),
        (KLEIN, "Flux2KleinPipeline", {torch.bfloat16, torch.int64}),  # a batch norm counts what it saw
        (WAN, "WanPipeline", {torch.float32, torch.bfloat16}),
        (TI2V, "WanPipeline", {torch.float32, torch.bfloat16}),
        (QWEN, "QwenImagePipeline", {torch.bfloat16}),
        (HUNYUAN, "HunyuanVideo15Pipeline", {torch.bfloat16}),
    ],
)
def test_the_stock_pipeline_of_each_loads_and_its_weights_are_as_precise(repository, pipeline, kinds, published_cache):
    import diffusers
    from safetensors.torch import load_file

    folder = snapshot(published_cache, repository)
    loaded = getattr(diffusers, pipeline).from_pretrained(folder)
    assert type(loaded).__name__ == json.loads((folder / "model_index.json").read_text())["_class_name"]
    assert {x.dtype for file in folder.rglob("*.safetensors") for x in load_file(file).values()} == kinds


def test_a_repository_is_the_same_in_every_call(published_cache, tmp_path):
    from published import make

    again = snapshot(make(tmp_path, [DEV]), DEV)
    first = snapshot(published_cache, DEV)
    files = [path.relative_to(again) for path in again.rglob("*.safetensors")]
    assert files and all((again / name).read_bytes() == (first / name).read_bytes() for name in files)
