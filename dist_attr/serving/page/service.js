// Requests to the service this page comes from: the key, waiting when it is busy, and errors in its own words.

const KEY = "key"; // in this tab's session storage, and nowhere else
const MOST_SHOWN = 500; // characters of an error that is not of the service

export class Problem extends Error {
  constructor({ title, detail, status = 0, request_id = null }) {
    super(detail);
    Object.assign(this, { title, detail, status, requestId: request_id });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/**
 * The JSON that the service answers; a path is relative to the page's, for the service may lie below any prefix.
 *
 * A service that cannot answer now says when to come again: `onBusy` is then called each second with the seconds left and
 * the reason, and at last with 0 seconds.
 */
export async function call(path, { body, signal, onBusy = () => {} } = {}) {
  for (;;) {
    const answer = await send(path, body, signal);
    const seconds = secondsToWait(answer);
    if (seconds === null) return read(answer);
    const reason = await read(answer).catch((problem) => problem.detail);
    for (let left = seconds; left > 0; left--) {
      onBusy(left, reason);
      await pause(1, signal);
    }
    onBusy(0, "");
  }
}

async function send(path, body, signal) {
  const headers = { Accept: "application/json" };
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "No answer", detail: `The service at ${location.host} cannot be reached.` });
  }
}

function secondsToWait(answer) {
  const header = answer.headers.get("Retry-After");
  if (![429, 503].includes(answer.status) || header === null) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : null;
}

async function read(answer) {
  const text = await answer.text();
  let said = null;
  try {
    said = JSON.parse(text);
  } catch {
    // What is not JSON is not of the service, but of something before it.
  }
  if (answer.ok && said !== null) return said;
  if (typeof said?.detail === "string") throw new Problem({ title: answer.statusText, ...said, status: answer.status });
  throw new Problem({
    title: `HTTP ${answer.status} ${answer.statusText}`.trim(),
    detail: text.slice(0, MOST_SHOWN) || "The answer is empty.",
    status: answer.status,
  });
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
