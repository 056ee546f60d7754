"""A run as a repository of the Hub, against a loopback server: what arrives is what the run has."""

import base64
import json
import shutil
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_runs import command, files
from tiny import ROOT
from wandb_server import Answers

from unigen.config.values import ConfigError
from unigen.tools import push

SHIPPED = ROOT / "unigen" / "shipped" / "universal"


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run on a shipped base, with a grid: the shipped run, which has the files of one."""
    folder = tmp_path / "run"
    shutil.copytree(SHIPPED, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["backbone"]["pretrained"] = "shipped:scene_base"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "samples").mkdir()
    for step, colour in ((0, "black"), (20, "red")):
        Image.new("RGB", (8, 8), colour).save(folder / "samples" / f"step_{step:06d}.png")
    return folder


class Hub(ThreadingHTTPServer):
    """As much of the Hub as an upload asks for. `refuses` is a status that creating a repository gets."""

    def __init__(self, refuses: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuses, self.created, self.files = refuses, [], {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(Answers):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            if self.server.refuses:
                return self._answer(self.server.refuses, {"error": "You may not."})
            return self._answer(200, {"url": f"{self.server.url}/lab/mine", "id": "lab/mine"})
        if "/preupload/" in self.path:
            asked = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": asked})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(200, {"commitUrl": f"{self.server.url}/lab/mine/commit/1", "commitOid": "1"})
        return self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(200, {"id": "lab/mine", "siblings": [], "sha": "0"})


@pytest.fixture
def hub(monkeypatch):
    """A Hub of our own, at which one is logged in."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_api, "ENDPOINT", server.url, raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()


def head(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_folder_is_a_run_with_a_card(run, tmp_path):
    out = push.prepare(run, tmp_path / "out")
    assert files(out / "export") == files(run / "export")
    assert Image.open(out / "samples.png").getpixel((0, 0)) == (255, 0, 0), "the grid of the last step"
    assert head(out) == {
        "license": "cc-by-sa-4.0",
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["unigen", "in-context", "image-generation"],
    }
    said, summary = (out / "README.md").read_text(), json.loads((run / "summary.json").read_text())
    value = summary["metrics"]["ssim"]["value"]
    assert f"| {value:.3f} |" in said and "Protocol: data: SceneGraphData" in said and "OpenMoji" in said
    with pytest.raises(ConfigError, match="holds something already"):
        push.prepare(run, out)
    (run / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"has no summary\.json: only a finished run"):
        push.prepare(run, tmp_path / "other")


def test_a_pipeline_that_the_export_carries_lies_where_diffusers_looks_and_the_card_says_how_it_is_used(run, tmp_path):
    without = push.prepare(run, tmp_path / "without")
    assert not (without / "pipeline.py").exists() and "custom_pipeline" not in (without / "README.md").read_text()
    (run / "export" / "pipeline.py").write_text("a pipeline")
    out = push.prepare(run, tmp_path / "out")
    assert (out / "pipeline.py").read_text() == (out / "export" / "pipeline.py").read_text() == "a pipeline"
    said = (out / "README.md").read_text()
    code = said.split("```python\n")[1].split("```")[0]
    compile(code, "the card's lines", "exec")
    assert "custom_pipeline='<this repository>'" in code and "from_pretrained('shipped:scene_base', **code)" in code


@pytest.mark.parametrize(
    ("base", "terms"),
    [
        ("zai-org/CogVideoX1.5-5B", ("other", "cogvideox-license")),
        ("black-forest-labs/FLUX.2-klein-base-4B", ("apache-2.0",)),
        ("black-forest-labs/FLUX.2-klein-base-9B", ("other", "flux-non-commercial-license")),
        ("black-forest-labs/FLUX.1-Fill-dev", ("other", "flux-1-dev-non-commercial-license")),
    ],
)
def test_the_licence_is_that_of_the_base(base, terms):
    config = {"backbone": {"pretrained": base, "_target_": "unigen.backbones.flux.Flux"}, "data": {}}
    assert push.licensed(config, None) == terms
    assert push.licensed(config, "mit") == ("mit",)
    with pytest.raises(ConfigError, match="licence='a: b' is no word of the Hub; legal are such as apache"):
        push.licensed(config, "a: b")
    config["backbone"]["pretrained"] = "somebody/else"
    with pytest.raises(ConfigError, match="whose licence is not known here; say which one"):
        push.licensed(config, None)


@pytest.mark.parametrize(
    ("base", "named"),
    [("Qwen/Qwen-Image", True), ("runs/first/export/transformer", False), ("mine/base", False), (None, False)],
)
def test_a_card_names_a_base_that_is_a_repository_alone(run, base, named):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["backbone"]["pretrained"] = base
    summary = json.loads((run / "summary.json").read_text())
    said = "\n".join(push.card(config, summary, ("apache-2.0",), lora=True, grid=False))
    assert (f"base_model: {base}\nbase_model_relation: adapter" in said) is named
    assert 'subfolder="export", weight_name="pytorch_lora_weights.safetensors")' in said, "the Hub needs both"


def test_every_published_base_has_a_licence():
    backbones = (ROOT / "experiments" / "conf" / "backbone").glob("*.yaml")
    bases = [yaml.safe_load(path.read_text()).get("pretrained") for path in backbones]
    published = [base for base in bases if base and "/" in base]
    assert len(published) >= 10
    for base in published:
        assert any(base.startswith(name) for name in push.LICENCES), base


def test_what_is_uploaded_is_the_folder(run, tmp_path, hub):
    out = push.prepare(run, tmp_path / "out")
    assert push.upload(out, "lab/mine", private=True) == f"{hub.url}/lab/mine"
    assert hub.created[0]["visibility"] == "private" and hub.created[0]["name"] == "mine", hub.created
    assert hub.files == files(out), "every file, byte for byte"
    hub.refuses = 400
    with pytest.raises(ConfigError, match=r"repo=lab/mine: the Hub refused it: .*You may not"):
        push.upload(out, "lab/mine", private=True)
    with pytest.raises(ConfigError, match="repo=a b: the Hub refused it"):
        push.upload(out, "a b", private=True)


def test_the_command_writes_and_says_how_to_upload(run, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert command("push.py", f"run={run}", f"out={tmp_path / 'o'}", "repo=lab/mine") == 0
    assert f"hf upload lab/mine {tmp_path / 'o'}" in capsys.readouterr().out
    assert command("push.py", f"run={run}", "private=maybe") == 1
    assert "private=maybe: legal are true and false" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command("push.py", f"run={run}", f"out={tmp_path / 'file'}") == 1
    assert "file is a file; give a folder: out=<folder>" in capsys.readouterr().err
    assert command("push.py", f"run={tmp_path / 'none'}") == 1 and sys.modules.get("unigen.tools.push")
