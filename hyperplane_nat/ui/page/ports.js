// SPDX-License-Identifier: Apache-2.0
// Source ports: each address of an interface against its limit, the remotes that take most, and
// when they will be used up at the present rate.

import { lines, share } from "./chart.js";
import { h, table } from "./dom.js";
import { clock, duration, percent, quantity, remote } from "./format.js";
import { now, series, span } from "./stream.js";

const SHOWN = 3;

function left(seconds) {
  if (seconds === null) return "–";
  return seconds === 0 ? h("span", { class: "bad" }, "✕ used up") : `in ${duration(seconds)}`;
}

function holders(row) {
  if (!row) return "–";
  const told = row.functions.filter((each) => each.function !== null)
    .map((each) => `${each.function} ${quantity(each.in_use + each.held)}`);
  for (const each of row.environments) {
    if (each.function === null) told.push(`${each.environment || "removed ones"} ${quantity(each.in_use + each.held)}`);
  }
  return told.length ? told.slice(0, SHOWN).join(", ") + (told.length > SHOWN ? ", …" : "") : "–";
}

function errors(count) {
  return count ? h("span", { class: "bad" }, `✕ ${quantity(count)}`) : "0";
}

export function view(shown) {
  const held = new Map(shown.port_holders.map((each) => [`${each.interface} ${each.address}`, each]));
  const addresses = shown.interfaces.flatMap((row) => row.addresses.map((each) => ({ row, each })))
    .sort((a, b) => b.each.ports - a.each.ports).slice(0, 100);
  const last = shown.events.find((each) => each.kind === "port-exhaustion");
  return [
    last ? h("p", {}, h("span", { class: "bad" }, "✕ "),
      `Last exhaustion at ${clock(last.time)}: ${last.message}`) : h("p", {}, "No port was refused lately."),
    h("div", { class: "charts" },
      lines("Ports used, the fullest interface or remote", [{ name: "", points: series("used_percent") }],
        now(), span(), percent),
      lines("ErrorPortAllocation", [{ name: "", points: series("port_errors_per_second") }],
        now(), span(), (value) => `${quantity(value)}/s`)),
    table("Addresses of interfaces, those with most ports first",
      ["interface", "address", "#ports", "#limit", "used", "used up", "#errors", "held by"],
      addresses.map(({ row, each }) => ({
        key: `${each.interface} ${each.address}`,
        cells: [
          h("span", { class: "whole" }, each.interface), each.address, quantity(each.ports), each.limit ? quantity(each.limit) : "–",
          each.limit ? share((100 * each.ports) / each.limit) : "no limit", left(each.seconds_left),
          errors(row.port_errors), holders(held.get(`${each.interface} ${each.address}`)),
        ],
      })), "no interface"),
    table("Remotes that take most ports",
      ["remote", "protocol", "interface", "#ports", "#limit", "used", "used up", "#highest", "#errors", "held by"],
      shown.remotes.map((row) => ({
        key: `${row.protocol} ${row.address} ${row.remote_address} ${row.remote_port}`,
        cells: [
          remote(row.remote_address, row.remote_port), row.protocol, h("span", { class: "whole" }, row.interface), quantity(row.ports),
          row.limit ? quantity(row.limit) : "–", share(row.used_percent), left(row.seconds_left),
          quantity(row.high_water), errors(row.allocation_errors), holders(row),
        ],
      })), "nobody has a port"),
  ];
}
