// SPDX-License-Identifier: Apache-2.0
// Small charts, drawn from samples: lines and points over the last minutes, bars, shares.

import { h } from "./dom.js";
import { duration } from "./format.js";
import "./plot.js";

const WIDTH = 300;
const HEIGHT = 60;
const GAP_SECONDS = 5;
const SHORTEST = 0.0001;
const LONGEST = 100;

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

/** The samples of lines as columns, in which a gap is a moment without values. */
function columns(list) {
  const result = [[], ...list.map(() => [])];
  list[0].points.forEach(([time], at) => {
    const before = result[0][result[0].length - 1];
    if (before !== undefined && time - before > GAP_SECONDS) {
      result[0].push(before + 1);
      list.forEach((_line, index) => result[index + 1].push(null));
    }
    result[0].push(time);
    list.forEach((line, index) => result[index + 1].push(line.points[at][1] ?? null));
  });
  return result;
}

function figure(title, legend, label, data, note) {
  return h(
    "figure",
    { class: "chart", key: title },
    h("figcaption", {}, h("b", {}, title), " ",
      legend.map((words, index) => h("span", { class: `key line${index}` }, words))),
    h("time-chart", { role: "img", "aria-label": `${title}: ${label}`, kept: true, data }),
    h("small", {}, note),
  );
}

/**
 * A chart of one or two lines over time, of the same moments: `list` is of {name, points: [[time,
 * value]…]}, `format` turns a value into words.
 */
export function lines(title, list, now, seconds, format) {
  const values = list.flatMap((line) => line.points.map((point) => point[1] || 0));
  const latest = (line) => line.points.length ? line.points[line.points.length - 1][1] : null;
  const told = list.map((line) => `${line.name ? `${line.name} ` : ""}${format(latest(line))}`);
  const most = `highest ${format(Math.max(...values, 0))}`;
  return figure(
    title, told, `now ${told.join(", ")}; ${most} in ${duration(seconds)}`,
    { names: list.map((line) => line.name), columns: columns(list), range: [now - seconds, now], format },
    most,
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
export function points(title, list, now, seconds, names, format) {
  const shown = list.filter((each) => now - each[0] < seconds).sort((a, b) => a[0] - b[0]);
  const of = (kind) => shown.map((each) => (each[2] === kind ? Math.max(each[1], SHORTEST) : null));
  return figure(
    title, names, `${shown.length} in ${duration(seconds)}; the table has the figures`,
    {
      names, columns: [shown.map((each) => each[0]), of(0), of(1)], range: [now - seconds, now], format,
      marked: true, logarithmic: [SHORTEST, LONGEST],
    },
    "each line of the grid is ten times the one below",
  );
}
