// Beside an answer's attribution: what in-context probing says of the same sources, and how far the two agree.

import { barRows, largest } from "./bars.js";
import { element, moveWithin } from "./elements.js";
import { Scatter } from "./scatter.js";
import { call } from "./service.js";
import { agreementInWords, count, decimalsFor, plain, probedInWords, signed } from "./words.js";

const MOST_DOCUMENTS = 6; // shown before a source is chosen

export class Comparison {
  /**
   * `query` and `options` are the attribution's, `sources` the names to compare, `served` what the service says of itself;
   * `announce` tells a screen reader what has changed.
   */
  constructor({ query, options, sources, served }, announce) {
    Object.assign(this, { query, options, sources, announce });
    this.under_way = null; // the AbortController of the comparison
    const refusal = whyNot(query, sources, served);
    this.button = element("button", { type: "button", id: "compare", text: "Compare with in-context probing", disabled: refusal !== null });
    this.button.addEventListener("click", () => this.compare());
    this.stop = element("button", { type: "button", text: "Abort the comparison", hidden: true });
    this.stop.addEventListener("click", () => this.abort());
    this.waited = element("span", { class: "soft" });
    this.waiting = element("div", { class: "waiting", hidden: true }, [
      element("progress", { "aria-label": "The service is probing" }),
      this.waited,
    ]);
    this.problem = element("div", { role: "alert" });
    this.shown = element("div", {});
    this.root = element("section", { id: "comparison", "aria-labelledby": "comparison-title" }, [
      element("h3", { id: "comparison-title", text: "Does in-context probing say the same?" }),
      element("p", {
        class: "soft",
        text:
          "Probing needs no training run: documents of each source go before the prompt, one at a time, and a source's " +
          "score is how much likelier that makes the answer.",
      }),
      element("div", { class: "actions" }, [this.button, this.stop]),
      element("p", { id: "no-comparison", class: "soft", text: refusal ?? "", hidden: refusal === null }),
      this.waiting,
      this.problem,
      this.shown,
    ]);
    if (refusal !== null) this.button.setAttribute("aria-describedby", "no-comparison");
  }

  // Asking.

  abort() {
    this.under_way?.abort();
  }

  /** Another answer takes its place. */
  leave() {
    this.announce = () => {};
    this.abort();
  }

  async compare() {
    const mine = (this.under_way = new AbortController());
    const began = performance.now();
    let busy = null;
    const tick = () => {
      const seconds = Math.round((performance.now() - began) / 1000);
      this.waited.textContent = busy ?? `Putting documents of ${count(this.sources.length, "source")} before the prompt: ${seconds} s`;
    };
    const onBusy = (seconds, reason) => {
      busy = seconds ? `Trying again in ${seconds} s: ${reason}` : null;
      tick();
    };
    const clock = setInterval(tick, 1000);
    tick();
    this.showWaiting(true);
    this.announce("Comparing with in-context probing.");
    try {
      const body = { queries: [this.query], sources: this.sources, ...this.options };
      this.show(await call("v1/comparisons", { body, signal: mine.signal, onBusy }));
    } catch (error) {
      if (error.name === "AbortError") this.announce("Aborted.");
      else this.showProblem(error);
    } finally {
      clearInterval(clock);
      this.under_way = null;
      this.showWaiting(false);
    }
  }

  showWaiting(is) {
    this.waiting.hidden = !is;
    this.stop.hidden = !is;
    this.button.disabled = is;
    this.shown.classList.toggle("old", is);
    if (is) this.problem.replaceChildren();
    this.root.setAttribute("aria-busy", String(is));
  }

  showProblem(error) {
    if (error.status === undefined) console.error(error);
    const facts = [error.status && `status ${error.status}`, error.requestId && `request ${error.requestId}`].filter(Boolean);
    this.problem.replaceChildren(
      element("div", { class: "panel problem" }, [
        element("h4", { text: `Not compared: ${error.title ?? "the page failed"}` }),
        element("p", { text: error.detail ?? error.message }),
        element("p", { class: "soft", text: facts.join(" · ") }),
      ]),
    );
  }

  // What came of it.

  show(answer) {
    const [{ attribution, probe }] = answer.results;
    const agreed = answer.agreement.per_query[0];
    this.probe = probe;
    this.chosen = null;
    const figure = (source) => source[answer.statistic];
    this.rankings = [
      this.ranking(
        "By influence",
        "Nats per unit of source weight.",
        attribution.sources.map(({ source, score, error }) => ({ name: source, score, error: error ?? 0 })),
        "nats per unit source weight",
      ),
      this.ranking(
        "By in-context probing",
        `Nats, the ${answer.statistic} of a source's documents.`,
        probe.sources
          .map((source) => ({ name: source.source, score: figure(source) }))
          .sort((one, other) => other.score - one.score),
        "nats",
      ),
    ];
    const said = agreementInWords(agreed, answer.agreement.sources);
    const probed = new Map(probe.sources.map((source) => [source.source, figure(source)]));
    const points = attribution.sources.map(({ source, score }) => ({ name: source, x: score, y: probed.get(source) }));
    this.scatter = new Scatter(
      points,
      { x: "influence, nats per unit weight", y: "in-context probing, nats" },
      `Scatter plot of ${count(points.length, "source")}, influence against in-context probing. ${said[0]} ` +
        "The numbers stand in the two rankings.",
      { x: decimalsFor(largest(points.map(({ x }) => x))), y: decimalsFor(largest(points.map(({ y }) => y))) },
    );
    this.documents = element("div", { id: "documents" });
    this.shown.replaceChildren(
      element("div", { class: "side-by-side" }, [
        element("ul", { id: "agreement" }, said.map((text) => element("li", { text }))),
        this.scatter.root,
      ]),
      element("p", { class: "soft", text: "Choose a source to find it in both rankings and the picture, and to read its documents." }),
      element("div", { class: "side-by-side" }, this.rankings.map(({ root }) => root)),
      this.documents,
      element("p", { class: "soft", text: probedInWords(answer.probing) }),
    );
    this.choose(null);
    this.announce(`Compared. ${said[0]}`);
  }

  ranking(title, unit, ranked, scoresUnit) {
    const buttons = barRows(ranked, scoresUnit);
    const list = element("ol", { class: "sources", "aria-label": title }, buttons.map((button) => element("li", {}, [button])));
    buttons.forEach((button, index) => {
      const { name } = ranked[index];
      const mark = (marked) => () => this.scatter.mark(marked ?? this.chosen);
      button.addEventListener("pointerenter", mark(name));
      button.addEventListener("pointerleave", mark(null));
      button.addEventListener("focus", mark(name));
      button.addEventListener("blur", mark(null));
      button.addEventListener("click", () => this.choose(this.chosen === name ? null : name));
    });
    list.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.chosen !== null) this.choose(null);
      else if (!moveWithin(buttons, event)) return;
      event.preventDefault();
      event.stopPropagation();
    });
    const root = element("div", {}, [element("h4", { text: title }), element("p", { class: "soft", text: unit }), list]);
    return { root, rows: buttons.map((button, index) => ({ button, name: ranked[index].name })) };
  }

  choose(name) {
    this.chosen = name;
    for (const { rows } of this.rankings) {
      const reachable = Math.max(0, rows.findIndex((row) => row.name === name));
      rows.forEach(({ button, name: own }, index) => {
        button.setAttribute("aria-pressed", String(own === name));
        button.tabIndex = index === reachable ? 0 : -1;
      });
    }
    this.scatter.mark(name);
    this.drawDocuments();
  }

  drawDocuments() {
    const strongest = [...this.probe.documents].sort((one, other) => Math.abs(other.score) - Math.abs(one.score));
    const shown = this.chosen === null ? strongest.slice(0, MOST_DOCUMENTS) : strongest.filter(({ source }) => source === this.chosen);
    const decimals = decimalsFor(largest(strongest.map(({ score }) => score)));
    this.documents.replaceChildren(
      element("h4", { text: this.chosen === null ? "Documents that moved the answer most" : `What was read of ${this.chosen}` }),
      element("ol", { class: "documents" }, shown.map((document) => makeDocument(document, decimals))),
    );
  }
}

/** Why there is no comparison; null if there may be one. */
function whyNot(query, sources, { probing }) {
  if (probing === null) return "This service does not probe: it was started without.";
  if (query.baseline !== undefined) return "Probing does not compare two answers: ask again without the other one.";
  if (sources.length < 2) return "A comparison ranks sources, and only one is shown.";
  const probes = sources.length * probing.documents;
  if (probes > probing.most_probes)
    return `${count(sources.length, "source")} with ${probing.documents} documents each are more than the ` +
      `${count(probing.most_probes, "probe")} the service takes: show fewer sources.`;
  return null;
}

function makeDocument({ source, document, window, windows, score, excerpt }, decimals) {
  const side = score > 0 ? "proponent" : score < 0 ? "opponent" : "neither";
  const did = { proponent: "made the answer likelier", opponent: "made it less likely", neither: "changed nothing" }[side];
  const part = windows > 1 ? `, part ${plain(window + 1)} of ${windows}` : "";
  return element("li", {}, [
    element("p", {}, [element("b", { text: source }), ` · ${document}${part}`]),
    element("p", {}, [element("span", { class: `${side} key`, text: `${signed(score, decimals)} nats` }), ` in the prompt it ${did}`]),
    element("blockquote", { text: `${window > 0 ? "… " : ""}${excerpt.trim()}` }),
  ]);
}
