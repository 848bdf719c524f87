// SPDX-License-Identifier: Apache-2.0
// Cards in columns that stay put: what is new comes behind its siblings, and what has gone keeps its
// place for a minute. An edge is as wide as there is traffic on it; what is wrong is a second,
// broken line and words.

import { isOpen } from "./details.js";
import { h, patch } from "./dom.js";
import { packets } from "./format.js";

const GONE_SECONDS = 60;
const ROWS_MAX = 300;
/** Of an arrow between cards of one column: how far left of them, and how far the next one is. */
const ASIDE = 8;
const APART = 4;
const ASIDE_MAX = 16;
const HEAD = 5;

export class Node {
  constructor(key, column, title) {
    Object.assign(this, { key, column, title, lines: [], children: new Map(), rate: 0, refused: 0 });
    this.gone = false;
    this.open = null;
    /** What is wrong with it, in words. */
    this.problem = "";
    /** Whether its edge says which way. */
    this.arrow = false;
  }

  /** A card in the next column, or in another; those on the left are what leads to this one. */
  child(key, title, column = this.column + 1) {
    const full = `${this.key}/${key}`;
    if (!this.children.has(full)) this.children.set(full, new Node(full, column, title));
    return this.children.get(full);
  }
}

const wrong = (node) => node.problem || (node.refused > 0 ? `${packets(node.refused)} refused` : "");

export class Grid {
  constructor(name, columns) {
    Object.assign(this, { name, columns });
    /** Of the lab that is drawn: the order in which things were first seen, and when they last were. */
    this.memory = { lab: null, order: new Map(), seen: new Map() };
    /** Edges of the last picture: the cards' keys, and the card that says how wide and where. */
    this.edges = [];
    /** Arrows between cards of one column: [from, to]. */
    this.arrows = [];
  }

  /** The picture of a tree; `arrows` are pairs of its cards. */
  view(lab, root, arrows = []) {
    if (this.memory.lab !== lab) this.memory = { lab, order: new Map(), seen: new Map() };
    this.remember(root);
    Object.assign(this, { edges: [], arrows });
    const cards = [];
    const more = this.place(root, cards, 2, null) - 2 - ROWS_MAX;
    return [
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": this.name },
        h("div", { class: "grid" },
          h("svg", { class: "edges", "aria-hidden": "true", kept: true }),
          this.columns.map((name, index) => h("h3", {
            key: name, style: { "grid-column": `${index + 1}`, "grid-row": "1" },
          }, name)),
          cards)),
      more > 0 ? h("p", {}, `${more} more are not drawn.`) : null,
    ];
  }

  /** Put back for a while what has gone; give what is new its place. */
  remember(root) {
    const { order, seen } = this.memory;
    const time = Date.now() / 1000;
    const there = new Map();
    const walk = (node, parent) => {
      there.set(node.key, node);
      seen.set(node.key, { time, parent: parent ? parent.key : null, node });
      const children = [...node.children.values()].sort((a, b) => a.title.localeCompare(b.title));
      for (const child of children) {
        if (!order.has(child.key)) order.set(child.key, order.size);
        walk(child, node);
      }
    };
    walk(root, null);
    for (const [key, { time: last, parent, node }] of seen) {
      if (there.has(key)) continue;
      if (time - last > GONE_SECONDS) {
        seen.delete(key);
        order.delete(key);
      } else if (there.has(parent)) {
        const ghost = new Node(key, node.column, node.title);
        Object.assign(ghost, { gone: true, lines: ["gone"] });
        there.get(parent).children.set(key, ghost);
        there.set(key, ghost);
      }
    }
  }

  /** Cards from `row` on; the first row that is free behind them. */
  place(node, cards, row, parent) {
    const first = row;
    // Read in their order: what holds others comes before them.
    const before = cards.length;
    const children = [...node.children.values()]
      .sort((a, b) => this.memory.order.get(a.key) - this.memory.order.get(b.key));
    let [left, right] = [row, row];
    for (const child of children) {
      if (child.column < node.column) left = this.place(child, cards, left, node);
      else right = this.place(child, cards, right, node);
    }
    row = Math.max(left, right);
    if (!children.length && node.column >= 0) row += 1;
    if (node.column >= 0 && first - 2 < ROWS_MAX) cards.splice(before, 0, card(node, first, row - first));
    if (parent !== null && parent.column >= 0) {
      const [from, to] = node.column < parent.column ? [node, parent] : [parent, node];
      this.edges.push({ from: from.key, to: to.key, of: node });
    }
    return row;
  }

  /** The edges, where the cards have come to be. */
  drawn(content) {
    const grid = content.querySelector(".grid");
    const plane = grid.querySelector(".edges");
    const base = grid.getBoundingClientRect();
    const boxes = new Map([...grid.querySelectorAll("[data-node]")]
      .map((each) => [each.dataset.node, each.getBoundingClientRect()]));
    const height = (box) => box.top - base.top + Math.min(box.height, 60) / 2;
    plane.setAttribute("viewBox", `0 0 ${grid.clientWidth} ${grid.clientHeight}`);
    const paths = [];
    for (const { from, to, of } of this.edges) {
      const [a, b, own] = [from, to, of.key].map((key) => boxes.get(key));
      if (!a || !b) continue;
      const [x, y, end] = [a.right - base.left, height(own), b.left - base.left];
      const width = Math.min(1.5 + 2.5 * Math.log10(1 + of.rate), 14);
      const size = of.arrow ? 4 + width / 2 : 0;
      const d = `M${x} ${y}H${end - size}`;
      const kind = of.rate > 0 ? "edge" : "edge idle";
      paths.push(h("path", { key: of.key, d, class: kind, "stroke-width": width.toFixed(1) }));
      if (size) paths.push(h("path", { key: `${of.key} head`, d: head(end, y, size), class: `${kind} head` }));
      if (wrong(of)) paths.push(h("path", { key: `${of.key} wrong`, d, class: "edge refused" }));
    }
    this.arrows.forEach(([from, to], index) => {
      const [a, b] = [boxes.get(from), boxes.get(to)];
      if (!a || !b) return;
      const [x, end] = [a.left - base.left, b.left - base.left];
      // Off what leads to the card, which is at this height, too.
      const [y, low] = [height(a) + 2 * APART, height(b) - 2 * APART];
      const aside = x - ASIDE - ((index * APART) % ASIDE_MAX);
      const key = `${from} to ${to}`;
      paths.push(h("path", { key, d: `M${x} ${y}H${aside}V${low}H${end - HEAD}`, class: "edge between" }));
      paths.push(h("path", { key: `${key} head`, d: head(end, low, HEAD), class: "edge between head" }));
    });
    patch(plane, paths);
  }
}

/** The head of an arrow, whose tip is there. */
const head = (x, y, size) => `M${x - size} ${y - size}L${x} ${y}L${x - size} ${y + size}Z`;

function card(node, row, span) {
  const problem = wrong(node);
  const words = [
    h("strong", {}, node.title || "–"),
    node.lines.map((line, index) => h("span", { key: `${index}` }, line)),
    problem ? h("span", { class: "bad", key: "wrong" }, `✕ ${problem}`) : null,
  ];
  const style = { "grid-column": `${node.column + 1}`, "grid-row": `${row} / span ${span}` };
  const about = [node.title, ...node.lines].join("\n");
  const shape = { key: node.key, style, title: about, "data-node": node.key };
  return node.open
    ? h("button", {
      ...shape, type: "button", class: "card", onclick: node.open, "aria-expanded": isOpen(node.opens) ? "true" : "false",
    }, words)
    : h("div", { ...shape, class: node.gone ? "card gone" : "card" }, words);
}
