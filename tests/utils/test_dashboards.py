"""Dashboards: visdom on a real server on a free loopback port, read back through its API; event files, read back."""
import html
import json
import re
import signal
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from utils import dashboards
from utils.dashboards import Dashboard, Dashboards, TensorBoardDashboard, VisdomDashboard, open_dashboards
from utils.dashboards import visdom as client
from utils.errors import UserError
from utils.logging import start_log, stop_log
from utils.text import escape_unprintable
from utils.visualizer import Visualizer


def test_the_page_opens(visdom_port):
    """visdom's page needs a tornado below 6.6; its data interface alone doesn't show that."""
    port = visdom_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=600) as answer:
        assert answer.status == 200 and b"visdom" in answer.read().lower()


def test_windows_arrive_as_sent(visdom_port, visdom_windows):
    dashboard = VisdomDashboard(visdom_port, "run", run="exp")
    dashboard.table("Options", {"lr": 0.1, "<script>": "<b>&"})
    for itr, loss in enumerate((3.0, float("nan"), 1.0)):
        dashboard.scalar("Loss", itr, loss)
    dashboard.curves("Robust", {"fgsm": [(0, 0.5), (0.25, 0.4)], "pgd": [(0, 0.5), (0.25, 0.3)]}, xlabel="eps")
    dashboard.image("Sample 0", np.zeros((3, 4, 12), np.uint8))
    dashboard.bars("IoU", {"sky": 0.9, "road": 0.25, "nothing": float("nan")})
    dashboard.heat_map("Confusion", np.array([[90.0, 10.0], [30.0, 70.0]]), ["sky", "road"])
    dashboard.text("Results", "| a |\n  b")

    shown = visdom_windows(visdom_port, "run")
    assert set(shown) == {"Options", "Loss", "Robust", "Sample 0", "IoU", "Confusion", "Results"}
    assert [window["title"] for window in shown.values()] == list(shown)
    (loss,) = shown["Loss"]["content"]["data"]
    assert loss["name"] == "exp" and loss["x"] == [0, 1, 2] and loss["y"] == [3, None, 1]
    lines = {line["name"]: (line["x"], line["y"]) for line in shown["Robust"]["content"]["data"]}
    assert lines == {"fgsm": ([0, 0.25], [0.5, 0.4]), "pgd": ([0, 0.25], [0.5, 0.3])}
    table = shown["Options"]["content"]
    assert "<td>lr</td><td>0.1</td>" in table and "&lt;script&gt;" in table and "<script>" not in table
    assert shown["Sample 0"]["content"]["src"].startswith("data:image")
    (bars,) = shown["IoU"]["content"]["data"]
    assert (bars["type"], bars["x"], bars["y"]) == ("bar", ["sky", "road"], [0.9, 0.25])
    (matrix,) = shown["Confusion"]["content"]["data"]
    assert matrix["z"] == [[90, 10], [30, 70]] and matrix["x"] == matrix["y"] == ["sky", "road"]
    assert shown["Results"]["content"] == "<pre>| a |\n  b</pre>"


def test_a_continued_run_goes_on_in_its_curves_a_new_one_replaces_them(visdom_port, visdom_windows):
    """What an earlier call drew after the iteration that is continued from is drawn again, not twice."""
    for first, continues in ((0, False), (2, True), (3, True), (0, False)):
        dashboard = VisdomDashboard(visdom_port, "again", run="exp", continues=continues)
        for itr in (first, first + 1):
            dashboard.scalar("Loss", itr, 10.0 * first + itr)
        dashboard.curves("Robust", {"pgd": [(0, 0.5), (first, 0.25)]})
        shown = visdom_windows(visdom_port, "again")
        (curve,), (robust,) = (shown[window]["content"]["data"] for window in ("Loss", "Robust"))
        expected = {0: ([0, 1], [0, 1]), 2: ([0, 1, 2, 3], [0, 1, 22, 23]), 3: ([0, 1, 2, 3, 4], [0, 1, 22, 33, 34])}
        assert (curve["x"], curve["y"]) == expected[first]
        assert robust["x"] == [0, first] and curve["name"] == "exp"


def test_runs_lie_side_by_side_in_one_environment(visdom_port, visdom_windows):
    for run, level in (("sgd", 1.0), ("sam", 2.0), ("sgd", 3.0)):  # the last one replaces the first
        dashboard = VisdomDashboard(visdom_port, "both", run=run, prefix=run)
        for itr in (1, 2):
            dashboard.scalar("Loss", itr, level * itr)
        dashboard.curves("Robust", {"pgd": [(0, level), (1, 0.5)]})
        dashboard.table("Options", {"level": level})
    shown = visdom_windows(visdom_port, "both")
    assert set(shown) == {"Loss", "Robust", "[sgd] Options", "[sam] Options"}
    assert {curve["name"]: curve["y"] for curve in shown["Loss"]["content"]["data"]} == {"sgd": [3, 6], "sam": [2, 4]}
    assert {curve["name"]: curve["y"] for curve in shown["Robust"]["content"]["data"]} == {
        "sgd: pgd": [3, 0.5], "sam: pgd": [2, 0.5]}
    assert "<td>3.0</td>" in shown["[sgd] Options"]["content"]


HOSTILE = "<script>alert(1)</script> & \"'<a href='javascript:x'>\x1b[2J"


def test_nothing_that_is_sent_is_html(visdom_port, visdom_windows):
    """Tables are HTML; in titles and legends plotly takes <b> and <a href>; all names may be a stranger's."""
    dashboard = VisdomDashboard(visdom_port, "hostile", run=HOSTILE, prefix=HOSTILE)
    for itr in range(2):
        dashboard.scalar(HOSTILE, itr, 1.0)
    dashboard.curves(f"{HOSTILE} curves", {HOSTILE: [(0, 1.0), (1, 0.5)]}, xlabel=HOSTILE)
    dashboard.table(f"{HOSTILE} table", {HOSTILE: HOSTILE})
    dashboard.image(f"{HOSTILE} image", np.zeros((3, 4, 4), np.uint8))
    dashboard.bars(f"{HOSTILE} bars", {HOSTILE: 0.5, "other": 1.0})
    dashboard.heat_map(f"{HOSTILE} matrix", np.eye(2), [HOSTILE, "other"])
    dashboard.text(f"{HOSTILE} text", HOSTILE)
    shown = visdom_windows(visdom_port, "hostile")
    assert len(shown) == 7
    text = json.dumps(shown)
    for tag in ("<script", "<a ", "<b>", "\\u001b"):
        assert tag not in text
    table, text = [window["content"] for window in shown.values() if window["type"] == "text"]
    assert re.findall(r"<(\w+)", text) == ["pre"]
    assert re.findall(r"<(\w+)", table) == ["table", "tr", "th", "th", "tr", "td", "td"]
    assert html.unescape(re.findall("<td>(.*?)</td>", table)[1]) == escape_unprintable(HOSTILE)


def test_a_server_that_dies_costs_one_warning(visdom_server, capsys):
    port, process = visdom_server
    start_log()
    dashboard = open_dashboards(vis_port=port, vis_env="main", tensorboard=None, folder=None, run="exp", named=False,
                                start=None)
    dashboard.scalar("Loss", 0, 1.0)
    assert dashboard.enabled
    process.kill()
    process.wait()
    for itr in range(3):
        dashboard.scalar("Loss", itr, 1.0)
        dashboard.table("Options", {})
    dashboard.close()
    stop_log()
    out, err = capsys.readouterr()
    assert out.startswith("Warning: the visdom server stopped (ConnectionError: ") and out.count("\n") == 1 and not err
    assert not dashboard.enabled


def test_a_server_that_hangs_costs_one_warning_and_a_short_wait(visdom_server, capsys, monkeypatch):
    port, process = visdom_server
    dashboard = Dashboards([VisdomDashboard(port)])
    monkeypatch.setattr(client, "TIMEOUT", 0.5)  # only now: a busy machine may need longer to connect
    start_log()
    process.send_signal(signal.SIGSTOP)
    for itr in range(3):
        dashboard.scalar("Loss", itr, 1.0)
    stop_log()
    assert capsys.readouterr().out.count("the visdom server stopped") == 1


@pytest.mark.usefixtures("tensorboard")
def test_one_that_fails_leaves_the_others(tmp_path, capsys):
    class Broken(Dashboard):
        title = "the broken one"

        def image(self, name, image, **_):
            raise OSError(28, "No space left")

    start_log()
    shown = Dashboards([Broken(), TensorBoardDashboard(tmp_path / "events")])
    shown.scalar("Loss", 1, 0.5)
    for _ in range(2):
        shown.image("Sample", np.zeros((3, 4, 4), np.uint8))
    shown.close()
    stop_log()
    assert capsys.readouterr().out == ("Warning: the broken one stopped (OSError: [Errno 28] No space left); the run "
                                       "continues without it\n")
    assert read_events(tmp_path / "events").Tags()["images"] == ["Samples/Sample"]


def test_a_server_that_is_not_visdoms_is_refused(free_port):
    class NotFound(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", free_port), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=f"no visdom server answers on port {free_port}"):
            VisdomDashboard(free_port)
        server.shutdown()


def test_a_run_that_continues_goes_on_without_a_server(free_port, capsys):
    def start(itr):
        return open_dashboards(vis_port=free_port, vis_env="main", tensorboard=None, folder=None, run="exp",
                               named=False, start=itr)

    start_log()
    assert not start(0).enabled and not start(5).enabled
    stop_log()
    warnings = capsys.readouterr().out.splitlines()
    assert len(warnings) == 2 and all(
        line.startswith(f"Warning: no visdom server answers on port {free_port}") and line.endswith(
            "; the run continues without it") for line in warnings)
    with pytest.raises(UserError, match="no visdom server"):
        start(None)


def test_scalars_have_six_digits_and_a_text_has_room_for_its_longest_line(visdom_port, visdom_windows):
    dashboard = VisdomDashboard(visdom_port, "digits")
    dashboard.scalar("Rate", 1, float(np.float32(0.00015)))
    dashboard.scalar("Rate", 2, 123456.789)
    dashboard.text("Results", "a" * 150 + "\nb")
    dashboard.text("Short", "a")
    shown = visdom_windows(visdom_port, "digits")
    assert shown["Rate"]["content"]["data"][0]["y"] == [0.00015, 123457]
    assert shown["Results"]["width"] > 150 * 7.5 > shown["Short"]["width"]


def test_no_server_at_the_start_says_how_to_start_one(free_port):
    port = free_port
    with pytest.raises(UserError, match=f"python -m visdom.server -port {port}"):
        VisdomDashboard(port)


def test_vainfs_names_of_the_visdom_dashboard(visdom_port, visdom_windows):
    shown = Visualizer(port=visdom_port, env="vainf", id="a")
    shown.vis_scalar("Loss", 3, 0.5)
    shown.vis_table("Options", {"lr": 1})
    shown.vis_image("Sample", np.zeros((3, 4, 4), np.uint8))
    assert set(visdom_windows(visdom_port, "vainf")) == {"Loss", "[a] Options", "[a] Sample"}


# TensorBoard


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="make extras")
    events = accumulator.EventAccumulator(str(folder))
    return events.Reload()


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard", reason="an extra: make extras")


@pytest.mark.usefixtures("tensorboard")
def test_event_files_hold_what_was_shown(tmp_path):
    dashboard = TensorBoardDashboard(tmp_path / "events")
    for itr in range(3):
        dashboard.scalar("[Val] Mean IoU", itr, 0.5 + itr)
    dashboard.bars("[Val] Class IoU", {"sky": 0.9, "nothing": float("nan")}, itr=2)
    dashboard.image("Sample 0", np.full((3, 4, 12), 7, np.uint8), itr=2)
    dashboard.heat_map("[Val] Confusion", np.eye(2), ["sky", "$x$ <b>"], itr=2)
    dashboard.curves("Robust Mean IoU", {"pgd": [(0, 0.5), (0.25, 0.4)], "$f$": [(0, 0.5)]}, xlabel="eps")
    dashboard.table("Options", {"lr": 0.1, "<b>": "|"})
    dashboard.text("Results", "| a |\n  b")
    dashboard.close()
    events = read_events(tmp_path / "events")
    assert [(point.step, point.value) for point in events.Scalars("Val/Mean IoU")] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert [(point.step, point.value) for point in events.Scalars("Class IoU/sky")] == [(2, pytest.approx(0.9))]
    tags = events.Tags()
    assert set(tags["scalars"]) == {"Val/Mean IoU", "Class IoU/sky"}
    assert set(tags["images"]) == {"Samples/Sample 0", "Val/Confusion", "Test/Robust Mean IoU"}
    (sample,) = events.Images("Samples/Sample 0")
    assert (sample.step, sample.width, sample.height) == (2, 12, 4)
    texts = [events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
             for name in ("Options", "Results")]
    assert "| lr" in texts[0] and "&lt;b>" in texts[0] and r"\|" in texts[0] and texts[1] == "    | a |\n      b"


@pytest.mark.usefixtures("tensorboard")
def test_a_continued_run_hides_the_events_after_its_start(tmp_path):
    for start, itrs in ((0, (1, 2, 3)), (2, (3, 4))):
        dashboard = TensorBoardDashboard(tmp_path, start=start)
        for itr in itrs:
            dashboard.scalar("Loss", itr, 10.0 * start + itr)
        dashboard.close()
    assert [(point.step, point.value) for point in read_events(tmp_path).Scalars("Train/Loss")] == [
        (1, 1), (2, 2), (3, 23), (4, 24)]


@pytest.mark.usefixtures("tensorboard")
def test_a_file_in_the_way_of_the_events_is_named(tmp_path):
    (tmp_path / "file").touch()
    for given in ("file", "file/in"):
        with pytest.raises(UserError, match=f"--tensorboard: {tmp_path / 'file'} is a file"):
            open_dashboards(vis_port=None, vis_env="main", tensorboard=str(tmp_path / given), folder=tmp_path,
                            run="exp", named=True, start=None)
    assert not TensorBoardDashboard(tmp_path / "new").folder.exists(), "created when something is shown"


def test_without_the_package_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(UserError, match="tensorboard is not installed: run `make extras`"):
        TensorBoardDashboard(tmp_path)


# The protocol


def test_every_dashboard_has_the_methods_of_the_protocol():
    methods = {name for name, value in vars(Dashboard).items() if callable(value)}
    assert methods == {"scalar", "curves", "image", "table", "bars", "heat_map", "text", "close"}
    for kind in (VisdomDashboard, TensorBoardDashboard, Dashboards):
        assert methods - {"close"} <= vars(kind).keys(), kind
        public = {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        assert public <= methods, kind
    assert {kind.__name__ for kind in Dashboard.__subclasses__()} >= {*dashboards.__all__} - {
        "Dashboard", "open_dashboards"}
    assert Dashboard().scalar("Loss", 1, 0.5) is None and not Dashboard().enabled
