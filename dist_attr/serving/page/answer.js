// An answer: its tokens, coloured by what a source did to each, and its sources, ranked for all of it or for one token.

import { barRows, largest } from "./bars.js";
import { element, moveWithin } from "./elements.js";
import { decimalsFor, plain, signed, visible } from "./words.js";

const WHOLE = null; // no single token is chosen

export class AnswerView {
  /** `announce` tells a screen reader what has changed. */
  constructor(prompt, attribution, sourcesServed, announce) {
    [this.result] = attribution.results;
    this.announce = announce;
    this.cut = this.result.sources.length < sourcesServed;
    this.chosen = strongest(this.result.sources); // the source whose scores colour the tokens
    this.previewed = null; // one that is pointed at or has the focus comes before it
    this.token = WHOLE;
    this.largestToken = largest(this.result.sources.flatMap((source) => source.token_scores));
    this.tokenDecimals = decimalsFor(this.largestToken);
    this.text = this.makeText(prompt);
    this.legend = element("div", { class: "legend" });
    this.heading = element("h3", { id: "ranked-for" });
    this.back = element("button", { type: "button", id: "whole", text: "Whole answer", hidden: true });
    this.back.addEventListener("click", () => this.chooseToken(WHOLE));
    this.note = element("p", { class: "soft" });
    this.list = element("ol", { class: "sources", "aria-labelledby": "ranked-for" });
    this.root = element("div", { class: "view" }, [
      this.text,
      this.legend,
      element("div", { class: "ranked-for" }, [this.heading, this.back]),
      this.note,
      this.list,
    ]);
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.drawSources();
    this.colour();
  }

  makeText(prompt) {
    this.tokens = this.result.tokens.map((token, index) => {
      const span = element("span", { class: "token", role: "button", tabindex: index === 0 ? 0 : -1, "aria-pressed": "false" });
      // A line break shows as a sign, and breaks the line too.
      span.textContent = token.replaceAll("\n", "⏎\n");
      span.addEventListener("click", () => this.chooseToken(this.token === index ? WHOLE : index));
      return span;
    });
    const answer = element("span", { id: "tokens", role: "group", "aria-label": "Tokens of the answer" }, this.tokens);
    return element("p", { class: "text" }, [element("span", { class: "prompt", text: prompt }), answer]);
  }

  // The ranked sources.

  drawSources() {
    const scores = new Map(this.result.sources.map((source) => [source, this.scoreOf(source)]));
    const ranked = [...this.result.sources].sort((one, other) => scores.get(other) - scores.get(one));
    const errorOf = (source) => (this.token === WHOLE ? (source.error ?? 0) : 0);
    const buttons = barRows(
      ranked.map((source) => ({ name: source.source, score: scores.get(source), error: errorOf(source) })),
      "nats per unit source weight",
    );
    this.rows = ranked.map((source, index) => this.makeRow(source, buttons[index]));
    this.list.replaceChildren(...this.rows.map((row) => element("li", {}, [row.button])));
    this.heading.textContent =
      this.token === WHOLE ? "Sources of the whole answer" : `Sources of the token “${visible(this.result.tokens[this.token])}”`;
    this.back.hidden = this.token === WHOLE;
    this.note.textContent = this.noteOnRanking();
    this.press();
  }

  makeRow(source, button) {
    const preview = (shown) => () => {
      this.previewed = shown;
      this.colour();
    };
    button.addEventListener("pointerenter", preview(source));
    button.addEventListener("pointerleave", preview(null));
    button.addEventListener("focus", preview(source));
    button.addEventListener("blur", preview(null));
    button.addEventListener("click", () => this.chooseSource(this.chosen === source ? null : source));
    return { source, button };
  }

  scoreOf(source) {
    return this.token === WHOLE ? source.score : source.token_scores[this.token];
  }

  noteOnRanking() {
    const said = ["Nats per unit of source weight; to the right of the line a source made it likelier, to the left less likely."];
    if (this.token !== WHOLE) {
      if (this.cut) said.push("Ranked are only the sources that count most for the whole answer.");
      if (this.result.sources.some((source) => source.error !== null)) said.push("Standard errors are known of the whole answer only.");
    }
    if (this.result.baseline_logprob !== null)
      said.push(
        this.token === WHOLE
          ? "Scores are differences from the other answer; tokens are coloured by this answer alone."
          : "Scores of a token are of this answer alone.",
      );
    return said.join(" ");
  }

  // What is chosen.

  chooseSource(source) {
    this.chosen = source;
    this.previewed = null;
    this.press();
    this.colour();
  }

  chooseToken(index) {
    const left = this.token;
    this.token = index;
    this.drawSources();
    this.colour();
    if (index === WHOLE && left !== WHOLE) this.focusToken(left);
    const first = this.rows[0] ? `; first is ${this.rows[0].source.source}` : "";
    this.announce(`${this.heading.textContent}${first}`);
  }

  press() {
    this.tokens.forEach((span, index) => span.setAttribute("aria-pressed", String(index === this.token)));
    const reachable = this.rows.findIndex((row) => row.source === this.chosen);
    this.rows.forEach((row, index) => {
      row.button.setAttribute("aria-pressed", String(row.source === this.chosen));
      row.button.tabIndex = index === Math.max(0, reachable) ? 0 : -1;
    });
  }

  onKey(event) {
    const buttons = this.rows.map((row) => row.button);
    if (event.key === "Escape" && (this.token !== WHOLE || this.chosen)) {
      if (this.token !== WHOLE) this.chooseToken(WHOLE);
      else this.chooseSource(null);
    } else if (this.tokens.includes(event.target)) {
      if (event.key === "Enter" || event.key === " ") event.target.click();
      else if (!moveWithin(this.tokens, event)) return;
    } else if (!moveWithin(buttons, event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  focusToken(index) {
    this.tokens.forEach((span, each) => (span.tabIndex = each === index ? 0 : -1));
    this.tokens[index].focus();
  }

  // Colours of the tokens.

  colour() {
    const source = this.previewed ?? this.chosen;
    this.tokens.forEach((span, index) => {
      const score = source?.token_scores[index] ?? 0;
      const strength = this.largestToken > 0 ? Math.abs(score) / this.largestToken : 0;
      span.classList.toggle("proponent", score > 0);
      span.classList.toggle("opponent", score < 0);
      span.style.setProperty("--strength", strength.toFixed(3));
      const logprob = `log-probability ${plain(this.result.token_logprobs[index])} nats`;
      span.title = source ? `${signed(score, this.tokenDecimals)} nats by ${source.source} · ${logprob}` : logprob;
      span.setAttribute("aria-label", `${visible(this.result.tokens[index])}: ${span.title}`);
    });
    this.drawLegend(source);
  }

  drawLegend(source) {
    if (!source) {
      this.legend.replaceChildren(element("span", { class: "soft", text: "Choose a source to see what it did to each token." }));
      return;
    }
    const end = signed(this.largestToken, this.tokenDecimals).replace("+", "");
    this.legend.replaceChildren(
      element("span", {}, ["What ", element("b", { text: source.source }), " did to each token: "]),
      element("span", { class: "scale" }, [
        element("span", { class: "opponent key", text: "less likely" }),
        element("span", { text: `−${end}` }),
        element("span", { class: "ramp", "aria-hidden": "true" }),
        element("span", { text: `+${end} nats` }),
        element("span", { class: "proponent key", text: "likelier" }),
      ]),
    );
  }
}

function strongest(sources) {
  return sources.reduce((best, source) => (best && Math.abs(best.score) >= Math.abs(source.score) ? best : source), null);
}
