// Elements of the page, made and moved among. Text is only ever put in as text.

/** An element with attributes (`text` is its text, and `hidden: false` none) and children, which may be texts. */
export function element(name, attributes, children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same as part of a drawing. */
export function drawn(name, attributes, children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, { text, ...attributes } = {}, children = []) {
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(attribute, "");
    else if (value !== false) made.setAttribute(attribute, value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** Move the focus by the arrow keys, Home and End among elements of which one is reached by Tab. Whether it did. */
export function moveWithin(elements, event) {
  const from = elements.indexOf(event.target);
  const last = elements.length - 1;
  const steps = { ArrowDown: from + 1, ArrowRight: from + 1, ArrowUp: from - 1, ArrowLeft: from - 1, Home: 0, End: last };
  if (from < 0 || !(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return false;
  const to = Math.min(last, Math.max(0, steps[event.key]));
  elements[from].tabIndex = -1;
  elements[to].tabIndex = 0;
  elements[to].focus();
  return true;
}

/** Put a text into the clipboard; without one, as on a page that is not encrypted, the older way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", { class: "hidden-text", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("the browser does not let this page copy");
}

/** Hand a text over as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
