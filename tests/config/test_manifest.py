"""A line of the manifest is the job that run.py's own multirun would run, in the folder that it would give it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import CONF, ROOT

from unigen.config.manifest import MANIFEST, Shape, differing, expand, manifest_text, read_manifest, run_folder
from unigen.config.preflight import preflight
from unigen.config.values import ConfigError
from unigen.launch.start import launch

HOSTILE = r"""paper='it\'s 100% a, "b" \\ $(touch x) `y` #z ~ ${seed} = [1]'"""
LINES = [
    ["+table=both", "seed=0,1"],
    ["+table=both", "+exp=b", "trainer.max_steps=range(1,3)"],
    ["+exp=a,b", "name='a b, \"c\"'", "tasks=[canny,subject]", HOSTILE],
    ["+exp=a"],
    ["+exp=glob(*)", "seed=3", "hydra.sweep.subdir='${seed} ${hydra.job.num}'"],
]


def plain(cfg) -> dict:
    """What decides a run, without its folder."""
    config = OmegaConf.to_container(cfg, resolve=False)
    return {key: value for key, value in config.items() if key != "run_dir"}


def from_hydra(conf: Path, folder: Path, words: list[str], monkeypatch) -> list[tuple[list[str], Path, dict]]:
    """Overrides, folder and configuration of every job of `run.py -m`, from Hydra itself."""
    seen = []

    def task(cfg) -> None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        said = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        seen.append((said, Path(hydra.runtime.output_dir), plain(cfg)))

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", "-m", f"hydra.sweep.dir={folder}", *words])
        launch(task, conf)
    return seen


@pytest.mark.parametrize("words", LINES, ids=lambda words: words[0])
def test_the_lines_are_the_jobs_of_hydras_multirun(conf, tmp_path, monkeypatch, words):
    jobs = from_hydra(conf, tmp_path, words, monkeypatch)
    sweep = expand(conf, [f"hydra.sweep.dir={tmp_path}", *words])
    assert jobs and [line[:-2] for line in sweep.lines] == [said for said, _, _ in jobs]
    assert [run_folder(line) for line in sweep.lines] == [folder for _, folder, _ in jobs]
    assert sweep.folder == tmp_path and {line[-2] for line in sweep.lines} == {"hydra.mode=RUN"}
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        for line, (_, _, config) in zip(sweep.lines, jobs, strict=True):
            assert plain(compose("config", overrides=line)) == config
        assert plain(compose("config", overrides=[*sweep.lines[-1], "seed=77"])) != jobs[-1][2], "negative control"


def test_a_line_of_a_tables_sweep_is_a_legal_single_run():
    """The real table: run.py refuses none of its lines; where a task names itself too, its folder says so."""
    sweep = expand(CONF, ["+table=realgeneral_masks", "+exp=fcd_mask_b", "seed=0,1"])
    assert sweep.folder.parent == Path.cwd() / "runs" / "sweeps" and sweep.folder.name.endswith("_realgeneral_masks")
    assert run_folder(sweep.lines[1]) == sweep.folder / "1_fcd_mask_b_subject_seed1" and not sweep.folder.exists()
    preflight(CONF, sweep.lines[1])
    with pytest.raises(ConfigError, match="would be ignored"):  # negative control: the arm is not said
        preflight(CONF, [word for word in sweep.lines[1] if not word.startswith("+exp=")])


def test_a_manifest_reads_back(conf, tmp_path):
    sweep = expand(conf, ["+exp=a", "seed=0,1", HOSTILE, f"hydra.sweep.dir='{tmp_path}/a b, c'"])
    assert run_folder(sweep.lines[1]) == tmp_path / "a b, c" / "1_a_seed1"
    (tmp_path / MANIFEST).write_text(manifest_text(sweep.lines))
    assert read_manifest(tmp_path) == sweep.lines and HOSTILE in sweep.lines[0]
    assert differing(sweep.lines) == ["seed=0", "seed=1"]
    assert differing(sweep.lines[:1]) == [" ".join(["+exp=a", "seed=0", HOSTILE])]
    with pytest.raises(ConfigError, match="is not the folder of an array sweep"):
        read_manifest(tmp_path / "a b, c")


def test_own_configs_go_with_the_line(conf, tmp_path):
    (tmp_path / "own" / "exp").mkdir(parents=True)
    (tmp_path / "own" / "exp" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    sweep = expand(conf, ["+exp=mine"], tmp_path / "own")
    assert sweep.lines[0][0] == f"--config-dir={tmp_path / 'own'}" and "mine" in run_folder(sweep.lines[0]).name
    preflight(conf, sweep.lines[0])
    with pytest.raises(ConfigError, match="unknown choice 'mine'"):
        expand(conf, ["+exp=mine"])


def test_the_shape_is_the_trainers(conf):
    words = ["+exp=a", "trainer.devices=8", "trainer.num_nodes=2", "trainer.accelerator=gpu"]
    assert expand(conf, words).shape == Shape(2, 8, "gpu") != expand(conf, ["+exp=a"]).shape


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("+exp=a trainer.max_stepz=3", "did you mean 'trainer.max_steps'"),
        ("+exp=a,c", "unknown choice 'c'"),
        ("+exp=a run_dir=here", "run_dir= is each task's own"),
        ("+exp=a trainer.devices=1,2", "have one shape (task 0 has 1 × 1 on accelerator auto; task 1 has 1 × 2 on"),
        ("+exp=a trainer.devices=0", "'trainer.devices' is 0"),
        ("+exp=a seed=0,1 hydra.sweep.subdir=same", "hydra.sweep.subdir gives several tasks one folder"),
        ("+exp=a name='a\tb'", "holds a tab or a line break"),
        ("+exp=a seed=interval(0,1)", "cannot be enumerated"),
        ("+exp=a cluster=local", "cluster= is for slurm/sweep.py"),
    ],
)
def test_bad_words_are_refused(conf, words, said):
    with pytest.raises(ConfigError) as error:
        expand(conf, words.split(" "))
    assert said in str(error.value)


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import runpy, sys; sys.argv = ['sweep.py', '--help']\n"
    code += f"try: runpy.run_path({str(ROOT / 'slurm' / 'sweep.py')!r}, run_name='__main__')\n"
    code += "except SystemExit as stop: assert stop.code == 0\n"
    code += "assert not {'torch', 'hydra', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"LANG": "C"})
    assert done.returncode == 0 and "retry SWEEP" in done.stdout, done.stderr
