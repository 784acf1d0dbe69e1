// Hears the news and hands them to what draws.

import { Chart } from "./chart.js";
import { byId, say } from "./format.js";
import { showFigures, showFlow, showRoles } from "./overview.js";
import { rebuild, showInstances } from "./selection.js";

const MOST = 2400; // samples that are kept; beyond, every second of the older half goes
const charts = []; // of time, in the order of their curves in a sample
const labels = [];
let times = [];
let curves = [];
let latest = null;
let paused = false;
let instances = null; // the latest that were told of
let metric = null; // the chart, once there is an evaluation

function setState(state, words) {
  document.body.dataset.state = paused ? "paused" : state;
  say(byId("state"), paused ? "Paused: " + words : words.replace(/\d+ s/, (found) => (parseInt(found) > 9 ? "a while" : "some seconds")));
}

function thin() {
  if (times.length <= MOST) return;
  const stays = (_, i) => i >= MOST / 2 || i % 2 === 0;
  times = times.filter(stays);
  curves = curves.map((curve) => curve.filter(stays));
}

function take(news) {
  if (news.reset) {
    times = [];
    curves = labels.map(() => []);
  }
  for (const [, time, values] of news.samples) {
    times.push(time);
    values.forEach((value, i) => curves[i].push(value));
  }
  thin();
  if (news.instances !== null) instances = news.instances;
  latest = news;
}

function showMetric({ metric_name: name, metric_history: history }) {
  byId("metric-none").hidden = history.length > 0;
  if (!history.length) return;
  metric ??= new Chart(byId("metric-chart"), {
    title: name, form: "number", x: "Boss passes", series: [{ label: name, limit: false }],
    meaning: "After each epoch, against the instances that the Boss has trained by then.",
  });
  metric.show([history.map(([passes]) => passes), history.map(([, value]) => value)]);
}

function draw() {
  if (latest === null) return;
  setState(latest.state, latest.words);
  if (paused || latest.now === null) return;
  const rates = Object.fromEntries(labels.map((label, i) => [label, curves[i].at(-1) ?? null]));
  showFigures(latest.now);
  showFlow(latest.now, rates);
  showRoles(latest.now);
  showMetric(latest.now);
  if (instances !== null) showInstances(instances, latest.now.run_id);
  let first = 0;
  for (const chart of charts) {
    chart.show([times, ...curves.slice(first, first + chart.series.length)]);
    first += chart.series.length;
  }
}

function listen() {
  const source = new EventSource("/events");
  source.onmessage = (event) => {
    take(JSON.parse(event.data));
    draw();
  };
  source.onerror = () => {
    const over = latest?.state === "ended";
    setState("lost", over ? `${latest.words} The page ends with it.` : "The page's server does not answer; autoassist monitor starts it.");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}

async function begin() {
  const answer = await fetch("/charts.json");
  for (const description of await answer.json()) {
    charts.push(new Chart(byId("chart-grid"), description));
    labels.push(...description.series.map(({ label }) => label));
  }
  curves = labels.map(() => []);
  byId("pause").addEventListener("click", (event) => {
    paused = !paused;
    event.currentTarget.setAttribute("aria-pressed", String(paused));
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    [...charts, ...(metric ? [metric] : [])].forEach((chart) => chart.build());
    rebuild();
    draw();
  });
  listen();
}

begin();
