// Numbers and facts in plain words.

const MINUS = "\u2212";
const READOUTS = {
  linear: "The derivative of each token's log-probability as the source's weight changes.",
  "central-difference": "The same to about a thousandth, from models a little to both sides.",
  counterfactual: "The log-probability now, minus that of the model without the source.",
};
const CODECS = {
  float32: "float32, nothing lost",
  bfloat16: "bfloat16, rounded to 8 bits of precision",
  int8: "int8, rounded to 8 bits within blocks",
  int4: "int4, rounded to 4 bits within blocks",
};

export const readoutSays = (readout) => READOUTS[readout];

/** How numbers up to `largest` are written: three digits of the largest, all with as many decimals. */
export function decimalsFor(largest) {
  return largest > 0 ? Math.max(0, 2 - Math.floor(Math.log10(largest))) : 2;
}

/** A score with its sign; so tiny that it would be all zeros, with an exponent. */
export function signed(value, decimals) {
  const size = decimals > 6 ? Math.abs(value).toExponential(2) : Math.abs(value).toFixed(decimals);
  if (Number(size) === 0) return size;
  return (value < 0 ? MINUS : "+") + size;
}

export const plain = (value, digits = 3) => String(Number(value.toPrecision(digits))).replace("-", MINUS);
export const percent = (share, digits = 3) => `${plain(100 * share, digits)} %`;
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A token as it can be seen: white space that would be invisible gets a sign. */
export const visible = (token) => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");

export function storeInWords(served) {
  return [
    count(served.sources, "source"),
    `${served.store.method} simulation`,
    `scores over ${count(served.parameters, "parameter")}`,
    `context of ${count(served.context, "token")}`,
  ].join(" · ");
}

/** How well the scores predict what retraining would do, a sentence for each measurement. */
export function measuredInWords({ fidelity, readout }) {
  if (fidelity.measured.length > 0) return fidelity.measured.map((measured) => measurementInWords(measured, readout));
  return ["Nobody has measured on this model how well the scores predict what retraining without a source would do."];
}

/** What the scores leave out, a sentence for each reason. */
export function limitsInWords({ fidelity, rank }) {
  const said = [
    `The scores cover ${percent(fidelity.coverage)} of the model's parameters.`,
    `The store keeps its numbers as ${CODECS[fidelity.codec] ?? fidelity.codec}.`,
  ];
  if (fidelity.precision_error !== null)
    said.push(
      `The readout computes in ${fidelity.precision}, which is wrong by ${percent(fidelity.precision_error, 2)} of a token's ` +
        "score (root mean square, measured when the service started).",
    );
  if (rank !== null)
    said.push(
      `The scores are reckoned from ${count(rank, "direction")} of the store's readout basis; ± is the standard error of ` +
        "what these leave out" +
        (fidelity.basis === null
          ? "."
          : `. All ${fidelity.basis.rank} keep ${percent(fidelity.basis.energy, 4)} of the sum of squares of the calibration's scores.`),
    );
  return said;
}

/** How far two rankings of one query's sources agree, a sentence for each figure, the whole of it in the first. */
export function agreementInWords({ spearman, kendall, overlaps, partial }, sources) {
  if (spearman === null) return ["One of the two scores all sources alike, so there is no order to compare."];
  // Of unrelated orders it is about normal, with a variance of 1 / (sources - 1).
  const chance = Math.min(1, 1.96 / Math.sqrt(sources - 1));
  const verdict =
    Math.abs(spearman) <= chance ? "no more alike than chance would" : spearman > 0 ? "alike" : "the other way round";
  return [
    `The two rank the sources ${verdict}: rank correlation ${plain(spearman, 2)} (Spearman; 1 is the same order, ${MINUS}1 the reverse).`,
    `Unrelated orders of ${count(sources, "source")} come to between ${MINUS}${plain(chance, 2)} and ${plain(chance, 2)} in 19 of 20 cases.` +
      (kendall === null ? "" : ` Kendall's \u03c4 is ${plain(kendall, 2)}.`),
    ...overlaps.filter(({ overlap }) => overlap !== null).map(overlapInWords),
    ...heldInWords(Object.entries(partial).filter(([, value]) => value !== null)),
  ];
}

function overlapInWords({ k, overlap, chance, p }) {
  const rare = p === null || p === 1 ? "" : `, and so many or more with probability ${plain(p, 2)}`;
  if (k === 1)
    return `The first source is ${overlap > 0.5 ? "the same in both" : "another in each"}; by chance it would be the same in ${percent(chance, 2)} of cases.`;
  return `Of the first ${k} both have ${plain(k * overlap, 2)}; by chance it would be ${plain(k * chance, 2)} on average${rare}.`;
}

function heldInWords(figures) {
  if (figures.length === 0) return [];
  const names = { bm25: "BM25", tokens: "the documents' length" };
  const said = figures.map(([held, value]) => `${plain(value, 2)} with ${held.split(" + ").map((name) => names[name]).join(" and ")}`);
  return [`Held fixed what could make both agree without either knowing anything, the rank correlation is ${said.join(", ")}.`];
}

/** How documents were put before the prompt. */
export function probedInWords({ documents, choose, seed, window, chat }) {
  const which = choose === "bm25" ? "those most like the question and the answer by BM25" : `random ones, drawn with the seed ${seed}`;
  return (
    `Of each source ${count(documents, "document")}, ${which}; of a longer one a part of ${count(window, "token")}` +
    `${chat ? "; in the model's chat template" : ""}. Probing sees the text and not the training: a document can help without ` +
    "having taught anything, and have taught what it does not help with."
  );
}

function measurementInWords(measured, readout) {
  const { truth, dropped, retrained, queries, correlation, interval, slope, ceiling } = measured;
  const across = dropped === 1 ? "rank correlation over sources" : "LDS";
  const truths = { "this run": "with the same seed", "any such run": "with fresh seeds" };
  const others = measured.readout === readout ? "" : `, for the ${measured.readout} readout and not this one`;
  const said = [
    `Measured against ${count(retrained, "model")} retrained ${truths[truth]}, each without ${count(dropped, "source")}, on ` +
      `${queries === 1 ? "one query" : `${queries.toLocaleString("en")} queries`}${others}: ${across} ${plain(correlation)}` +
      (interval === null ? "" : `, 95 % interval ${plain(interval[0])} to ${plain(interval[1])}`),
  ];
  if (ceiling !== null) said.push(`the truth's own noise allows ${plain(ceiling)}`);
  if (slope !== null) said.push(`true changes are ${plain(slope)} times those predicted`);
  return `${said.join("; ")}.`;
}

/** The answer's sources as CSV, a column for each token. */
export function csvOf(result) {
  const rows = [["source", "score", "error", ...result.tokens.map((token, index) => `${index + 1}: ${token}`)]];
  for (const { source, score, error, token_scores } of result.sources) rows.push([source, score, error, ...token_scores]);
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function cell(value) {
  if (typeof value !== "string") return value ?? "";
  // A spreadsheet takes a text that begins so for a formula, and the texts come from anywhere.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}
