"""An export is all that is needed, diffusers reads its LoRA, and nothing is ever written or loaded in part."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import batch, choices, composed, experiments, randomise, tiny

from unigen.config.values import ConfigError
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline, own_classes

LORA = ("+exp=fcd_mask_a", "conditioning/adapter=lora")


def made(*overrides: str, pretrained: str | None = None):
    """A configuration and its pipeline, with nothing at its initial value."""
    config = tiny(*overrides)
    config["backbone"]["pretrained"] = pretrained
    torch.manual_seed(0)
    pipeline = build_pipeline(config)
    frozen = {n: p.detach().clone() for n, p in pipeline.backbone.named_parameters() if not p.requires_grad}
    for module in (pipeline.backbone, pipeline.embedding, pipeline.text):
        randomise(module)
    with torch.no_grad():
        for name, value in frozen.items():
            pipeline.backbone.get_parameter(name).copy_(value)
    pipeline.codec.fit(lambda: batch(8).images["target"].flatten(0, 1))
    return config, pipeline


def drawn(pipeline) -> torch.Tensor:
    return pipeline.sample(batch(), seed=1)["target"]


@pytest.mark.parametrize("adapter", choices("conditioning/adapter"))
@pytest.mark.parametrize("modulation", choices("conditioning/modulation"))
def test_what_is_loaded_draws_the_same(adapter, modulation, tmp_path):
    config, pipeline = made(f"conditioning/adapter={adapter}", f"conditioning/modulation={modulation}")
    export.save(pipeline, tmp_path, config)
    torch.manual_seed(9)  # so that nothing is equal by chance: a loaded model is initialised first
    config["seed"] = 9
    loaded, _ = export.load(tmp_path)
    assert torch.equal(drawn(loaded), drawn(pipeline))


@pytest.mark.parametrize("file", [export.MODULES_FILE, export.LORA_FILE])
def test_every_tensor_counts(file, tmp_path):
    """The negative control: one tensor changed on the disk changes the image."""
    config, pipeline = made(*LORA)
    export.save(pipeline, tmp_path, config)
    tensors = load_file(tmp_path / file)
    name = next(n for n in tensors if n.endswith(("to_v.lora_B.weight", "proj_out.bias")))
    tensors[name] += 1
    save_file(tensors, tmp_path / file)
    assert not torch.equal(drawn(export.load(tmp_path)[0]), drawn(pipeline))


def test_what_is_written_twice_is_the_same_to_the_byte(tmp_path):
    """So that the hash of its weights is one, by which images are told to be of other weights."""
    config, pipeline = made(*LORA)
    for name in "abcdefgh":
        export.save(pipeline, tmp_path / name, config)
    for file in (export.MODULES_FILE, export.LORA_FILE):
        assert len({(tmp_path / name / file).read_bytes() for name in "abcdefgh"}) == 1


def test_diffusers_loads_the_lora_into_the_converted_model(tmp_path):
    from diffusers import CogVideoXPipeline

    config, pipeline = made(*LORA)
    export.save(pipeline, tmp_path, config)
    stored = load_file(tmp_path / export.LORA_FILE)
    assert stored and all(name.startswith("transformer.") and "lora" in name for name in stored)
    branches = {"text", "condition", "target"}
    assert branches == {name.split(".branches.")[1].split(".")[0] for name in stored if ".branches." in name}

    plain = dict(
        config, conditioning=config["conditioning"] | {"adapter": {"_target_": "unigen.conditioning.lora.Full"}}
    )
    torch.manual_seed(0)
    fresh = build_pipeline(plain)
    for ours, theirs in ((fresh.embedding, pipeline.embedding), (fresh.text, pipeline.text)):
        ours.load_state_dict(theirs.state_dict())
    fresh.codec.load_state_dict(pipeline.codec.state_dict())
    before = drawn(fresh)
    stock = CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=fresh.backbone.model, scheduler=None
    )
    stock.load_lora_weights(tmp_path)
    assert torch.equal(drawn(fresh), drawn(pipeline))
    assert not torch.equal(before, drawn(pipeline)), "negative control"


@pytest.mark.parametrize("adapter", choices("conditioning/adapter"))
def test_pretrained_weights_are_left_out_unless_training_changed_them(adapter, tmp_path):
    from diffusers import CogVideoXTransformer3DModel

    stock = CogVideoXTransformer3DModel(**tiny()["backbone"]["config"])
    stock.save_pretrained(tmp_path / "base" / "transformer")
    config, pipeline = made(f"conditioning/adapter={adapter}", pretrained=str(tmp_path / "base"))
    export.save(pipeline, tmp_path / "export", config)
    stored = load_file(tmp_path / "export" / export.MODULES_FILE)
    of_backbone = [name for name in stored if name.startswith("backbone.")]
    assert bool(of_backbone) == (adapter == "full")
    assert {"codec.components", "embedding.bias"} < set(stored)
    assert torch.equal(drawn(export.load(tmp_path / "export")[0]), drawn(pipeline))


def test_a_loaded_pipeline_has_no_dropout(tmp_path):
    config, pipeline = made(*LORA, "conditioning.adapter.dropout=0.9")
    export.save(pipeline, tmp_path, config)
    loaded, _ = export.load(tmp_path)
    assert torch.equal(drawn(loaded), drawn(loaded))
    loaded.backbone.train()
    assert not torch.equal(drawn(loaded), drawn(loaded)), "negative control"


def spoil(folder, how: str) -> None:
    modules = load_file(folder / export.MODULES_FILE)
    if how == "missing":
        modules.pop("embedding.bias")
    elif how == "extra":
        modules["embedding.other"] = torch.zeros(1)
    elif how == "lora key":
        lora = load_file(folder / export.LORA_FILE)
        save_file(dict(list(lora.items())[1:]), folder / export.LORA_FILE)
    else:
        (folder / how).unlink()
        return
    save_file(modules, folder / export.MODULES_FILE)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "does not fit its configuration: 1 keys differ, e.g. embedding.bias"),
        ("extra", "does not fit its configuration: 1 keys differ, e.g. embedding.other"),
        ("lora key", "fits only in part"),
        (export.LORA_FILE, "says it has a LoRA, but pytorch_lora_weights.safetensors is missing"),
        (export.MODULES_FILE, "holds no export .unigen_modules.safetensors is missing"),
        (export.CONFIG_FILE, "holds no export .unigen.json is missing"),
    ],
)
def test_nothing_is_loaded_in_part(how, said, tmp_path):
    config, pipeline = made(*LORA)
    export.save(pipeline, tmp_path, config)
    spoil(tmp_path, how)
    with pytest.raises(ConfigError, match=said):
        export.load(tmp_path)


@pytest.mark.parametrize("file", [export.MODULES_FILE, export.LORA_FILE])
def test_a_full_disk_leaves_the_export_of_before(file, tmp_path, monkeypatch):
    import safetensors.torch

    config, pipeline = made(*LORA)
    export.save(pipeline, tmp_path, config)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save = safetensors.torch.save_file

    def full(tensors, path, **kwargs):
        if file in str(path):
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(
        OSError, match=f"{file} could not be written: .*No space left on device.*; what was there before"
    ):
        export.save(pipeline, tmp_path, config)
    assert before[file] == (tmp_path / file).read_bytes()
    assert set(before) == {p.name for p in tmp_path.iterdir()}
    assert json.loads(before[export.CONFIG_FILE])["config"] == config


@pytest.mark.parametrize("file", [export.MODULES_FILE, export.LORA_FILE])
def test_an_export_that_is_not_finite_is_refused_by_file_and_tensor(file, tmp_path):
    config, pipeline = made(*LORA)
    export.save(pipeline, tmp_path, config)
    tensors = load_file(tmp_path / file)
    name = sorted(tensors)[0]
    tensors[name].flatten()[-1] = float("nan")
    save_file(tensors, tmp_path / file)
    with pytest.raises(ValueError, match=rf"{file} is damaged: 1 of the \d+ numbers of '{name}' are NaN or infinite"):
        export.load(tmp_path)


@pytest.mark.parametrize(
    "target",
    ["os.system", "unigen.config.files.os.system", "builtins.eval", "plugins_of_mine.Mask", "unigen.nowhere.Mask"],
)
@pytest.mark.parametrize("where", ["mask", "data"])
def test_an_export_from_elsewhere_calls_nothing_of_its_choice(target, where, tmp_path):
    """Not by a module that one of ours has imported, either."""
    node = {"_target_": target, "command": f"touch {tmp_path / 'owned'}"}
    said = rf"{where}\.deep\.0\._target_ is '{target}', which is no class of this project"
    with pytest.raises(ConfigError, match=said):
        own_classes({where: {"_target_": "unigen.core.masks.Mask", "deep": [node]}})
    assert not (tmp_path / "owned").exists()


def test_classes_of_the_project_and_of_trusted_packages_pass(monkeypatch):
    for exp in experiments():
        config = composed(f"+exp={exp}")
        own_classes({key: config[key] for key in ("backbone", "conditioning", "encoder", "mask", "solver", "data")})
    with pytest.raises(ConfigError, match="UNIGEN_PLUGINS=collections"):  # negative control
        own_classes({"_target_": "collections.Counter"})
    monkeypatch.setenv("UNIGEN_PLUGINS", "nobody,collections")
    own_classes({"_target_": "collections.Counter"})
