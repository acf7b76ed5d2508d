// Sorts and filters a page's tables, and hands out as CSV what they show.
"use strict";
(() => {
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };

  // what is missing stays last in both directions
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  document.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const header = button.parentElement;
      const column = header.cellIndex;
      const body = header.closest("table").tBodies[0];
      const up = header.getAttribute("aria-sort") !== "ascending";
      header.closest("tr").querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
      rows.sort((a, b) => compare(a.value, b.value, up ? 1 : -1));
      body.append(...rows.map(({ row }) => row));
    });
  });

  document.querySelectorAll("[data-filter]").forEach((box) => {
    const rows = [...document.getElementById(box.dataset.filter).tBodies[0].rows];
    const said = box.closest(".controls").querySelector("[data-count]");
    const button = document.querySelector(`[data-save-table="${box.dataset.filter}"]`);
    const isAsked = (cell) => cell.cellIndex === 0 || cell.dataset.filtered !== undefined;
    box.addEventListener("input", () => {
      const wanted = box.value.trim().toLowerCase();
      const matches = (cell) => isAsked(cell) && cell.textContent.toLowerCase().includes(wanted);
      rows.forEach((row) => { row.hidden = ![...row.cells].some(matches); });
      const left = rows.filter((row) => !row.hidden).length;
      const isAll = left === rows.length;
      said.textContent = isAll ? `${left} rows` : left ? `${left} of ${rows.length} rows` : "Nothing matches";
      button.textContent = isAll ? "CSV" : `CSV (${left} ${left === 1 ? "row" : "rows"})`;
      button.disabled = left === 0;
    });
  });

  // numbers as they are, not as they are rounded to be read; a drawing by the number that it is sorted by
  const written = (cell) => {
    const shown = cell.textContent.trim().replaceAll("\u00a0", " ");
    const isNumber = cell.dataset.value !== undefined && cell.matches(".number, :has(svg)");
    if (!isNumber) return shown;
    return cell.dataset.value === "" ? "" : String(Number(cell.dataset.value));
  };

  document.querySelectorAll("[data-save-table]").forEach((button) => {
    button.addEventListener("click", () => {
      const table = document.getElementById(button.dataset.saveTable);
      const rows = [...table.tHead.rows, ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
      save.csv(save.nameOf(button.closest("section").id), rows.map((row) => [...row.cells].map(written)));
    });
  });
})();
