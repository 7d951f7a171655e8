"use strict";
// Sorts tables by a click on a head and filters the runs; the page is complete without it.
function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.sort === undefined ? cell.textContent.trim() : cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
}
function compare(a, b, sign) {
  const missing = (x) => typeof x === "number" ? Number.isNaN(x) : x === "–";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", {numeric: true});
}
function sort(head) {
  const table = head.closest("table"), column = head.cellIndex;
  const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1, body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [value(row, column), row]);
  rows.sort((a, b) => compare(a[0], b[0], sign));
  body.append(...rows.map((pair) => pair[1]));
}
for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  while (head.firstChild && head.firstChild.nodeName !== "SMALL") button.append(head.firstChild);
  head.prepend(button);
  button.addEventListener("click", () => sort(head));
}
for (const box of document.querySelectorAll(".filter")) {
  const input = box.querySelector("input"), said = box.querySelector("output");
  const rows = document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows;
  box.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    said.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
