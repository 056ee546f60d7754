"""Bad input is refused before anything heavy is imported, in one sentence; good input passes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from unigen.config.preflight import preflight
from unigen.config.tree import nearest
from unigen.config.values import ConfigError

GLOBAL = "# @package _global_\n"
TREE = {
    "config": """
        defaults: [_self_, trainer: mini, mask: a, conditioning/embedding: uce, metric: [ssim, psnr],
                   task: canny, scale: mini]
        seed: 0
        table: {name: null, order: [], metrics: {}}
        name: null
        title: plain
        later: ???
        run_dir: ${hydra:runtime.output_dir}
        copy: ${seed}
        hydra: {run: {dir: "runs/${now:%Y}"}, sweep: {dir: sweeps, subdir: "${hydra.job.num}"},
                callbacks: {sweep_folder: {_target_: callbacks.sweep_folder.SweepFolder}}}
        """,
    "trainer/mini": "{_target_: T, max_steps: 10, lr: 1e-4, clip: null, amp: false, betas: [0.9, 0.95], devices: auto}",
    "mask/a": "{_target_: m.Mask, rows: {text: {text: all}}}",
    "mask/b": "{defaults: [a, _self_], window: 3}",
    "conditioning/embedding/uce": "{_target_: c.Uce, rank: 4}",
    "conditioning/embedding/none": "{_target_: c.Nothing}",
    "metric/ssim": "# @package metric.ssim\nrange: 1.0",
    "metric/psnr": "# @package metric.psnr\npeak: 1.0",
    "scale/mini": GLOBAL + "trainer: {max_steps: 3}",
    "scale/paper": GLOBAL + "trainer: {lr: 1e-5, clip: 1}",
    "task/canny": GLOBAL + "title: canny",
    "task/line": GLOBAL + "title: line",
    "table/pair": GLOBAL
    + """
        defaults: [override /task: line]
        table: {name: pair, order: [child, base], metrics: {clip_i: ssim}}
        hydra: {mode: MULTIRUN, sweeper: {params: {+exp: "base,child"}}}
        """,
    "table/values": GLOBAL
    + 'hydra: {mode: MULTIRUN, sweeper: {params: {mask: "a,b", trainer.max_steps: "range(1,3)"}}}',
    "table/bad_exp": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {+exp: "base,chidl"}}}',
    "table/bad_plus": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {exp: "base,child"}}}',
    "table/bad_list": GLOBAL + "hydra: {mode: MULTIRUN, sweeper: {params: {+exp: [base, child]}}}",
    "table/bad_line": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {+exp: "base,["}}}',
    "table/bad_glob": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {+exp: "glob(zz*)"}}}',
    "table/bad_param": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {trainer.max_step: "1,2"}}}',
    "table/bad_value": GLOBAL + 'hydra: {mode: MULTIRUN, sweeper: {params: {trainer.max_steps: "1,x"}}}',
    "table/bad_hydra": GLOBAL + 'hydra: {mode: MULTIRUN, sweper: {params: {+exp: "base,child"}}}',
    "table/bad_mode": GLOBAL + 'hydra: {mode: MULTI, sweeper: {params: {+exp: "base,child"}}}',
    "table/bad_key": GLOBAL + "table: {nam: x}",
    "table/no_mode": GLOBAL + 'hydra: {sweeper: {params: {+exp: "base,child"}}}',
    "exp/base": GLOBAL
    + """
        defaults: [override /mask: b, override /scale: paper, override /metric: [psnr]]
        trainer: {lr: 2, clip: 0.5, max_steps: null, betas: [0, 1], amp: "${later}"}
        mask: {window: 5, rows: {buffer: {text: none}}}
        hydra: {sweep: {subdir: own}}
        """,
    "exp/child": GLOBAL + "defaults: [base, _self_]\nseed: 3",
    "exp/none": GLOBAL + "defaults: [override /conditioning/embedding: none]\nseed: 4",
    "exp/bad_key": GLOBAL + "trainer: {max_step: 3}",
    "exp/bad_heir": GLOBAL + "defaults: [bad_key, _self_]\nseed: 1",
    "exp/bad_top": GLOBAL + "trainr: {max_steps: 3}",
    "exp/bad_type": GLOBAL + "trainer: {max_steps: abc}",
    "exp/bad_mapping": GLOBAL + "mask: {rows: all}",
    "exp/bad_choice": GLOBAL + "defaults: [override /mask: aa]",
    "exp/bad_group": GLOBAL + "defaults: [override /msk: a]",
    "exp/bad_package": GLOBAL + "defaults: [override /table@trainer.table: pair]",
    "exp/bad_parent": GLOBAL + "defaults: [basee, _self_]",
    "exp/bad_yaml": GLOBAL + "seed: 1\ntrainer: {max_steps: [3}\n",
    "exp/bad_for_choice": GLOBAL
    + "defaults: [override /conditioning/embedding: none]\nconditioning: {embedding: {rank: 8}}",
}


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix("        ") for line in lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "conf", TREE)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "+exp=base",
        "+exp=child scale=mini",
        "+exp=[base,child]",
        "+exp=none",
        "mask=b mask.window=7",
        "metric=ssim metric.ssim.range=255",
        "metric=[]",
        "+metric=psnr",
        "~mask",
        "trainer.lr=1 trainer.max_steps=5 trainer.amp=true",
        "trainer={lr:3e-4}",
        "trainer.betas=[0.5] trainer.betas.0=0.8 trainer.clip=abc trainer.clip=null",
        "trainer.devices=2",
        "+exp=base trainer.max_steps=null",
        "name=3 name=abc later=[1] run_dir=x copy=7",
        "++seed=4 ++trainer.lr=0.1",
        "+mask.rows.buffer.text=same mask.rows.text.text=none",
        "~mask.rows.text",
        "+mask.rows={buffer:{text:all}}",
        "table.metrics={}",
        "hydra.run.dir=. hydra.run={dir:y} +hydra.job.env_set.A=1",
        "seed='${trainer.max_steps}'",
        "-m seed=0,1 trainer.lr=1e-3,1 trainer.max_steps=range(1,4)",
        "-m +exp=base,child,none scale=mini,paper task=canny",
        "-m +exp=glob(*,exclude=bad_*)",
        "--cfg job seed=1",
        "+table=pair",
        "+table=pair seed=0,1,2 task=canny,line",
        "-m +table=pair seed=0,1",
        "+table=pair +exp=none seed=0,1",
        "+table=pair +exp=glob(*,exclude=bad_*)",
        "+table=values seed=0,1",
        "-m +table=no_mode",
        "--help nonsense=1",
    ],
)
def test_accepts(conf, line):
    start = time.perf_counter()
    preflight(conf, line.split())
    print(f"\npreflight {line!r}: {time.perf_counter() - start:.3f} s")
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        # keys on the command line
        ("trainer.max_step=1", "unknown key 'trainer.max_step' on the command line; did you mean 'trainer.max_steps'?"),
        ("+trainer.lrr=1", "unknown key '+trainer.lrr' on the command line; did you mean 'trainer.lr'?"),
        ("++trainer.lrr=1", "unknown key '++trainer.lrr' on the command line; did you mean 'trainer.lr'?"),
        ("trainer={lrr:1}", "unknown key 'trainer.lrr' on the command line"),
        ("max_steps=1", "did you mean 'trainer.max_steps'?"),
        ("trainr.lr=1", "did you mean 'trainer.lr'?"),
        ("trainer.lr.x=1", "unknown key 'trainer.lr.x'"),
        ("trainer.betas.2=1", "unknown key 'trainer.betas.2'"),
        ("+trainer.zzz=1", "legal below 'trainer': trainer._target_, trainer.max_steps"),
        ("msk=b", "unknown key 'msk' on the command line; did you mean 'mask'?"),
        ("conditioning/embeding=uce", "did you mean 'conditioning/embedding'?"),
        ("mask.window=3", "unknown key 'mask.window'"),
        ("metric=[psnr] metric.ssim.range=2", "unknown key 'metric.ssim.range'"),
        ("-m mask=b,a mask.window=3", "unknown key 'mask.window' on the command line; legal below 'mask': "),
        ("-m mask=b,a mask.window=3", "(in the job mask=a)"),
        ("~trainer.lr", "cannot remove 'trainer.lr' on the command line: ~ removes a whole group"),
        ("~msk", "did you mean 'mask'?"),
        ("~mask.rows.nobody", "cannot remove 'mask.rows.nobody'"),
        ("+trainer.lr=1", "'+trainer.lr=1' on the command line exists already: write trainer.lr=1"),
        ("a b=1", "cannot read"),
        # keys in files
        ("+exp=bad_key", "unknown key 'trainer.max_step' in exp/bad_key.yaml; did you mean 'trainer.max_steps'?"),
        ("+exp=bad_heir", "unknown key 'trainer.max_step' in exp/bad_key.yaml"),
        ("-m +exp=base,bad_key", "in exp/bad_key.yaml"),
        ("+exp=bad_top", "unknown key 'trainr' in exp/bad_top.yaml; did you mean 'trainer'?"),
        ("+exp=bad_for_choice", "unknown key 'conditioning.embedding.rank' in exp/bad_for_choice.yaml"),
        ("+exp=bad_yaml", "cannot read exp/bad_yaml.yaml, line 3"),
        # tables
        ("+table=bad_exp", "unknown choice 'chidl' for group 'exp' in table/bad_exp.yaml; did you mean 'child'?"),
        ("+table=bad_exp seed=0,1", "(in the job +exp=chidl)"),
        ("+table=pair +exp=chidl seed=0,1", "unknown choice 'chidl' for group 'exp' on the command line"),
        ("+table=pairs seed=0,1", "unknown choice 'pairs' for group 'table' on the command line; did you mean 'pair'?"),
        ("+table=bad_plus", "'exp=base' in table/bad_plus.yaml needs a plus: write +exp=base"),
        ("+table=bad_list", "hydra.sweeper.params.+exp in table/bad_list.yaml is not one line of values; write +exp:"),
        ("+table=bad_line", "cannot read '+exp=base,[' in table/bad_line.yaml"),
        ("+table=bad_glob", "'+exp=glob(zz*)' in table/bad_glob.yaml matches nothing"),
        ("+table=bad_param", "unknown key 'trainer.max_step' in table/bad_param.yaml; did you mean"),
        ("+table=bad_value", "'trainer.max_steps' is 'x' in table/bad_value.yaml; expected an integer"),
        ("+table=bad_hydra", "'sweper' not in"),
        ("+table=bad_mode", "hydra.mode is 'MULTI' in table/bad_mode.yaml; it can be RUN or MULTIRUN"),
        ("+table=bad_key", "unknown key 'table.nam' in table/bad_key.yaml; did you mean 'table.name'?"),
        ("+table=no_mode", "hydra.sweeper.params in table/no_mode.yaml would be ignored, because this is a single run"),
        ("+table=pair hydra.mode=RUN", "because this is a single run; add -m"),
        ("+table=bad_key seed=0,1", "add -m"),
        ("-m +table=pair,values", "in table/pair.yaml would be ignored, because the file is one of several choices"),
        ("+table=values mask.window=1", "(in the job mask=a)"),
        # choices
        ("+exp=bas", "unknown choice 'bas' for group 'exp' on the command line; did you mean 'base'? exp has: bad_"),
        ("+exp=[base,chil]", "unknown choice 'chil' for group 'exp' on the command line; did you mean 'child'?"),
        ("mask=c", "unknown choice 'c' for group 'mask' on the command line; mask has: a, b"),
        ("mask=null", "chooses no file of 'mask'; it has: a, b"),
        ("conditioning/embedding=uc", "did you mean 'uce'? conditioning/embedding has: none, uce"),
        ("metric=[ssim,psn]", "unknown choice 'psn' for group 'metric' on the command line; did you mean 'psnr'?"),
        ("-m +exp=glob(zz*)", "matches nothing"),
        ("+exp=bad_choice", "unknown choice 'aa' for group 'mask' in exp/bad_choice.yaml; did you mean 'a'?"),
        ("+exp=bad_group", "unknown group 'msk' in exp/bad_group.yaml; did you mean 'mask'?"),
        ("+exp=bad_package", "no 'table' at trainer.table; choose a file of 'trainer' that has one"),
        ("+exp=bad_parent", "unknown choice 'basee' for group 'exp' in exp/bad_parent.yaml; did you mean 'base'?"),
        ("exp=base", "'exp=base' on the command line needs a plus: write +exp=base"),
        ("+mask=b", "write mask=b"),
        ("~metric", "metric=[]"),
        ("+exp=base,child", "add -m"),
        # types
        ("trainer.max_steps=abc", "'trainer.max_steps' is 'abc' on the command line; expected an integer like"),
        ("trainer.max_steps=1.5", "expected an integer"),
        ("trainer.max_steps=true", "is true on the command line; expected an integer"),
        ("trainer.max_steps=auto", "expected an integer"),
        ("trainer.max_steps=null", "'trainer.max_steps' cannot be null on the command line"),
        ("trainer.lr=abc", "expected a number like the default 0.0001"),
        ("trainer.amp=1", "expected true or false like the default false"),
        ("trainer.betas=0.9", "expected a list"),
        ("trainer=3", "chooses no file of 'trainer'"),
        ("mask.rows=all", "expected a mapping of text"),
        ("title=3", "expected a string like the default 'plain'; quote it: 'title=\"3\"'"),
        ("conditioning.embedding=none", "to choose a file of this group write conditioning/embedding=none"),
        ("-m seed=0,x", "'seed' is 'x' on the command line; expected an integer"),
        ("+exp=bad_type", "'trainer.max_steps' is 'abc' in exp/bad_type.yaml; expected an integer"),
        ("+exp=bad_mapping", "'mask.rows' is 'all' in exp/bad_mapping.yaml; expected a mapping"),
        # mappings, which are merged
        ("mask.rows={}", "'mask.rows' is {} on the command line, which changes nothing, because it is merged with"),
        ("mask.rows={}", "the entries that are there (text); to remove one write '~mask.rows.text'"),
        ("trainer={}", "'trainer' is {} on the command line, which changes nothing"),
        ("trainer={}", "; leave it out"),
        ("mask.rows={buffer:{text:all}}", "has an entry that is new; write '+mask.rows={buffer:{text:all}}'"),
        ("table.metrics=3", "'table.metrics' is 3 on the command line; expected a mapping, which is empty by default"),
        # names that other programs have
        ("guidance_scale=3", "unknown key 'guidance_scale' on the command line; did you mean 'guidance.strength'?"),
        ("guidance.scale=3", "unknown key 'guidance.scale' on the command line; did you mean 'guidance.strength'?"),
        # flags
        ("--config-name=confg", "there is no confg.yaml"),
        ("--config-dir=nowhere", "does not exist"),
        ("--config-path=conf", "--config-path is not supported"),
    ],
)  # fmt: skip
def test_refuses(conf, line, said):
    with pytest.raises(ConfigError) as caught:
        preflight(conf, ["a b=1"] if line == "a b=1" else line.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not GlobalHydra.instance().is_initialized()


def test_open_tables_are_a_parameter(conf):
    preflight(conf, ["+mask.rows.buffer=all"])
    with pytest.raises(ConfigError, match=r"unknown key '\+mask.rows.buffer'"):
        preflight(conf, ["+mask.rows.buffer=all"], open_tables=())


def test_every_choice_of_a_large_sweep_is_seen(conf, monkeypatch):
    monkeypatch.setattr("unigen.config.jobs.MOST_JOBS", 2)
    with pytest.raises(ConfigError, match=r"in exp/bad_key.yaml.*in the job scale=mini \+exp=bad_key"):
        preflight(conf, ["-m", "scale=mini,paper", "+exp=none,child,bad_key"])


def test_a_users_own_folder(conf, tmp_path):
    own = write_tree(tmp_path / "own", {"exp/mine": GLOBAL + "seed: 1", "exp/mine_bad": GLOBAL + "sed: 1"})
    preflight(conf, ["--config-dir", str(own), "+exp=mine"])
    with pytest.raises(ConfigError, match=r"unknown key 'sed' in exp/mine_bad.yaml; did you mean 'seed'\?"):
        preflight(conf, ["--config-dir", str(own), "+exp=mine_bad"])


def test_nearest_knows_when_nothing_is_near():
    assert nearest("trainer.lr", ["mask.rows", "seed"]) == []
    assert nearest("lr", ["optimizer.lr", "seed"]) == ["optimizer.lr"]


def test_nothing_heavy_is_imported(conf):
    code = """
import sys
from pathlib import Path
import unigen.launch.start
from unigen.config.preflight import preflight
preflight(Path(sys.argv[1]), ["+exp=base"])
print(sorted({"torch", "lightning", "diffusers", "transformers", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(conf)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
