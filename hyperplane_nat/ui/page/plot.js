// SPDX-License-Identifier: Apache-2.0
// Charts over time, drawn by uPlot (uPlot.LICENSE.txt): an element that keeps one and its samples.

import { clock } from "./format.js";

const { uPlot } = window;
const HEIGHT = 130;
const MARK = 3.5;
const MARKS = [
  (path, x, y) => {
    path.moveTo(x + MARK, y);
    path.arc(x, y, MARK, 0, 2 * Math.PI);
  },
  (path, x, y) => {
    path.moveTo(x - MARK, y + MARK);
    path.lineTo(x + MARK, y + MARK);
    path.lineTo(x, y - MARK);
    path.closePath();
  },
];

const colour = (name) => (plot) => getComputedStyle(plot.root).getPropertyValue(name);
const INKS = [colour("--first"), colour("--second")];

/** What shows the points of a series: a mark each, of a form of its own. */
function marks(index) {
  return {
    show: true,
    paths(plot, series, first, last) {
      const path = new Path2D();
      for (let at = first; at <= last; at += 1) {
        const value = plot.data[series][at];
        if (value !== null) {
          MARKS[index](path, plot.valToPos(plot.data[0][at], "x", true), plot.valToPos(value, "y", true));
        }
      }
      return { fill: path, stroke: path, flags: 1 };
    },
  };
}

/** The powers of ten in a range: uPlot draws a line for each multiple of one, too. */
function decades([low, high]) {
  const first = Math.round(Math.log10(low));
  return Array.from({ length: Math.round(Math.log10(high)) - first + 1 }, (_, at) => 10 ** (first + at));
}

function options(about, width, hovered) {
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const powers = about().logarithmic
    ? { splits: () => decades(about().logarithmic), filter: (_plot, ticks) => ticks } : {};
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: {
      x: { range: () => about().range },
      y: about().logarithmic
        ? { distr: 3, range: () => about().logarithmic }
        : { range: (_plot, _low, high) => [0, high || 1] },
    },
    axes: [
      { ...axis, size: 32, gap: 9, space: 90, values: (_plot, ticks) => ticks.map(clock) },
      { ...axis, ...powers, size: 72, space: 28, values: (_plot, ticks) => ticks.map((each) => (each === null ? "" : about().format(each))) },
    ],
    series: [
      {},
      ...about().names.map((name, index) => ({
        label: name, stroke: INKS[index], fill: about().marked ? INKS[index] : undefined, width: 1.5,
        dash: index && !about().marked ? [5, 3] : undefined,
        ...(about().marked ? { paths: () => null, points: marks(index) } : { points: { show: false } }),
      })),
    ],
    hooks: { setCursor: [hovered] },
  };
}

/**
 * `data` is {names, columns: [times, values…], range: [from, to], format, marked, logarithmic}; a
 * value that is null is a gap. Under the pointer it tells the figures of that moment.
 */
class TimeChart extends HTMLElement {
  set data(about) {
    this.about = about;
    this.draw();
  }

  connectedCallback() {
    this.resized = new ResizeObserver(() => this.plot?.setSize({ width: this.clientWidth, height: HEIGHT }));
    this.resized.observe(this);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.onchange = () => this.plot?.redraw(false, true);
    if (this.about) this.draw();
  }

  disconnectedCallback() {
    this.resized.disconnect();
    this.scheme.onchange = null;
    this.plot?.destroy();
    this.plot = undefined;
    this.replaceChildren();
  }

  draw() {
    if (!this.isConnected || this.clientWidth === 0) return;
    if (this.plot) {
      this.plot.setData(this.about.columns);
      return;
    }
    this.told = document.createElement("output");
    this.told.setAttribute("aria-hidden", "true");
    this.plot = new uPlot(
      options(() => this.about, this.clientWidth, (plot) => this.tell(plot.cursor.idx)),
      this.about.columns,
      this,
    );
    this.append(this.told);
  }

  tell(at) {
    const [times, ...values] = this.about.columns;
    const known = at === null || at === undefined ? [] : values
      .map((column, index) => [this.about.names[index], column[at]])
      .filter((each) => each[1] !== null && each[1] !== undefined)
      .map(([name, value]) => `${name ? `${name} ` : ""}${this.about.format(value)}`);
    this.told.textContent = known.length ? `${clock(times[at])}  ${known.join(", ")}` : "";
  }
}

customElements.define("time-chart", TimeChart);
