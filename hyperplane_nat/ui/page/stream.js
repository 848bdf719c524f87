// SPDX-License-Identifier: Apache-2.0
// What the server tells: one stream for the lab that is shown, and questions beside it.

const token = new URLSearchParams(location.search).get("token") || "";

/** What is known. */
export const state = {
  labs: [],
  lab: null,
  /** The document; null until there is one. */
  shown: null,
  series: [],
  seconds: 900,
  samples: [],
  /** Why the stream itself is gone; empty while it is there. */
  broken: "",
};

function address(what, query) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) given.set(name, value);
  }
  given.set("token", token);
  return `api/${what}?${given}`;
}

/** The answer to a question about the lab that is shown; an Error with the server's words. */
export async function ask(what, query) {
  const answer = await fetch(address(what, { ...query, lab: state.lab }));
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.message);
  return body;
}

let source = null;
let again = 0;

/** Show this lab from now on; `changed` is called for all that comes. */
export function show(lab, changed) {
  if (source !== null) source.close();
  clearTimeout(again);
  Object.assign(state, { lab, shown: null, samples: [], broken: "" });
  source = new EventSource(address("stream", { lab }));
  source.onmessage = (event) => {
    take(JSON.parse(event.data));
    state.broken = "";
    changed();
  };
  source.onerror = () => {
    state.broken = "the connection to hyperplane-nat ui is broken; trying again";
    changed();
    // A refusal ends it for good; a browser tries again by itself only what broke.
    if (source.readyState === EventSource.CLOSED) again = setTimeout(() => begin(changed, lab), 1000);
  };
}

/** Find the labs, and show one. */
export async function begin(changed, wanted) {
  clearTimeout(again);
  try {
    const answer = await fetch(address("labs", {}));
    const labs = await answer.json();
    if (!answer.ok) throw new Error(labs.message);
    state.labs = labs;
    state.broken = "";
    const names = labs.map((each) => each.lab);
    const lab = names.includes(wanted) ? wanted : names[0];
    if (lab !== undefined) {
      show(lab, changed);
      return;
    }
  } catch (error) {
    state.broken = error instanceof TypeError
      ? "hyperplane-nat ui does not answer; trying again" : error.message;
  }
  changed();
  again = setTimeout(() => begin(changed, wanted), 1000);
}

function take(message) {
  if (message.labs) state.labs = message.labs;
  if (message.all) {
    state.shown = message.all;
    Object.assign(state, message.history);
  }
  if (message.changed) state.shown = { ...state.shown, ...message.changed };
  if (message.sample) {
    state.samples.push(message.sample);
    if (state.samples.length > state.seconds) state.samples.shift();
  }
}

/** The points of a series, and of a reason of drops. */
export function series(name) {
  const index = state.series.indexOf(name);
  return state.samples.map((sample) => [sample.time, sample.values[index]]);
}

export function drops(reason) {
  return state.samples.map((sample) => [sample.time, sample.drops[reason] || 0]);
}

/** The seconds that charts show: of a page's first minute no more than that. */
export function span() {
  const [first] = state.samples;
  return Math.min(state.seconds, Math.max(60, first ? Math.ceil((now() - first.time) / 60) * 60 : 0));
}

/** The time that charts end at. */
export function now() {
  const last = state.samples[state.samples.length - 1];
  return last ? last.time : Date.now() / 1000;
}
