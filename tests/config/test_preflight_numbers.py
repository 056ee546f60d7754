"""Numbers out of their range are refused before anything heavy is imported, whoever says them and wherever."""

import pytest
from test_preflight import GLOBAL, write_tree
from tiny import CONF

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimizer.lr=1e8", "'optimizer.lr' is 1e+08 on the command line; legal are numbers above 0 and at most 1"),
        ("optimizer.lr=inf", "'optimizer.lr' is inf"),
        ("optimizer.lr=1e400", "'optimizer.lr' is inf"),
        ("optimizer.lr=-0.0", "'optimizer.lr' is -0.0 on the command line; write 0"),
        ("optimizer={lr:nan}", "'optimizer.lr' is nan"),
        ("++optimizer.lr=nan", "'optimizer.lr' is nan"),
        ("optimizer.betas=[0.9,1]", "'optimizer.betas.1' is 1 on the command line; legal are numbers at least 0 and"),
        ("optimizer.betas.1=-inf", "'optimizer.betas.1' is -inf"),
        ("optimizer.betas=[0.9]", "'optimizer.betas' is a list of 1 on the command line; legal are lists of 2"),
        ("-m optimizer.lr=1e-4,inf", "'optimizer.lr' is inf"),
        ("-m seed=range(-1,3)", "'seed' is -1"),
        ("-m seed=range(0,3000000000)", "names more than 10000 jobs"),
        ("seed=99999999999999999999999", "'seed' is a whole number of 80 bits"),
        ("guidance.strength=nan", "'guidance.strength' is nan"),
        ("solver.steps=0", "'solver.steps' is 0 on the command line; legal are whole numbers from 1 to 10,000"),
        ("dropout.text=2", "'dropout.text' is 2"),
        ("+dropout.condition=half", "'dropout.condition' is 'half' on the command line; legal are numbers from 0 to 1"),
        ("+loss.weights.mine=-1", "'loss.weights.mine' is -1"),
        ("evaluation.items=0", "'evaluation.items' is 0"),
        ("validation.every=0", "'validation.every' is 0"),
        ("validation.items=abc", "'validation.items' is 'abc'"),
        ("validation.items=true", "'validation.items' is true"),
        ("trainer.accumulate_grad_batches=0", "'trainer.accumulate_grad_batches' is 0"),
        ("trainer.devices=0", "legal are whole numbers from 1 to 1,024, or -1, or auto"),
        ("trainer.num_nodes=0", "'trainer.num_nodes' is 0"),
        ("trainer.accelerator=gpuu", "legal are auto, cpu, gpu, cuda, mps, tpu"),
        ("trainer.precision=fp16", "'trainer.precision' is 'fp16'"),
        ("callback.sample_grid.items=0", "'callback.sample_grid.items' is 0"),
        ("conditioning.adapter.rank=0", "'conditioning.adapter.rank' is 0"),
        ("data.seed=${validation.items}", ""),
        ("optimizer.warmup=${trainer.gradient_clip_val}", "'optimizer.warmup' is 1"),
        ("run_dir=null", "'run_dir' cannot be null"),
        ("run_dir=", "'run_dir' is empty on the command line; give a value, or leave it out"),
        ("cache=", "'cache' is empty on the command line; write cache=null for none, or leave it out"),
        ("run_dir=$HOME/x", "in which no shell replaced $HOME"),
        ("run_dir=${HOME}/x", "a variable of the shell is ${oc.env:HOME}"),
        ("trainer.max_steps=1e3", "; write 1000"),
        ("data.tasks=canny", "'data.tasks' is 'canny' on the command line; expected a list"),
        ("callback=[]", "it is of callback/ema.yaml, which is not chosen: add ema to callback=[...], or leave the key"),
        ("~callback.ema", "choose what to keep: callback=[...]"),
        ("logger=null", "to choose none write logger=[]"),
        ("--seed=3", "'--seed=3' on the command line is no flag; write seed=3"),
        ("--resume", "'--resume' on the command line is no flag"),
        ("seed=1 -m optimizer.lr=1", "'optimizer.lr=1' on the command line stands behind a flag"),
        ("-c", "--cfg/-c: expected one argument"),
        ("mask.rows.mine.text=all", "there is no 'mask.rows.mine.text' yet on the command line; write +mask.rows.mine"),
        ("backbone.compile.mode=default", "write backbone.compile={mode:...}"),
        ("+loss.weights.a.b=1", "'loss.weights.a' is a mapping on the command line; legal are numbers"),
        ("logger.wandb.save_dir=${seed}", "'logger.wandb.save_dir' is 0 on the command line; expected a string"),
        (
            "callback.preemption.requeue=${seed}",
            "'callback.preemption.requeue' is 0 on the command line; expected true",
        ),
        ("guidance.drop=[1]", "'guidance.drop.0' is 1 on the command line; expected a string, in quotes"),
        ("backbone._target_=xyz", "'backbone._target_' is 'xyz' on the command line; legal is package.module.Name"),
        ("paper=1.5", "'paper' is 1.5 on the command line; legal is a text, in quotes"),
        ("validation.metrics=0", "'validation.metrics' is 0 on the command line; legal are lists"),
        ("=3", "'=3' on the command line has no key"),
        ("experiment=fcd_mask_a", "did you mean 'exp'?"),
    ],
)
def test_refuses(line, said):
    if not said:
        preflight(CONF, line.split())
        return
    with pytest.raises(ConfigError) as caught:
        preflight(CONF, line.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "optimizer.lr=1e-5 optimizer.betas=[0,0.99] optimizer.warmup=5000 validation.every=100000",
        "trainer.devices=auto trainer.accelerator=cpu trainer.precision=bf16-mixed trainer.gradient_clip_val=null",
        "loss.weights.text=0 +loss.weights.mine=1e-9 dropout.text=1 +dropout.condition=0",
        "evaluation.items=1 callback.sample_grid.items=1 validation.items=null guidance.strength=0",
        "logger=[] metric=[] seed=9223372036854775807",
        "-m optimizer.lr=1e-4,1 seed=range(0,5)",
    ],
)
def test_accepts(line):
    preflight(CONF, line.split())


def test_the_keys_of_a_benchmark_have_ranges_too():
    preflight(CONF, ["+bench=emoji_canny", "solver.steps=3", "metric=[]"], "evaluate")
    for word, said in {"evaluation.images=0": "is 0", "solver.steps=0": "is 0", "solver.guidance=x": "'x'"}.items():
        with pytest.raises(ConfigError, match=said):
            preflight(CONF, ["+bench=emoji_canny", word], "evaluate")


def test_a_plug_in_of_ones_own_needs_no_line_in_the_table(tmp_path):
    """Its new numbers are only finite, and so are those that the table knows by another meaning."""
    metric = "# @package metric.mine\n_target_: m.Mine\npower: -3\ncrop: 0.5\nsize: tall\nlow: [1]\n"
    write_tree(tmp_path, {"metric/mine": metric, "exp/good": GLOBAL + "metric: {mine: {power: 9, crop: 0.25}}"})
    own = ["--config-dir", str(tmp_path), "metric=[mine]"]
    preflight(CONF, own)
    preflight(CONF, [*own, "+exp=good", "metric.mine.size=small", "metric.mine.power=-7"])
    for word in ("metric.mine.power=inf", "metric.mine.crop=nan", "metric.mine.low=[inf]"):
        with pytest.raises(ConfigError, match=r"is (inf|nan) on the command line; (legal are finite|expected)"):
            preflight(CONF, [*own, word])


def test_the_file_is_named_that_says_a_number(tmp_path):
    files = {"exp/bad": "optimizer: {lr: 1e8}", "exp/heir": "defaults: [bad, _self_]\nseed: 1"}
    write_tree(tmp_path, {name: GLOBAL + text for name, text in files.items()})
    for line in ("+exp=bad", "+exp=heir", "-m +exp=fcd_mask_a,heir"):
        with pytest.raises(ConfigError, match=r"'optimizer.lr' is 1e\+08 in exp/bad.yaml; legal are"):
            preflight(CONF, ["--config-dir", str(tmp_path), *line.split()])
    preflight(CONF, ["--config-dir", str(tmp_path), "+exp=bad", "optimizer.lr=1e-3"])
