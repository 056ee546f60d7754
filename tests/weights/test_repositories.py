"""Pretrained files by repository id, folder and part of a pipeline; what is absent or broken is one sentence."""

import json
import shutil
import time
from functools import cache
from pathlib import Path

import pytest
from published import make, offline, repository_folder, sizes
from published.hub import REVISION
from small_runs import command
from tiny import composed

from unigen.pipeline.build import require_pretrained
from unigen.weights import repositories
from unigen.weights.repositories import Unavailable, Wanted, hub_silent, located, located_all

COGVIDEOX, DEV = "zai-org/CogVideoX1.5-5B", "black-forest-labs/FLUX.1-dev"
TRANSFORMER = Wanted("backbone.pretrained", COGVIDEOX, "transformer")
TOKENIZER = Wanted("encoder.text.tokenizer", COGVIDEOX, "tokenizer")


@pytest.fixture
def own(published_cache, tmp_path):
    """A cache of one's own, with CogVideoX, that may be damaged."""
    name = f"models--{COGVIDEOX.replace('/', '--')}"
    shutil.copytree(published_cache / name, tmp_path / "hub" / name, symlinks=True)
    with offline(tmp_path / "hub"):
        yield tmp_path / "hub"


def snapshot(cache: Path) -> Path:
    return repository_folder(cache, COGVIDEOX) / "snapshots" / REVISION


def test_a_part_is_found_by_id_by_folder_and_alone(own):
    by_id = located(TRANSFORMER)
    assert by_id == snapshot(own) / "transformer"
    assert located(TRANSFORMER._replace(source=str(snapshot(own)))) == by_id
    assert located(TRANSFORMER._replace(source=str(by_id))) == by_id
    assert located(TOKENIZER._replace(source=str(located(TOKENIZER)))) == located(TOKENIZER)


def test_a_folder_of_another_thing_is_refused(own):
    with pytest.raises(Unavailable, match=r"tokenizer lacks config.json \(config key backbone.pretrained\)"):
        located(TRANSFORMER._replace(source=str(located(TOKENIZER))))
    with pytest.raises(Unavailable, match=r"transformer holds no tokenizer .* \(config key encoder.text.tokenizer\)"):
        located(TOKENIZER._replace(source=str(located(TRANSFORMER))))
    with pytest.raises(Unavailable, match=r"lacks the folder unet"):
        located(TRANSFORMER._replace(part="unet"))


SHARD = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.mark.parametrize("how", ["link to nothing", "no link", "unfinished", "no index", "cut short", "nothing at all"])
def test_what_is_missing_of_a_snapshot_is_named_with_the_command_that_fetches_it(how, own):
    shard, blobs = snapshot(own) / SHARD, repository_folder(own, COGVIDEOX) / "blobs"
    if how == "nothing at all":
        shutil.rmtree(repository_folder(own, COGVIDEOX))
    elif how == "cut short":
        shard.resolve().write_bytes(shard.read_bytes()[:-7])
    elif how == "no link":
        shard.unlink()
    else:
        shard.resolve().unlink()
        if how == "unfinished":
            (blobs / "0123.incomplete").write_bytes(b"0")
        if how == "no index":
            (shard.parent / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(Unavailable) as caught:
        located_all([TOKENIZER, TRANSFORMER])
    said = str(caught.value)
    key = TOKENIZER.key if how == "nothing at all" else TRANSFORMER.key
    assert "\n" not in said and f"(config key {key})" in said and f"set {key}=<folder>" in said
    assert f"hf download {COGVIDEOX} --include 'tokenizer/*' --include 'transformer/*'`" in said
    expected = {
        "cut short": r"is cut short",
        "nothing at all": "is no folder and not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to ask the Hub",
        "unfinished": f"lacks {shard.name}, whose download was not finished",
    }
    assert expected.get(how, f"lacks {shard.name}") in said
    assert ("not finished" in said) == (how == "unfinished")


def test_gated_repositories_are_said_to_need_a_login(own):
    with pytest.raises(Unavailable, match=rf"after `hf auth login` and .* licence on huggingface.co/{DEV}"):
        located(TRANSFORMER._replace(source=DEV))
    shutil.rmtree(repository_folder(own, COGVIDEOX))
    with pytest.raises(Unavailable) as caught:
        located(TRANSFORMER)
    assert "login" not in str(caught.value), "negative control"


KEYS = {
    "backbone.pretrained": "--include 'transformer/*'",
    "encoder.codec.pretrained": "--include 'vae/*'",
    "encoder.text.pretrained": "--include 'text_encoder/*'",
    "encoder.text.tokenizer": "--include 'tokenizer/*'",
}


@pytest.mark.parametrize("key", KEYS)
def test_each_key_that_names_files_is_looked_at_first(key, hub):
    absent = "zai-org/CogVideoX1.5-5B-SAT"
    config = composed("+exp=fcd_mask_a", "scale=paper", *sizes("cogvideox"), f"{key}={absent}")
    with pytest.raises(Unavailable) as caught:
        require_pretrained(config)
    assert f"(config key {key})" in str(caught.value) and f"`hf download {absent} {KEYS[key]}`" in str(caught.value)
    require_pretrained(composed("+exp=fcd_mask_a", "scale=paper"))


def test_without_network_a_first_run_ends_in_one_sentence_before_anything_is_read(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unigen.weights.loading.check_finite", lambda *_: pytest.fail("weights were read first"))
    key, absent = "encoder.text.tokenizer", "zai-org/CogVideoX1.5-5B-SAT"
    words = ["+exp=fcd_mask_a", "scale=paper", *sizes("cogvideox"), f"{key}={absent}", f"run_dir={tmp_path / 'run'}"]
    assert command("run.py", *words) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: '{absent}' is no folder and not in the Hugging Face cache") and "\n" not in said
    assert f"set {key}=<folder>, or check the plan without files by dry_run=true" in said
    assert not (tmp_path / "run" / "summary.json").exists()


def test_all_that_a_first_run_wants_of_a_gated_repository_is_one_command(tmp_path):
    with offline(tmp_path / "empty"), pytest.raises(Unavailable) as caught:
        require_pretrained(composed("+exp=visualcloze_fill", "scale=paper"))
    parts = ("transformer", "vae", "text_encoder_2", "tokenizer_2", "text_encoder", "tokenizer")
    line = "hf download black-forest-labs/FLUX.1-Fill-dev" + "".join(f" --include '{part}/*'" for part in parts)
    assert f"`{line}` after `hf auth login`" in str(caught.value)


def test_a_dry_run_at_paper_scale_needs_no_files(tmp_path, capsys):
    with offline(tmp_path / "empty"):
        words = ["+exp=fcd_mask_a", "scale=paper", *sizes("cogvideox"), f"run_dir={tmp_path / 'run'}"]
        assert command("run.py", *words, "dry_run=true") == 0
        assert "parameters: " in capsys.readouterr().out
        with pytest.raises(Unavailable):
            require_pretrained(composed(*words))


class Hub:
    """Answers as the Hub does, from a folder: what it has, and what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path, folder: Path, refuses: Exception | None = None):
        self.asked: list[str] = []
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
        names.append("flux1-dev.safetensors")  # the same weights in one file, beside the folders

        def fetch(repository, allow_patterns):
            self.asked = allow_patterns
            if refuses:
                raise refuses
            target = repository_folder(cache, repository)
            for name in allow_patterns:
                file = target / "snapshots" / REVISION / name
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name, file)
            (target / "refs").mkdir(exist_ok=True)
            (target / "refs" / "main").write_text(REVISION)

        monkeypatch.setattr(repositories, "hub_silent", lambda: None)
        monkeypatch.setattr(
            "huggingface_hub.HfApi.list_repo_files", lambda _, repository: [*names, "flux1-dev.safetensors"]
        )
        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)


def test_of_a_repository_only_the_wanted_parts_are_downloaded(published_cache, tmp_path, monkeypatch):
    whole = repository_folder(published_cache, DEV) / "snapshots" / REVISION
    wanted = [Wanted("encoder.codec.pretrained", DEV, "vae"), Wanted("encoder.text.tokenizer", DEV, "tokenizer_2")]
    with offline(tmp_path / "hub"):
        (tmp_path / "hub").mkdir()
        hub = Hub(monkeypatch, tmp_path / "hub", whole)
        found = located_all(wanted)
        assert [folder.name for folder in found] == ["vae", "tokenizer_2"]
        assert {name.partition("/")[0] for name in hub.asked} == {"vae", "tokenizer_2"}
        hub.asked = []
        assert located_all(wanted) == found and not hub.asked, "what is here is not asked for again"


def test_of_weights_in_two_forms_one_is_downloaded():
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.bin", "README.md", "vocab.txt"]
    wanted = Wanted("metric.dino.model", "lab/model")
    assert repositories._files(wanted, names) == ["config.json", "vocab.txt", "model.safetensors"]
    assert repositories._files(wanted, [n for n in names if "safetensors" not in n])[-1] == "pytorch_model.bin"


def test_a_refusal_of_the_hub_is_one_sentence(tmp_path, monkeypatch):
    with offline(tmp_path / "hub"):
        Hub(monkeypatch, tmp_path / "hub", tmp_path, OSError("401 Client Error.\nAccess to it is restricted."))
        with pytest.raises(Unavailable, match=r"cannot be fetched \(401 Client Error. Access .*restricted\)") as caught:
            located(TRANSFORMER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["nobody listens", "hangs", "HF_HUB_OFFLINE"])
def test_a_hub_that_does_not_answer_is_asked_once_and_said_in_one_sentence(how, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from wandb_server import serving

    asked = []
    with serving("hangs") as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "ENDPOINT", server.url if how == "hangs" else "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "HF_HUB_OFFLINE")
        monkeypatch.setattr(repositories, "HUB_SECONDS", 0.5)
        monkeypatch.setattr(repositories, "hub_silent", cache(lambda: asked.append(1) or hub_silent.__wrapped__()))
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"(does not answer|forbids)") as caught:
                located(Wanted("encoder.codec.pretrained", "nobody/nothing", "vae"))
            assert "\n" not in str(caught.value) and "encoder.codec.pretrained=<folder>" in str(caught.value)
    assert time.monotonic() - began < 8 and len(asked) == 1


def test_what_is_in_the_cache_is_read_without_a_question_to_the_hub(own, monkeypatch):
    monkeypatch.setattr(repositories, "hub_silent", lambda: pytest.fail("the Hub was asked"))
    located_all([TRANSFORMER, TOKENIZER])


def test_a_folder_as_hf_download_fills_it_is_as_good(tmp_path):
    """`hf download --local-dir`: files instead of links, and an unfinished one in .cache."""
    folder = tmp_path / "local"
    with offline(make_one(tmp_path)):
        shutil.copytree(snapshot(tmp_path / "hub"), folder)
        assert located(TRANSFORMER._replace(source=str(folder))) == folder / "transformer"
    begun = folder / ".cache" / "huggingface" / "download" / "transformer" / "x.incomplete"
    begun.parent.mkdir(parents=True)
    begun.touch()
    (folder / SHARD).unlink()
    with pytest.raises(Unavailable, match=r"lacks .*-00002-of-00003.safetensors, whose download was not finished"):
        located(TRANSFORMER._replace(source=str(folder)))


def make_one(tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    return make(tmp_path / "hub", [COGVIDEOX])


def test_an_index_that_is_no_json_is_one_sentence(own):
    index = located(TRANSFORMER) / "diffusion_pytorch_model.safetensors.index.json"
    assert json.loads(index.read_text())["weight_map"]
    index.resolve().write_text("{")
    with pytest.raises(Unavailable, match=r"index.json is no index of weights"):
        located(TRANSFORMER)
