"""The HTML page of a report: nothing from a run is interpreted, no network, grids and curves."""

import base64
import io
import json
from html.parser import HTMLParser

from browser import in_browser
from made_runs import EVIL, PNG, make_items, make_run
from PIL import Image

from unigen.evaluation.curves import read_curves, smoothed
from unigen.tools.report.figures import curves, draw
from unigen.tools.report.html import to_html
from unigen.tools.report.markdown import print_report, to_markdown
from unigen.tools.report.report import build_report


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
    print_report(bad)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "<script>" in printed


def test_the_page_needs_no_network(tmp_path):
    make_run(tmp_path / "0")
    html = to_html(build_report(str(tmp_path)))
    assert "default-src 'none'" in html
    assert all(link.startswith("data:image/png;base64,") for link in Tags(html).links) and Tags(html).links
    assert "http" not in html.replace("http-equiv", "") and "@import" not in html and "url(" not in html
    assert Tags('<img src="https://e/x.png">').links == ["https://e/x.png"]


def test_grids_show_one_seed_and_the_newest_image(tmp_path):
    make_run(tmp_path / "a1", "a", 1, grids=("step_000500", "step_001000"))
    make_run(tmp_path / "a0", "a", 0, grids=("step_000500", "final"))
    make_run(tmp_path / "b1", "b", 1, grids=("step_9", "step_10"))
    make_run(tmp_path / "c2", "c", 2)
    make_run(tmp_path / "d1", "d", 1, grids=())
    report = build_report(str(tmp_path))
    assert [(grids.seed, grids.without) for grids in report.grids] == [(1, ["c", "d"]), (2, ["a", "b", "d"])]
    images = [image for grids in report.grids for image in grids.images]
    assert [caption for caption, _ in images] == [
        *("a · seed 1 · step 1,000", "b · seed 1 · step 10", "c · seed 2 · step 3,000")
    ]
    html, markdown = to_html(report), to_markdown(report, tmp_path / "elsewhere")
    for _, path in images:
        assert base64.b64encode(path.read_bytes()).decode() in html
        assert f"(../{path.relative_to(tmp_path)})" in markdown
    assert base64.b64encode(PNG + b"step_000500").decode() not in html
    images[0][1].write_bytes(b"half a pict")
    html = to_html(report)
    assert "step_001000.png is not a readable PNG" in html and html.count("<img") == 2


def test_images_beyond_the_limit_are_named_not_dropped(tmp_path, monkeypatch):
    make_run(tmp_path / "0", "a")
    make_run(tmp_path / "1", "b")
    report = build_report(str(tmp_path))
    assert to_html(report).count("<img") == 2
    monkeypatch.setattr("unigen.tools.forms.images.EMBEDDED_BYTES", len(PNG) + 10)
    assert to_html(report).count("<img") == 1 and "not embedded" in to_html(report)


def test_curves_take_the_last_line_of_a_step_and_survive_half_lines(tmp_path):
    run = make_run(tmp_path / "0")
    lines = ['{"step": 20, "train/loss": 5}', '{"step": 10, "train/loss": 9}', "{{", '{"step": "x"}', "[1]"]
    lines += ['{"step": 20, "train/loss": 4, "val/ssim": NaN}', '{"step": 30, "train/loss": 3']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    report = build_report(str(tmp_path))
    assert read_curves(report.arms[0].runs[0]) == {"train/loss": [(10, 9.0), (20, 4.0)]}
    drawn = draw(report, tmp_path)
    page = to_html(report, drawn)
    [curve] = drawn.curves
    assert curve.svg in page and curve.svg.count('<g class="arm0">') == 1
    assert "<use" not in curve.svg.partition('<g class="arm0">')[2].partition("</g>")[0]
    assert sorted(path.name for path in (tmp_path / "figures").glob("curve*")) == [
        *("curve_train_loss.pdf", "curve_train_loss.png")
    ]
    (run / "metrics.jsonl").write_text('{"step": 20, "val/loss": 4}')
    [curve] = curves(build_report(str(tmp_path)).arms, tmp_path)
    assert "<use" in curve.svg.rpartition('<g class="arm0">')[2], "one point has no line to draw"
    (run / "metrics.jsonl").unlink()
    without = drawn._replace(curves=curves(build_report(str(tmp_path)).arms, tmp_path))
    assert "<summary>Curves" not in to_html(report, without) and "<summary>Curves" in page


def test_smoothing_is_a_centred_mean_and_a_share_of_nought_is_none():
    points = list(enumerate((0.0, 3.0, 6.0, 30.0)))
    assert smoothed(points, 0.5) == [(0, 1.5), (1, 3.0), (2, 13.0), (3, 18.0)]
    assert smoothed(points, 0.0) == points and smoothed([], 0.5) == []
    thinned = smoothed([(i, float(i)) for i in range(5001)], 0.0, most=100)
    assert len(thinned) <= 101 and thinned[0] == (0, 0.0) and thinned[-1] == (5000, 5000.0)


# the gallery ----------------------------------------------------------------------------------------------------------


def gallery(root):
    """Two arms of two seeds: at the end b is brighter than a, by twice as much in the first item."""
    for arm, shade in {"a": 20, "b": 120}.items():
        for seed in (0, 1):
            make_items(make_run(root / f"{arm}{seed}", arm, seed), {0: 10, 450: 50, 900: shade})
    return build_report(str(root))


def test_an_item_stands_in_one_row_over_arms_seeds_and_checkpoints(tmp_path):
    report = gallery(tmp_path)
    assert [(item.key, item.task, item.prompt) for item in report.items] == [
        *(("k0", "canny", "item 0"), ("k1", "depth", "item 1"))
    ]
    first = report.items[0]
    assert [name for name, _ in first.fixed] == ["condition", "truth"] and first.fixed[1][1].name == "000_target.png"
    assert [(shot.arm, shot.seed, shot.step, shot.last) for shot in first.shots] == [
        (arm, seed, step, step == 900) for arm in (0, 1) for seed in (0, 1) for step in (0, 450, 900)
    ]
    page = Tags(to_html(report))
    assert page.tags.count("article") == 2 and all(link.startswith("data:image/") for link in page.links)
    (tmp_path / "b1" / "samples" / "items" / "items.json").write_text("[{")
    assert {shot.seed for shot in build_report(str(tmp_path)).items[0].shots if shot.arm == 1} == {0}


LOOK = """
const rows = () => [...document.querySelectorAll('article')].filter(each => getComputedStyle(each).display !== 'none');
const keys = () => rows().map(each => each.querySelector('small').textContent);
const shown = () => [...rows()[0].querySelectorAll('[data-step]')].filter(
  each => getComputedStyle(each).display !== 'none').map(each => Number(each.dataset.step));
const set = async (id, value) => { const field = document.getElementById(id); field.value = value;
  await field.onchange(); };
const found = {start: keys(), ends: shown(), fixed: [...rows()[0].querySelectorAll('.fixed figcaption')].map(
  each => each.textContent), blocks: [...rows()[0].querySelectorAll('h5')].map(each => each.textContent)};
await set('steps', 'all'); found.all = shown().length;
await set('steps', 'last'); found.last = shown();
await set('left', '0'); await set('right', '1'); found.sorted = keys();
found.differ = [...document.querySelectorAll('article output')].map(each => each.value);
await set('right', ''); found.back = keys();
await set('task', '1'); found.depth = keys();
return found;
"""


def test_the_gallery_sorts_by_difference_and_filters_by_task_in_a_browser(tmp_path):
    report = gallery(tmp_path / "runs")
    report.items.reverse()  # so that the one with the greater difference comes last
    found = in_browser(to_html(report), tmp_path, LOOK)
    assert found["start"] == found["back"] == ["k1", "k0"] and found["sorted"] == ["k0", "k1"]
    assert found["differ"] == ["differ by 100.0 of 255", "differ by 50.0 of 255"]
    assert found["fixed"] == ["condition", "truth"] and found["blocks"] == ["a", "b"]
    assert found["ends"] == [0, 900] * 4 and found["last"] == [900] * 4 and found["all"] == 12
    assert found["depth"] == ["k0"]


def test_images_that_do_not_fit_are_counted_and_the_newest_of_first_seeds_stay(tmp_path, monkeypatch):
    report = gallery(tmp_path)
    sizes = sum(path.stat().st_size for item in report.items for _, path in item.fixed)
    newest = [s.path for item in report.items for s in item.shots if s.last and s.seed == 0]
    monkeypatch.setattr("unigen.tools.forms.images.EMBEDDED_BYTES", sizes + sum(p.stat().st_size for p in newest))
    html = to_html(report)
    for path in newest:
        assert base64.b64encode(path.read_bytes()).decode() in html
    assert "would make the page too large" in html and "20 images" not in to_html(gallery(tmp_path / "again"))


def test_a_large_image_is_embedded_smaller(tmp_path):
    make_items(make_run(tmp_path / "0"), {0: 10}, count=1)
    big = tmp_path / "0" / "samples" / "items" / "000_target_step_000000.png"
    Image.effect_noise((600, 600), 90).save(big)
    html = to_html(build_report(str(tmp_path)))
    [address] = [link for link in Tags(html).links if link.startswith("data:image/jpeg")]
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert max(image.size) == 256
