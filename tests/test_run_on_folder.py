"""A whole run on a folder of a user's own pictures, some of them bad."""

from PIL import Image
from small_runs import SMALL, command, small, summary, train
from tiny import composed


def test_a_run_on_a_folder_reports_its_bad_records(tmp_path, capfd):
    """The pictures are the user's own; one of thirty is cut short. The report stays in summary.json."""
    for i in range(30):
        Image.linear_gradient("L").rotate(12 * i).resize((40, 40)).convert("RGB").save(tmp_path / f"{i}.png")
    words = ["data=own_folder", "task=graph", f"data.train.root={tmp_path}", "data.rows=[0,0]", "data.num_workers=0"]
    words += [word for word in SMALL if not word.startswith(("data.limit", "metric="))]
    words += ["metric=[psnr]", "data.tasks=['canny>target','jpeg>target']", "conditioning/embedding=none"]
    train(composed(*words, "logger=[jsonl]", f"run_dir={tmp_path / 'whole'}"))
    assert summary(tmp_path / "whole")["data_report"] == "no record was refused"
    (tmp_path / "12.png").write_bytes((tmp_path / "12.png").read_bytes()[:-40])
    capfd.readouterr()
    train(
        composed(*words, "logger=[jsonl]", "data.bad_share=0.5", "trainer.max_steps=6", f"run_dir={tmp_path / 'run'}")
    )
    found = summary(tmp_path / "run")
    assert found["data_report"].startswith("1 record was refused, 1 as '12.png': ")
    assert f"data: {found['data_report']}" in capfd.readouterr().out
    assert found["protocol"]["test_set"] == "OwnFolder(limit=None, annotations=[], computed={}, held_out=5)"
    train(small(tmp_path / "emoji", "trainer.max_steps=1"))
    assert "data_report" not in summary(tmp_path / "emoji"), "negative control"


def test_a_run_is_exported_and_drawn_from_where_its_folder_is_gone(tmp_path, capfd):
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    for i in range(20):
        Image.linear_gradient("L").rotate(12 * i).resize((40, 40)).convert("RGB").save(folder / f"{i}.png")
    words = ["data=own_folder", "task=canny", f"data.train.root={folder}", "data.num_workers=0", "logger=[jsonl]"]
    words += [word for word in SMALL if not word.startswith(("data.limit", "metric=", "trainer.max"))]
    train(composed(*words, "metric=[psnr]", "trainer.max_steps=1", f"run_dir={run}"))
    image = (folder / "3.png").rename(tmp_path / "mine.png")
    folder.rename(tmp_path / "elsewhere")
    assert command("export.py", f"run={run}", f"out={tmp_path / 'made'}") == 0, capfd.readouterr().err
    for name in ("unigen.json", "unigen_modules.safetensors"):
        assert (tmp_path / "made" / name).read_bytes() == (run / "export" / name).read_bytes()
    words = [f"run={run}", f"condition={image}", f"out={tmp_path / 'out.jpg'}", "prompt="]
    assert command("sample.py", *words) == 0, capfd.readouterr().err
    assert Image.open(tmp_path / "out.jpg").format == "JPEG"
