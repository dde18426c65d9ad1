// The page: what is asked, waiting for it, and what is shown of the answer.

import { AnswerView } from "./answer.js";
import { Comparison } from "./comparison.js";
import { copy, download, element } from "./elements.js";
import { byModel, fill, fragment, question, setAnswer, showWhoWrites } from "./query.js";
import { call, forgetKey, hasKey, Problem, setKey } from "./service.js";
import { count, csvOf, limitsInWords, measuredInWords, percent, plain, readoutSays, storeInWords } from "./words.js";

const MANY_SOURCES = 100; // from here on the form begins with a cut
const CUT = 50;

const at = (id) => document.getElementById(id);
let served = null; // what GET v1/store said
let waiting = null; // the AbortController of the question under way
let comparison = null; // with in-context probing, of the answer that is shown
let again = null; // what to do once there is a key

// What the service serves, and what can be asked of it.

async function learn(waiting) {
  served ??= await call("v1/store", waiting);
  at("served").textContent = storeInWords(served);
  const most = at("max_tokens");
  most.max = Math.min(most.max, served.context);
  most.value = Math.min(most.value, most.max);
  if (served.sources > MANY_SOURCES && at("top").value === "" && location.hash === "") at("top").value = CUT;
  fitOptions();
  if (!served.exact) at("options").open = true;
}

function fitOptions() {
  for (const option of served ? at("readout").options : []) {
    // bf16 is too coarse for differences of models, and a basis is linear.
    const bent = option.value === "counterfactual" && !served.exact;
    option.disabled = bent || (option.value !== "linear" && served.fidelity.precision === "bf16");
  }
  const readout = at("readout").value;
  at("readout-says").textContent = readoutSays(readout);
  const bent = readout === "counterfactual";
  const basis = served?.basis ?? null;
  at("rank-row").hidden = basis === null;
  at("rank").disabled = basis === null || bent;
  if (basis === null) return;
  at("rank").max = basis.rank;
  at("rank").required = !served.exact;
  at("rank").placeholder = served.exact ? "none: exact" : "";
  at("rank-says").textContent = bent
    ? "The counterfactual readout is not linear and has no basis."
    : `1 to ${basis.rank}; all keep ${percent(basis.energy, 4)} of the scores. ` +
      (served.exact ? "Faster with many sources, and with standard errors." : "The service holds no more than the basis, so it needs a number.");
}

// Asking.

async function ask() {
  waiting?.abort();
  const mine = (waiting = new AbortController());
  showWhoWrites();
  showWaiting(true);
  const began = performance.now();
  const clock = setInterval(() => tick(began), 1000);
  tick(began);
  const onBusy = (seconds, reason) => {
    busy = seconds && againIn(seconds, reason);
    tick(began);
  };
  try {
    await learn({ signal: mine.signal, onBusy });
    if (!at("form").reportValidity()) return;
    const asked = question();
    const link = fragment(asked);
    if (location.hash !== link) history.pushState(null, "", link);
    const answer = await call(asked.path, { body: asked.body, signal: mine.signal, onBusy });
    if ((answer.attribution ?? answer).store.identity !== served.store.identity) {
      served = null; // the service has changed to another store since
      await learn({ signal: mine.signal, onBusy });
    }
    showAnswer(asked, answer);
  } catch (error) {
    if (error.name === "AbortError") {
      if (waiting === mine) say("Aborted.");
    } else showProblem(error, ask);
  } finally {
    clearInterval(clock);
    if (waiting === mine) showWaiting(false);
  }
}

let busy = null; // what is said instead of the time while the service cannot answer

const againIn = (seconds, reason) => `Trying again in ${seconds} s: ${reason}`;

function tick(began) {
  const seconds = Math.round((performance.now() - began) / 1000);
  at("waited").textContent =
    busy || `${byModel() ? "The model answers, and its sources are found" : "Finding the sources"}: ${seconds} s`;
}

function showWaiting(is) {
  busy = null;
  at("waiting").hidden = !is;
  at("abort").hidden = !is;
  at("ask").disabled = is;
  at("outcome").setAttribute("aria-busy", String(is));
  at("answer").classList.toggle("old", is);
  if (!is) {
    waiting = null;
    return;
  }
  at("problem").replaceChildren();
  at("key-form").hidden = true;
  say("Asking the service.");
  // On a narrow screen it lies below the form, and beside a long form it may lie above what is seen.
  const { top } = at("outcome").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) at("outcome").scrollIntoView();
}

const say = (text) => (at("status").textContent = text);

function showProblem(error, repeat) {
  say("");
  if (!(error instanceof Problem)) console.error(error);
  const facts = [error.status && `status ${error.status}`, error.requestId && `request ${error.requestId}`].filter(Boolean);
  at("problem").replaceChildren(
    element("div", { class: "panel problem" }, [
      element("h2", { text: error.title ?? "The page failed" }),
      element("p", { text: error.detail ?? error.message }),
      element("p", { class: "soft", text: facts.join(" · ") }),
    ]),
  );
  if (error.status !== 401) return;
  again = repeat;
  forgetKey();
  at("forget-key").hidden = true;
  at("key-form").hidden = false;
  at("key").focus();
}

// The answer.

function showAnswer({ path, body }, answer) {
  const generated = path === "v1/completions";
  const attribution = generated ? answer.attribution : answer;
  const [result] = attribution.results;
  if (generated) setAnswer(answer.choices[0].text);
  const query = generated ? { prompt: body.prompt, completion: answer.choices[0].text } : body.queries[0];
  const view = new AnswerView(query.prompt, attribution, served.sources, say);
  const { sources } = result;
  const options = { readout: body.readout, rank: body.rank };
  comparison?.leave();
  comparison = new Comparison({ query, options, sources: sources.map(({ source }) => source), served }, say);
  at("answer").replaceChildren(
    element("h2", { text: generated ? "The model's answer" : "Answer" }),
    element("p", { id: "measured", class: "soft", text: measuredInWords(attribution).join(" ") }),
    view.root,
    element("p", { class: "soft", text: facts(result, generated ? answer : null) }),
    actions(answer, result),
    comparison.root,
    ...limits(attribution),
  );
  at("nothing").hidden = true;
  at("answer").hidden = false;
  const first = sources[0] ? `; first is ${sources[0].source}` : "";
  say(`Answered: ${count(result.tokens.length, "token")}, ${count(sources.length, "source")} ranked${first}.`);
}

function facts(result, generated) {
  const said = [`log p(answer | prompt) = ${plain(result.logprob, 4)} nats`];
  if (result.baseline_logprob !== null) said.push(`of the other answer ${plain(result.baseline_logprob, 4)} nats`);
  said.push(count(result.tokens.length, "token"));
  if (generated) said.push(generated.choices[0].finish_reason === "stop" ? "the model ended it" : "cut at the number of tokens");
  if (result.sources.length < served.sources)
    said.push(`${result.sources.length} of ${served.sources} sources, those with the largest scores`);
  return said.join(" · ");
}

function actions(answer, result) {
  const said = element("span", { class: "soft", role: "status" });
  const button = (text, does) => {
    const made = element("button", { type: "button", text });
    made.addEventListener("click", async () => {
      try {
        said.textContent = await does();
      } catch (error) {
        said.textContent = `Not copied: ${error.message}`;
      }
    });
    return made;
  };
  return element("div", { class: "actions" }, [
    button("Copy link", async () => (await copy(location.href), "The link is copied.")),
    button("Copy JSON", async () => (await copy(JSON.stringify(answer, null, 2)), "The answer is copied.")),
    button("Download CSV", () => (download("sources.csv", "text/csv", csvOf(result)), "")),
    said,
  ]);
}

function limits(attribution) {
  const { store } = attribution;
  const rows = {
    readout: attribution.readout,
    store: `${store.identity}, made ${store.created}`,
    simulation: store.method,
    model: store.model,
    tokenizer: store.tokenizer,
    corpus: store.corpus,
  };
  const terms = Object.entries(rows).flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: value })]);
  return [
    element("h3", { text: "What the scores leave out" }),
    element("ul", { id: "limits" }, limitsInWords(attribution).map((text) => element("li", { text }))),
    element("h3", { text: "Where it comes from" }),
    element("dl", {}, terms),
  ];
}

// What starts it all.

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("form").addEventListener("input", () => {
  showWhoWrites();
  fitOptions();
});
at("form").addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !waiting) at("form").requestSubmit();
});
at("abort").addEventListener("click", () => waiting?.abort());
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  waiting?.abort();
  comparison?.abort();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(at("key").value);
  at("key").value = "";
  at("forget-key").hidden = false;
  at("key-form").hidden = true;
  at("problem").replaceChildren();
  again?.();
});
at("forget-key").addEventListener("click", () => {
  forgetKey();
  at("forget-key").hidden = true;
});
addEventListener("popstate", () => fill(location.hash) && ask());

async function begin() {
  showWhoWrites();
  fitOptions();
  at("forget-key").hidden = !hasKey();
  if (fill(location.hash)) return ask();
  try {
    await learn({ onBusy: (seconds, reason) => (at("served").textContent = againIn(seconds, reason)) });
  } catch (error) {
    at("served").textContent = "";
    showProblem(error, begin);
  }
}

begin();
