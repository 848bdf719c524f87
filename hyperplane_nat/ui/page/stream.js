// SPDX-License-Identifier: Apache-2.0
// What the server tells: one stream for the lab that is shown, and questions beside it.

const token = new URLSearchParams(location.search).get("token") || "";

/** What is known. */
export const state = {
  labs: [],
  /** The name of the one that is shown, also when there is none of this name; empty without one. */
  lab: "",
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

const BROKEN = "the connection to hyperplane-nat ui is broken; trying again";
const SILENT = "hyperplane-nat ui does not answer; trying again";
const AGAIN = 1000;

let source = null;
let again = 0;
/** Grows with each call of `leave`: what was asked before is of no interest then. */
let turn = 0;

/** Hold no connection, and ask no more. */
export function leave() {
  if (source !== null) source.close();
  source = null;
  clearTimeout(again);
  turn += 1;
}

/**
 * Show the lab of this name, or without one the first there is; as long as there is none, ask
 * again. `changed` is called for all that comes.
 */
export async function begin(changed, wanted) {
  leave();
  const mine = turn;
  if (wanted !== state.lab) Object.assign(state, { lab: wanted, shown: null, samples: [], broken: "" });
  try {
    const answer = await fetch(address("labs", {}));
    const labs = await answer.json();
    if (mine !== turn) return;
    if (!answer.ok) throw new Error(labs.message);
    state.labs = labs;
    const lab = wanted || (labs.length ? labs[0].lab : "");
    if (labs.some((each) => each.lab === lab)) {
      follow(changed, lab);
      return;
    }
    Object.assign(state, { shown: null, broken: "" });
  } catch (error) {
    if (mine !== turn) return;
    state.broken = error instanceof TypeError ? SILENT : error.message;
  }
  changed();
  again = setTimeout(() => begin(changed, wanted), AGAIN);
}

function follow(changed, lab) {
  const mine = turn;
  state.lab = lab;
  source = new EventSource(address("stream", { lab }));
  source.onmessage = (event) => {
    take(JSON.parse(event.data));
    state.broken = "";
    changed();
  };
  source.onerror = async () => {
    // A refusal ends it for good; a browser tries again by itself only what broke.
    const refused = source.readyState === EventSource.CLOSED;
    const why = refused ? await refusal(lab) : BROKEN;
    if (mine !== turn) return;
    state.broken = why;
    changed();
    if (refused) again = setTimeout(() => begin(changed, lab), AGAIN);
  };
}

/** Why a stream was refused, which an EventSource does not tell. */
async function refusal(lab) {
  const stop = new AbortController();
  try {
    const answer = await fetch(address("stream", { lab }), { signal: stop.signal });
    return answer.ok ? BROKEN : (await answer.json()).message;
  } catch {
    return SILENT;
  } finally {
    stop.abort();
  }
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
