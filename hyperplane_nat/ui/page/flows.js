// SPDX-License-Identifier: Apache-2.0
// Flows, searched as by the command `flows`, a page at a time; one opens to both sides of its
// translation, its state in the tracker's diagram, and what passes it.

import { lines } from "./chart.js";
import { openDetails } from "./details.js";
import { facts, h, table } from "./dom.js";
import { bytes, counted, duration, packets, bits } from "./format.js";
import { ask, state } from "./stream.js";

const PAGE = 50;
const REFRESH_SECONDS = 2;
const POINTS = 120;
const STATES = [
  "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_INSIDE", "FIN_OUTSIDE", "FIN_BOTH", "TIME_WAIT",
  "RESET", "UDP", "UDP_REPLIED", "ICMP", "HELD",
];
const SORTS = ["age", "idle", "packets", "bytes", "packets_out", "bytes_out", "packets_in", "bytes_in", "environment", "remote", "inside_port", "nat_port"];
const TEXTS = [
  ["environment", "Environment", "env-1"], ["function", "Function", ""], ["interface", "Interface", ""],
  ["remote", "Remote", "10.0.1.80:443"],
];
const NUMBERS = [["min_age", "At least this old (s)"], ["max_age", "At most this old (s)"]];

/** `turn` grows with what is asked for; `asking` is the one that an answer is waited for, or 0. */
const search = { query: {}, after: 0, before: [], rows: null, error: "", lab: null, asked: 0, turn: 1, asking: 0 };

export function view(_shown, changed) {
  if (search.lab !== state.lab) {
    Object.assign(search, { lab: state.lab, rows: null, after: 0, before: [] });
    now(changed);
  }
  refresh(changed);
  const rows = search.rows || [];
  return [
    form(changed),
    search.error ? h("p", { class: "bad", role: "alert" }, `✕ ${search.error}`) : null,
    table("Flows", ["flow", "protocol", "state", "whose", "inside", "SNAT address", "remote", "#out", "#in", "#age", "#idle"],
      rows.map((row) => ({
        key: `${row.entry}`,
        cells: [
          h("button", { type: "button", class: "link", onclick: () => openFlow(row) },
            h("span", { class: "hidden" }, "Open flow "), `${row.entry}`),
          row.protocol, row.state, whose(row), `${row.inside_address}:${row.inside_port}`,
          translated(row) ? `${row.nat_address}:${row.nat_port}` : h("span", { class: "whole" }, "not translated"), `${row.remote_address}:${row.remote_port}`,
          bytes(row.bytes_out), bytes(row.bytes_in), duration(row.age_seconds), duration(row.idle_seconds),
        ],
      })), search.rows === null ? "asking …" : "no such flow"),
    h("p", { class: "pager" },
      h("button", {
        type: "button", disabled: !search.before.length,
        onclick: () => { search.after = search.before.pop(); now(changed); },
      }, "Previous"),
      h("button", {
        type: "button", disabled: Boolean(search.query.sort) || rows.length < PAGE,
        onclick: () => {
          search.before.push(search.after);
          search.after = rows[rows.length - 1].entry;
          now(changed);
        },
      }, "Next"),
      search.query.sort ? ` sorted: the first ${PAGE}` : null),
  ];
}

/** Hosts have their own addresses. */
const translated = (row) => row.environment !== null;

/** Whose flow it is: of an environment, of a host, or begun by who is behind a VPC's router. */
const whose = (row) => row.environment ?? row.host ?? "–";

function now(changed) {
  search.asked = 0;
  search.turn += 1;
  refresh(changed);
}

async function refresh(changed) {
  const time = Date.now() / 1000;
  const { turn } = search;
  if (search.asking === turn || time - search.asked < REFRESH_SECONDS) return;
  Object.assign(search, { asking: turn, asked: time });
  const asked = { ...search.query, limit: PAGE };
  // `after` is the last entry that was shown: without one the list begins with entry 0.
  if (search.before.length) asked.after = search.after;
  try {
    const rows = await ask("flows", asked);
    // Something else may be asked for by now.
    if (turn !== search.turn) return;
    Object.assign(search, { rows, error: "" });
  } catch (error) {
    if (turn !== search.turn) return;
    search.error = error.message;
  }
  search.asking = 0;
  changed();
}

function form(changed) {
  const field = (name, label, control) => h("label", { key: name }, label, control);
  const submit = (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    search.query = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
    if (!search.query.sort) delete search.query.reverse;
    Object.assign(search, { after: 0, before: [], rows: null });
    now(changed);
    changed();
  };
  const choice = (name, values) => h("select", { name },
    h("option", { value: "" }, "any"), values.map((each) => h("option", { key: each, value: each }, each)));
  return h("form", { onsubmit: submit, "aria-label": "Which flows", autocomplete: "off" },
    TEXTS.map(([name, label, hint]) => field(name, label, h("input", { name, placeholder: hint }))),
    field("protocol", "Protocol", choice("protocol", ["tcp", "udp", "icmp"])),
    field("state", "State", choice("state", STATES)),
    NUMBERS.map(([name, label]) => field(name, label, h("input", { name, type: "number", min: "0" }))),
    field("sort", "Largest first, by", choice("sort", SORTS)),
    h("label", { key: "reverse", class: "check" }, h("input", { type: "checkbox", name: "reverse", value: "true" }), "Smallest first"),
    h("button", { type: "submit" }, "Search"));
}

let diagram = null;

function openFlow(first) {
  const seen = [];
  const load = async () => {
    if (diagram === null) diagram = await ask("tcp-states", {});
    // Only the entry itself: the one behind the number before it.
    const query = { limit: 1 };
    if (first.entry > 0) query.after = first.entry - 1;
    const [row] = await ask("flows", query);
    if (!row || row.entry !== first.entry || row.remote_address !== first.remote_address
      || row.inside_port !== first.inside_port) return null;
    seen.push([Date.now() / 1000, row]);
    if (seen.length > POINTS) seen.shift();
    return row;
  };
  openDetails(`flow ${first.entry}`, `Flow ${first.entry}`, (_shown, fresh) => {
    const row = fresh || first;
    return [
      fresh === null && seen.length ? h("p", { class: "bad" }, "✕ It has ended.") : null,
      h("p", {}, `${row.protocol} of ${whose(row)}, ${duration(row.age_seconds)} old, idle for ${duration(row.idle_seconds)}`),
      h("ol", { class: "sides-of" },
        h("li", {}, h("b", {}, translated(row) ? "inside" : "from, not translated"), `${row.inside_address}:${row.inside_port}`),
        translated(row)
          ? h("li", {}, h("b", {}, `translated on ${row.interface}`), `${row.nat_address}:${row.nat_port}`) : null,
        h("li", {}, h("b", {}, "remote"), `${row.remote_address}:${row.remote_port}`)),
      facts([
        ["out", `${counted(row.packets_out, "packet")}, ${bytes(row.bytes_out)}`],
        ["in", `${counted(row.packets_in, "packet")}, ${bytes(row.bytes_in)}`],
      ]),
      rates("Packets", seen, "packets_out", "packets_in", 1, packets),
      rates("Bits", seen, "bytes_out", "bytes_in", 8, bits),
      stateOf(row),
    ];
  }, load);
}

function rates(title, seen, out, back, factor, format) {
  const grown = (name) => seen.slice(1).map(([time, row], index) => {
    const [former, old] = seen[index];
    return [time, Math.max(0, (factor * (row[name] - old[name])) / Math.max(time - former, 0.001))];
  });
  const end = seen.length ? seen[seen.length - 1][0] : Date.now() / 1000;
  return lines(title, [{ name: "out", points: grown(out) }, { name: "in", points: grown(back) }], end, POINTS, format);
}

/** The state, in the diagram if it is one of TCP's. */
function stateOf(row) {
  if (diagram === null || !diagram.states.some((each) => each.state === row.state)) {
    return facts([["state", row.state]]);
  }
  const following = diagram.arrows.filter((each) => each.before === row.state);
  const { timer } = diagram.states.find((each) => each.state === row.state);
  return [
    h("h3", {}, `State ${row.state}`),
    h("p", {}, `governed by timeouts.${timer}`),
    picture(row.state),
    following.length ? h("ul", {}, following.map((each) => h("li", { key: `${each.segment} ${each.side}` },
      `${each.segment}${each.side === "both" ? "" : ` from ${each.side}`} leads to ${each.after}`)))
      : h("p", {}, "Only its timer leads on."),
  ];
}

const BOX = { width: 104, height: 24, column: 128, row: 40 };

/** A column for each step of the longest way there, from the arrows alone. */
function layout() {
  const depth = new Map(diagram.states.map((each) => [each.state, 0]));
  for (let round = 0; round < depth.size; round += 1) {
    for (const { before, after } of diagram.arrows) depth.set(after, Math.max(depth.get(after), depth.get(before) + 1));
  }
  const filled = new Map();
  return new Map(diagram.states.map(({ state: name }) => {
    const column = depth.get(name);
    const row = filled.get(column) || 0;
    filled.set(column, row + 1);
    return [name, { x: row * BOX.column, y: column * BOX.row }];
  }));
}

function picture(current) {
  const places = layout();
  const all = [...places.values()];
  const width = Math.max(...all.map((each) => each.x)) + BOX.width + 40;
  const height = Math.max(...all.map((each) => each.y)) + BOX.height + 4;
  const pairs = new Map(diagram.arrows.map((each) => [`${each.before} ${each.after}`, each]));
  return h("svg", {
    class: "states", viewBox: `-2 -2 ${width} ${height}`, role: "img",
    "aria-label": `Diagram of the states of TCP; this flow is in ${current}`,
  },
  [...pairs].map(([key, { before, after }]) => {
    const [a, b] = [places.get(before), places.get(after)];
    const [x, y] = [a.x + BOX.width / 2, a.y + BOX.height];
    const [to, end] = [b.x + BOX.width / 2, b.y];
    const far = b.y - a.y > BOX.row;
    const d = far
      ? `M${a.x + BOX.width} ${a.y + BOX.height / 2}C${width - 20} ${a.y + 20} ${width - 20} ${end - 10} ${b.x + BOX.width} ${b.y + BOX.height / 2}`
      : `M${x} ${y}L${to} ${end}`;
    return h("path", { key, d, class: before === current ? "arrow next" : "arrow" });
  }),
  [...places].map(([name, { x, y }]) => h("g", { key: name, class: name === current ? "state current" : "state" },
    h("rect", { x, y, width: BOX.width, height: BOX.height, rx: 4 }),
    h("text", { x: x + BOX.width / 2, y: y + 16 }, name))));
}
