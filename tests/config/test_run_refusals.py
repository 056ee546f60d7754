"""What a user can do wrong with run.py is one sentence, exit code 1, and changes no file."""

import pytest
from small_runs import command, files, line, small, train


def error(capfd, *words: str) -> str:
    """The one line that run.py says of bad input."""
    assert command("run.py", *words) == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said, said
    return said


def test_a_folder_of_another_configuration_is_left_alone(tmp_path, capfd):
    train(small(tmp_path, "trainer.max_steps=1"))
    before = files(tmp_path)
    capfd.readouterr()
    said = error(capfd, *line("logger=[jsonl]", "trainer.max_steps=1", "seed=7", f"run_dir={tmp_path}"))
    assert f"{tmp_path} already holds another configuration (seed is 0 there and 7 here" in said
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["+exp=fcd_mask_a", "trainer.max_step=3"], "did you mean 'trainer.max_steps'?"),
        (["+exp=fcd_mask_a", "+trainer.lr=3"], "trainer.lr"),
        (["+exp=fcd_mask_aa"], "fcd_mask_a"),
        (["data.size=40"], "40"),
        (["encoder.text.window=15"], "encoder.text.window"),
        (["data.tasks=['cany>target']", "task.name=x"], "did you mean 'canny>target'?"),
        (
            ["~conditioning.modulation.branches.target"],
            "conditioning.modulation.branches has no entry for role 'target'",
        ),
        (["~mask.rows.target"], "mask 'fcd_a' has no row for role 'target'"),
        (
            ["mask.rows.target.text=some"],
            "rows.target.text is 'some'; legal are all, same, earlier, none",
        ),
    ],
)
def test_bad_input_is_one_sentence(words, culprit, tmp_path, capfd):
    assert culprit in error(capfd, *line("logger=[jsonl]"), *words, f"run_dir={tmp_path}")


def test_missing_weights_name_the_repository_and_the_key(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = error(capfd, "+exp=fcd_mask_a", "scale=paper", f"run_dir={tmp_path / 'run'}")
    assert "zai-org/CogVideoX1.5-5B" in said and "backbone.pretrained" in said
