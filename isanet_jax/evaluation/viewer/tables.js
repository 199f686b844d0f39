"use strict";
// Tables that sort, rows that open cases and lesions; the page's start.

// A click on a heading sorts by it, again the other way; numbers as numbers, what is none last.
function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = made("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.dataset.order === "rising";
      table.querySelectorAll("thead th").forEach((h) => { delete h.dataset.order; h.removeAttribute("aria-sort"); });
      head.dataset.order = falling ? "falling" : "rising";
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const body = table.tBodies[0], key = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const x = parseFloat(key(a)), y = parseFloat(key(b));
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
        const order = Number.isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
        return falling ? -order : order;
      });
      body.replaceChildren(...rows);
    });
  });
}

document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});
document.querySelectorAll("table.sortable").forEach(sortable);
const cases = JSON.parse(byId("cases").textContent);
byId("viewer").hidden = !cases.length;
if (cases.length) {
  const viewer = typeof EditingViewer === "undefined" ? new Viewer() : new EditingViewer();
  window.viewer = viewer;
  byId("case").replaceChildren(...cases.map((one) => new Option(one.name, one.name)));
  document.querySelectorAll("tr[data-case]").forEach((row) => {
    row.tabIndex = 0;
    row.addEventListener("click", () => { viewer.open(row.dataset.case, row.dataset.lesion); byId("viewer").scrollIntoView(); });
  });
  viewer.open(location.hash ? decodeURIComponent(location.hash.slice(1)) : viewer.worst());
}
