"""The figures of a report: markers that say what the verdicts say, names that files and LaTeX take, SVG for a page."""

import re
from types import SimpleNamespace

import pytest
from made_runs import make_run
from matplotlib.figure import Figure
from test_report_forms import faults
from test_report_statistics import measured_sweep

from unigen.evaluation.answers import Line, missing, more_seeds, one_line
from unigen.evaluation.compared import Interval
from unigen.evaluation.verdicts import Verdict
from unigen.tools.forms.figures import labels, unique
from unigen.tools.report import figures
from unigen.tools.report.figures import BLUE, GREY, MOST, ORANGE, draw
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.report import build_report

FOUND = Verdict(0.1, 3, None, None, p=0.01, half=0.05, margin=0.02, seeds_needed=8)


def line(state: str, **changes) -> Line:
    return Line(state, Interval(0.5, 0.1, "seeds"), FOUND._replace(**changes), state, None)


def test_markers_say_what_the_verdicts_say():
    """Coloured: resolved; grey: equal; hollow: it cannot be told. The bars are the intervals of the verdicts."""
    lines = [line("better"), line("worse", difference=-0.1), line("equal"), line("open", half=0.3)]
    ax = Figure().subplots()
    figures._differences(ax, [*lines, Line("it", Interval(0.5, None, ""), None, "reference", None)])
    markers = [mark for mark in ax.lines if mark.get_marker() == "o"]
    assert [mark.get_markerfacecolor() for mark in markers] == [BLUE, ORANGE, GREY, "none"]
    assert [float(mark.get_xdata()[0]) for mark in markers] == [0.1, -0.1, 0.1, 0.1]
    ends = [bars.get_segments()[0][:, 0].tolist() for bars in ax.collections if hasattr(bars, "get_segments")]
    assert ends == [pytest.approx(each) for each in ([0.05, 0.15], [-0.15, -0.05], [0.05, 0.15], [-0.2, 0.4])]
    words = [text.get_text() for text in ax.texts]
    assert words == ["better", "worse", "equal within ± 0.020", "cannot tell: 5 more seeds", "reference"]
    [band] = [patch for patch in ax.patches if patch.get_alpha()]
    assert (band.get_x(), band.get_x() + band.get_width()) == (-0.02, pytest.approx(0.02)), "the margin"


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"seeds_needed": 4}, 1, "1 more seed"),
        ({"seeds_needed": 2}, None, "undecided at this number of seeds"),
        ({"seeds_needed": None, "spread": object()}, None, "more items, not seeds"),
        ({"seeds_needed": None}, None, "more seeds"),
        ({"why": "one seed", "seeds_needed": None}, None, "one seed"),
    ],
)
def test_an_open_difference_says_what_it_lacks(changes, more, words):
    found = FOUND._replace(**changes)
    assert more_seeds(found) == more and missing(found) == words
    assert one_line(line("open", **changes)) == f"cannot tell: {words}"


def test_names_are_files_and_what_latex_takes():
    assert unique("rmse (deblur)", []) == "rmse_deblur" and unique("<>", []) == "figure"
    assert unique("../x.y", []) == "x_y" and unique("a/b", ["a_b", "a_b_2"]) == "a_b_3"


def test_every_form_has_the_figures_whatever_runs_are_called(tmp_path):
    """Dollars are no formula, and two metrics whose names differ in odd letters have a file each."""
    for i, name in enumerate(("100% & $x_1$ \\alpha", "<b>{a}[b]")):
        for seed in (0, 1):
            metrics = {each: {"value": 0.5 + i / 10, "better": "higher"} for each in ("f (a)", "f [a]")}
            make_run(tmp_path / f"{i}{seed}", name, seed, metrics=metrics)
    report = build_report(str(tmp_path))
    drawn = draw(report, tmp_path)
    assert [each.name for each in drawn.forests] == ["f_a", "f_a_2"]
    document = to_latex(report, drawn)
    included = re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", document)
    assert len(included) == 4 and all((tmp_path / file).read_bytes().startswith(b"%PDF") for file in included)
    assert faults(re.sub(r"\\includegraphics.*", "", document)) == [], "file names are no text"
    page, svg = to_html(report, drawn), drawn.forests[0].svg
    assert "$x_1$ \\alpha" in svg and "&lt;b&gt;{a}[b]" in svg and "<b>{a}" not in page
    assert page.count("<svg") == 4 and "http" not in page.replace("http-equiv", "") and "xmlns" not in page
    assert "var(--ink)" in svg and figures.INK not in page, "so that it is read on a dark page too"


def test_a_page_of_many_arms_draws_those_that_differ_most_and_says_so(tmp_path, monkeypatch):
    report = build_report(str(measured_sweep(tmp_path, {"a": 0.0, "b": 0.2, "c": 0.01, "d": 0.1}, seeds=(0, 1))))
    [answer] = report.answers
    monkeypatch.setattr(figures, "MOST", 3)
    few = figures.forest(answer, "x", tmp_path)
    assert "The 3 of 4 arms that differ most are drawn." in few.caption
    assert all(f">{arm}</text>" in few.svg for arm in "abd") and ">c</text>" not in few.svg
    monkeypatch.setattr(figures, "MOST", MOST)
    assert ">c</text>" in figures.forest(answer, "x", tmp_path).svg, "negative control"


LONG = "visualcloze_fill_with_condition_tokens_first_and_a_very_long_name_of_an_experiment, number"


def test_long_names_leave_room_for_what_is_drawn_and_are_told_in_full(tmp_path, monkeypatch, recwarn):
    arms = [f"{LONG} {x}" for x in "abcd"]
    report = build_report(str(measured_sweep(tmp_path, {arm: i / 10 for i, arm in enumerate(arms)}, seeds=(0, 1))))
    drawn, save = [], figures.saved
    monkeypatch.setattr(figures, "saved", lambda drawing, *rest: (drawn.append(drawing), save(drawing, *rest))[1])
    forest, curve = draw(report, tmp_path).forests[0], drawn[-1]
    assert not [each for each in recwarn if "collapsed" in str(each.message)]
    means, differences = drawn[0].axes[:2]
    assert means.get_position().width > 0.15 and differences.get_position().width > 0.25
    told = [label.get_text() for label in means.get_yticklabels()]
    assert len(set(told)) == 4 and max(len(line) for text in told for line in text.split("\n")) <= 28
    assert all(arm in forest.caption for arm in arms) and "Names in full" in forest.caption
    names = [text.get_text() for text in curve.axes[0].get_legend().get_texts()]
    assert len(set(names)) == 4 and max(map(len, names)) <= 40


def test_an_axis_of_rounding_errors_alone_has_the_scale_of_the_means():
    ax = Figure().subplots()
    figures._differences(ax, [line("open", difference=1e-17, half=1e-18)])
    assert ax.get_xlim() == (-0.1, 0.1)
    figures._differences(ax := Figure().subplots(), [line("open", difference=1e-3, half=1e-4, margin=None)])
    assert ax.get_xlim()[1] < 0.01, "negative control"


def test_a_letter_that_the_font_lacks_costs_no_warning(tmp_path, recwarn):
    report = build_report(str(measured_sweep(tmp_path, {"a": 0.0, "語": 0.2}, seeds=(0, 1))))
    assert "語" in draw(report, tmp_path).forests[0].svg
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_names_are_cut_only_if_they_are_long_and_stay_apart():
    assert labels(["a", "b (lr=0.1)"]) == ["a", "b (lr=0.1)"]
    assert labels(["one_two_three"], width=8) == ["one_two_\nthree"]
    assert max(map(len, labels(["x" * 10], width=4)[0].split("\n"))) <= 4
    first, second = labels(["a" * 9 + "bc" + "a" * 9, "a" * 9 + "de" + "a" * 9], letters=9)
    assert (first, second) == ("1: a…aaaa", "2: a…aaaa")


def test_what_is_drawn_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    report = build_report(str(measured_sweep(tmp_path / "runs", {"a": 0.0, "b": 0.2}, seeds=(0, 1))))
    full = SimpleNamespace(savefig=lambda *given, **how: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(Figure, "savefig", full.savefig)
    with pytest.raises(OSError, match=r"f1.pdf could not be written: No space left on device"):
        figures.forest(report.answers[0], "f1", tmp_path)
    assert not list((tmp_path / "figures").iterdir())
