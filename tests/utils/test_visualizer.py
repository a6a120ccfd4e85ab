"""The dashboard against a real visdom server on a free loopback port, read back through its API."""
import html
import json
import re
import signal
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from utils.dashboards import NullVisualizer, Visualizer
from utils.dashboards import visdom as visualizer
from utils.errors import UserError
from utils.logging import start_log, stop_log
from utils.text import escape_unprintable


def test_the_page_opens(visdom_port):
    """visdom's page needs a tornado below 6.6; its data interface alone doesn't show that."""
    port = visdom_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=600) as answer:
        assert answer.status == 200 and b"visdom" in answer.read().lower()


def test_windows_arrive_as_sent(visdom_port, visdom_windows):
    port = visdom_port
    dashboard = Visualizer(port=port, env="run")
    dashboard.vis_table("Options", {"lr": 0.1, "<script>": "<b>&"})
    for itr in range(3):
        dashboard.vis_scalar("Loss", itr, 3.0 - itr)
    for attack, score in (("fgsm", 0.4), ("pgd", 0.3)):
        dashboard.vis_scalar("Robust", 0, 0.5, line=attack)
        dashboard.vis_scalar("Robust", 4, score, line=attack)
    dashboard.vis_image("Sample 0", np.zeros((3, 4, 12), np.uint8))

    shown = visdom_windows(port, "run")
    assert set(shown) == {"Options", "Loss", "Robust", "Sample 0"}
    assert [window["title"] for window in shown.values()] == list(shown)
    (loss,) = shown["Loss"]["content"]["data"]
    assert loss["x"] == [0, 1, 2] and loss["y"] == [3, 2, 1]
    lines = {line["name"]: line["y"] for line in shown["Robust"]["content"]["data"]}
    assert lines == {"fgsm": [0.5, 0.4], "pgd": [0.5, 0.3]}
    table = shown["Options"]["content"]
    assert "<td>lr</td><td>0.1</td>" in table and "&lt;script&gt;" in table and "<script>" not in table
    assert shown["Sample 0"]["content"]["src"].startswith("data:image")


def test_a_continued_run_goes_on_with_its_curves_a_new_one_replaces_them(visdom_port, visdom_windows):
    port = visdom_port
    for first, continue_curves in ((0, False), (2, True), (0, False)):
        dashboard = Visualizer(port=port, env="again", continue_curves=continue_curves)
        for itr in (first, first + 1):
            dashboard.vis_scalar("Loss", itr, 3.0 - itr)
            dashboard.vis_scalar("Robust", itr, 0.5, line="pgd")
        shown = visdom_windows(port, "again")
        expected = [0, 1, 2, 3] if continue_curves else [0, 1]
        assert shown["Loss"]["content"]["data"][0]["x"] == expected
        assert shown["Robust"]["content"]["data"][0]["x"] == [first, first + 1]


HOSTILE = "<script>alert(1)</script> & \"'<a href='javascript:x'>\x1b[2J"


def test_nothing_that_is_sent_is_html(visdom_port, visdom_windows):
    """Tables are HTML; in titles and legends plotly takes <b> and <a href>; all names may be a stranger's."""
    port = visdom_port
    dashboard = Visualizer(port=port, env="hostile", id=HOSTILE)
    for line in (None, HOSTILE):
        for itr in range(2):
            dashboard.vis_scalar(f"{HOSTILE} {line is None}", itr, 1.0, line=line)
    dashboard.vis_table(f"{HOSTILE} table", {HOSTILE: HOSTILE})
    dashboard.vis_image(f"{HOSTILE} image", np.zeros((3, 4, 4), np.uint8))
    shown = visdom_windows(port, "hostile")
    assert len(shown) == 4
    text = json.dumps(shown)
    for tag in ("<script", "<a ", "<b>", "\\u001b"):
        assert tag not in text
    (table,) = [window["content"] for window in shown.values() if window["type"] == "text"]
    assert re.findall(r"<(\w+)", table) == ["table", "tr", "th", "th", "tr", "td", "td"]
    assert html.unescape(re.findall("<td>(.*?)</td>", table)[1]) == escape_unprintable(HOSTILE)


def test_a_prefix_keeps_two_runs_apart(visdom_port, visdom_windows):
    port = visdom_port
    Visualizer(port=port, env="prefix", id="a").vis_scalar("Loss", 0, 1.0)
    assert list(visdom_windows(port, "prefix")) == ["[a]Loss"]


def test_a_server_that_dies_costs_one_warning(visdom_server, capsys):
    port, process = visdom_server
    start_log()
    dashboard = Visualizer(port=port)
    dashboard.vis_scalar("Loss", 0, 1.0)
    process.kill()
    process.wait()
    for itr in range(3):
        dashboard.vis_scalar("Loss", itr, 1.0)
        dashboard.vis_table("Options", {})
    stop_log()
    out, err = capsys.readouterr()
    assert out == "Warning: the visdom server stopped answering; the run continues without the dashboard.\n" and not err


def test_a_server_that_hangs_costs_one_warning_and_a_short_wait(visdom_server, capsys, monkeypatch):
    port, process = visdom_server
    monkeypatch.setattr(visualizer, "TIMEOUT", 0.5)
    start_log()
    dashboard = Visualizer(port=port)
    process.send_signal(signal.SIGSTOP)
    for itr in range(3):
        dashboard.vis_scalar("Loss", itr, 1.0)
    stop_log()
    assert capsys.readouterr().out.count("stopped answering") == 1


def test_a_server_that_is_not_visdoms_is_refused(free_port):
    class NotFound(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", free_port), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=f"no visdom server answers on port {free_port}"):
            Visualizer(port=free_port)
        server.shutdown()


def test_no_server_at_the_start_says_how_to_start_one(free_port):
    port = free_port
    with pytest.raises(UserError, match=f"python -m visdom.server -port {port}"):
        Visualizer(port=port)


def test_the_null_dashboard_has_every_method_of_the_real_one():
    for name in (name for name in vars(Visualizer) if name.startswith("vis_")):
        shown = getattr(NullVisualizer(), name)("window", *(["x", "y"] if name == "vis_scalar" else ["x"]))
        assert shown is None
