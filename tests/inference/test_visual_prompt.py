"""Rows of the user's own files through an exported run: targets and grid, and one sentence for what cannot be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from visual_prompts import CLEAN, COMMON, FILL, exported, image_file

from datamodules.graph.rows import fit_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("fill"), *FILL)


@pytest.fixture
def folder(tmp_path) -> Path:
    """a to d square, tall and wide of other shapes."""
    for seed, name in enumerate("abcd"):
        image_file(tmp_path / f"{name}.png", seed=seed)
    image_file(tmp_path / "tall.png", (30, 50), seed=7)
    image_file(tmp_path / "wide.png", (60, 30), seed=8)
    return tmp_path


def draw(capfd, run: Path, folder: Path, rows: str, *words: str, out: str = "out.png") -> dict[str, np.ndarray]:
    """What sample.py says that it wrote, as (H, W, 3) arrays."""
    code = command("sample.py", f"run={run}", f"rows={within(rows, folder)}", f"out={folder / out}", *words)
    said = capfd.readouterr()
    assert code == 0, said.err
    written = dict(line.split(": ", 1) for line in said.out.strip().splitlines())
    assert all(Path(path).parent == folder for path in written.values())
    return {what: np.asarray(Image.open(path)) for what, path in written.items()}


def within(rows: str, folder: Path) -> str:
    """The rows with the folder before every file: [[a,null]] becomes [[<folder>/a.png,null]]."""
    words = rows.replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split()
    return "".join(w if w in ("[", "]", ",", "null") else f"{folder}/{w}.png" for w in words)


def seen(folder: Path, *rows: str) -> list[list[np.ndarray | None]]:
    """The images of rows 'a b', 'c null' as (H, W, 3) arrays at the size that the model sees them."""

    def read(name: str) -> np.ndarray | None:
        return None if name == "null" else np.asarray(Image.open(folder / f"{name}.png")).transpose(2, 0, 1)

    fit = fit_rows([[read(name) for name in row.split()] for row in rows], 32)
    return [[None if p is None else p.transpose(1, 2, 0) for p in row] for row in fit]


def test_a_target_and_the_whole_grid(run, folder, capfd):
    made = draw(capfd, run, folder, "[[a,b],[c,null]]", "prompt=a cat")
    assert made.keys() == {"target", "grid"} and (folder / "out.png").exists() and (folder / "out_grid.png").exists()
    assert made["target"].shape == (32, 32, 3) and made["grid"].shape == (64, 64, 3)
    (a, b), (c, _) = seen(folder, "a b", "c null")
    assert np.array_equal(made["grid"][:32], np.hstack([a, b]))
    assert np.array_equal(made["grid"][32:], np.hstack([c, made["target"]]))


def test_everything_that_is_shown_counts_and_so_do_prompt_and_seed(run, folder, capfd):
    first = draw(capfd, run, folder, "[[a,b],[c,null]]")["target"]
    assert np.array_equal(first, draw(capfd, run, folder, "[[a,b],[c,null]]")["target"])
    for rows, words in [
        ("[[d,b],[c,null]]", []),
        ("[[a,b],[d,null]]", []),
        ("[[c,null]]", []),
        ("[[a,b],[c,null]]", ["prompt=a cat"]),
        ("[[a,b],[c,null]]", ["instruction=a cat"]),
        ("[[a,b],[c,null]]", ["seed=1"]),
        ("[[a,b],[c,null]]", ["steps=1"]),
    ]:
        assert not np.array_equal(first, draw(capfd, run, folder, rows, *words)["target"]), (rows, words)


def test_an_instruction_takes_the_prompts_place(run, folder, capfd):
    prompted = draw(capfd, run, folder, "[[a,null]]", "prompt=a cat")["target"]
    for words, same in ((["instruction=a cat"], True), (["instruction=a dog", "prompt=a cat"], False)):
        assert np.array_equal(prompted, draw(capfd, run, folder, "[[a,null]]", *words)["target"]) == same


def test_named_columns_are_an_instruction_as_in_training(tmp_path, folder, capfd):
    run = exported(tmp_path / "told", *FILL, "instruction@data.instruction=short", "encoder.text.window=32")
    told = draw(capfd, run, folder, "[[a,b],[c,null]]", "columns=[canny,target]", "prompt=a cat")["target"]
    for words, same in ((["instruction=2x2: edges > picture. a cat"], True), (["prompt=a cat"], False)):
        assert np.array_equal(told, draw(capfd, run, folder, "[[a,b],[c,null]]", *words)["target"]) == same
    for columns, said in (("[canny]", "names 1 images, but a row has 2"), ("canny", "must be a list of names")):
        words = f"rows={within('[[a,b],[c,null]]', folder)}", f"columns={columns}"
        assert command("sample.py", f"run={run}", *words) == 1 and said in capfd.readouterr().err


def test_any_image_of_the_query_may_be_wanted(run, folder, capfd):
    """Reverse generation, and an image in the middle: it is where it was asked for."""
    back = draw(capfd, run, folder, "[[a,b],[null,c]]")
    (_, _), (_, c) = seen(folder, "a b", "null c")
    assert np.array_equal(back["grid"][32:], np.hstack([back["target"], c]))
    middle = draw(capfd, run, folder, "[[a,b,c],[b,null,d]]")
    (_, (b, _, d)) = seen(folder, "a b c", "b null d")
    assert np.array_equal(middle["grid"][32:], np.hstack([b, middle["target"], d]))


def test_several_targets_of_rows_of_other_shapes(run, folder, capfd):
    """With two targets all rows are as wide as the query: 16 of 30×50 pixels at 32², as fit_rows says."""
    made = draw(capfd, run, folder, "[[wide,wide,wide],[tall,null,null]]")
    (wide, *_), (tall, *_) = seen(folder, "wide wide wide", "tall null null")
    assert made.keys() == {"target0", "target1", "grid"} and wide.shape != tall.shape
    assert made["target0"].shape == made["target1"].shape == tall.shape
    assert not np.array_equal(made["target0"], made["target1"])
    assert {path.name for path in folder.glob("out*")} == {"out_target0.png", "out_target1.png", "out_grid.png"}
    query = np.hstack([tall, made["target0"], made["target1"]])
    assert np.array_equal(made["grid"], np.vstack([np.hstack([wide] * 3), query]))


def test_beside_a_shorter_row_the_grid_is_white(run, folder, capfd):
    made = draw(capfd, run, folder, "[[wide,wide],[tall,null]]")
    (wide, _), (tall, _) = seen(folder, "wide wide", "tall null")
    assert wide.shape[1] > tall.shape[1]
    query = made["grid"][wide.shape[0] :]
    assert np.array_equal(query[:, : 2 * tall.shape[1]], np.hstack([tall, made["target"]]))
    assert (query[:, 2 * tall.shape[1] :] == 255).all()


def test_a_query_without_images_needs_an_example(run, folder, capfd):
    made = draw(capfd, run, folder, "[[a,b],[null,null]]")
    assert made["target0"].shape == made["target1"].shape == (32, 32, 3)


def test_more_examples_than_in_training(run, folder, capfd):
    assert draw(capfd, run, folder, "[[a,b],[b,c],[c,d],[d,a],[b,null]]")["grid"].shape == (160, 64, 3)


def test_clean_conditions_take_a_visual_prompt_too(tmp_path, folder, capfd):
    """The dev form: nothing reads a masked image there, so what stands in for the target must not be seen either."""
    clean = exported(tmp_path / "clean", *CLEAN)
    made = draw(capfd, clean, folder, "[[a,b],[c,null]]")
    assert not np.array_equal(made["target"], draw(capfd, clean, folder, "[[a,d],[c,null]]")["target"])


def test_the_output_of_one_prompt_is_an_image_of_the_next(run, folder, capfd):
    """Task composition: what the first made is shown to the second as it is."""
    first = draw(capfd, run, folder, "[[a,b],[c,null]]", out="first.png")
    second = draw(capfd, run, folder, "[[b,d],[first,null]]", out="second.png")
    assert np.array_equal(second["grid"][32:, :32], first["target"])


def test_upsampling_draws_the_targets_again_and_leaves_the_grid(run, folder, capfd):
    plain = draw(capfd, run, folder, "[[a,b],[c,null]]")
    finer = draw(capfd, run, folder, "[[a,b],[c,null]]", "upsample=64", "strength=0.4")
    assert finer["target"].shape == (64, 64, 3) and np.array_equal(finer["grid"], plain["grid"])
    other = draw(capfd, run, folder, "[[a,b],[c,null]]", "upsample=64", "strength=0.8")
    assert not np.array_equal(finer["target"], other["target"])


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ("[[a],[c,null]]", [], "rows: row 0 has 1 images, the last row 2"),
        ("[[a,null],[c,null]]", [], "rows: image 1 of row 0 is missing; only the last row, 1,"),
        ("[[null,null]]", [], "rows: nothing says how large the images are to be"),
        ("[[a,b],[c,d]]", [], "rows: the last row, 1, has all of its 2 images, so there is nothing to generate"),
        ("[[a,b],[gone,null]]", [], "cannot read image '{tmp}/gone.png': there is no such file"),
        ("[]", [], "rows is empty"),
        ("[[]]", [], "rows is empty"),
        ("[a,null]", [], "are no rows; write rows=[[a.png,b.png],[c.png,null]]"),
        ("[[a,null]", [], "cannot be read"),
        ("[" + "[a,b],[b,c],[c,d]," * 5 + "[c,null]]", [], "16 rows of 2 images take 17 temporal positions"),
        ("[[a,b],[c,null]]", ["out={tmp}/c.png"], "out={tmp}/c.png would overwrite the image that was given"),
        ("[[a_grid,b],[c,null]]", ["out={tmp}/a.png"], "would overwrite the image that was given"),
        ("[[a,null]]", ["condition={tmp}/a.png"], "give only one of condition=<...> or rows=<...>"),
        ("[[a,null]]", ["prepared=true"], "prepared= goes with condition=, not with rows="),
        ("[[a,null]]", ["strength=0.5"], "strength= goes with upsample="),
        ("[[a,null]]", ["columns=[canny,target]"], "names images for an instruction, but this run had none"),
        ("[[a,null]]", ["columns=[canny,target]", "instruction=x"], "columns= and instruction= both say what"),
        ("[[a,null]]", ["upsample=64", "strength=0"], "strength=0 must be above 0"),
        ("[[a,null]]", ["upsample=64", "strength=1.5"], "strength=1.5 must be above 0"),
        ("[[a,null]]", ["upsample=16"], "upsample=16 is not a whole number of at least 32"),
        ("[[a,null]]", ["upsample=8192"], "takes 512×512 positions; the backbone holds 256×512"),
    ],
)
def test_bad_input_is_one_sentence(rows, words, said, run, folder, capfd):
    image_file(folder / "a_grid.png")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    more = [word.format(tmp=folder) for word in words]
    out = [] if any(word.startswith("out=") for word in more) else [f"out={folder / 'out.png'}"]
    assert command("sample.py", f"run={run}", f"rows={within(rows, folder)}", *out, *more) == 1
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and said.format(tmp=folder) in error, error
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "and nothing is written"


def test_a_number_is_no_file(run, capfd):
    assert command("sample.py", f"run={run}", "rows=[[1,null]]") == 1
    assert "rows=[[1,null]]: 1 is neither a file name nor null" in capfd.readouterr().err


def test_a_grid_whose_shift_degenerates_is_refused(tmp_path, folder, capfd):
    """More than 15 thousand tokens at VisualCloze's sizes; here the limit is lower, and the same row passes without."""
    rows = f"rows={within('[[a,b],[c,null]]', folder)}"
    for limit, code in ((0.4, 1), ("null", 0)):
        run = exported(tmp_path / f"limit{limit}", *FILL, f"solver.shift.limit={limit}")
        assert command("sample.py", f"run={run}", rows, f"out={folder / 'out.png'}") == code
        assert ("error: the dynamic shift degenerates: 16 image tokens have mu" in capfd.readouterr().err) == bool(code)


def test_frames_have_no_rows(tmp_path, folder, capfd):
    run = exported(tmp_path / "frames", "formatter=frames", "~formatter.caps.example")
    assert command("sample.py", f"run={run}", f"rows={within('[[a,b],[c,null]]', folder)}") == 1
    error = capfd.readouterr().err
    said = "has formatter frames, which has no place for in-context rows (role 'example' in formatter.caps); rows= "
    assert said in error


def test_rows_as_frames(tmp_path, folder, capfd):
    """Examples count, and a run that was trained without any says so."""
    run = exported(tmp_path / "frames", "formatter=frames", *COMMON, "data.rows=[1,2]")
    made = draw(capfd, run, folder, "[[a,b],[c,null]]")
    assert made["grid"].shape == (64, 64, 3)
    assert not np.array_equal(made["target"], draw(capfd, run, folder, "[[a,d],[c,null]]")["target"])
    plain = exported(tmp_path / "plain", "formatter=frames", *COMMON, "data.rows=[0,0]")
    for which, said in ((plain, "rows= shows 1 examples, and in the run's training a sample had 0 to 0"), (run, "")):
        words = f"rows={within('[[a,b],[c,null]]', folder)}", f"out={folder / 'said.png'}"
        assert command("sample.py", f"run={which}", *words) == 0
        assert (said in (err := capfd.readouterr().err)) and bool(said) == bool(err), err


def test_a_task_that_nothing_reads_is_said(run, tmp_path, folder, capfd):
    uce = exported(tmp_path / "uce", "formatter=grid_clean", tasks=("canny>target",))
    for which, read in ((run, False), (uce, True)):
        words = f"rows={within('[[a,null]]', folder)}", f"out={folder / 'said.png'}"
        assert command("sample.py", f"run={which}", *words) == 0 and "is not read" not in capfd.readouterr().err
        assert command("sample.py", f"run={which}", *words, "task=canny>target") == 0
        line = "task=canny>target is not read: this run has no UCE, and the rows say the task"
        assert (line not in capfd.readouterr().err) == read


def test_a_subject_that_the_prompt_does_not_say_is_said(tmp_path, folder, capfd):
    run = exported(tmp_path / "uce", "formatter=grid_clean", tasks=("canny>target",))
    for subject, missed in (("cat", False), ("cats", False), ("pot", True)):
        words = f"rows={within('[[a,null]]', folder)}", f"out={folder / 'said.png'}", "prompt=a cat"
        assert command("sample.py", f"run={run}", *words, f"subject={subject}") == 0
        line = "UCE does not find subject='pot' in 'a cat': a miss gets the task's bias alone"
        assert (line in capfd.readouterr().err) == missed


def test_a_run_with_uce_adds_the_bias_of_the_task_that_is_told(tmp_path, folder, capfd):
    run = exported(tmp_path / "uce", "formatter=grid_clean")
    tasks = ("canny>target", "openmoji>target")
    first, other = (draw(capfd, run, folder, "[[a,null]]", f"task={task}")["target"] for task in tasks)
    assert not np.array_equal(first, other)
    words = ["sample.py", f"run={run}", f"rows={within('[[a,null]]', folder)}"]
    assert command(*words) == command(*words, "task=line>openmoji") == 1
    said = capfd.readouterr().err
    assert f"run={run} has 2 tasks; say which by task=, one of 'canny>target', 'openmoji>target'" in said
    assert "task 'line>openmoji' has no bias in conditioning.embedding.tasks; it knows canny>target, openmoji" in said


def test_words_of_rows_are_refused_with_a_condition(run, folder, capfd):
    for word in ("instruction=x", "upsample=64"):
        assert command("sample.py", f"run={run}", f"condition={folder / 'a.png'}", word) == 1
        assert f"{word.partition('=')[0]}= goes with rows=, not with condition=" in capfd.readouterr().err
    assert command("sample.py", f"run={run}") == 1
    assert "say either condition=<...> or rows=<...>" in capfd.readouterr().err


def test_without_out_nothing_is_written_over(run, folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "sample_grid.png").write_text("mine")
    assert command("sample.py", f"run={run}", f"rows={within('[[a,b],[c,null]]', folder)}", "steps=1") == 0
    assert capfd.readouterr().out.splitlines()[-2:] == ["grid: sample_2_grid.png", "target: sample_2.png"]
    assert (folder / "sample_grid.png").read_text() == "mine" and not (folder / "sample.png").exists()
