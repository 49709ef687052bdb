// The plots: what each shows, and how its samples become an SVG path. Nothing here reads from the network.

export const KEPT_S = 900;
const SPANS_S = [60, 120, 300, KEPT_S];
const WIDTH = 300;
const HEIGHT = 72;
const SVG = "http://www.w3.org/2000/svg";

const count = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(0) : value.toFixed(1));
const percent = (value) => `${(value * 100).toFixed(value >= 0.9995 ? 0 : 1)}`;
const milliseconds = (value) => `≤ ${value >= 10 ? Math.round(value) : value}`;

// `top` is the smallest upper end of the scale, so that a quiet plot does not make much of little.
export const PLOTS = [
  { name: "reads", title: "Reads", unit: "/s", format: count, top: 10 },
  { name: "hit_ratio", title: "Reads answered by the cache", unit: "%", format: percent, top: 1, fixed: true },
  { name: "writes", title: "Writes", unit: "/s", format: count, top: 5 },
  { name: "p50_ms", second: "p99_ms", title: "Time to answer", names: ["p50 ", "p99 "], logarithmic: true, unit: " ms", format: milliseconds, top: 5 },
  { name: "statements", title: "PostgreSQL statements", unit: "/s", format: count, top: 10 },
  { name: "saved", title: "Reads that PostgreSQL was spared", unit: "/s", format: count, top: 10 },
  { name: "failed", second: "refused", title: "Failed (5xx) and refused requests", names: ["failed ", "refused "], unit: "/s", format: count, top: 5 },
  { name: "settles", title: "Writes that had to wait", unit: "/s", format: count, top: 5 },
];

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A service that has just started fills its plots all the same: the shortest span that shows everything.
export function spanOf(samples, now) {
  return SPANS_S.find((span) => !samples.length || now - samples[0].at <= span) ?? KEPT_S;
}

// One slow second does not press the others of a logarithmic plot to the ground.
const height = (plot, value, top) => Math.min(1, plot.logarithmic ? Math.log1p(2 * value) / Math.log1p(2 * top) : value / top);

// A line breaks where a sample has no value, and where samples are missing.
function path(samples, plot, name, now, span, top) {
  let text = "";
  let before = null;
  for (const sample of samples) {
    const value = sample[name];
    if (value === null) { before = null; continue; }
    const x = (WIDTH * (1 - (now - sample.at) / span)).toFixed(1);
    const y = (HEIGHT - 1 - (HEIGHT - 4) * height(plot, value, top)).toFixed(1);
    text += `${before !== null && sample.at - before < 5 ? "L" : "M"}${x} ${y}`;
    before = sample.at;
  }
  return text;
}

function extent(samples, plot) {
  const values = samples.flatMap((sample) => [sample[plot.name], plot.second && sample[plot.second]]).filter((value) => value != null);
  return { highest: Math.max(0, ...values), lowest: Math.min(...values), any: values.length > 0 };
}

const shown = (plot, value) => (value == null ? "–" : plot.format(value));

export function makePlots(parent) {
  for (const plot of PLOTS) {
    plot.svg = shape("svg", { role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    plot.value = element("p", { class: "value" });
    plot.from = element("span");
    plot.scale = element("span");
    parent.append(element("article", { class: "plot" }, element("h3", {}, plot.title), plot.value, plot.svg,
      element("p", { class: "ends", "aria-hidden": "true" }, plot.from, plot.scale, element("span", {}, "now"))));
  }
}

function figure(plot, present) {
  const small = (text) => element("small", {}, text);
  const [first, second] = plot.names ?? ["", ""];
  const parts = [small(first), shown(plot, present?.[plot.name]), small(plot.unit)];
  if (plot.second) parts.push(element("span", { class: "second" }, small(second), shown(plot, present?.[plot.second]), small(plot.unit)));
  plot.value.replaceChildren(...parts);
}

export function drawPlots(samples, present, incidents, now, span) {
  for (const plot of PLOTS) {
    figure(plot, present);
    const { highest, lowest, any } = extent(samples, plot);
    const top = plot.fixed ? plot.top : Math.max(plot.top, highest);
    const bands = incidents.filter((incident) => (incident.ended ?? now) > now - span).map((incident) => {
      const from = Math.max(0, WIDTH * (1 - (now - incident.began) / span));
      const to = WIDTH * (1 - (now - (incident.ended ?? now)) / span);
      return shape("rect", { class: "incident", x: from, y: 0, width: Math.max(3, to - from), height: HEIGHT });
    });
    const line = path(samples, plot, plot.name, now, span, top);
    const lines = [shape("path", { class: "line", d: line })];
    if (plot.second) lines.push(shape("path", { class: "line second", d: path(samples, plot, plot.second, now, span, top) }));
    plot.svg.replaceChildren(...bands, ...lines);
    plot.from.textContent = `−${span} s`;
    plot.scale.textContent = any ? `highest ${plot.format(highest)}${plot.unit}` : "nothing yet";
    plot.svg.setAttribute("aria-label", any
      ? `${plot.title}: between ${plot.format(lowest)} and ${plot.format(highest)}${plot.unit} in the last ${span} seconds`
      : `${plot.title}: nothing in the last ${span} seconds`);
  }
}

// One row for each minute: the mean of its samples.
export function fillTable(table, samples) {
  const columns = PLOTS.flatMap((plot) => [[plot, plot.name], ...(plot.second ? [[plot, plot.second]] : [])]);
  const minutes = new Map();
  for (const sample of samples) {
    const minute = Math.floor(sample.at / 60) * 60;
    minutes.set(minute, [...(minutes.get(minute) ?? []), sample]);
  }
  table.tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Minute"),
    ...columns.map(([plot, name]) => element("th", { scope: "col", class: "number" }, `${name.replaceAll("_", " ")}${plot.unit === "/s" ? " /s" : ""}`))));
  table.tBodies[0].replaceChildren(...[...minutes.keys()].reverse().map((minute) => element("tr", {},
    element("th", { scope: "row" }, new Date(minute * 1000).toISOString().slice(11, 16)),
    ...columns.map(([plot, name]) => {
      const values = minutes.get(minute).map((sample) => sample[name]).filter((value) => value !== null);
      const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
      return element("td", { class: "number" }, mean === null ? "–" : plot.format(Number(mean.toPrecision(3))));
    }))));
}
