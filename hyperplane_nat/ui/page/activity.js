// SPDX-License-Identifier: Apache-2.0
// What happened in the last minutes: traffic, drops by reason, events, cold starts, the forwarder.

import { bars, lines, points, spark } from "./chart.js";
import { facts, h, table } from "./dom.js";
import { bits, bytes, clock, median, moment, packets, percent, quantity } from "./format.js";
import { drops, now, series, span } from "./stream.js";

const NETWORKINGS = ["hyperplane", "interface-per-environment", "none"];

function chart(title, list, format) {
  return lines(title, list.map(([name, from]) => ({ name, points: series(from) })), now(), span(), format);
}

export function view(shown) {
  const whose = shown.hosts.length ? " of environments" : "";
  return [
    h("div", { class: "charts" },
      chart(`Packets${whose}`, [["out", "packets_out_per_second"], ["in", "packets_in_per_second"]], packets),
      chart(`Bits${whose}`, [["out", "bits_out_per_second"], ["in", "bits_in_per_second"]], bits),
      shown.hosts.length ? chart("Packets of hosts", [
        ["out", "hosts_packets_out_per_second"], ["in", "hosts_packets_in_per_second"],
      ], packets) : null,
      chart("Flows", [["", "flows"]], quantity),
      chart("Environments", [["", "environments"]], quantity)),
    h("h3", {}, "Drops by reason"),
    table("Packets dropped", ["reason", "#since the start", "#now", "over time"],
      Object.entries(shown.drops).sort(([a], [b]) => a.localeCompare(b)).map(([reason, count]) => ({
        key: reason,
        class: shown.drops_per_second[reason] ? "happening" : null,
        cells: [
          reason, quantity(count),
          shown.drops_per_second[reason] ? h("span", { class: "bad" }, `✕ ${packets(shown.drops_per_second[reason])}`) : "0",
          spark(drops(reason), now(), span(), true),
        ],
      })), "nothing was dropped"),
    h("h3", {}, "Events"),
    table("The latest first", ["time", "event", "what happened", "whose"], shown.events.map((each) => ({
      key: `${each.number}`,
      cells: [clock(each.time), each.kind, each.message, [each.function, each.environment].filter(Boolean).join(", ") || "–"],
    })), "nothing has happened"),
    h("h3", {}, "Cold starts"),
    starts(shown.cold_starts),
    h("h3", {}, "Forwarder"),
    forwarder(shown.forwarder),
  ];
}

function starts(rows) {
  if (!rows.length) return h("p", {}, "No function has started yet.");
  const kinds = NETWORKINGS.filter((kind) => rows.some((row) => row.networking === kind));
  return [
    points("What AWS would take", rows.map((row) => [
      row.time, row.modelled_seconds, row.networking === "interface-per-environment" ? 1 : 0,
    ]), now(), span(), ["● shared interface", "▲ an interface for each"], moment),
    table(`The latest ${rows.length}, by networking`, ["networking", "#cold starts", "#measured here, median", "#AWS, median", "#AWS, longest"],
      kinds.map((kind) => {
        const own = rows.filter((row) => row.networking === kind);
        const modelled = own.map((row) => row.modelled_seconds);
        return {
          key: kind,
          cells: [
            kind, quantity(own.length), moment(median(own.map((row) => row.network_ready_seconds))),
            moment(median(modelled)), moment(Math.max(...modelled)),
          ],
        };
      })),
  ];
}

function forwarder(about) {
  const sizes = Object.entries(about.batch_sizes)
    .map(([name, value]) => [name === "inf" ? "more" : `to ${name}`, value]);
  return [
    facts([
      ["process", about.pid === null ? "not running" : `pid ${about.pid}`],
      ["standby", about.standby_pid === null ? "starting" : `pid ${about.standby_pid}`],
      ["restarts", `${about.restarts}, of which hangs ${about.hangs || 0}`],
      ["last take-over", about.failover_seconds ? moment(about.failover_seconds) : null],
      ["memory", about.rss_bytes ? bytes(about.rss_bytes) : null],
    ]),
    h("div", { class: "charts" },
      chart("Processor time", [["", "cpu_percent"]], percent),
      chart("Ring fill", [["", "ring_percent"]], percent),
      chart("Frames in a batch, mean", [["", "batch_frames"]], quantity)),
    bars("Batches a second by size", sizes, quantity),
  ];
}
