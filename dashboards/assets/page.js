// Draws a page's figures when they come into view, follows the colour scheme, and sorts and filters its tables.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const figures = new Map();

  const figuresOf = (card) => {
    if (!figures.has(card)) figures.set(card, read(`${card}-figures`));
    return figures.get(card);
  };

  // a card's controls, less those of its other panels, then what is fixed about this panel
  const chosen = (plot) => {
    const controls = [...document.querySelectorAll(`[data-control="${plot.dataset.card}"]`)];
    const own = controls.filter(({ dataset }) => dataset.panel === undefined || dataset.panel === plot.dataset.panel);
    const fixed = plot.dataset.key === undefined ? [] : [plot.dataset.key];
    return [...own.map((control) => control.value), ...fixed].join(".") || "0";
  };

  function draw(plot) {
    const card = plot.dataset.card;
    const key = chosen(plot);
    const figure = figuresOf(card)[key];
    const layout = {
      ...figure.layout,
      autosize: true,
      template: dark.matches ? themes.dark : themes.light,
      // on a touch screen a finger scrolls the page; it does not zoom the figure
      ...(coarse.matches ? { dragmode: false } : {}),
    };
    const config = {
      responsive: true,
      displaylogo: false,
      // plotly's own default offers to upload the chart to its makers
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
      ...(coarse.matches ? { displayModeBar: false } : {}),
      toImageButtonOptions: { format: "svg", filename: card },
    };
    const sentence = document.getElementById(`${card}-sentence`);
    if (sentence && plot.dataset.panel === undefined) sentence.textContent = (figure.layout.meta || {}).sentence || "";
    plot.style.height = `${figure.layout.height}px`;
    // a fresh copy each time: plotly writes into what it is given
    const copy = JSON.parse(JSON.stringify({ data: figure.data, layout }));
    return Plotly.react(plot, copy.data, copy.layout, config).then(() => {
      plot.dataset.drawn = key;
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const redraw = () => plots.filter((plot) => plot.dataset.drawn !== undefined).forEach(draw);
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver(
      (entries) => {
        entries
          .filter((entry) => entry.isIntersecting)
          .forEach((entry) => {
            seen.unobserve(entry.target);
            draw(entry.target);
          });
      },
      { rootMargin: "400px" },
    );
    plots.forEach((plot) => seen.observe(plot));
  } else {
    plots.forEach(draw);
  }
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => plots.forEach(draw));

  document.querySelectorAll("[data-control]").forEach((control) => {
    const said = control.parentElement.querySelector("output");
    const names = control.dataset.steps ? JSON.parse(control.dataset.steps) : null;
    const tell = () => {
      if (!names) return;
      said.textContent = names[control.value];
      control.setAttribute("aria-valuetext", names[control.value]);
    };
    tell();
    control.addEventListener("input", () => {
      tell();
      document.querySelectorAll(`.plot[data-card="${control.dataset.control}"]`).forEach(draw);
    });
  });

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };

  // what is missing stays last in both directions
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number") return sign * (a - b);
    return sign * a.localeCompare(b, undefined, { numeric: true });
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
    const isAsked = (cell) => cell.cellIndex === 0 || cell.dataset.filtered !== undefined;
    box.addEventListener("input", () => {
      const wanted = box.value.trim().toLowerCase();
      const matches = (cell) => isAsked(cell) && cell.textContent.toLowerCase().includes(wanted);
      rows.forEach((row) => { row.hidden = ![...row.cells].some(matches); });
    });
  });
})();
