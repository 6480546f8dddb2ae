"""The pages of ``plot`` and of ``study report`` in a real browser, with names that would be scripts if they could."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Opened, chromium, opened
from made_studies import study_of
from run_folders import entry, write_run

pytest.importorskip("matplotlib")

from plasticity_rl.results.arms import arms_of
from plasticity_rl.results.charts import chart_of
from plasticity_rl.results.plots import draw, write
from plasticity_rl.results.run_page import page_of
from plasticity_rl.results.runs import read_run
from plasticity_rl.study.figures import draw_curves
from plasticity_rl.study.page import page_of as report_page_of
from plasticity_rl.study.report import make_report
from plasticity_rl.study.scores import read_scores
from plasticity_rl.study.spec import read_study
from plasticity_rl.study.study_run import StudyRun

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script><!--"
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
NUMBER_OF = """([panel, colour]) => {
    const canvas = document.querySelectorAll('.plot canvas')[panel];
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    let number = 0;
    for (let at = 0; at < data.length; at += 4)
        number += data[at + 3] === 255 && colour.every((part, channel) => Math.abs(data[at + channel] - part) < 3);
    return number;
}"""
"""Pixels of a colour in a panel."""


LABELS = """() => {
    window.written = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        window.written.push(text);
        return write.call(this, text, ...rest);
    };
}"""
"""Notes what is written beside the axes from now on."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of each kind. Frames 0, 1000, 2000; at 1000 the IQM of two seeds is 15, of the others 30."""
    base = tmp_path_factory.mktemp("<img src=x onerror=alert(3)>")
    runs = []
    for seed in (1, 2):
        curves = {"eval/return": {0: 0.0, 1000: 10.0 * seed, 2000: 20.0 * seed}, "fau/critic": {0: 0.5, 2000: 0.4}}
        runs.append(write_run(base / f"plain{seed}", curves, task=EVIL, seed=seed))
        curves = {"eval/return": {0: 0.0, 1000: 30.0, 2000: 60.0}, "fau/critic": {0: 0.5, 2000: 0.2 * seed}}
        curves["fau/actor"] = {0: 0.1, 1000: 0.2 if seed == 1 else math.nan}  # named, with its folder
        given = [entry(f"callbacks.{EVIL}")]
        runs.append(write_run(base / f"evil{seed}", curves, {500: EVIL}, task=EVIL, seed=seed, callbacks=given))
    chart = chart_of(arms_of([read_run(run) for run in runs]), title=EVIL)
    (base / "plot.html").write_text(page_of(chart, draw(chart)), encoding="utf-8")
    (base / "report.html").write_text(report_page(base), encoding="utf-8")
    return {"plot": base / "plot.html", "report": base / "report.html"}


def report_page(base: Path) -> str:
    def curves(run: StudyRun) -> dict[str, dict[int, float]] | None:
        if (run.arm, run.seed) == ("new", 2):
            return None
        return {
            "eval/return": {0: 0.0, 100: 10.0 * run.seed},
            EVIL: {0: 0.0, 100: 1.0},
            "fau/critic": {10: 0.5, 100: 0.4},
        }

    path = study_of(base, curves, arms=("plain", "new", "third"), seeds=2, measures=[EVIL], primary={"tag": EVIL})
    path.write_text(f"# Claim: {EVIL}\n# Confirmed if `{EVIL}`\n{path.read_text()}")
    study = read_study(path)
    report = make_report(study, *read_scores(study))
    file = io.StringIO()
    write(draw_curves(report), file, "svg")
    return report_page_of(report, {"curves": (file.getvalue(), EVIL)})


def hover(page: Any, panel: int, frames: float, last: float) -> None:
    """Point at a frame of a panel that shows 0 to ``last``."""
    box = page.locator(".u-over").nth(panel).bounding_box()
    page.mouse.move(box["x"] + box["width"] * frames / last, box["y"] + box["height"] / 2)


def values(opened_page: Opened, panel: int) -> list[str]:
    return opened_page.page.locator(".chart").nth(panel).locator(".value").all_inner_texts()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["plot", "report"])
def test_it_opens_without_errors_requests_or_overflow(browser, pages, name, width):
    with opened(browser, pages[name], width=width, dark=width == 390) as found:
        found.page.locator(".u-over").first.scroll_into_view_if_needed()
        hover(found.page, 0, 0.25, 1.0)
        for summary in found.page.locator("summary").all():
            summary.click()
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        assert found.page.locator(".u-over").count() == 3
        assert not found.page.locator(".static.curves").is_visible()
        assert EVIL in found.page.locator("body").inner_text()
        assert found.page.locator("img").count() == 0
        assert found.troubles == []


def test_values_events_hiding_and_zoom(browser, pages):
    with opened(browser, pages["plot"]) as found:
        page = found.page
        hover(page, 0, 1000, 2000)
        assert page.locator(".chart .at").first.inner_text() == "frame 1,000"
        plain, evil = values(found, 0)
        # 10 and 20: a standard error of 5 times about 12.7 of one degree of freedom, on both sides of 15
        assert re.fullmatch(r"15\.0 \[-4\d\.\d, 7\d\.\d\]", plain)
        assert evil == "30.0", "seeds that are equal have no interval"
        assert values(found, 1) == ["0.450", "0.400"], "all panels follow: halfway to 0.4, and to 0.3; no interval at 0"

        hover(page, 0, 500, 2000)
        assert page.locator(".tip").first.inner_text() == f"{EVIL}: {EVIL} at frame 500"
        hover(page, 0, 1500, 2000)
        assert not page.locator(".tip").first.is_visible()

        page.mouse.move(0, 0)
        assert page.evaluate(NUMBER_OF, [0, ORANGE]) > 100
        page.locator(".chart").nth(1).locator("button").nth(1).click()
        assert page.locator(".legend [aria-pressed=false]").count() == 3
        page.wait_for_timeout(50)  # canvases are drawn at the next frame
        assert [page.evaluate(NUMBER_OF, [panel, ORANGE]) for panel in (0, 1)] == [0, 0], "its event too"
        assert page.evaluate(NUMBER_OF, [0, BLUE]) > 100

        box = page.locator(".u-over").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60, steps=3)
        page.mouse.up()
        page.mouse.move(box["x"] + 2, box["y"] + 50)
        assert page.locator(".chart .at").first.inner_text() == "frame 1,000", "the left edge is 600 now"
        page.mouse.dblclick(box["x"] + 2, box["y"] + 50)
        page.mouse.move(box["x"] + 1, box["y"] + 51)
        assert page.locator(".chart .at").first.inner_text() == "frame 0"
        assert found.troubles == []


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1e-4, 3e-4, ["1.0e-4", "1.5e-4", "2.0e-4", "2.5e-4", "3.0e-4"]),  # 0 five times, with three digits
        (-2e-7, 2e-7, ["-2e-7", "-1e-7", "0", "1e-7", "2e-7"]),
        (0.1000, 0.1004, ["0.1000", "0.1001", "0.1002", "0.1003", "0.1004"]),
        (0.2, 0.6, ["0.2", "0.3", "0.4", "0.5", "0.6"]),
        (2000.0, 6000.0, ["2,000", "3,000", "4,000", "5,000", "6,000"]),
    ],
)
def test_ticks_of_an_axis_differ_and_have_as_many_digits(browser, tmp_path, first, last, expected):
    run = write_run(tmp_path, {"eval/return": {0: 1.0}, "own": {0: first, 2000: last}})
    chart = chart_of(arms_of([read_run(run)]), tags=["own"])
    (tmp_path / "page.html").write_text(page_of(chart, draw(chart)), encoding="utf-8")
    with opened(browser, tmp_path / "page.html") as found:
        found.page.evaluate(LABELS)
        found.page.emulate_media(color_scheme="dark")  # draws anew
        found.page.wait_for_timeout(50)
        written = found.page.evaluate("window.written")
        at = written.index(expected[0])
        assert written[at : at + len(expected)] == expected
        hover(found.page, 0, 0.0, 1.0)
        assert float(values(found, 0)[0]) == pytest.approx(first, rel=1e-2)


@pytest.mark.parametrize("name", ["plot", "report"])
def test_without_scripts_the_static_figure_is_there(browser, pages, name):
    with opened(browser, pages[name], scripts=False, width=390) as found:
        assert found.page.locator(".static.curves svg").is_visible()
        assert not found.page.locator(".help").is_visible()
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 390
