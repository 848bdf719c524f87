// SPDX-License-Identifier: Apache-2.0
// Who reaches what by load balancers and endpoints, from left to right: endpoints in the VPCs of
// consumers, the endpoint services of providers, load balancers, listeners, targets with their health.

import { openDetails } from "./details.js";
import { facts, h, table } from "./dom.js";
import { counted, packets, quantity } from "./format.js";
import { Grid, Node } from "./grid.js";
import { state } from "./stream.js";

/** In a card; its panel has more. */
const LINES_MAX = 8;
const HEALTHY = "healthy";
/** Of a target that is, or is about to be, without connections that it ought to have. */
const BAD = ["unhealthy", "unhealthy.draining"];
const UP = ["active", "Available"];
const grid = new Grid("Load balancers, endpoints",
  ["Endpoint", "Endpoint service", "Load balancer", "Listener", "Targets"]);

export function view(shown) {
  const root = tree(shown);
  if (!root.children.size) return h("p", {}, "The lab has neither load balancers nor endpoints.");
  return grid.view(state.lab, root);
}

export const drawn = (content) => {
  if (content.querySelector(".grid")) grid.drawn(content);
};

const whole = (each) => `${each.vpc}/${each.name}`;
/** At least as wide as this is the edge of what would let something pass. */
const up = (each) => (UP.includes(each.state) ? 1 : 0);
const named = (target) => target.host || target.address;

function tree(shown) {
  const root = new Node("", -1, "");
  const groups = new Map(shown.target_groups.map((each) => [each.id, each]));
  const interfaces = new Map(shown.interfaces.map((each) => [each.interface, each]));
  const services = new Map();
  for (const each of shown.load_balancers) {
    const node = root.child(each.id, whole(each), 2);
    node.lines = [`${each.scheme}, ${each.state}`, ...few(each.nodes.map((one) => `${one.zone}: ${one.public_address || one.address}`)),
      traffic(each, interfaces).words];
    opened(node, "balancer", each.id, openBalancer);
    for (const [group, listeners] of byGroup(each)) listening(node, each, listeners, groups.get(group));
  }
  const used = new Set(shown.load_balancers.flatMap((each) => each.listeners.map((one) => one.target_group)));
  for (const each of shown.target_groups) {
    if (!used.has(each.id)) targets(root, each);
  }
  for (const each of shown.endpoint_services) {
    const node = (root.children.get(`/${each.load_balancer}`) || root).child(each.id, whole(each), 1);
    node.lines = [each.acceptance_required ? "acceptance required" : "accepts all"];
    Object.assign(node, { rate: 1, arrow: true });
    opened(node, "service", each.id, openService);
    services.set(each.service_name, node);
  }
  for (const each of shown.endpoints) {
    if (!services.has(each.service_name)) {
      const node = root.child(each.service_name, each.service_name, 1);
      node.lines = [each.type === "Gateway" ? "of AWS" : "gone"];
      services.set(each.service_name, node);
    }
    const node = services.get(each.service_name).child(each.id, whole(each), 0);
    node.lines = [`${each.type}, ${each.state}`, ...few([
      ...each.nodes.map((one) => `${one.zone}: ${one.address}`),
      ...each.route_tables.map((one) => `route table ${one}`),
    ])];
    const { rate, words } = traffic(each, interfaces);
    if (each.type !== "Gateway") node.lines.push(words);
    if (each.state === "Rejected") node.problem = "rejected by the service's owner";
    Object.assign(node, { rate: Math.max(up(each), rate), arrow: true });
    services.get(each.service_name).rate += rate;
    opened(node, "endpoint", each.id, openEndpoint);
  }
  return root;
}

function opened(node, kind, id, open) {
  node.opens = `${kind} ${id}`;
  node.open = () => open(node.opens, id, node.title);
}

/** Packets a second of the interfaces of a load balancer or an endpoint. */
function traffic({ nodes: own }, interfaces) {
  const sum = (name) => own.reduce((total, each) => total + (interfaces.get(each.interface)?.[name] || 0), 0);
  const [out, back] = [sum("packets_out_per_second"), sum("packets_in_per_second")];
  return { rate: out + back, words: `${packets(out)} out, ${packets(back)} in` };
}

/** The first of many; `count` is how many there are. */
function few(lines, count = lines.length) {
  return count > LINES_MAX
    ? [...lines.slice(0, LINES_MAX - 1), `and ${quantity(count - LINES_MAX + 1)} more`] : lines;
}

/** The listeners of a load balancer by the target group that they lead to. */
function byGroup(balancer) {
  const found = new Map();
  for (const each of balancer.listeners) {
    found.set(each.target_group, [...found.get(each.target_group) || [], `${each.protocol} ${each.port}`]);
  }
  return found;
}

function listening(on, balancer, listeners, group) {
  const name = group ? group.id : "";
  const node = on.child(`listener ${name}`, few(listeners).join(", "));
  node.rate = up(balancer);
  if (group) targets(node, group).rate = group.states[HEALTHY] ? 1 : 0;
}

function targets(on, group) {
  const node = on.child(`targets ${group.id}`, whole(group), 4);
  node.arrow = true;
  const count = Object.values(group.states).reduce((sum, each) => sum + each, 0);
  const states = Object.entries(group.states).map(([name, each]) => `${quantity(each)} ${name}`);
  const bad = BAD.reduce((sum, each) => sum + (group.states[each] || 0), 0);
  node.lines = [
    `${group.protocol} ${group.port}, ${counted(count, "target")}${states.length ? `: ${states.join(", ")}` : ""}`,
    ...few(group.targets.map((each) => `${mark(each)} ${named(each)}:${each.port} ${each.reason || each.state}`), count),
  ];
  if (bad) node.problem = bad === count ? "none is healthy" : `${quantity(bad)} of ${quantity(count)} unhealthy`;
  opened(node, "targets", group.id, openTargets);
  return node;
}

const mark = (target) => (target.state === HEALTHY ? "✓" : BAD.includes(target.state) ? "✕" : "·");

/** What stands on interfaces: nodes of load balancers, endpoints. */
export function onInterfaces(shown) {
  const all = [
    ...shown.load_balancers.map((each) => [each, "load balancer", openBalancer]),
    ...shown.endpoints.map((each) => [each, `endpoint to ${each.service || each.service_name}`, openEndpoint]),
  ];
  return all.flatMap(([of, what, open]) => of.nodes.map((each) => ({ interface: each.interface, of, what, open })));
}

/** One of them, on the card of its interface. */
export function stands(on, { of, what, open }) {
  const node = on.child(of.id, of.name);
  node.lines = [what, of.state];
  node.rate = on.rate;
  // Beside the same thing on the interface of another zone.
  node.opens = `${on.key} ${of.id}`;
  node.open = () => open(node.opens, of.id, whole(of));
}

/** The VPCs whose services a VPC uses by endpoints, each with the names of these. */
export function providers(shown, vpc) {
  const found = new Map();
  for (const each of shown.endpoints) {
    const service = shown.endpoint_services.find((one) => one.service_name === each.service_name);
    if (each.vpc !== vpc || !service || service.vpc === vpc) continue;
    found.set(service.vpc, [...found.get(service.vpc) || [], each.name]);
  }
  return found;
}

const GONE = () => h("p", {}, "It is gone.");
const list = (names) => names.join(", ") || null;

function nodes(rows) {
  return table("Nodes", ["zone", "subnet", "address", "public"], rows.map((each) => ({
    key: each.interface, cells: [each.zone, each.subnet, each.address, each.public_address || "–"],
  })), "none");
}

function openBalancer(opens, id, title) {
  openDetails(opens, title, (shown) => {
    const row = shown.load_balancers.find((each) => each.id === id);
    if (!row) return GONE();
    const groups = new Map(shown.target_groups.map((each) => [each.id, each.name]));
    return [
      facts([["VPC", row.vpc], ["state", row.state], ["scheme", row.scheme],
        ["security groups", list(row.groups)], ["name in DNS", row.dns_name]]),
      nodes(row.nodes),
      table("Listeners", ["protocol", "#port", "target group"], row.listeners.map((each) => ({
        key: `${each.protocol} ${each.port}`, cells: [each.protocol, `${each.port}`, groups.get(each.target_group) || "–"],
      })), "none"),
    ];
  });
}

function openTargets(opens, id, title) {
  openDetails(opens, title, (shown) => {
    const row = shown.target_groups.find((each) => each.id === id);
    if (!row) return GONE();
    const count = Object.values(row.states).reduce((sum, each) => sum + each, 0);
    return [
      facts([["VPC", row.vpc], ["protocol", row.protocol], ["port", `${row.port}`], ["by", row.type],
        ["health check", row.check], ...Object.entries(row.states).map(([name, each]) => [name, quantity(each)])]),
      table("Targets, those that are not healthy first", ["target", "#port", "zone", "state"], row.targets.map((each) => ({
        key: `${each.id} ${each.port}`,
        cells: [named(each), `${each.port}`, each.zone, [
          h("span", { class: BAD.includes(each.state) ? "bad" : null }, `${mark(each)} ${each.state}`),
          each.reason ? ` ${each.reason}` : "",
          each.description ? `: ${each.description}` : "",
        ]],
      })), "none"),
      count > row.targets.length ? h("p", {}, `${count - row.targets.length} more are not shown.`) : null,
    ];
  });
}

function openService(opens, id, title) {
  openDetails(opens, title, (shown) => {
    const row = shown.endpoint_services.find((each) => each.id === id);
    if (!row) return GONE();
    const users = shown.endpoints.filter((each) => each.service_name === row.service_name);
    return [
      facts([["VPC", row.vpc], ["acceptance", row.acceptance_required ? "required" : "not required"],
        ["allowed", list(row.principals)], ["private DNS", row.private_dns_name],
        ["service name", row.service_name]]),
      table("Endpoints", ["endpoint", "state"], users.map((each) => ({
        key: each.id, cells: [whole(each), each.state],
      })), "none"),
    ];
  });
}

function openEndpoint(opens, id, title) {
  openDetails(opens, title, (shown) => {
    const row = shown.endpoints.find((each) => each.id === id);
    if (!row) return GONE();
    return [
      facts([["VPC", row.vpc], ["type", row.type], ["state", row.state], ["service", row.service || row.service_name],
        ["security groups", list(row.groups)], ["private DNS", row.private_dns_name],
        ["route tables", list(row.route_tables)], ["id", row.id]]),
      row.type === "Gateway" ? null : nodes(row.nodes),
    ];
  });
}
