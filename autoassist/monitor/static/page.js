// Hears the news and hands them to what draws.

import { Chart } from "./chart.js";
import { byId, say } from "./format.js";
import { showFigures, showFlow, showRoles } from "./overview.js";

const MOST = 2400; // samples that are kept; beyond, every second of the older half goes
const charts = []; // of time, in the order of their curves in a sample
const labels = [];
let times = [];
let curves = [];
let latest = null;
let paused = false;

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
  latest = news;
}

function draw() {
  if (latest === null) return;
  setState(latest.state, latest.words);
  if (paused || latest.now === null) return;
  const rates = Object.fromEntries(labels.map((label, i) => [label, curves[i].at(-1) ?? null]));
  showFigures(latest.now);
  showFlow(latest.now, rates);
  showRoles(latest.now);
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
    setState("lost", "The page's server does not answer; autoassist monitor starts it.");
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
    charts.forEach((chart) => chart.build());
    draw();
  });
  listen();
}

begin();
