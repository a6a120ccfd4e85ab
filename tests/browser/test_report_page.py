"""report.html in a browser without a network: what its script adds, for pointer and keyboard; light, dark, printed."""
import json
import os
import re

import pytest
from PIL import Image

from engine.report.write import write_report
from tests.recorded import CLEAN, apgd, pgd, record

pytestmark = pytest.mark.slow  # starts a browser
MANY = [f"image {k}" for k in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of two runs with pictures of one image."""
    root = tmp_path_factory.mktemp("page")
    for seed, run in enumerate(("sgd", "sam")):
        for number, settings in enumerate((CLEAN, pgd(), pgd(2 / 255), pgd(10 / 255), apgd("mce"))):
            path = record(root / run, settings, names=MANY, seed=10 * number + seed)
            pictures = root / run / "val_results" / path.stem
            pictures.mkdir(parents=True)
            for kind in ("image", "target", "pred", "perturbation"):
                Image.new("RGB", (40, 30), (20 * number, 90, 120 * seed)).save(pictures / f"{MANY[0]}_{kind}.png")
    write_report([root / "sgd", root / "sam"], root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def open_page(browser, folder):
    """A function that opens the page offline, with these settings of the browser; at the end it had no complaint."""
    contexts, complaints, requests = [], [], []

    def start(**settings):
        contexts.append(browser.new_context(offline=True, viewport={"width": 1280, "height": 860}, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "report.html").as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []
    assert requests and all(url.startswith(("file:", "data:")) for url in requests)


@pytest.fixture
def page(open_page):
    return open_page()


def cells(table, column):
    return table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()


def score_table(page):
    return page.locator("table", has=page.locator("caption", has_text="Scores under attacks"))


def test_the_page_has_no_complaint_and_asks_for_nothing(page):
    assert page.title() == "Robustness of sgd, sam"


def test_a_press_on_a_header_sorts_and_a_second_turns_the_order(page, content):
    table = score_table(page)
    header = table.locator("th[data-column='5']")
    values = sorted(row["Mean IoU"] for row in content["rows"] if row["run"] == "sgd")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert [cell.split()[0] for cell in cells(table, 5)] == [f"{100 * value:.2f}" for value in values]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [cell.split()[0] for cell in cells(table, 5)] == [f"{100 * value:.2f}" for value in reversed(values)]
    other = table.locator("th[data-column='3']")
    other.locator("button").click()
    assert (header.get_attribute("aria-sort"), other.get_attribute("aria-sort")) == ("none", "ascending")
    assert [float(cell.partition("/")[0]) for cell in cells(table, 3)] == sorted(
        float(cell.partition("/")[0]) for cell in cells(table, 3)), "10/255 is above 2/255"


def test_a_dash_stays_last_in_either_order(page):
    table = score_table(page)
    for _ in range(2):
        table.locator("th[data-column='1'] button").click()
        found = cells(table, 1)
        assert "-" in found and found.index("-") == len(found) - found.count("-")


def test_the_keyboard_sorts(page):
    header = score_table(page).locator("th[data-column='6']")
    page.locator("a.skip").focus()
    for _ in range(200):
        page.keyboard.press("Tab")
        if header.locator("button").evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    outline = header.locator("button").evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline == "solid", "the focus is visible"


def test_the_value_under_the_pointer_is_that_of_report_json(page, content):
    chart = page.locator("aside svg.chart")
    row, = [row for row in content["rows"] if (row["run"], row["attack"]) == ("sam", "worst case")]
    point = chart.locator(".point[aria-label^='sam, eps 4/255']")
    box = point.locator(".mark").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    value = page.locator("#value")
    value.wait_for(state="visible")
    assert f"mIoU {100 * row['Mean IoU']:.2f} % (at least {100 * row['Mean IoU lower']:.2f} %)" in value.inner_text()
    page.mouse.move(2, 2)
    value.wait_for(state="hidden")


def test_arrows_go_from_point_to_point(page):
    points = page.locator("aside svg.chart .point")
    value = page.locator("#value")
    points.first.focus()
    assert value.inner_text() == points.first.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert value.inner_text() == points.nth(1).get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert value.inner_text() == points.first.get_attribute("aria-label")
    assert page.locator("aside svg.chart .point[tabindex='0']").count() == 1
    page.keyboard.press("ArrowDown")
    assert value.inner_text().startswith("sam, eps 0/255")
    page.keyboard.press("ArrowUp")
    assert value.inner_text() == points.first.get_attribute("aria-label")
    page.keyboard.press("Escape")
    assert value.is_hidden()


def test_pictures_are_switched(page):
    sheets = page.locator(".sheets").first
    shown = {
        "clean": {"image", "clean prediction", "label"},
        "attacked": {"adversarial image", "attacked prediction", "label"},
        "perturbation": {"perturbation", "attacked prediction", "label"}}
    assert sheets.locator("input[value=attacked]").is_checked()
    for view, expected in shown.items():
        sheets.get_by_label(view, exact=True).check()
        assert set(sheets.locator("figcaption b:visible").all_inner_texts()) == expected
    sheets.locator("input[value=perturbation]").focus()
    page.keyboard.press("ArrowLeft")
    assert all(page.locator("input[value=attacked]").evaluate_all("inputs => inputs.map(input => input.checked)"))
    assert sheets.locator("input[value=attacked]").is_checked()
    assert all(sheets.locator("img").evaluate_all("images => images.map(image => image.naturalWidth === 40)"))


def test_an_attack_is_chosen_for_the_table_of_classes(page, content):
    select = page.locator("select").first
    select.select_option(label="linf, eps 10/255: pgd, ce, 10 steps")
    visible = page.locator(".choice:visible", has=page.locator("caption", has_text="IoU of each class"))
    assert visible.locator("h3").all_inner_texts() == ["linf, eps 10/255: pgd, ce, 10 steps"]
    row, = [row for row in content["rows"] if row["run"] == "sgd" and row["eps"] == pytest.approx(10 / 255)]
    assert cells(visible.locator("table"), 3) == [f"{100 * iou:.2f}" for iou in row["Class IoU"].values()]


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def colours(page, selector="body"):
    style = page.locator(selector).first.evaluate(
        "element => { const s = getComputedStyle(element); return [s.backgroundColor, s.color]; }")
    return [brightness(colour) for colour in style]


def test_light_and_dark(open_page):
    paper, ink = colours(open_page(color_scheme="light"))
    assert paper > 240 and ink < 60
    paper, ink = colours(open_page(color_scheme="dark"))
    assert paper < 40 and ink > 200


def test_in_print_all_is_open_and_on_white(open_page):
    page = open_page(color_scheme="dark")
    folded = page.locator("details:not(.values) td").first
    assert not folded.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    paper, ink = colours(page)
    assert paper == 255 and ink == 0
    assert folded.is_visible()
    assert page.locator("details.values td:visible").count() == 0 and page.locator(".printed:visible").count() > 1
    assert not page.locator("nav").is_visible() and not page.locator("select").first.is_visible()
    assert page.locator(".sheets figure:visible").count() % 6 == 0
    assert page.pdf()[:5] == b"%PDF-"


def test_without_script_all_is_there(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("select").count() == page.locator("th button").count() == 0
    sections = page.locator(".choice")
    assert sections.count() == page.locator(".choice:visible").count() > 5
    assert page.locator("svg.chart .point").first.is_visible()
    page.locator(".sheets input[value=attacked]").first.check()
    assert "adversarial image" in page.locator(".sheets").first.locator("figcaption b:visible").all_inner_texts()


@pytest.mark.parametrize("size", [(360, 640), (1280, 620), (1920, 300)])
def test_the_answer_is_never_in_a_box_that_scrolls(page, size):
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    whole, shown = page.locator(".scroll:has(> .answer)").evaluate("box => [box.scrollHeight, box.clientHeight]")
    assert whole == shown > 300


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_the_page_is_never_wider_than_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_hostile_names_do_nothing(browser, tmp_path):
    """Not as elements, and not when the script moves their text into buttons, choices and the value of a point."""
    name = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    run = tmp_path / "runs" / name.replace("/", "|")
    for settings in (CLEAN, pgd(), pgd(2 / 255)):
        record(run, settings, class_names=[name, "\"'><svg onload=alert(3)>", "c"])
    write_report([run], tmp_path / "out")
    context = browser.new_context(offline=True)
    page, complaints = context.new_page(), []
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "out" / "report.html").as_uri())
    page.locator("th button").first.click()
    page.locator("svg.chart .point").first.focus()
    assert "onerror" in page.locator("#value").inner_text()
    page.locator("select").first.select_option(index=1)
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1 and complaints == []
    context.close()
