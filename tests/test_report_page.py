"""The HTML page of a report: nothing from a run is interpreted, no network, grids and curves."""

import base64
import json
from html.parser import HTMLParser

import pytest
from made_runs import EVIL, PNG, make_run

from unigen.report import build_report
from unigen.report_curves import read_curves, smoothed, ticks
from unigen.report_html import to_html
from unigen.report_print import print_tables, to_markdown


class Tags(HTMLParser):
    """Collects start tags, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "onclick", "onerror")]

    def handle_data(self, data):
        self.text += data


def test_nothing_from_a_run_is_interpreted(tmp_path, capsys):
    for folder, evil in (("good", "a"), ("bad", EVIL)):
        config = {"prompt": evil, evil: 1}
        published = {"source": evil, evil: 0.1}
        make_run(tmp_path / folder / "0", evil, config=config, protocol={evil: evil}, published=published)
        make_run(tmp_path / folder / "1", evil, config={"prompt": "b"}, metrics={evil: {"value": 0.1, "better": evil}})
        (tmp_path / folder / "2").mkdir()
        (tmp_path / folder / "2" / "summary.json").write_text(json.dumps({"name": evil}))
    good, bad = (build_report(str(tmp_path / folder)) for folder in ("good", "bad"))
    page = Tags(to_html(bad))
    assert sorted(page.tags) == sorted(Tags(to_html(good)).tags) and page.tags.count("script") == 1
    assert '<script>alert("1")</script>' in page.text  # shown, as text
    markdown = to_markdown(bad, tmp_path)
    assert "<script" not in markdown and "&lt;script&gt;" in markdown and "\x1b" not in markdown
    assert [line.replace("\\|", "").count("|") for line in markdown.splitlines()] == [
        line.count("|") for line in to_markdown(good, tmp_path).splitlines()
    ]
    assert "](http" not in markdown.replace("\\]", "")
    print_tables(bad)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "<script>" in printed


def test_the_page_needs_no_network(tmp_path):
    make_run(tmp_path / "0")
    html = to_html(build_report(str(tmp_path)))
    assert "default-src 'none'" in html
    assert all(link.startswith("data:image/png;base64,") for link in Tags(html).links) and Tags(html).links
    assert "http" not in html.replace("http-equiv", "") and "@import" not in html and "url(" not in html
    assert Tags('<img src="https://e/x.png">').links == ["https://e/x.png"]


def test_grids_show_one_seed_and_the_newest_picture(tmp_path):
    make_run(tmp_path / "a1", "a", 1, grids=("step_000500", "step_001000"))
    make_run(tmp_path / "a0", "a", 0, grids=("step_000500", "final"))
    make_run(tmp_path / "b1", "b", 1, grids=("step_9", "step_10"))
    make_run(tmp_path / "c2", "c", 2)
    make_run(tmp_path / "d1", "d", 1, grids=())
    report = build_report(str(tmp_path))
    assert [(grids.seed, grids.without) for grids in report.grids] == [(1, ["c", "d"]), (2, ["a", "b", "d"])]
    pictures = [picture for grids in report.grids for picture in grids.pictures]
    assert [caption for caption, _ in pictures] == [
        *("a · seed 1 · step 1,000", "b · seed 1 · step 10", "c · seed 2 · step 3,000")
    ]
    html, markdown = to_html(report), to_markdown(report, tmp_path / "elsewhere")
    for _, path in pictures:
        assert base64.b64encode(path.read_bytes()).decode() in html
        assert f"(../{path.relative_to(tmp_path)})" in markdown
    assert base64.b64encode(PNG + b"step_000500").decode() not in html
    pictures[0][1].write_bytes(b"half a pict")
    html = to_html(report)
    assert "step_001000.png is not a readable PNG" in html and html.count("<img") == 2


def test_pictures_beyond_the_limit_are_named_not_dropped(tmp_path, monkeypatch):
    make_run(tmp_path / "0", "a")
    make_run(tmp_path / "1", "b")
    report = build_report(str(tmp_path))
    assert to_html(report).count("<img") == 2
    monkeypatch.setattr("unigen.report_html.EMBEDDED_BYTES", len(PNG) + 10)
    assert to_html(report).count("<img") == 1 and "not embedded" in to_html(report)


def test_curves_take_the_last_line_of_a_step_and_survive_half_lines(tmp_path):
    run = make_run(tmp_path / "0")
    lines = ['{"step": 20, "train/loss": 5}', '{"step": 10, "train/loss": 9}', "{{", '{"step": "x"}', "[1]"]
    lines += ['{"step": 20, "train/loss": 4, "val/ssim": NaN}', '{"step": 30, "train/loss": 3']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    report = build_report(str(tmp_path))
    assert read_curves(report.arms[0].runs[0]) == {"train/loss": [(10, 9.0), (20, 4.0)]}
    page = to_html(report)
    assert page.count('<path class="arm0"') == 1 and page.count('<circle class="arm0"') == 0
    (run / "metrics.jsonl").write_text('{"step": 20, "val/loss": 4}')
    assert to_html(build_report(str(tmp_path))).count('<circle class="arm0"') == 1, "one point has no line to draw"
    (run / "metrics.jsonl").unlink()
    assert "<h2>Curves" not in to_html(build_report(str(tmp_path)))


def test_smoothing_is_a_centred_mean_and_a_share_of_nought_is_none():
    points = list(enumerate((0.0, 3.0, 6.0, 30.0)))
    assert smoothed(points, 0.5) == [(0, 1.5), (1, 3.0), (2, 13.0), (3, 18.0)]
    assert smoothed(points, 0.0) == points and smoothed([], 0.5) == []
    thinned = smoothed([(i, float(i)) for i in range(5001)], 0.0, most=100)
    assert len(thinned) <= 101 and thinned[0] == (0, 0.0) and thinned[-1] == (5000, 5000.0)


def test_axis_ticks_are_round_and_within_the_axis():
    assert ticks(0, 3000, False) == [0, 1000, 2000, 3000]
    assert ticks(0.03, 4.0, True) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert ticks(0.7, 0.7, False) == [] and len(ticks(-1.0, 1.0, False)) == 5
