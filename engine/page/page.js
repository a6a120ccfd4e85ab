
"use strict";
// The page is whole without this script, which adds sorting, values under the pointer, and a choice between attacks.

// Sorting: a button in each header of a .sortable table; the second press turns the order.
function readKey(cell) {
  const text = cell.textContent.trim();
  const fraction = text.match(/^(\d[\d.]*)\/255/);
  const number = fraction ? Number(fraction[1]) / 255 : parseFloat(text.replace("\u2212", "-"));
  return text === "-" || text === "" ? null : Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === typeof b && a !== null) return typeof a === "number" ? Math.sign(a - b) : a.localeCompare(b, "en");
  return a === null ? (b === null ? 0 : 2) : b === null ? -2 : typeof a === "number" ? -1 : 1;
}

function sortBy(table, header, column) {
  const up = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [readKey(row.cells[column]), row]);
  // What has no value stays last in either order.
  rows.sort(([a], [b]) => (Math.abs(compareKeys(a, b)) === 2 ? compareKeys(a, b) : up * compareKeys(a, b)));
  body.append(...rows.map(([, row]) => row));
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", up === 1 ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  const numbered = table.tHead.querySelectorAll("th[data-column]");
  const headers = numbered.length ? numbered : table.tHead.rows[0].cells;
  [...headers].forEach((header, place) => {
    if (!header.textContent) return;
    const column = numbered.length ? Number(header.dataset.column) : place;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    if (header.dataset.of) button.setAttribute("aria-label", `${header.dataset.of}: ${button.textContent}`);
    button.addEventListener("click", () => sortBy(table, header, column));
    header.setAttribute("aria-sort", "none");
    header.append(button);
  });
}

// Curves: the value of the point that is nearest to the pointer, or has the focus; arrows go from point to point.
const value = document.getElementById("value");

function showValue(point) {
  hideValue();
  point.classList.add("chosen");
  value.textContent = point.getAttribute("aria-label");
  value.hidden = false;
  const at = point.querySelector(".mark").getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - value.offsetWidth / 2), innerWidth - value.offsetWidth - 8);
  value.style.left = `${left}px`;
  const chart = point.closest("svg").getBoundingClientRect(); // beside it, as a box in it would hide other points
  const above = chart.top - value.offsetHeight - 2;
  value.style.top = `${Math.min(above < 0 ? chart.bottom + 2 : above, innerHeight - value.offsetHeight)}px`;
}

function hideValue() {
  value.hidden = true;
  for (const point of document.querySelectorAll(".point.chosen")) point.classList.remove("chosen");
}

function findNearest(points, x, y) {
  const far = points.map((point) => {
    const at = point.querySelector(".mark").getBoundingClientRect();
    return Math.hypot(at.left + at.width / 2 - x, at.top + at.height / 2 - y);
  });
  const least = Math.min(...far);
  return least < 40 ? points[far.indexOf(least)] : null;
}

for (const chart of document.querySelectorAll("svg.chart")) {
  const points = [...chart.querySelectorAll(".point")];
  points.forEach((point, place) => {
    point.querySelector("title").remove(); // the browser's own box would lie over the value
    point.setAttribute("tabindex", place === 0 ? "0" : "-1");
    point.addEventListener("focus", () => showValue(point));
    point.addEventListener("blur", hideValue);
    point.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const turn = { ArrowDown: 1, ArrowUp: -1 }[event.key]; // to another run at the same eps
      if (event.key === "Escape") hideValue();
      const level = points.filter((other) => other.dataset.eps === point.dataset.eps);
      const next = turn ? level[level.indexOf(point) + turn] : points[place + step];
      if (!next) return;
      event.preventDefault();
      point.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
  chart.addEventListener("pointermove", (event) => {
    const nearest = findNearest(points, event.clientX, event.clientY);
    if (nearest) showValue(nearest);
    else hideValue();
  });
  chart.addEventListener("pointerleave", hideValue);
}
addEventListener("scroll", hideValue, { passive: true });

// Classes: one attack at a time.
document.querySelectorAll(".choices").forEach((choices, number) => {
  const sections = [...choices.children];
  if (sections.length < 2) return;
  const label = document.createElement("label");
  const select = document.createElement("select");
  label.className = "chooser";
  select.id = `choice${number}`;
  sections.forEach((section, place) => select.add(new Option(section.querySelector("h3").textContent, place)));
  const choose = () => sections.forEach((section, place) => { section.hidden = place !== Number(select.value); });
  select.addEventListener("change", choose);
  label.append(`${choices.dataset.label} `, select);
  choices.before(label);
  choose();
});

// Pictures: the view stays when the radius changes.
const views = document.querySelectorAll(".views input");
for (const input of views) {
  input.addEventListener("change", () => {
    for (const other of views) if (other.value === input.value) other.checked = true;
  });
}

// Tables: only those that scroll are stops of the Tab key.
function markScrolling() {
  for (const frame of document.querySelectorAll(".scroll")) {
    const scrolls = frame.scrollWidth > frame.clientWidth + 1 || frame.scrollHeight > frame.clientHeight + 1;
    frame.toggleAttribute("tabindex", false);
    if (scrolls) frame.tabIndex = 0;
  }
}
addEventListener("resize", markScrolling);
document.addEventListener("change", markScrolling);
document.addEventListener("toggle", markScrolling, true);
markScrolling();

// Print: what is folded is opened, and folded again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
});
addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
