// The histograms, and the instances themselves.

import { Chart } from "./chart.js";
import { byId, element, number, say, share } from "./format.js";

const GROUPS = {
  kept: ["Kept most", "Trained most often; of those trained as often, the greatest last loss first."],
  shrunk: ["Shrunk most", "Trained least often; of those trained as often, the least last loss first."],
  suspected: ["Suspected mislabelled", "The last three losses all above those of a network that knows nothing."],
};
const SVG = "http://www.w3.org/2000/svg";

const DESCRIPTIONS = [
  { title: "Losses", form: "count", x: "last loss, up to", bars: true, meaning: "Instances by their last loss.",
    series: [{ label: "instances", limit: false }] },
  { title: "Keep probability π", form: "count", x: "π, up to", bars: true,
    meaning: "Instances by the π that they would get now: 1 in the warm-up, in the anneal, and while the lift is not clear.",
    series: [{ label: "instances", limit: false }] },
];

const charts = [];
const groups = new Map();

export function rebuild() {
  charts.forEach((chart) => chart.build());
}

function spark(losses) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 100 30");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const top = Math.max(...losses, 1e-12);
  const step = 100 / Math.max(1, losses.length - 1);
  const line = document.createElementNS(SVG, "polyline");
  const points = losses.map((loss, i) => `${(i * step).toFixed(1)},${(28 - 26 * Math.max(0, loss) / top).toFixed(1)}`);
  line.setAttribute("points", points.join(" "));
  picture.append(line);
  return picture;
}

function card(one, run) {
  const label = one.label === null ? "" : `label ${one.label}`;
  const made = element("li", { "data-id": one.id });
  if (one.picture) {
    made.append(element("img", { src: `/pictures/${run}/${one.id}.png`, alt: `instance ${one.id}` + (label ? `, ${label}` : ""), loading: "lazy" }));
  }
  if (one.text) made.append(element("q", {}, one.text));
  made.append(
    element("span", {}, `ID ${one.id}` + (label ? `, ${label.replace(" ", "\u00a0")}` : "")),
    element("span", {}, `trained ${one.trained === 1 ? "once" : `${one.trained} times`}, π\u00a0${share(one.keep).replace(" ", "\u00a0")}`),
    spark(one.losses),
    element("span", {}, "losses " + one.losses.map((loss) => number(loss)).join(", ")),
  );
  return made;
}

function makeGroup(name) {
  const [title, meaning] = GROUPS[name] ?? [name, ""];
  const list = element("ul", { class: "instances" });
  const none = element("p", {}, "None.");
  byId("instance-groups").append(element("section", { "aria-label": title, "data-group": name },
    element("h3", {}, title), element("p", {}, meaning), none, list));
  return { list, none, before: "" };
}

function showGroup(name, found, run) {
  if (!groups.has(name)) groups.set(name, makeGroup(name));
  const group = groups.get(name);
  const now = run + JSON.stringify(found);
  if (now === group.before) return; // or who reads here would lose the place
  group.before = now;
  group.none.hidden = found.length > 0;
  group.list.classList.toggle("texts", found.some((one) => one.text));
  group.list.replaceChildren(...found.map((one) => card(one, run)));
}

export function showInstances(news, run) {
  say(byId("instances-none"), news.trouble);
  byId("instances-none").hidden = !news.trouble;
  if (!news.groups) return;
  const aside = news.set_aside ? ` The noise guard has set ${number(news.set_aside)} aside.` : "";
  say(byId("selection-none"), `As ${news.assistant} knows ${number(news.known)} instances.${aside}`);
  if (!charts.length) charts.push(...DESCRIPTIONS.map((one) => new Chart(byId("selection-charts"), one)));
  const [losses, keeps] = charts;
  losses.show([news.loss_edges.slice(1), news.loss_counts]);
  keeps.show([news.keep_counts.map((_, i) => (i + 1) / news.keep_counts.length), news.keep_counts]);
  for (const [name, found] of Object.entries(news.groups)) showGroup(name, found, run);
}
