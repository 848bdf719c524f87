// SPDX-License-Identifier: Apache-2.0
// The frame: which lab and which view, the figures of the lab, and what is wrong with it.
//
// The address has both after the `#`, so that a view can be kept as a bookmark and Back works.

import * as activity from "./activity.js";
import * as balancers from "./balancers.js";
import * as details from "./details.js";
import { h, patch } from "./dom.js";
import * as flows from "./flows.js";
import { bits, clock, packets, percent, quantity } from "./format.js";
import * as ports from "./ports.js";
import { begin, leave, state } from "./stream.js";
import * as topology from "./topology.js";

const VIEWS = { topology, balancers, ports, flows, activity };
const NAMES = {
  topology: "Topology", balancers: "Load balancers, endpoints", ports: "Ports", flows: "Flows", activity: "Activity",
};

const place = (id) => document.getElementById(id);
let waiting = false;

function where() {
  const [lab, view] = location.hash.slice(1).split("/");
  return { lab: decoded(lab || ""), view: Object.hasOwn(VIEWS, view) ? view : "topology" };
}

/** A part of an address; as it is, when nobody has encoded it so. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function go(lab, view) {
  location.hash = `${encodeURIComponent(lab)}/${view}`;
}

function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  const { view } = where();
  document.title = `${state.lab || "no lab"} · ${NAMES[view]} · hyperplane-nat`;
  patch(place("choice"), choice(view));
  patch(place("views"), h("ul", {}, Object.keys(VIEWS).map((name) => h("li", { key: name },
    h("a", {
      href: `#${encodeURIComponent(state.lab)}/${name}`,
      "aria-current": name === view ? "page" : null,
    }, NAMES[name])))));
  patch(place("notice"), notice());
  const shown = state.shown;
  if (shown === null || shown.state === undefined) {
    patch(place("summary"), []);
    patch(place("content"), h("p", { key: "waiting" }, waitingFor()));
    details.close();
    details.draw(place("details"), null);
    return;
  }
  patch(place("summary"), summary(shown));
  patch(place("content"), h("div", { key: view, class: `view ${view}` },
    h("h2", {}, NAMES[view]), VIEWS[view].view(shown, changed)));
  details.draw(place("details"), shown);
  // Last: the panel takes room from the view.
  if (VIEWS[view].drawn) VIEWS[view].drawn(place("content"));
}

const known = (lab) => state.labs.find((each) => each.lab === lab);

function waitingFor() {
  if (!state.lab) return "No lab runs (start one with: hyperplane-nat up). It appears here by itself.";
  if (known(state.lab)) return "Waiting for the first look …";
  return `No lab ${state.lab} runs. It appears here by itself, and the others can be chosen above.`;
}

function choice(view) {
  const names = state.labs.map((each) => each.lab);
  if (state.lab && !known(state.lab)) names.unshift(state.lab);
  const about = (name) => (known(name) ? known(name).away && " (no answer)" : " (does not run)");
  return h("label", {}, "Lab ", h("select", {
    id: "lab", onchange: (event) => go(event.target.value, view),
  }, names.map((name) => h("option", {
    key: name, value: name, selected: name === state.lab,
  }, name, about(name)))));
}

function notice() {
  if (state.broken) return h("p", { class: "bad", key: "broken" }, `✕ ${state.broken}`);
  const shown = state.shown;
  if (!shown) return [];
  if (shown.away_since) {
    return h("p", { class: "bad", key: "away" },
      `✕ NO ANSWER since ${clock(shown.away_since)}, asking again: ${shown.why}`);
  }
  if (shown.forwarder && shown.forwarder.problem) {
    return h("p", { class: "bad", key: "problem" }, `✕ forwarder not up: ${shown.forwarder.problem.replace(/^forwarder: /, "")}`);
  }
  return [];
}

function summary(shown) {
  const { forwarder } = shown;
  const refused = Object.values(shown.drops_per_second).reduce((sum, each) => sum + each, 0);
  const figures = [
    ["environments", quantity(shown.environments)],
    ...shown.hosts.length ? [["hosts", hosts(shown.hosts)]] : [],
    ["flows", `${quantity(shown.flows.active)} of ${quantity(shown.flows.max)}`],
    ["out", `${packets(shown.packets_out_per_second)}, ${bits(shown.bits_out_per_second)}`],
    ["in", `${packets(shown.packets_in_per_second)}, ${bits(shown.bits_in_per_second)}`],
    ["refused", h("span", { class: refused ? "bad" : null }, refused ? "✕ " : "", packets(refused))],
    ["forwarder", `${forwarder.pid === null ? "not running" : `pid ${forwarder.pid}`}, `
      + `restarts ${forwarder.restarts}, processor ${percent(forwarder.cpu_percent)}`],
  ];
  return h("dl", { class: shown.away_since ? "stale" : null },
    figures.map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

/** Their packets are not among those of environments. */
function hosts(rows) {
  const sum = (value) => rows.reduce((total, row) => total + value(row), 0);
  return `${quantity(sum((row) => row.count || 1))}: ${packets(sum((row) => row.packets_out_per_second))} out, `
    + `${packets(sum((row) => row.packets_in_per_second))} in`;
}

function moved() {
  const { lab } = where();
  details.close();
  if (lab && lab !== state.lab) begin(changed, lab);
  changed();
}

/** A browser has six connections for an address: a page that is out of sight holds none. */
function seen() {
  if (document.hidden) leave();
  else begin(changed, where().lab || state.lab);
}

function skip(event) {
  // The part behind the `#` is the lab and the view.
  event.preventDefault();
  place("content").focus();
}

window.addEventListener("hashchange", moved);
window.addEventListener("resize", changed);
document.addEventListener("visibilitychange", seen);
document.querySelector(".skip").addEventListener("click", skip);
details.onChange(changed);
draw();
seen();
