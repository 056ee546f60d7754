"""The studio's tab Try without its page: cells become words of sample.py, and a drawing tells of its steps."""

import shlex
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from visual_prompts import FILL, exported, image_file

from unigen.tools.sample import sampled
from unigen.tools.studio import calls, examples
from unigen.tools.studio.calls import FRAMES, ROWS, SIDE
from unigen.tools.studio.drawing import Done, Failed, Step, draw
from unigen.tools.studio.models import Models
from unigen.tools.studio.places import Places, inside, model_names, model_of, run_names, run_path

SCRIPT = Path(__file__).parents[2] / "experiments" / "sample.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with one run that was exported."""
    folder = tmp_path_factory.mktemp("runs")
    run = exported(folder / "fill", *FILL)
    (run / "config.yaml").write_text("name: fill\n")
    return folder


@pytest.fixture
def places(runs, tmp_path) -> Places:
    return Places(SCRIPT.parents[1], runs, tmp_path / "out")


@pytest.fixture
def cells(tmp_path) -> list[list[str | None]]:
    """Three images of a grid of two rows and two columns, the last cell empty."""
    files = [str(image_file(tmp_path / f"{name}.png", seed=seed)) for seed, name in enumerate("abc")]
    grid: list[list[str | None]] = [[None] * SIDE for _ in range(SIDE)]
    grid[0][:2], grid[1][0] = files[:2], files[2]
    return grid


def call(places: Places, cells: list, **given: str) -> calls.Call:
    shape = calls.shape_of(ROWS, 2, 2, [1], None)
    run = model_of(places, "fill")[0]
    return calls.make_call(run, shape, cells, {"steps": "2", **given}, places.out, SCRIPT)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# cells and words -----------------------------------------------------------------------------------------------------


def test_a_grid_becomes_the_words_of_sample(places, cells):
    made = call(places, cells, prompt="a cat", negative="")
    files = [str(made.folder / f"{name}.png") for name in "abc"]
    assert f'rows=[["{files[0]}","{files[1]}"],["{files[2]}",null]]' in made.words
    assert "prompt=a cat" in made.words and f"out={made.folder}/result.png" in made.words
    assert not any(word.startswith("negative=") for word in made.words), "an empty field says nothing"
    assert (made.folder / "command.txt").read_text().strip() == made.command


def test_the_command_line_draws_the_same_image(places, cells, monkeypatch, capfd):
    made = call(places, cells, prompt="it's a cat; $HOME")
    files = sampled(made.words)
    change, words = shlex.split(made.command)[:2], shlex.split(made.command)[5:]
    assert shlex.split(made.command)[4] == str(SCRIPT)
    monkeypatch.chdir(change[1])
    assert command("sample.py", *words) == 0, capfd.readouterr().err
    assert np.array_equal(pixels(files["target"]), pixels(made.folder / "sample.png"))
    assert command("sample.py", *words, "seed=1", "out=other.png") == 0
    assert not np.array_equal(pixels(files["target"]), pixels(made.folder / "other.png")), "negative control"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a b,c].png", "a_b_c.png"),
        ("$(touch x)\n.jpg", "touch_x.jpg"),
        ("..png", "image.png"),
        ("猫.webp", "image.webp"),
        ("x.exe", "x"),
        ("result.png", "11_result.png"),
    ],
)
def test_files_get_plain_names(name, kept, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    source = tmp_path / "from" / name
    source.write_bytes(b"x")
    assert calls.kept(str(source), tmp_path / "to", "11") == kept
    assert (tmp_path / "to" / kept).read_bytes() == b"x"


def test_two_files_of_one_name_stay_apart(tmp_path):
    for part in ("one", "two", "to"):
        (tmp_path / part).mkdir()
    for part in ("one", "two"):
        (tmp_path / part / "a.png").write_text(part)
    names = [
        calls.kept(str(tmp_path / part / "a.png"), tmp_path / "to", str(i)) for i, part in enumerate(("one", "two"))
    ]
    assert [(tmp_path / "to" / name).read_text() for name in names] == ["one", "two"]


def test_an_empty_cell_is_named(places, cells):
    cells[0][1] = None
    with pytest.raises(ValueError, match="'example 1, column 2' is empty: drop an image there, or show fewer rows"):
        call(places, cells)
    with pytest.raises(ValueError, match="at least one column to fill"):
        calls.taken(calls.shape_of(ROWS, 2, 2, [], None), cells)


def test_a_task_has_its_conditions_and_its_targets():
    shape = calls.shape_of(FRAMES, 3, 3, [0], "canny+reference>target")
    assert (shape.rows, shape.columns, shape.fill) == (1, 3, (2,))
    assert [calls.label(shape, 0, k) for k in range(3)] == [
        "condition: canny",
        "condition: reference",
        "target: the result",
    ]
    one = [["x.png", None, None, None]]
    assert calls.taken(shape, one) == [["x.png", None, None]], "the others are computed from the first"
    assert calls.image_words(shape, calls.taken(shape, one), None) == ["condition=x.png"]
    both = [["x.png", "y.png", None, None]]
    assert calls.image_words(shape, calls.taken(shape, both), None) == ["condition=[x.png,y.png]"]
    text = calls.shape_of(FRAMES, 1, 2, [], ">target")
    assert calls.image_words(text, calls.taken(text, [[None] * 4]), None) == []


def test_each_result_has_a_folder_of_its_own(tmp_path):
    made = []
    threads = [threading.Thread(target=lambda: made.append(calls.new_folder(tmp_path))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 12


def test_every_example_is_there_and_fits_its_grid():
    folder = SCRIPT.parents[1] / "docs" / "own_images"
    assert examples.available(folder) == list(examples.EXAMPLES)
    assert examples.available(folder / "nowhere") == []
    for each in examples.EXAMPLES:
        task = each.task if each.kind == FRAMES else None
        shape = calls.shape_of(each.kind, len(each.cells), len(each.cells[0]), each.fill, task)
        assert shape.fill == each.fill
        grid = [[examples.cell(each, r, c, folder) for c in range(SIDE)] for r in range(SIDE)]
        assert calls.taken(shape, grid)[-1][each.fill[0]] is None


# drawing -------------------------------------------------------------------------------------------------------------


def test_a_drawing_tells_of_its_steps_and_ends(places, cells):
    models, made = Models(), call(places, cells)
    events = list(draw(sampled, made.words, models, threading.Event()))
    assert [(e.number, e.count) for e in events[:-1]] == [(1, 2), (2, 2)] or len(events) == 2  # Euler counts points
    assert isinstance(events[-1], Done) and events[-1].files["target"] == made.folder / "result.png"
    shown = [image for event in events[:-1] for image in event.images.values()]
    assert shown and all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in shown)
    assert np.array_equal(shown[-1], pixels(made.folder / "result.png")), "the last estimate is the result"


def test_a_task_is_drawn_from_its_condition(places, cells):
    shape = calls.shape_of(FRAMES, 1, 2, [], "canny>target")
    given = {"task": "canny>target", "prompt": "cat", "steps": "2"}
    made = calls.make_call(model_of(places, "fill")[0], shape, cells, given, places.out, SCRIPT)
    *_, last = draw(sampled, made.words, Models(), threading.Event())
    assert isinstance(last, Done), last
    assert calls.results_of(last.files) == [made.folder / "result.png"]
    assert (made.folder / "result_condition.png").is_file(), "negative control: the condition is a file too"


def test_models_stay_loaded_and_calls_do_not_change_them(places, cells):
    models = Models()
    word = model_of(places, "fill")[0]
    original, _ = models.original(Path(word) / "export")
    steps, guidance = original.solver.steps, original.guidance
    list(draw(sampled, call(places, cells, guidance="3").words, models, threading.Event()))
    assert models.original(Path(word) / "export")[0] is original
    assert (original.solver.steps, original.guidance, original.watch) == (steps, guidance, None)
    assert models.about(word).rows and models.about(word).size == 32


def test_a_drawing_that_is_stopped_writes_no_result(places, cells):
    made, stop = call(places, cells, steps="50"), threading.Event()
    events = draw(sampled, made.words, Models(), stop)
    assert isinstance(next(events), Step)
    stop.set()
    *_, last = events
    assert last == Failed("stopped") and not (made.folder / "result.png").exists()


def test_a_closed_page_ends_its_drawing(places, cells):
    made, stop = call(places, cells, steps="50"), threading.Event()
    events = draw(sampled, made.words, Models(), stop)
    next(events)
    events.close()
    assert stop.is_set() and not any(thread.name == "drawing" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "-1"}, "seed=-1 is not a whole number"),
        ({"guidance": "nan"}, "guidance=nan is not a number"),
        ({"strength": "0.5"}, "strength= goes with upsample="),
        ({"columns": "[canny,target]"}, "had none"),
    ],
)
def test_bad_settings_are_one_sentence(given, said, places, cells):
    *_, last = draw(sampled, call(places, cells, **given).words, Models(), threading.Event())
    assert isinstance(last, Failed) and said in last.reason and "\n" not in last.reason


def test_a_bad_file_is_one_sentence(places, cells, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    cells[0][0] = str(bad)
    *_, last = draw(sampled, call(places, cells).words, Models(), threading.Event())
    assert isinstance(last, Failed) and "bad.png" in last.reason and "\n" not in last.reason


def test_two_drawings_at_once_do_not_mix(places, cells):
    """Each has its own copy of the model and its own folder, also where both start in the same second."""
    models, made = Models(), {}

    def one(seed: str) -> None:
        own = call(places, cells, seed=seed, steps="3")
        *_, last = draw(sampled, own.words, models, threading.Event())
        made[seed] = pixels(last.files["target"])

    threads = [threading.Thread(target=one, args=(seed,)) for seed in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in ("1", "2"):
        *_, last = draw(sampled, call(places, cells, seed=seed, steps="3").words, models, threading.Event())
        assert np.array_equal(pixels(last.files["target"]), made[seed])
    assert not np.array_equal(made["1"], made["2"]), "negative control"


# places --------------------------------------------------------------------------------------------------------------


def test_models_are_the_shipped_ones_and_the_runs_with_weights(places):
    (places.runs / "begun").mkdir(exist_ok=True)
    (places.runs / "begun" / "config.yaml").write_text("name: begun\n")
    (places.runs / "begun" / "checkpoints").mkdir(exist_ok=True)
    (places.runs / "begun" / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert run_names(places) == ["begun", "fill"]
    assert model_names(places) == ["shipped:universal", "begun @ last", "fill"]
    assert model_of(places, "begun @ last")[1] == (places.runs / "begun/checkpoints/last.ckpt").resolve()


@pytest.mark.parametrize("name", ["../out", "/etc", "fill/../..", "shipped:../..", "fill @ ../x", "", None, "nothing"])
def test_no_other_folder_is_a_model_or_a_run(name, places):
    with pytest.raises(ValueError, match="there is no model"):
        model_of(places, name)
    with pytest.raises(ValueError, match="there is no run"):
        run_path(places, name)


def test_a_link_out_of_the_folder_is_refused(places, tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    link = tmp_path / "link.png"
    link.symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="lies outside"):
        inside(link, tmp_path)
    assert inside(tmp_path / "secret.txt", tmp_path).name == "secret.txt", "negative control"
