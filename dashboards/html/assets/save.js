// Files of what is shown: a figure as an image in the light theme or as CSV of what is drawn, and any rows as CSV.
"use strict";
const save = (() => {
  const NUMBERS = {
    i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array,
    f8: Float64Array, u1c: Uint8ClampedArray,
  };
  const LEAST_WIDTH = 720;

  // the page and the part of it, as one name without what file systems or shells mind
  const nameOf = (...parts) =>
    [document.title, ...parts]
      .join("-")
      .replace(/[^\p{L}\p{N}._@+]+/gu, "-")
      .replace(/^[-.]+|[-.]+$/g, "")
      .toLowerCase();

  function hand(name, href) {
    const link = document.createElement("a");
    link.download = name;
    link.href = href;
    document.body.append(link);
    link.click();
    link.remove();
  }

  function text(name, kind, content) {
    const href = URL.createObjectURL(new Blob([content], { type: `${kind};charset=utf-8` }));
    hand(name, href);
    // the browser reads it after this turn
    setTimeout(() => URL.revokeObjectURL(href), 60000);
  }

  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

  function csv(name, rows) {
    const lines = rows.map((row) => row.map((cell) => quoted(cell === null ? "" : String(cell))).join(","));
    text(`${name}.csv`, "text/csv", `${lines.join("\r\n")}\r\n`);
  }

  // a single-precision number by its shortest name; as a double it would end in digits that nobody measured
  function shortest(value) {
    if (!Number.isFinite(value)) return null;
    const digits = [6, 7, 8].find((n) => Math.fround(Number(value.toPrecision(n))) === value);
    return Number(value.toPrecision(digits || 9));
  }

  // a trace's values: as they are, or packed
  function values(packed) {
    if (packed === undefined || packed === null) return [];
    if (packed.bdata === undefined) return packed instanceof Float32Array ? [...packed].map(shortest) : [...packed];
    const bytes = Uint8Array.from(atob(packed.bdata), (letter) => letter.charCodeAt(0));
    const flat = [...new NUMBERS[packed.dtype](bytes.buffer)];
    const all = packed.dtype === "f4" ? flat.map(shortest) : flat;
    const shape = String(packed.shape ?? "").split(",").map(Number);
    if (shape.length < 2) return all;
    return Array.from({ length: shape[0] }, (_, row) => all.slice(row * shape[1], (row + 1) * shape[1]));
  }

  // what plotly shows of a string that holds its few tags and entities
  const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };
  const plain = (shown) =>
    typeof shown !== "string"
      ? shown
      : shown
          .replace(/<br>/g, " ")
          .replace(/<\/?[bi]>/g, "")
          .replace(/&(?:lt|gt|amp);/g, (entity) => ENTITIES[entity])
          .replaceAll("%\u200b{", "%{");

  // the name that a point has under the pointer, without the rest that is said there
  const named = (hover) => (typeof hover === "string" ? plain(hover.replace(/<br>.*$/s, "")) : null);

  // the name of the place on an axis of named places; none on an axis of numbers
  function placeOn(axis, value) {
    const { tickvals, ticktext } = axis || {};
    if (typeof value !== "number" || !Array.isArray(ticktext)) return null;
    const isPlaces = values(tickvals).every((place, index) => place === index);
    const name = isPlaces ? plain(ticktext[Math.round(value)]) : undefined;
    return name === undefined || name === String(value) ? null : name;
  }

  const axisOf = (layout, letter, ref) => layout[`${letter}axis${(ref || letter).slice(1)}`];

  function reach(bars, at, value, up) {
    if (!bars || bars.type !== "data") return null;
    const lengths = values(up || bars.symmetric !== false ? bars.array : bars.arrayminus);
    return Number.isFinite(lengths[at]) ? shortest(Math.fround(value + (up ? 1 : -1) * lengths[at])) : null;
  }

  function cellsOf(trace, name) {
    const [columns, rows] = [values(trace.x), values(trace.y)];
    const cells = values(trace.z).flatMap((row, i) =>
      [...row].map((z, j) => ({ trace: name, x: plain(columns[j]), y: plain(rows[i]), z })),
    );
    return cells.filter(({ z }) => Number.isFinite(z));
  }

  function pointsOf(trace, name, layout) {
    const [xs, ys] = [values(trace.x), values((trace.meta || {}).y ?? trace.y ?? trace.median)];
    const [first, third] = [values(trace.q1), values(trace.q3)];
    return xs
      .map((x, at) => ({
        trace: name,
        series: (trace.meta || {}).series,
        point: named(Array.isArray(trace.hovertext) ? trace.hovertext[at] : null),
        x: plain(x),
        place: placeOn(axisOf(layout, "x", trace.xaxis), x),
        y: plain(ys[at] ?? null),
        y_low: first[at] ?? reach(trace.error_y, at, ys[at], false),
        y_high: third[at] ?? reach(trace.error_y, at, ys[at], true),
      }))
      .filter(({ x, y }) => x !== null || y !== null);
  }

  function rowsOf(data, layout) {
    const shown = data.filter((trace) => trace.visible === undefined || trace.visible === true);
    const rows = shown.flatMap((trace) => {
      const name = plain(trace.name ?? (trace.legendgroup ? `${trace.legendgroup} (band)` : ""));
      return trace.type === "heatmap" ? cellsOf(trace, name) : pointsOf(trace, name, layout);
    });
    const known = ["trace", "series", "point", "x", "place", "y", "y_low", "y_high", "z"];
    const isKnown = (column) => rows.some((row) => row[column] !== undefined && row[column] !== null && row[column] !== "");
    const columns = known.filter((column) => ["x", "y"].includes(column) || isKnown(column));
    return [columns, ...rows.map((row) => columns.map((column) => row[column] ?? null))];
  }

  // what the reader hid or zoomed into stays so
  async function image(name, plot, template, format) {
    const drawn = looks.onLight(structuredClone({ data: plot.data, layout: plot.layout }));
    const layout = { plot_bgcolor: "#ffffff", ...drawn.layout, template, paper_bgcolor: "#ffffff" };
    const size = { width: Math.max(plot.clientWidth, LEAST_WIDTH), height: plot.clientHeight };
    const shown = { data: drawn.data, layout: { ...layout, ...size } };
    const href = await Plotly.toImage(shown, { format, ...size, scale: format === "png" ? 2 : 1 });
    if (format === "png") hand(`${name}.png`, href);
    else text(`${name}.svg`, "image/svg+xml", decodeURIComponent(href.slice(href.indexOf(",") + 1)));
  }

  const figure = (name, plot, template, format) =>
    format === "csv" ? csv(name, rowsOf(plot.data, plot.layout)) : image(name, plot, template, format);

  return { nameOf, csv, figure };
})();
