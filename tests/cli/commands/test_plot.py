"""``plasticity-rl plot`` on folders whose curves are known: what is drawn, where, and what is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_runs import call
from PIL import Image
from run_folders import entry, write_config, write_run

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.text import Annotation

from plasticity_rl.results.arms import arms_of
from plasticity_rl.results.charts import band_of, chart_of
from plasticity_rl.results.interactive import as_json
from plasticity_rl.results.legends import line_handle
from plasticity_rl.results.marks import are_ticks
from plasticity_rl.results.panels import COLOURS, DASHES, FAINT, INK, Chart, look, show_frames
from plasticity_rl.results.plots import draw
from plasticity_rl.results.run_page import last_values
from plasticity_rl.results.runs import read_run

RESET = entry("callbacks.Reset", modules=["critic"])


def curves(height: float) -> dict[str, dict[int, float]]:
    return {
        "eval/return": {0: 0.0, 1000: height, 2000: 2 * height},
        "train/return": {500: 1.0, 1500: 2.0},
        "fau/encoder": {100: 0.5, 2000: 0.4},
        "fau/critic": {100: 0.5, 2000: 0.3},
        "fau/critic/Q1.1": {100: 0.5},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two arms with two seeds each on one task, and a run on another."""
    base = tmp_path_factory.mktemp("runs")
    made = []
    for seed in (1, 2):
        made.append(write_run(base / f"plain{seed}", curves(10.0 * seed), seed=seed))
        made.append(write_run(base / f"reset{seed}", curves(30.0), {1000: "reset"}, seed=seed, callbacks=[RESET]))
    many = dict.fromkeys(range(100, 2000, 100), "redo")
    return [*made, write_run(base / "other", curves(5.0), many, task="other", callbacks=[entry("callbacks.ReDo")])]


def chart(*folders, **options) -> Chart:
    return chart_of(arms_of([read_run(folder) for folder in folders]), **options)


def lines(axis) -> list[tuple[list[float], list[float], str]]:
    """The curves of an axis; the marks of events have no line."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_color())
        for line in axis.lines
        if line.get_linestyle() != "None"
    ]


def marks(axis) -> list[tuple[float, str]]:
    """The numbers of events above a panel."""
    return [(text.xy[0], text.get_text()) for text in axis.texts if isinstance(text, Annotation)]


def texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def heads(figure) -> list[tuple[str, str]]:
    return [(axis.get_title(loc="left").replace("\n", " "), axis.get_ylabel()) for axis in figure.axes]


FAU_OF = "fraction of active units (FAU), {}"


def test_several_arms_get_a_panel_for_the_return_and_one_for_each_module(folders):
    figure = draw(chart(*folders[:4]))
    assert heads(figure) == [
        ("return, evaluations", "sum of rewards of an episode"),
        (FAU_OF.format("encoder"), "share of units"),
        (FAU_OF.format("critic"), "share of units"),
    ]
    assert figure.get_suptitle() == "tiny"
    # Seeds 1 and 2: 10 and 20 at frame 1000, so 15; then the arm with the reset.
    frames = [0.0, 1000.0, 2000.0]
    assert lines(figure.axes[0]) == [(frames, [0.0, 15.0, 30.0], COLOURS[0]), (frames, [0.0, 30.0, 60.0], COLOURS[1])]
    arms, events, caption = figure.legends
    assert texts(arms) == ["no intervention, 2 seeds", "Reset, 2 seeds"]
    assert [line.get_color() for line in arms.get_lines()] == list(COLOURS[:2]), "as drawn"
    assert texts(events) == ["Reset: reset at 1,000"]
    assert texts(caption) == ["Lines: interquartile mean over seeds. Thin lines: the seeds."]
    assert [marks(axis) for axis in figure.axes] == [[(1000, "1")]] * 3
    assert not any(isinstance(found, PolyCollection) for found in figure.axes[0].collections), "no band of two"
    seeds = [found for found in figure.axes[0].collections if isinstance(found, LineCollection) and found.get_alpha()]
    assert [[path[:, 1].tolist() for path in found.get_segments()] for found in seeds] == [
        [[0.0, 10.0, 20.0], [0.0, 20.0, 40.0]],
        [[0.0, 30.0, 60.0]] * 2,
    ]
    assert figure.axes[0].get_ylim()[0] == 0
    one, two = (axis.get_ylim() for axis in figure.axes[1:])
    assert one == two


def test_five_seeds_get_a_band(tmp_path):
    five = chart(*(write_run(tmp_path / str(seed), curves(10.0 * seed), seed=seed) for seed in range(1, 6)))
    assert five.caption == "Lines: interquartile mean over seeds. Bands: its 95 % intervals."
    (band,) = [found for found in draw(five).axes[0].collections if isinstance(found, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    # 20 to 100 at the last frame: IQM 60, and an interval of about 2.78 * 31.6 / sqrt(5) = 39 on both sides
    assert heights.max() == pytest.approx(60 + 44, abs=8)


def test_one_run_gets_all_modules_in_one_panel_and_its_training_episodes(folders):
    figure = draw(chart(folders[1]))
    assert heads(figure) == [
        ("return", "sum of rewards of an episode"),
        ("fraction of active units (FAU)", "share of units"),
    ]
    assert figure.get_suptitle() == "tiny: Reset"
    assert lines(figure.axes[0]) == [
        ([0.0, 1000.0, 2000.0], [0.0, 30.0, 60.0], INK),
        ([500.0, 1500.0], [1.0, 2.0], FAINT),
    ]
    assert [line[1] for line in lines(figure.axes[1])] == [pytest.approx([0.5, 0.4]), pytest.approx([0.5, 0.3])]
    assert [texts(axis.get_legend()) for axis in figure.axes] == [
        ["evaluations", "training episodes"],
        ["encoder", "critic"],
    ]
    for axis in figure.axes:
        assert [line.get_color() for line in axis.get_legend().get_lines()] == [line[2] for line in lines(axis)]
    (upright,) = figure.axes[0].collections
    assert [segment.tolist() for segment in upright.get_segments()] == [[[1000.0, 0.0], [1000.0, 1.0]]]
    (events,) = figure.legends
    assert texts(events) == ["reset at 1,000"]


def test_many_events_become_ticks_behind_one_number(folders):
    figure = draw(chart(folders[4]))
    assert marks(figure.axes[0]) == [(100, "1")]
    assert not figure.axes[0].collections, "19 lines would hide the curve"
    assert [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "|"] == [19]
    assert texts(figure.legends[0]) == ["redo, 19 times, 100 to 1,900, every 100"]


def test_events_that_are_too_close_are_ticks_too():
    assert not are_ticks([100, 500], 1000)
    assert are_ticks([100, 110], 1000)
    assert are_ticks(range(0, 700, 100), 1000), "seven"


def test_several_tasks_get_a_row_each_and_an_arm_has_one_colour_on_all(folders, tmp_path):
    both = chart(*folders, write_run(tmp_path, curves(7.0), task="other"))
    figure = draw(both)
    assert [title for title, _ in heads(figure)][::3] == ["tiny: return, evaluations", "other: return, evaluations"]
    assert [both.words(arm) for arm in range(3)] == ["no intervention, 1 to 2 seeds", "Reset, 2 seeds", "ReDo, 1 seed"]
    assert [colour for *_, colour in lines(figure.axes[3])] == [COLOURS[2], COLOURS[0]]
    assert [one.number for one in both.events] == [1, 2]


def test_every_panel_says_how_many_seeds_its_own_line_has(tmp_path):
    """Three on one task, two on the other, where one has no FAU: the most of them stood everywhere."""
    made = []
    for task, seeds in (("tiny", 3), ("other", 2)):
        for seed in range(1, seeds + 1):
            own = curves(10.0)
            if (task, seed) == ("other", 2):
                del own["fau/critic"]
            made.append(write_run(tmp_path / f"{task}{seed}", own, task=task, seed=seed))
    made.append(write_run(tmp_path / "reset", curves(30.0), callbacks=[RESET]))
    tags = ["eval/return", "fau/critic"]
    found = chart(*made, tags=tags)
    groups = json.loads(as_json(found))["groups"]
    assert [[[line["name"] for line in panel["lines"]] for panel in group["panels"]] for group in groups] == [
        [["no intervention, 3 seeds", "Reset, 1 seed"]] * 2,
        [["no intervention, 2 seeds"], ["no intervention, 1 seed"]],
    ]
    assert texts(draw(found).legends[0]) == ["no intervention, 1 to 3 seeds", "Reset, 1 seed"], "one for all panels"
    panels = [axis for axis in draw(chart(*made, tags=tags, apart=True)).figure.axes if axis.axison]
    assert [axis.get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ") for axis in panels] == [
        *["no intervention, 3 seeds", "Reset, 1 seed"] * 2,
        *["no intervention, 2 seeds", "no intervention, 1 seed"],
    ]
    assert [(row[0], row[2], row[-1]) for row in last_values(found)[1:]] == [
        ("tiny", "1, 2, 3", "0.300"),
        ("other", "1, 2", "0.300 (seed 1)"),
        ("tiny", "1", "0.300"),
    ]


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> list[Path]:
    """A run of each of eight arms with long names, the last with an event."""
    base = tmp_path_factory.mktemp("eight")
    arms = [
        [entry("callbacks.SelfNormalizedReset", eta=0.01 * number, modules=["actor", "critic", "encoder"])]
        for number in range(1, 8)
    ]
    made = [write_run(base / f"{number}", curves(number + 1.0), callbacks=arm) for number, arm in enumerate(arms)]
    return [*made, write_run(base / "last", curves(9.0), {1000: "reset"}, callbacks=[RESET])]


def test_eight_arms_get_axes_of_their_own_with_the_others_behind(eight):
    found = chart(*eight)
    assert found.apart
    figure = draw(found)
    panels = [axis for axis in figure.axes if axis.axison]
    blocks = [axis.texts[0].get_text() for axis in figure.axes if not axis.axison]
    assert blocks == ["return, evaluations", FAU_OF.format("encoder"), FAU_OF.format("critic")]
    assert len(panels) == 3 * 8
    assert [" ".join(axis.get_title(loc="left").split()) for axis in panels[:2]] == [
        "SelfNormalizedReset(eta=0.01), 1 seed",
        "SelfNormalizedReset(eta=0.02), 1 seed",
    ]
    for number, axis in enumerate(panels[:8]):
        coloured = [(line[1][-1], line[2]) for line in lines(axis) if line[2] != FAINT]
        assert coloured == [(2.0 * (number + 1) if number < 7 else 18.0, COLOURS[number % 7])]
        assert len(lines(axis)) == 8
        assert axis.get_ylim() == panels[0].get_ylim()
        assert marks(axis) == ([(1000, "1")] if number == 7 else [])
    assert texts(figure.legends[0]) == ["Reset: reset at 1,000"]
    assert "Every panel shows one arm" in texts(figure.legends[1])[0]
    assert not chart(*eight[:7]).apart
    assert not chart(*eight, apart=False).apart
    assert chart(*eight[:2], apart=True).apart


def test_nothing_below_or_above_the_axes_covers_anything(folders, eight):
    for chosen, apart in ((folders[:4], None), (folders[1:2], None), (eight, False), (eight, None)):
        title = "A title of many words that is longer than the figure is wide " * 3
        figure = draw(chart(*chosen, apart=apart, title=title, tags=[] if apart is None else ["eval/return"]))
        figure.draw_without_rendering()
        legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
        assert legends
        boxes = [legend.get_window_extent() for legend in legends]
        # The lanes of events and the titles above the panels belong to them.
        panels = [axis.get_tightbbox() for axis in figure.axes]
        for number, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
            assert not any(box.overlaps(axis.bbox) for axis in figure.axes)
            assert not any(box.overlaps(other) for other in boxes[:number])
            if number < len(figure.legends):
                assert not any(box.overlaps(panel) for panel in panels)
        for panel in panels:
            assert figure.bbox.x0 <= panel.x0 < panel.x1 <= figure.bbox.x1


def test_a_run_without_fau_or_evaluation_is_drawn_too(tmp_path):
    figure = draw(chart(write_run(tmp_path, {"train/return": {10: 1.0, 20: 2.0}})))
    (axis,) = figure.axes
    assert lines(axis) == [([10.0, 20.0], [1.0, 2.0], FAINT)]
    assert texts(axis.get_legend()) == ["training episodes"]


def test_colours_and_lines_are_used_up_before_they_repeat():
    looks = [look(index) for index in range(len(COLOURS) * len(DASHES))]
    assert len(set(looks)) == len(looks) >= 42  # a study has 38 arms
    patterns = {str(line_handle(one, "")._unscaled_dash_pattern) for one in looks}
    assert len(patterns) == len(DASHES)


@pytest.mark.parametrize(
    ("frames", "shown"), [(0, "0"), (500, "500"), (1000, "1k"), (12_500, "12.5k"), (1_000_000, "1M"), (2.5e6, "2.5M")]
)
def test_frames_are_written_short(frames, shown):
    assert show_frames(frames) == shown


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
def test_the_command_writes_every_format(folders, tmp_path, suffix):
    out = tmp_path / "new folder" / f"figure.{suffix}"
    result = call("plot", *folders, "--out", out)
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "tiny: no intervention, seeds 1, 2",
        "tiny: Reset, seeds 1, 2",
        "other: ReDo, seeds 1",
        f"Figure: {out}",
    ]
    if suffix == "png":
        assert min(Image.open(out).size) > 600
    elif suffix == "svg":
        assert ElementTree.parse(out).getroot().tag.endswith("svg")
    elif suffix == "pdf":
        assert out.read_bytes().startswith(b"%PDF")


def test_the_page_needs_no_network_and_has_the_last_values(folders, tmp_path):
    out = tmp_path / "figure.html"
    assert call("plot", *folders[:4], "--out", out).code == 0
    text = out.read_text()
    assert "<svg" in text
    assert not re.search(r"(?:src|href)=\"(?!#)(?!data:)", text.replace("xlink:href", "href"))
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert re.fullmatch(r"30\.0 \[-9\d\.\d, 15\d\.\d\]", rows[1][4]), "two seeds: 30 +- 12.7 * 10"
    assert rows == [
        ["task", "arm", "seeds", "env frames", "return", "FAU, encoder", "FAU, critic"],
        [
            "tiny",
            "no intervention",
            "1, 2",
            "2,000",
            rows[1][4],
            "0.400",
            "0.300",
        ],
        ["tiny", "Reset", "1, 2", "2,000", "60.0", "0.400", "0.300"],
    ]


def test_the_same_runs_give_the_same_file(folders, tmp_path):
    for name in ("one.svg", "two.svg"):
        assert call("plot", *folders[:2], "--out", tmp_path / name).code == 0
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_help_reads_well():
    text = " ".join(call("plot", "--help").out.split())
    assert "band of its 95 % intervals" in text
    assert "FAU (fraction of active units" in text
    assert "(default: figure.png)" in text


def test_a_run_that_is_named_twice_counts_once(folders, tmp_path):
    result = call("plot", folders[0], folders[0], "--out", tmp_path / "figure.png")
    assert result.out.splitlines()[0] == "tiny: no intervention, seeds 1"


def test_tags_labels_title_smoothing_and_a_folder_of_runs_are_applied(folders, tmp_path, monkeypatch):
    """Of seed 1, 0, 10 and 20 become the means of two, three and two: 5, 10, 15; of seed 2 10, 20, 30."""
    drawn: list[Chart] = []
    monkeypatch.setattr("plasticity_rl.results.plots.draw", lambda chart: drawn.append(chart) or draw(chart))
    words = ["--tags", "eval/*", "fau/critic", "--labels", "Once", "Plain", "Often", "--title", "Mine"]
    result = call("plot", folders[0].parent, *words, "--smooth", "2000", "--out", tmp_path / "figure.svg")
    assert result.code == 0, result.err
    assert result.out.splitlines()[:3] == ["other: Once, seeds 1", "tiny: Plain, seeds 1, 2", "tiny: Often, seeds 1, 2"]
    (found,) = drawn
    assert found.title == "Mine"
    titles = ["return, evaluations", FAU_OF.format("critic")]
    assert [(panel.task, panel.title) for panel in found.panels] == [
        (t, one) for t in ("other", "tiny") for one in titles
    ]
    assert found.panels[2].lines[0].band.iqm.tolist() == [7.5, 15.0, 22.5]
    assert found.caption.endswith("Smoothed: centred moving average over 2k env frames.")


def test_a_curve_that_is_not_finite_is_named_and_the_others_are_drawn(tmp_path):
    """Before, the line of its arm broke off without a word."""
    broken = {**curves(10.0), "fau/critic": {100: 0.5, 1000: math.nan, 2000: math.inf}}
    runs = [write_run(tmp_path / "one", curves(10.0)), write_run(tmp_path / "two", broken, seed=2)]
    result = call("plot", *runs, "--out", tmp_path / "figure.html")
    assert result.code == 0, result.err
    sentence = f"{runs[1]}: fau/critic is not finite at 2 points, first at frame 1,000; left out of its line"
    assert f"note: {sentence}" in result.out
    assert result.out.count("note:") == 1
    page = (tmp_path / "figure.html").read_text()
    assert f"<p>{sentence}.</p>" in page
    assert "<td>0.300 (seed 1)</td>" in page, "its row says 1, 2"
    (arm,) = arms_of([read_run(folder) for folder in runs])
    assert (band_of(arm, "fau/critic").num_runs, band_of(arm, "eval/return").num_runs) == (1, 2)


def test_of_a_single_run_the_finite_points_are_drawn(tmp_path):
    run = write_run(tmp_path, {**curves(10.0), "eval/return": {0: 1.0, 1000: math.nan, 2000: 3.0}})
    result = call("plot", run, "--out", tmp_path / "figure.svg")
    assert "eval/return is not finite at 1 point, first at frame 1,000; its other points are drawn" in result.out
    figure = draw(chart(run))
    assert lines(figure.axes[0])[0] == ([0.0, 2000.0], [1.0, 3.0], INK)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "required: RUN; see plasticity-rl plot --help"),
        (["nowhere"], "nowhere is not a run folder"),
        (["{run}", "--out", "figure.gif"], "--out figure.gif: the file must end in one of .png, .svg, .pdf, .html"),
        (["{run}", "--out", "{run}/config.yaml/figure.png"], "cannot be written"),
        (["{run}", "--max_points=1"], "'1' must be a whole number >= 2"),
        (["{run}", "--tags", "fau/critc"], "no run has it; the nearest they have: fau/critic"),
        (["{run}", "--labels", "a", "b"], "--labels: 2 labels for 1 arm, which are: 1. no intervention"),
        (["{run}", "{other}", "--labels", "a", "a"], "--labels: 'a' is there 2 times"),
        (["{run}", "--smooth", "0"], "'0' must be a whole number >= 1"),
        (["{run}", "--smooth", "5"], "--smooth 5: so few env frames change nothing"),
        (["{run}", "--smooth", "9000"], "--smooth 9000: so many env frames make every curve flat"),
        (["{empty}"], "is not a run folder and holds none: no folder in it has a config.yaml"),
        (["{run}", "--colour=red"], "unrecognized arguments: --colour=red"),
    ],
)
def test_bad_input_is_one_line(folders, args, expected, tmp_path):
    places = {"run": folders[0], "other": folders[1], "empty": tmp_path}
    result = call("plot", *(arg.format(**places) for arg in args))
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert expected in result.err


def test_without_matplotlib_it_says_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("plot", folders[0])
    assert result.code == 2
    assert "pip install 'plasticity-rl[plot]'" in result.err


def test_a_config_alone_is_no_run(tmp_path):
    result = call("plot", write_config(tmp_path))
    assert result.code == 2
    assert "holds no TensorBoard events" in result.err
