// SPDX-License-Identifier: Apache-2.0
// Small charts, drawn from samples: a line over the last minutes, bars, points.

import { h } from "./dom.js";
import { duration } from "./format.js";

const WIDTH = 300;
const HEIGHT = 60;
const GAP_SECONDS = 5;

/** Points [time, value] as a path within a box that ends at `now`. */
function path(points, now, seconds, highest) {
  // Two points for a pixel are enough: of those that share one the largest is drawn.
  const columns = new Map();
  for (const [time, value] of points) {
    if (value === null || value === undefined) continue;
    const x = Math.round(WIDTH - ((now - time) / seconds) * WIDTH);
    const known = columns.get(x);
    if (x >= 0 && (known === undefined || known[1] < value)) columns.set(x, [time, value]);
  }
  let text = "";
  let before = null;
  for (const [x, [time, value]] of columns) {
    const y = HEIGHT - 2 - (value / highest) * (HEIGHT - 4);
    const gap = Math.max(GAP_SECONDS, (2 * seconds) / WIDTH);
    text += `${before === null || time - before > gap ? "M" : "L"}${x} ${y.toFixed(1)}`;
    if (before === null || time - before > gap) text += "h0.1";
    before = time;
  }
  return text || "M0 0";
}

/**
 * A chart of one or two lines over time: `lines` are {name, points: [[time, value]…]}, `format`
 * turns a value into words.
 */
export function lines(title, list, now, seconds, format) {
  const values = list.flatMap((line) => line.points.map((point) => point[1] || 0));
  const highest = Math.max(...values, 0);
  const latest = (line) => line.points.length ? line.points[line.points.length - 1][1] : null;
  const told = list.map((line) => `${line.name ? `${line.name} ` : ""}${format(latest(line))}`);
  const most = `highest ${format(highest)}`;
  return h(
    "figure",
    { class: "chart", key: title },
    h("figcaption", {}, h("b", {}, title), " ",
      list.map((line, index) => h("span", { class: `key line${index}` }, told[index]))),
    h(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
        "aria-label": `${title}: now ${told.join(", ")}; ${most} in ${duration(seconds)}`,
      },
      list.map((line, index) => h("path", {
        class: `line line${index}`, d: path(line.points, now, seconds, highest || 1),
      })),
    ),
    h("small", {}, most),
  );
}

/** A line without words, for a row of a table that has them. */
export function spark(points, now, seconds, bad) {
  const highest = Math.max(...points.map((point) => point[1] || 0), 0) || 1;
  return h(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path", { class: bad ? "line bad" : "line line0", d: path(points, now, seconds, highest) }),
  );
}

/** A share as a bar, with its words beside it. */
export function share(value) {
  if (value === null || value === undefined) return "no limit";
  const level = value >= 100 ? "full" : value >= 80 ? "high" : "";
  return h(
    "span",
    { class: "share" },
    h("span", { class: "trough", "aria-hidden": "true" },
      h("span", { class: `fill ${level}`, style: { width: `${Math.min(value, 100)}%` } })),
    h("span", {}, `${value.toFixed(1)} %`, level === "full" ? " full" : ""),
  );
}

/** Bars of amounts by name. */
export function bars(title, amounts, format) {
  const highest = Math.max(...amounts.map((each) => each[1]), 0) || 1;
  return h(
    "figure",
    { class: "bars", key: title },
    h("figcaption", {}, h("b", {}, title)),
    h("ul", {}, amounts.map(([name, value]) => h("li", { key: name },
      h("span", { class: "name" }, name),
      h("span", { class: "trough", "aria-hidden": "true" },
        h("span", { class: "fill", style: { width: `${(value / highest) * 100}%` } })),
      h("span", { class: "number" }, format(value))))),
  );
}

/** Points of two kinds over time on a logarithmic scale: [time, seconds, kind]. */
export function points(title, list, now, seconds, names) {
  const low = 0.0001;
  const y = (value) => HEIGHT - 4 - (Math.log10(Math.max(value, low) / low) / 6) * (HEIGHT - 8);
  const shapes = list.filter((each) => now - each[0] < seconds).map(([time, value, kind], index) => {
    const x = WIDTH - ((now - time) / seconds) * WIDTH;
    return kind === 0
      ? h("circle", { key: `${index}`, class: "line0", cx: x, cy: y(value), r: 2 })
      : h("path", { key: `${index}`, class: "line1", d: `M${x - 2.5} ${y(value) + 2}h5l-2.5 -5z` });
  });
  return h(
    "figure",
    { class: "chart tall", key: title },
    h("figcaption", {}, h("b", {}, title), " ",
      names.map((name, index) => h("span", { class: `key line${index}` }, name))),
    h("svg", {
      class: "points", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
      "aria-label": `${title}: ${shapes.length} in ${duration(seconds)}; the table has the figures`,
    }, shapes),
    h("small", {}, "0.1 ms at the bottom, 100 s at the top, in powers of ten"),
  );
}
