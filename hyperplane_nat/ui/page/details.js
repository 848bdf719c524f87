// SPDX-License-Identifier: Apache-2.0
// The panel beside a view: one thing, opened. It takes the focus and gives it back.

import { h, patch } from "./dom.js";

let open = null;
let opener = null;
let changed = () => {};
let timer = 0;
let again = () => {};

/** Ask again now. */
export function reload() {
  clearTimeout(timer);
  again();
}

export function onChange(callback) {
  changed = callback;
}

/**
 * Open `title`; `content(shown, data)` draws it. `load`, if there is one, is asked for `data` at
 * once and then every `seconds`.
 */
export function openDetails(id, title, content, load, seconds = 1) {
  close();
  opener = document.activeElement;
  const mine = { id, title, content, data: null, error: "" };
  open = mine;
  let number = 0;
  again = async () => {
    number += 1;
    const asked = number;
    let data = null;
    let error = "";
    try {
      data = await load();
    } catch (failure) {
      error = failure.message;
    }
    // Something else may be open by now, or another answer on its way.
    if (open !== mine || asked !== number) return;
    Object.assign(mine, { data, error });
    changed();
    timer = setTimeout(again, seconds * 1000);
  };
  if (load) again();
  changed();
  requestAnimationFrame(() => {
    const heading = document.getElementById("details-title");
    if (heading) heading.focus();
  });
}

export function isOpen(id) {
  return open !== null && open.id === id;
}

export function close() {
  clearTimeout(timer);
  if (open === null) return;
  open = null;
  if (opener && opener.isConnected) opener.focus();
  changed();
}

export function draw(place, shown) {
  place.hidden = open === null;
  patch(place, open === null ? [] : h("div", { key: open.id, onkeydown: escape },
    h("div", { class: "bar" },
      h("h2", { id: "details-title", tabindex: "-1" }, open.title),
      h("button", { type: "button", onclick: close }, "Close")),
    open.error ? h("p", { class: "bad" }, `✕ ${open.error}`) : null,
    open.content(shown, open.data)));
}

function escape(event) {
  if (event.key === "Escape") close();
}
