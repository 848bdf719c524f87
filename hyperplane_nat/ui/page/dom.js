// SPDX-License-Identifier: Apache-2.0
// What a view looks like, as plain objects, and the least that makes the document look so.
//
// Elements are kept where a key, or the place and the tag, say that they are the same: the focus, a
// selection and a scroll position survive a look a second. Text only ever becomes text nodes.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = ["data", "disabled", "selected"];

/** An element: its tag, attributes (`key`, `style` as an object, `on…` as functions), children. */
export function h(tag, props, ...children) {
  return { tag, props: props || {}, children: children.flat(Infinity).filter(there) };
}

function there(child) {
  return child !== null && child !== undefined && child !== false && child !== "";
}

/** Make `children` the children of `parent`. */
export function patch(parent, children) {
  const wanted = (Array.isArray(children) ? children : [children]).flat(Infinity).filter(there);
  const keyed = new Map();
  const keys = new Set(wanted.map((each) => each.props && each.props.key));
  // What goes, goes first: whatever stood behind it would be moved, and lose the focus.
  for (const node of [...parent.childNodes]) {
    if (node.key === undefined) continue;
    if (keys.has(node.key)) keyed.set(node.key, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const each of wanted) {
    const node = found(each, at, keyed, parent.namespaceURI);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    if (each.tag !== undefined) adorn(node, each);
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function found(wanted, at, keyed, namespace) {
  if (wanted.tag === undefined) {
    const text = String(wanted);
    if (at !== null && at.nodeType === Node.TEXT_NODE) {
      if (at.data !== text) at.data = text;
      return at;
    }
    return document.createTextNode(text);
  }
  const key = wanted.props.key;
  const old = key === undefined ? at : keyed.get(key);
  if (old && old.localName === wanted.tag && old.key === key) return old;
  const inside = wanted.tag === "svg" ? SVG : namespace;
  const node = document.createElementNS(inside, wanted.tag);
  if (key !== undefined) node.key = key;
  return node;
}

function adorn(node, wanted) {
  const former = node.props || {};
  for (const name of Object.keys(former)) {
    if (!(name in wanted.props)) set(node, name, null, former[name]);
  }
  for (const [name, value] of Object.entries(wanted.props)) {
    if (former[name] !== value || name === "style") set(node, name, value, former[name]);
  }
  node.props = wanted.props;
  // What somebody else keeps is left alone.
  if (!wanted.props.kept) patch(node, wanted.children);
}

function set(node, name, value, former) {
  if (name === "key" || name === "kept") return;
  if (name === "style") {
    for (const each of Object.keys(former || {})) {
      if (!value || !(each in value)) node.style.removeProperty(each);
    }
    for (const [each, said] of Object.entries(value || {})) {
      if (!former || former[each] !== said) node.style.setProperty(each, said);
    }
  } else if (name.startsWith("on") || PROPERTIES.includes(name)) {
    node[name] = value;
  } else if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** A table: headings as texts (`#` in front: numbers), rows of cells, each row with a key. */
export function table(caption, headings, rows, empty) {
  const numeric = headings.map((each) => each.startsWith("#"));
  const side = (index) => (numeric[index] ? "number" : null);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h(
        "thead",
        {},
        h("tr", {}, headings.map((each, index) =>
          h("th", { scope: "col", class: side(index) }, each.replace("#", "")))),
      ),
      h(
        "tbody",
        {},
        rows.length
          ? rows.map((row) => h("tr", { key: row.key, class: row.class },
            row.cells.map((cell, index) => h("td", { class: side(index) }, cell))))
          : h("tr", { key: "empty" }, h("td", { colspan: headings.length }, empty)),
      ),
    ),
  );
}

/** Names with their values. */
export function facts(pairs) {
  return h("dl", {}, pairs.filter((each) => each[1] !== null && each[1] !== undefined)
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
