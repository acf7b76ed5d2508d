// How a figure looks on this screen: lighter colours on a dark page, smaller letters where the screen is narrow.
"use strict";
const looks = (() => {
  const NARROW = 480;
  const MOST_LINES = 6;
  const SMALL = 11;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { onDark: lighter, ...themes } = read("themes");

  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",");
  const pairs = Object.entries(lighter).map((pair) => pair.map((hex) => hex.toLowerCase()));
  const tones = (from, to) =>
    new Map(pairs.flatMap((pair) => [[pair[from], pair[to]], [`rgba(${rgb(pair[from])},`, `rgba(${rgb(pair[to])},`]]));
  const [toDark, toLight] = [tones(0, 1), tones(1, 0)];

  // a colour as #rrggbb, or as rgba(r,g,b,alpha), which keeps its alpha
  function other(colour, to) {
    if (Array.isArray(colour)) return colour.map((one) => other(one, to));
    if (typeof colour !== "string") return colour;
    const [start, rest] = /^(rgba\(\d+,\d+,\d+,)(.*)$/.exec(colour)?.slice(1) ?? [colour.toLowerCase(), ""];
    return to.has(start) ? to.get(start) + rest : colour;
  }

  // changes what it is given, and only what is under the name of a colour: texts may look like one
  function recolour(part, to) {
    Object.entries(part).forEach(([key, value]) => {
      const isPlain = value && typeof value === "object" && !ArrayBuffer.isView(value);
      if (/color$/.test(key) && (typeof value === "string" || Array.isArray(value))) part[key] = other(value, to);
      else if (isPlain && key !== "template" && (!Array.isArray(value) || typeof value[0] === "object")) recolour(value, to);
    });
    return part;
  }

  const isListed = (trace) => trace.showlegend !== false && trace.name !== undefined;

  // where a part of the figure is out of sight, a short legend stands in lines below each other, which is not
  function fit({ data, layout }, seen, width) {
    if (seen >= NARROW) return;
    const isCut = width > seen + 1 && data.filter(isListed).length <= MOST_LINES;
    layout.font = { ...layout.font, size: SMALL };
    layout.legend = { ...layout.legend, font: { size: SMALL }, ...(isCut ? { orientation: "v" } : {}) };
  }

  return { read, themes, fit, onDark: (figure) => recolour(figure, toDark), onLight: (figure) => recolour(figure, toLight) };
})();
