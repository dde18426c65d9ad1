// The form as a question to the service, and as the part of the page's address behind #, which no server gets to see.

const FIELDS = ["prompt", "completion", "baseline", "readout", "rank", "top", "max_tokens", "temperature", "seed"];
const OF_ME = ["completion", "baseline"];
const OF_MODEL = ["max_tokens", "temperature", "seed"];
const SEEDS = 2 ** 32;

const field = (name) => document.getElementById(name);
const radios = () => [...document.getElementsByName("by")];
const number = (name) => (field(name).value === "" ? undefined : Number(field(name).value));

export const byModel = () => radios().find((radio) => radio.checked).value === "model";

/** The part of the form for who writes the answer; what is hidden is neither checked nor sent. */
export function showWhoWrites() {
  const by = byModel() ? "model" : "me";
  for (const part of document.querySelectorAll("[data-by]")) {
    part.hidden = part.dataset.by !== by;
    for (const input of part.querySelectorAll("input, textarea")) input.disabled = part.hidden;
  }
  field("completion").required = by === "me";
  field("ask").textContent = by === "me" ? "Find the sources" : "Let it answer";
  const ends = /[\p{L}\p{N}]$/u.test(field("prompt").value);
  field("space").hidden = !(ends && /^[\p{L}\p{N}]/u.test(field("completion").value));
}

export function setAnswer(text) {
  field("completion").value = text;
}

/** Where to ask and what. A draw without a seed gets one, so that its link gives the same answer again. */
export function question() {
  const options = { readout: field("readout").value, rank: number("rank"), top: number("top"), tokens: true };
  if (!byModel()) {
    const baseline = field("baseline").value || undefined;
    const query = { prompt: field("prompt").value, completion: field("completion").value, baseline };
    return { path: "v1/attributions", body: { queries: [query], ...options } };
  }
  const [max_tokens, temperature] = [number("max_tokens"), number("temperature")];
  const seed = temperature > 0 ? (number("seed") ?? Math.floor(Math.random() * SEEDS)) : undefined;
  return { path: "v1/completions", body: { prompt: field("prompt").value, max_tokens, temperature, seed, ...options } };
}

/** The question as a fragment. */
export function fragment({ path, body }) {
  const { queries: [query] = [{}], tokens, ...rest } = body;
  const said = { by: path === "v1/completions" ? "model" : "me", ...query, ...rest };
  const given = Object.entries(said).filter(([, value]) => value !== undefined && value !== "");
  return `#${new URLSearchParams(given)}`;
}

/** Fill the form from a fragment. Whether it holds a question. */
export function fill(text) {
  const given = new URLSearchParams(text.replace(/^#/, ""));
  if (!given.has("by")) return false;
  for (const radio of radios()) radio.checked = radio.value === given.get("by");
  if (radios().every((radio) => !radio.checked)) radios()[0].checked = true;
  const other = byModel() ? OF_ME : OF_MODEL;
  for (const name of FIELDS.filter((each) => !other.includes(each))) {
    const input = field(name);
    const untouched = input.tagName === "SELECT" ? input.options[0].value : input.defaultValue;
    input.value = given.get(name) ?? untouched;
  }
  if (field("readout").value === "") field("readout").selectedIndex = 0;
  showWhoWrites();
  return true;
}
