// A row of a ranking: a source, its score as a bar to one side of the zero line, and as a number.

import { element } from "./elements.js";
import { decimalsFor, signed } from "./words.js";

/**
 * Makes rows with one scale for all; `ranked` are { name, score, error }, the best first, `unit` is of the scores.
 *
 * A row is a button that does nothing yet.
 */
export function barRows(ranked, unit) {
  const ends = ranked.flatMap(({ score, error = 0 }) => [score - error, score + error]);
  const low = ends.reduce((one, other) => Math.min(one, other), 0);
  const span = ends.reduce((one, other) => Math.max(one, other), 0) - low || 1;
  const at = (value) => (100 * (value - low)) / span;
  const decimals = decimalsFor(largest(ranked.map(({ score }) => score)));
  return ranked.map((row) => makeRow(row, at, decimals, unit));
}

export function largest(numbers) {
  return numbers.reduce((size, number) => Math.max(size, Math.abs(number)), 0);
}

function makeRow({ name, score, error = 0 }, at, decimals, unit) {
  const side = score > 0 ? "proponent" : score < 0 ? "opponent" : "neither";
  const [left, right] = [Math.min(0, score), Math.max(0, score)].map(at);
  const bar = element("span", { class: `bar ${side}` });
  place(bar, left, right);
  const zero = element("span", { class: "zero" });
  place(zero, at(0), at(0));
  const parts = [zero, bar];
  if (error > 0) {
    const whisker = element("span", { class: "whisker" });
    place(whisker, at(score - error), at(score + error));
    parts.push(whisker);
  }
  const written = signed(score, decimals);
  const margin = error > 0 ? ` ± ${signed(error, decimals).slice(1)}` : "";
  const button = element("button", { type: "button", class: "source", tabindex: -1 }, [
    element("span", { class: "name", text: name }),
    element("span", { class: "track", "aria-hidden": "true" }, parts),
    element("span", { class: "score" }, [written, element("span", { class: "soft", text: margin })]),
    element("span", { class: "hidden-text", text: ` nats, ${side}` }),
  ]);
  button.title = `${name}: ${written}${margin} ${unit}, ${side}`;
  return button;
}

function place(mark, left, right) {
  mark.style.left = `${left}%`;
  mark.style.width = `${right - left}%`;
}
