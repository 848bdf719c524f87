// SPDX-License-Identifier: Apache-2.0
// Accounts, VPCs, subnets, interfaces, and the functions on them, in columns that stay put: what is
// new comes behind its siblings, and what has gone keeps its place for a minute. An edge is as wide
// as there is traffic on it; refusals are a second, broken line and words.

import { isOpen, openDetails, reload } from "./details.js";
import { facts, h, patch, table } from "./dom.js";
import { bits, bytes, counted, packets, quantity } from "./format.js";
import { ask, state } from "./stream.js";

const GONE_SECONDS = 60;
const ROWS_MAX = 300;
const PAGE = 50;
/** What stands in the place of a subnet where a VPC's hosts have their router. */
const ROUTER = "the VPC's router";
const COLUMNS = ["Account", "VPC", "Subnet", "Interface", "On it"];

/** Of the lab that is drawn: the order in which things were first seen, and when they last were. */
let memory = { lab: null, order: new Map(), seen: new Map() };
/** Edges of the last picture: [from, to, packets a second, refusals a second]. */
let edges = [];

class Node {
  constructor(key, column, title) {
    Object.assign(this, { key, column, title, lines: [], children: new Map(), rate: 0, refused: 0 });
    this.gone = false;
    this.open = null;
  }

  child(key, title) {
    const full = `${this.key}/${key}`;
    if (!this.children.has(full)) this.children.set(full, new Node(full, this.column + 1, title));
    return this.children.get(full);
  }
}

export function view(shown) {
  if (memory.lab !== state.lab) memory = { lab: state.lab, order: new Map(), seen: new Map() };
  const root = tree(shown);
  const cards = [];
  edges = [];
  const rows = place(root, cards, 2, null);
  const pool = shown.groups.find((each) => each.function === null && each.interface === null);
  const placed = new Set(shown.groups.map((each) => each.function));
  const idle = shown.functions.filter((each) => !placed.has(each.name) && !each.interfaces.length);
  return [
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Topology" },
      h("div", { class: "grid" },
        h("svg", { class: "edges", "aria-hidden": "true", kept: true }),
        COLUMNS.map((name, index) => h("h3", {
          key: name, style: { "grid-column": `${index + 1}`, "grid-row": "1" },
        }, name)),
        cards)),
    rows - 2 > ROWS_MAX ? h("p", {}, `${rows - 2 - ROWS_MAX} more are not drawn.`) : null,
    pool ? h("p", {}, `Pool: ${quantity(pool.environments)} environments are ready for functions.`) : null,
    idle.length ? h("p", {}, "Without an interface at the moment: ",
      idle.map((each) => `${each.name} (${each.networking}, ${each.state})`).join(", ")) : null,
  ];
}

function tree(shown) {
  const root = new Node("", -1, "");
  const names = new Map(shown.accounts.map((each) => [each.id, each.name]));
  // Nobody's account is the Lambda service's, whose VPC leads to the internet: of interest once used.
  const account = (id) => {
    const node = root.child(id || "", id === null ? "of the lab" : names.get(id) || "Lambda service");
    if (id !== null) node.lines = [id];
    return node;
  };
  const used = new Set(shown.interfaces.map((each) => each.vpc));
  const drawn = ({ owner }, name) => names.has(owner) || used.has(name);
  for (const each of shown.accounts) account(each.id);
  for (const each of shown.vpcs) {
    if (drawn(each, each.name)) account(each.owner).child(each.name, each.name).lines = [each.cidr];
  }
  const vpcOwner = new Map(shown.vpcs.map((each) => [each.name, each.owner]));
  for (const each of shown.subnets) {
    if (drawn(each, each.vpc)) account(each.owner).child(each.vpc, each.vpc).child(each.name, each.name).lines = [each.cidr];
  }
  const known = new Map();
  for (const each of shown.interfaces) {
    const owner = each.owner ?? vpcOwner.get(each.vpc) ?? null;
    const subnet = account(owner).child(each.vpc, each.vpc).child(each.subnet, each.subnet || ROUTER);
    const node = subnet.child(each.interface, each.interface);
    known.set(each.interface, node);
    node.lines = [
      each.count ? `${counted(each.count, "interface")}, one for each` : each.address,
      `${each.kind}, ${each.status}`,
      `${packets(each.packets_out_per_second)} out, ${packets(each.packets_in_per_second)} in`,
    ];
    node.rate = each.packets_out_per_second + each.packets_in_per_second;
    node.refused = each.port_errors_per_second;
    node.opens = `interface ${each.interface}`;
    node.open = () => openInterface(node.opens, each.interface);
  }
  for (const each of shown.hosts) {
    const subnet = account(vpcOwner.get(each.vpc) ?? null).child(each.vpc, each.vpc).child(each.subnet, each.subnet);
    stands(subnet.child(`host ${each.id}`, each.address || each.host), each);
  }
  const functions = new Map(shown.functions.map((each) => [each.name, each]));
  for (const each of shown.functions) {
    for (const name of each.interfaces) {
      if (known.has(name)) described(known.get(name).child(each.name, each.name), each, null);
    }
  }
  for (const each of shown.groups) {
    if (!known.has(each.interface)) continue;
    const title = each.function === null ? "environments" : each.function;
    described(known.get(each.interface).child(each.function || "", title), functions.get(each.function), each);
  }
  sum(root);
  remember(root);
  return root;
}

function described(node, about, group) {
  const count = group ? group.environments : 0;
  const states = group ? Object.entries(group.states).map(([name, each]) => `${quantity(each)} ${name}`) : [];
  node.lines = [
    `${counted(count, "environment")}${states.length ? `: ${states.join(", ")}` : ""}`,
  ];
  if (about) node.lines.push(`${about.networking}, ${about.state}`);
  if (!group) return;
  node.lines.push(`${packets(group.packets_out_per_second)} out, ${packets(group.packets_in_per_second)} in`);
  node.rate = group.packets_out_per_second + group.packets_in_per_second;
  node.refused = group.drops_per_second;
  node.opens = `group ${group.function} ${group.interface}`;
  node.open = () => openGroup(node.opens, group.function, group.interface);
}

/** A host, on the interface that has its address. */
function stands(on, host) {
  on.lines = [host.count ? `${counted(host.count, "interface")}, one for each` : "of a host",
    host.groups.length ? `groups: ${host.groups.join(", ")}` : "no groups"];
  const node = on.child(host.id, host.host);
  node.lines = [
    host.count ? `${quantity(host.count)} hosts` : host.attached ? "host, attached" : "host",
    `${packets(host.packets_out_per_second)} out, ${packets(host.packets_in_per_second)} in`,
  ];
  if (host.services.length) node.lines.splice(1, 0, `services: ${host.services.join(", ")}`);
  node.rate = host.packets_out_per_second + host.packets_in_per_second;
  on.rate = node.rate;
  node.refused = host.drops_per_second;
  node.opens = `host ${host.id}`;
  node.open = () => openHost(node.opens, host.id, host.host);
}

/** What is on an edge towards a parent is what its children have. */
function sum(node) {
  for (const child of node.children.values()) sum(child);
  if (!node.children.size) return;
  const all = [...node.children.values()];
  if (node.column < 3) node.rate = all.reduce((total, each) => total + each.rate, 0);
  node.refused = Math.max(node.refused, all.reduce((total, each) => total + each.refused, 0));
}

/** Put back for a while what has gone; give what is new its place. */
function remember(root) {
  const time = Date.now() / 1000;
  const there = new Map();
  const walk = (node, parent) => {
    there.set(node.key, node);
    memory.seen.set(node.key, { time, parent: parent ? parent.key : null, node });
    const children = [...node.children.values()].sort((a, b) => a.title.localeCompare(b.title));
    for (const child of children) {
      if (!memory.order.has(child.key)) memory.order.set(child.key, memory.order.size);
      walk(child, node);
    }
  };
  walk(root, null);
  for (const [key, { time: last, parent, node }] of memory.seen) {
    if (there.has(key)) continue;
    if (time - last > GONE_SECONDS) {
      memory.seen.delete(key);
      memory.order.delete(key);
    } else if (there.has(parent)) {
      const ghost = new Node(key, node.column, node.title);
      Object.assign(ghost, { gone: true, lines: ["gone"] });
      there.get(parent).children.set(key, ghost);
      there.set(key, ghost);
    }
  }
}

/** Cards from `row` on; the first row that is free behind them. */
function place(node, cards, row, parent) {
  const first = row;
  // Read in their order: what holds others comes before them.
  const before = cards.length;
  const children = [...node.children.values()]
    .sort((a, b) => memory.order.get(a.key) - memory.order.get(b.key));
  for (const child of children) row = place(child, cards, row, node);
  if (!children.length && node.column >= 0) row += 1;
  if (node.column >= 0 && first - 2 < ROWS_MAX) cards.splice(before, 0, card(node, first, row - first));
  if (parent !== null && parent.column >= 0) edges.push([parent.key, node.key, node.rate, node.refused]);
  return row;
}

function card(node, row, span) {
  const words = [
    h("strong", {}, node.title || "–"),
    node.lines.map((line, index) => h("span", { key: `${index}` }, line)),
    node.refused > 0 ? h("span", { class: "bad", key: "refused" }, `✕ ${packets(node.refused)} refused`) : null,
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

/** The edges, where the cards have come to be. */
export function drawn(content) {
  const grid = content.querySelector(".grid");
  const plane = grid.querySelector(".edges");
  const base = grid.getBoundingClientRect();
  const boxes = new Map([...grid.querySelectorAll("[data-node]")]
    .map((each) => [each.dataset.node, each.getBoundingClientRect()]));
  plane.setAttribute("viewBox", `0 0 ${grid.clientWidth} ${grid.clientHeight}`);
  const paths = [];
  for (const [from, to, rate, refused] of edges) {
    const a = boxes.get(from);
    const b = boxes.get(to);
    if (!a || !b) continue;
    const [x, y] = [a.right - base.left, b.top - base.top + Math.min(b.height, 60) / 2];
    const end = b.left - base.left;
    const d = `M${x} ${y}H${end}`;
    paths.push(h("path", {
      key: to, d, class: rate > 0 ? "edge" : "edge idle",
      "stroke-width": Math.min(1.5 + 2.5 * Math.log10(1 + rate), 14).toFixed(1),
    }));
    if (refused > 0) paths.push(h("path", { key: `${to} refused`, d, class: "edge refused" }));
  }
  patch(plane, paths);
}

/** Whether it is not an interface, but many of one function: what the server names so. */
const merged = (name) => name.startsWith("one each: ");

function openInterface(id, name) {
  openDetails(id, name, (shown) => {
    const row = shown.interfaces.find((each) => each.interface === name);
    if (!row) return h("p", {}, "It is gone.");
    return facts([
      ["VPC", row.vpc], ["subnet", row.subnet], ["kind", row.kind], ["status", row.status],
      ["MAC address", row.mac], ["owner", row.owner], ["security groups", row.groups.join(", ") || null],
      ["environments", quantity(row.environments)], ["flows", quantity(row.flows)],
      ["out", `${packets(row.packets_out_per_second)}, ${bits(row.bits_out_per_second)}`],
      ["in", `${packets(row.packets_in_per_second)}, ${bits(row.bits_in_per_second)}`],
      ["ErrorPortAllocation", quantity(row.port_errors)],
      ...row.addresses.map((each) => [`ports of ${each.address}`,
        each.limit ? `${quantity(each.ports)} of ${quantity(each.limit)}` : quantity(each.ports)]),
    ]);
  });
}

function openHost(id, host, title) {
  openDetails(id, title, (shown) => {
    const row = shown.hosts.find((each) => each.id === host);
    if (!row) return h("p", {}, "It is gone.");
    return facts([
      ["VPC", row.vpc], ["subnet", row.subnet],
      ...row.count ? [["hosts", quantity(row.count)]] : [
        ["address", row.address], ["id", row.id], ["security groups", row.groups.join(", ") || null],
        ["services", row.services.join(", ") || null], ["attached namespace", row.attached],
      ],
      ["flows", quantity(row.flows)],
      ["out", `${packets(row.packets_out_per_second)}, ${bits(row.bits_out_per_second)}`],
      ["in", `${packets(row.packets_in_per_second)}, ${bits(row.bits_in_per_second)}`],
      ["refused since the start", quantity(row.drops)],
    ]);
  });
}

function openGroup(id, name, on) {
  const title = name === null ? `Environments on ${on}` : `Environments of ${name}`;
  const before = [];
  let after = 0;
  const load = () => ask("environments", {
    function: name, interface: merged(on) ? null : on, after, limit: PAGE,
  });
  const turn = (to) => {
    after = to;
    reload();
  };
  openDetails(id, title, (shown, rows) => {
    const group = shown.groups.find((each) => each.function === name && each.interface === on);
    const last = rows && rows.length ? rows[rows.length - 1].number : after;
    return [
      group ? facts([
        ["interface", on], ["environments", quantity(group.environments)], ["flows", quantity(group.flows)],
        ["out", `${packets(group.packets_out_per_second)}, ${bits(group.bits_out_per_second)}`],
        ["in", `${packets(group.packets_in_per_second)}, ${bits(group.bits_in_per_second)}`],
        ["refused since the start", quantity(group.drops)],
      ]) : h("p", {}, "They are gone."),
      table("Environments", ["name", "state", "#flows", "#out", "#in", "#refused"], (rows || []).map((row) => ({
        key: row.name,
        cells: [h("span", { class: "whole" }, row.name), row.state, quantity(row.flows), bytes(row.bytes_out), bytes(row.bytes_in), quantity(row.drops)],
      })), rows ? "none" : "asking …"),
      h("p", { class: "pager" },
        h("button", { type: "button", disabled: !before.length, onclick: () => turn(before.pop()) }, "Previous"),
        h("button", {
          type: "button", disabled: !rows || rows.length < PAGE,
          onclick: () => { before.push(after); turn(last); },
        }, "Next")),
    ];
  }, load, 2);
}
