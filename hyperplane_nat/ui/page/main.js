// SPDX-License-Identifier: Apache-2.0
// The frame: which lab and which view, the figures of the lab, and what is wrong with it.
//
// The address has both after the `#`, so that a view can be kept as a bookmark and Back works.

import * as activity from "./activity.js";
import * as details from "./details.js";
import { h, patch } from "./dom.js";
import * as flows from "./flows.js";
import { bits, clock, packets, percent, quantity } from "./format.js";
import * as ports from "./ports.js";
import { begin, show, state } from "./stream.js";
import * as topology from "./topology.js";

const VIEWS = { topology, ports, flows, activity };
const NAMES = { topology: "Topology", ports: "Ports", flows: "Flows", activity: "Activity" };

const place = (id) => document.getElementById(id);
let waiting = false;

function where() {
  const [lab, view] = location.hash.slice(1).split("/");
  return { lab: decodeURIComponent(lab || ""), view: view in VIEWS ? view : "topology" };
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
      href: `#${encodeURIComponent(state.lab || "")}/${name}`,
      "aria-current": name === view ? "page" : null,
    }, NAMES[name])))));
  patch(place("notice"), notice());
  const shown = state.shown;
  if (shown === null || shown.state === undefined) {
    patch(place("summary"), []);
    patch(place("content"), h("p", { key: "waiting" }, state.lab ? "Waiting for the first look …"
      : "No lab runs (start one with: hyperplane-nat up). It appears here by itself."));
    return;
  }
  patch(place("summary"), summary(shown));
  patch(place("content"), h("div", { key: view, class: `view ${view}` },
    h("h2", {}, NAMES[view]), VIEWS[view].view(shown, changed)));
  if (VIEWS[view].drawn) VIEWS[view].drawn(place("content"));
  details.draw(place("details"), shown);
}

function choice(view) {
  const names = state.labs.map((each) => each.lab);
  return h("label", {}, "Lab ", h("select", {
    id: "lab", onchange: (event) => go(event.target.value, view),
  }, names.map((name) => h("option", {
    key: name, value: name, selected: name === state.lab,
  }, name, state.labs.find((each) => each.lab === name).away ? " (no answer)" : ""))));
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
    return h("p", { class: "bad", key: "problem" }, `✕ forwarder not up: ${shown.forwarder.problem}`);
  }
  return [];
}

function summary(shown) {
  const { forwarder } = shown;
  const refused = Object.values(shown.drops_per_second).reduce((sum, each) => sum + each, 0);
  const figures = [
    ["environments", quantity(shown.environments)],
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

function moved() {
  const { lab } = where();
  details.close();
  if (lab && lab !== state.lab && state.labs.some((each) => each.lab === lab)) show(lab, changed);
  changed();
}

window.addEventListener("hashchange", moved);
window.addEventListener("resize", changed);
details.onChange(changed);
draw();
begin(changed, where().lab);
