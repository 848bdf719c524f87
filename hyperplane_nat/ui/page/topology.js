// SPDX-License-Identifier: Apache-2.0
// Accounts, VPCs, subnets, interfaces, and what is on them. An arrow leads from a VPC to the one whose
// services it uses by endpoints.

import * as balancers from "./balancers.js";
import { openDetails, reload } from "./details.js";
import { facts, h, table } from "./dom.js";
import { bits, bytes, counted, packets, quantity } from "./format.js";
import { Grid, Node } from "./grid.js";
import { ask, state } from "./stream.js";

const PAGE = 50;
/** What stands in the place of a subnet where a VPC's hosts have their router. */
const ROUTER = "the VPC's router";
const grid = new Grid("Topology", ["Account", "VPC", "Subnet", "Interface", "On it"]);

export function view(shown) {
  const { root, arrows } = tree(shown);
  const pool = shown.groups.find((each) => each.function === null && each.interface === null);
  const placed = new Set(shown.groups.map((each) => each.function));
  const idle = shown.functions.filter((each) => !placed.has(each.name) && !each.interfaces.length);
  return [
    grid.view(state.lab, root, arrows),
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
  const shows = ({ owner }, name) => names.has(owner) || used.has(name);
  for (const each of shown.accounts) account(each.id);
  const vpcs = new Map();
  for (const each of shown.vpcs) {
    if (!shows(each, each.name)) continue;
    const node = account(each.owner).child(each.name, each.name);
    node.lines = [each.cidr];
    vpcs.set(each.name, node);
  }
  const vpcOwner = new Map(shown.vpcs.map((each) => [each.name, each.owner]));
  for (const each of shown.subnets) {
    if (shows(each, each.vpc)) account(each.owner).child(each.vpc, each.vpc).child(each.name, each.name).lines = [each.cidr];
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
  for (const each of balancers.onInterfaces(shown)) {
    if (known.has(each.interface)) balancers.stands(known.get(each.interface), each);
  }
  sum(root);
  return { root, arrows: between(shown, vpcs) };
}

/** Which VPCs use services of which, as pairs of cards. */
function between(shown, vpcs) {
  const found = [];
  for (const [vpc, node] of vpcs) {
    for (const [provider, names] of balancers.providers(shown, vpc)) {
      const which = names.length > 1 ? counted(names.length, "endpoint") : `endpoint ${names[0]}`;
      node.lines.push(`→ ${provider}: ${which}`);
      if (vpcs.has(provider)) found.push([node.key, vpcs.get(provider).key]);
    }
  }
  return found;
}

export const drawn = (content) => grid.drawn(content);

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
