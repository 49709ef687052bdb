// The dashboard: reads /dashboard/data twice a second and shows it. The key stays in a variable of this page.

import { KEPT_S, drawPlots, element, fillTable, makePlots, spanOf } from "./plots.js";

const PERIOD_MS = 500;
const LIMIT_MS = 1500;
const HISTORY_S = 6 * 3600;
const OVER_S = 3600;
const OVER_NAMED = 3;
const REFUSED_S = 10;
const SVG = "http://www.w3.org/2000/svg";
const WORDS = { well: "Well", impaired: "Impaired", down: "Down", unknown: "No answer" };
const RIGHT = { well: "", impaired: "; every answer is right", down: "; requests fail, but no answer is wrong", unknown: "" };
const MARKS = { well: "●", impaired: "▲", down: "■", unknown: "■" };

const EXPLAINED = {
  "Cache proven current": "When an instance last read from Redis together with a live fence. Without one, reads come from PostgreSQL.",
  Keys: "Whether the keys that callers send can be checked.",
  "Callers refused": "Requests turned away because of their key, rate, size or host name in the last seconds.",
  "Slots repaired": "Entries of the cache that an audit deleted because they were older than their row.",
  "Flagged answers": "Answers with the flag unverified, served while PostgreSQL was away.",
};

const by = (id) => document.getElementById(id);
const state = { key: "", seen: 0, record: null, samples: [], refusals: [], silentSince: null, refusedSince: null, paused: false, announced: "" };

const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
const whole = (value) => Math.round(value).toLocaleString("en");
function lasting(seconds) {
  if (seconds < 120) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
// Between the two times as they are printed, so that whoever subtracts them finds the same.
const length = ({ began, ended }, now) => lasting(Math.floor(ended ?? now) - Math.floor(began));
function ago(seconds) {
  if (seconds === null) return "never";
  if (seconds < 1) return "within 1 s";
  return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds).toLocaleString("en")} s ago`;
}

// ------------------------------------------------------------------ verdict

// `troubles` and `right` are the parts of the sentence that are printed bold.
function showVerdict({ level, sentence, troubles = [], right = "", advice = "" }) {
  document.body.dataset.level = level;
  const flagged = right.includes("flag");
  by("level").textContent = `${WORDS[level]}${flagged ? "; flagged answers may be old" : RIGHT[level]}`;
  by("sentence").replaceChildren(...sentence.split("; ").flatMap((part, index) => {
    const bold = troubles.some((text) => part.startsWith(text)) ? "trouble" : part.toLowerCase() === right ? "right" : "";
    return [index ? "; " : "", bold ? element("strong", { class: bold }, part) : part];
  }), ".");
  by("advice").replaceChildren(element("b", {}, "What to do: "), advice);
  by("advice").hidden = !advice;
  document.title = `${MARKS[level]} ${troubles[0] ?? WORDS[level]} – Larder`;
  // Ages change all the time, and are not worth being read aloud.
  const spoken = `${WORDS[level]}. ${level === "well" ? "All is well; nothing is stale" : sentence}.`;
  if (spoken !== state.announced) by("announcement").textContent = state.announced = spoken;
}

function showSilence() {
  state.silentSince ??= Date.now() / 1000;
  showVerdict({
    level: "unknown",
    sentence: `The service does not answer since ${clock(state.silentSince)}; what stands below is from before`,
    troubles: ["The service does not answer"],
    advice: "See whether the process runs, and whether the network and the proxy lead to it. This page tries again twice a second.",
  });
}

function showUncheckable(detail) {
  state.refusedSince ??= Date.now() / 1000;
  showVerdict({
    level: "down",
    sentence: `Keys cannot be checked since ${clock(state.refusedSince)}; requests with a key fail with 503; nothing is stale`,
    troubles: ["Keys cannot be checked"],
    right: "nothing is stale",
    advice: `Most likely PostgreSQL is away, because keys are read from it every second. ${detail} What stands below is from before. A key of LARDER_KEYS_FILE is accepted meanwhile.`,
  });
}

// The incidents that ended last, for whoever asks whether it is over. One cause can make several, such as Redis away, then unproven.
function showOver({ incidents, now, verdict }) {
  const over = incidents.filter((incident) => verdict.level === "well" && incident.ended !== null && incident.ended > now - OVER_S).sort((a, b) => b.ended - a.ended);
  by("over").hidden = !over.length;
  if (!over.length) return;
  const named = over.slice(0, OVER_NAMED).map((incident) => `${incident.text} (${length(incident, incident.ended)})`);
  const more = over.length > OVER_NAMED ? `; ${over.length - OVER_NAMED} more within the last hour are listed below` : "";
  by("over").replaceChildren(element("b", {}, `Last incident, over since ${clock(over[0].ended)}: `), `${named.join("; ")}${more}.`);
}

// ------------------------------------------------------------------ details

function pairs(id, rows) {
  by(id).replaceChildren(...rows.map(([name, value, mark]) =>
    element("div", { class: mark === true ? "warn" : undefined, "data-state": typeof mark === "string" ? mark : undefined },
      element("dt", { title: EXPLAINED[name] }, name), element("dd", {}, value))));
}

// Reasons and clients whose counts rose within the last seconds; a count that fell is that of a new process.
function refusedNow({ now, refused, clients, present }) {
  const limited = Object.fromEntries(clients.map((client) => [client.name, client.limited]));
  state.refusals = [...state.refusals, { now, refused, limited }].filter((seen) => seen.now > now - REFUSED_S);
  const before = state.refusals[0];
  const risen = (name) => Object.keys(state.refusals.at(-1)[name]).filter((key) => state.refusals.at(-1)[name][key] > (before[name][key] ?? 0));
  const reasons = risen("refused");
  if (!reasons.length && !(present?.refused >= 0.1)) return "nobody";
  const names = risen("limited").join(", ");
  return [present?.refused >= 0.1 ? `${present.refused.toFixed(1)}/s` : "", reasons.join(", "), names ? `(${names})` : ""].join(" ").trim();
}

function showLamps(data) {
  const { servers, caches } = data;
  const missing = servers.workers < servers.workers_wanted;
  const refused = refusedNow(data);
  pairs("lamps", [
    ["PostgreSQL", servers.postgresql_up ? "answers" : "away", servers.postgresql_up ? "good" : "bad"],
    ["Redis", servers.redis_up ? "answers" : "away", servers.redis_up ? "good" : "bad"],
    ["Cache proven current", ago(servers.proof_age_s), servers.proven ? "good" : "doubt"],
    ["Workers", `${servers.workers} of ${servers.workers_wanted}`, missing ? "bad" : "good"],
    ["Keys", servers.keys_readable ? "readable" : "cannot be read", servers.keys_readable ? "good" : "bad"],
    ["Callers refused", refused, refused === "nobody" ? "good" : "doubt"],
    // Settings are shown only where they are not the usual ones.
    ...caches.flatMap(({ namespace, writes, off }) => [
      ...(off ? [[`Cache ${namespace}`, "switched off", "doubt"]] : []),
      ...(writes === "through" ? [] : [[`Writes to ${namespace}`, writes]]),
    ]),
  ]);
}

function followersOf({ followers, mark_age_s, lag_s }) {
  if (!followers) return "none";
  const mark = mark_age_s === null ? "no mark yet" : `newest mark ${ago(mark_age_s)}`;
  return `${whole(followers)}, ${mark}, slowest ${lag_s.toFixed(1)} s behind`;
}

function showLists({ servers, totals, queues, feed, refused, clients }) {
  pairs("proof", [
    ["Last audit of these workers", ago(servers.audit_age_s)],
    ["Audits", whole(totals.audits)],
    ["Rows compared", whole(totals.audited_rows)],
    ["Slots repaired", whole(totals.repairs)],
    ["Audits given up", whole(totals.audit_failures)],
    ["Audits left to another server", whole(totals.audit_deferrals)],
    ["Times the cache was started clean", whole(totals.clean_starts)],
    ["Writes that had to wait", whole(totals.settles)],
    ["Waits that took too long", whole(totals.settle_timeouts), totals.settle_timeouts > 0],
    ["Flagged answers", whole(totals.unverified)],
  ]);
  const share = totals.reads ? ` (${((totals.saved / totals.reads) * 100).toFixed(1)} %)` : "";
  pairs("queues", [
    ["Connections of clients", whole(queues.connections)],
    ["Bytes of large bodies", whole(queues.large_body_bytes)],
    ["Waiting for PostgreSQL", whole(queues.waiting_for_postgresql)],
    ["Oldest waiting write", `${queues.longest_wait_s.toFixed(2)} s`],
    ["Pressure (sheds above 0.5)", queues.pressure.toFixed(2), queues.pressure > 0.5],
    ["Followers of the feed", followersOf(feed)],
    ["Workers replaced", whole(servers.worker_restarts), servers.worker_restarts > 0],
    ["Statements since the start", whole(totals.statements)],
    ["Reads since the start", whole(totals.reads)],
    ["Spared PostgreSQL", `${whole(totals.saved)}${share}`],
    ["Unexpected errors", whole(totals.unexpected_errors), totals.unexpected_errors > 0],
  ]);
  const rows = [
    ...Object.entries(refused).map(([reason, number]) => [`Refused: ${reason}`, whole(number)]),
    ...clients.map(({ name, admitted, limited }) => [name, `${whole(admitted)}${limited ? `, ${whole(limited)} over its rate` : ""}`]),
  ];
  pairs("callers", rows.length ? rows : [["Refused", "nobody"]]);
}

function shape(name, from, width) {
  const rect = document.createElementNS(SVG, "rect");
  for (const [key, value] of Object.entries({ class: name, x: from, y: 0, width, height: 24 })) rect.setAttribute(key, value);
  return rect;
}

// What was before the record began is grey.
function showIncidents(incidents, now, began) {
  const recent = incidents.filter((incident) => (incident.ended ?? now) > now - HISTORY_S);
  const x = (moment) => Math.max(0, 720 * (1 - (now - moment) / HISTORY_S));
  by("timeline").replaceChildren(...recent.map((incident) => {
    const width = Math.max(3, x(incident.ended ?? now) - x(incident.began));
    return shape("past", Math.min(x(incident.began), 717), width);
  }));
  if (began > now - HISTORY_S) by("timeline").prepend(shape("unknown", 0, x(began)));
  by("timeline").setAttribute("aria-label", recent.length === 1 ? "1 incident, listed below" : `${recent.length || "No"} incidents${recent.length ? ", listed below" : ""}`);
  by("incidents").replaceChildren(...recent.map((incident) => {
    const end = incident.ended === null ? element("span", { class: "now" }, "now") : element("time", {}, clock(incident.ended));
    return element("li", {}, element("span", { class: "when" }, element("time", {}, clock(incident.began)), " to ", end),
      element("span", {}, incident.text), element("span", { class: "long" }, length(incident, now)));
  }));
  if (!recent.length) by("incidents").replaceChildren(element("li", {}, "None"));
}

function showStock({ stock, now }) {
  const old = stock.at !== null && now - stock.at > 10 ? ` As of ${clock(stock.at)}.` : "";
  const unread = stock.at === null ? "Not read yet." : "";
  by("low-note").textContent = unread || (stock.low.length ? `The first ${stock.low.length} by id that are below their reorder point.` : "No product is below its reorder point.") + old;
  by("movements-note").textContent = unread || (stock.movements.length ? "The newest movements of the 200 products that were changed last." : "None yet.") + old;
  by("low").hidden = !stock.low.length;
  by("movements").hidden = !stock.movements.length;
  by("low").tBodies[0].replaceChildren(...stock.low.map((product) => element("tr", {},
    element("td", {}, product.name, element("small", {}, product.id)),
    element("td", { class: "number" }, whole(product.stock)), element("td", { class: "number" }, whole(product.reorder_point)))));
  by("movements").tBodies[0].replaceChildren(...stock.movements.map((entry) => element("tr", {},
    element("td", { class: "time" }, entry.created_at.slice(11, 19)),
    element("td", {}, entry.product_id, ...(entry.reference ? [element("small", {}, entry.reference)] : [])),
    element("td", {}, entry.reason),
    element("td", { class: "number" }, entry.delta > 0 ? `+${whole(entry.delta)}` : whole(entry.delta).replace("-", "−")),
    element("td", { class: "number" }, whole(entry.stock_after)))));
}

function show(data) {
  state.silentSince = state.refusedSince = null;
  by("key-form").hidden = true;
  by("content").hidden = false;
  by("forget").hidden = !state.key;
  const { verdict } = data;
  const old = data.now - data.observed > 3;
  const troubles = data.incidents.filter((incident) => incident.ended === null).map((incident) => incident.text);
  showVerdict(old
    ? { level: "unknown", sentence: `No worker has recorded the state since ${clock(data.observed)}; ${verdict.sentence}`, troubles: ["No worker has recorded"], advice: "The log says what ended the recording." }
    : { level: verdict.level, sentence: verdict.sentence, troubles, right: verdict.answers, advice: verdict.advice });
  showOver(data);
  by("clock").textContent = `${clock(data.now)} UTC`;
  showLamps(data);
  showLists(data);
  showIncidents(data.incidents, data.now, data.record);
  showStock(data);
  const fresh = data.samples.items.length > 0 || !state.samples.length;
  state.samples = [...state.samples, ...data.samples.items].filter((sample) => sample.at > data.now - KEPT_S);
  state.seen = data.samples.next;
  if (fresh) {
    const span = spanOf(state.samples, data.now);
    by("rates").textContent = span > 60 ? `Last ${span / 60} minutes` : "Last minute";
    by("period").textContent = data.present_s ? `Figures: the last ${data.present_s} s. Plots: the last ${span} s. Shaded times are incidents.` : "";
    drawPlots(state.samples, data.present, data.incidents, data.now, span);
    if (by("numbers").open) fillTable(by("numbers").querySelector("table"), state.samples);
  }
}

// ------------------------------------------------------------------ reading

function askForKey(error) {
  const form = by("key-form");
  state.key = "";
  by("content").hidden = true;
  by("forget").hidden = true;
  by("key-error").textContent = error;
  showVerdict({ level: "unknown", sentence: "The dashboard shows nothing without a key" });
  by("level").textContent = "Locked";
  document.title = "Larder";
  if (form.hidden) { form.hidden = false; by("key").focus(); }
}

// A lost connection is tried once more at once: of several workers one may have died.
async function fetched(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name !== "TypeError") throw error;
    return fetch(path, options);
  }
}

async function read() {
  const headers = state.key ? { Authorization: `Bearer ${state.key}` } : {};
  const answer = await fetched(`/dashboard/data?after=${state.seen}`, { headers, cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
  const body = await answer.json();
  if (answer.ok && state.record !== null && body.record !== state.record) {
    // Another record: the service started anew, and numbers its samples from 0.
    Object.assign(state, { seen: 0, samples: [], refusals: [], record: body.record });
    return read();
  }
  if (answer.ok) {
    state.record = body.record;
    return show(body);
  }
  if (answer.status === 401) return askForKey(state.key ? `This key is not accepted: ${body.detail}` : "");
  if (answer.status === 403) return askForKey("This key has not the scope operate. Use another one.");
  if (answer.status === 503 && body.type.endsWith("/keys-unavailable")) return showUncheckable(body.detail);
  if (answer.status === 429) return new Promise((done) => setTimeout(done, 2000));
  throw new Error(body.title);
}

async function run() {
  if (!state.paused && (by("key-form").hidden || state.key)) {
    try { await read(); } catch { showSilence(); }
  }
  setTimeout(run, PERIOD_MS);
}

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = by("key").value.trim();
  by("key").value = "";
});
by("forget").addEventListener("click", () => {
  Object.assign(state, { seen: 0, samples: [], refusals: [], record: null });
  askForKey("");
  by("key-form").hidden = false;
});
by("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  by("pause").setAttribute("aria-pressed", String(state.paused));
  by("pause").textContent = state.paused ? "Paused" : "Pause";
});
by("numbers").addEventListener("toggle", () => fillTable(by("numbers").querySelector("table"), state.samples));
makePlots(by("plots"));
run();
