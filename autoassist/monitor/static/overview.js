// The figures at the top, the flow's depths, and the table of the roles.

import { byId, element, metric, number, say, share } from "./format.js";

const NEAR = 0.9;
const WAIT_NEAR = 0.01;
const WAIT_OVER = 0.05;
const ratio = (part, whole) => (whole ? part / whole : null);

function assistants(s) {
  return s.peers.filter((peer) => peer.role === "assistant");
}

function liftOf(s) {
  const found = assistants(s).filter((peer) => peer.lift_error > 0);
  return found.length ? found.reduce((sum, peer) => sum + peer.lift, 0) / found.length : null;
}

function waitLevel(wait) {
  if (wait === null || wait < WAIT_NEAR) return ["", ""];
  return wait < WAIT_OVER ? ["near", "the Boss waits a little"] : ["over", "the Boss waits"];
}

function staleLevel(s) {
  if (s.staleness_max === null || !s.staleness_bound) return ["", ""];
  return s.staleness_max >= NEAR * s.staleness_bound ? ["near", "near its bound"] : ["", ""];
}

function figures(s) {
  const budget = s.epochs ? `${Math.min(s.epoch + 1, s.epochs)} of ${s.epochs}` : `${number(s.instances_trained)} of ${number(s.boss_budget)} passes`;
  const wait = ratio(s.exposed_wait_s, s.wall_s);
  const dropped = s.values_dropped ? ["near", "losses that never came"] : ["", ""];
  const lift = liftOf(s);
  return [
    ["Policy", s.policy, "", ""],
    [s.epochs ? "Epoch" : "Budget", budget, "", ""],
    ["Steps", number(s.trained_steps), "", ""],
    ["Boss passes", number(s.instances_trained), "", `${number(s.offered)} offered`],
    ["Kept, this epoch", share(ratio(s.epoch_kept, s.epoch_offered)), "", `${share(ratio(s.unfiltered, s.offered))} unfiltered in all`],
    ["Exposed wait", share(wait), ...waitLevel(wait)],
    ["Ready at the Boss", number(s.ready_batches) + " batches", "", ""],
    ["Stock", number(s.stock_instances) + " instances", "", `${s.leased_windows} windows leased`],
    ["Staleness, greatest", s.staleness_max === null ? "–" : `${s.staleness_max} of ${s.staleness_bound}`, ...staleLevel(s)],
    ["Lift", number(lift), "", ""],
    ["Values dropped", number(s.values_dropped), ...dropped],
    ...(s.padded_tokens ? [["Padding", share(1 - s.tokens / s.padded_tokens), "", `of ${number(s.padded_tokens)} tokens`]] : []),
    [s.metric_name || "Metric", metric(s.metric_value), "", ""],
  ];
}

export function showFigures(s) {
  const list = byId("figures");
  const found = figures(s);
  while (list.children.length < found.length) list.append(element("div", {}, element("dt"), element("dd", {}, element("b"), element("small"))));
  found.forEach(([name, value, level, words], i) => {
    const [term, definition] = list.children[i].children;
    say(term, name);
    definition.className = level;
    say(definition.children[0], value);
    say(definition.children[1], words);
  });
  byId("progress").value = s.progress;
  say(byId("progress-text"), share(s.progress));
  say(byId("run"), s.run_id ? `run ${s.run_id.slice(0, 8)}` : "");
}

export function showFlow(s, rates) {
  const helpers = assistants(s);
  const wait = ratio(s.exposed_wait_s, s.wall_s);
  const granted = Math.max(0, ...s.peers.filter((peer) => peer.role === "boss").map((peer) => peer.credits));
  const backlog = Math.max(0, ...helpers.map((peer) => peer.backlog_records));
  const words = {
    "flow-assistants": helpers.length ? `${helpers.length} at work` : "none",
    "flow-lift": `lift ${number(liftOf(s))}`,
    "flow-stock": `stock ${number(s.stock_instances)}`,
    "flow-kept": `keeps ${share(ratio(s.epoch_kept, s.epoch_offered))}`,
    "flow-passes": `${number(s.instances_trained)} passes`,
    "flow-wait": `waits ${share(wait)}`,
    "flow-leased": `${s.leased_windows} windows`,
    "flow-selected": `${number(rates["kept/s"])} kept/s`,
    "flow-backlog": `${number(backlog)} records wait`,
    "flow-ready": granted ? `${s.ready_batches} ready of ${granted}` : `${s.ready_batches} ready`,
    "flow-losses": `${number(rates["steps/s"])} steps/s`,
  };
  for (const [id, text] of Object.entries(words)) say(byId(id), text);
  const dry = s.ready_batches === 0 && !s.ended && s.trained_steps > 0;
  byId("flow-ready-arrow").classList.toggle("over", dry);
  say(byId("flow-description"), `Broker to Assistants: ${words["flow-leased"]} leased. Assistants to broker: ${words["flow-selected"]}. ` +
    `Broker: ${words["flow-stock"]} instances. Broker to Boss: ${words["flow-ready"]} batches. Boss to broker: ${words["flow-losses"]}.`);
}

export function showRoles(s) {
  const body = byId("role-table").tBodies[0];
  const rows = s.peers.map((peer) => {
    const isAssistant = peer.role === "assistant";
    const of = (value) => (isAssistant ? number(value) : "–");
    const lift = isAssistant && peer.lift_error > 0 ? `${number(peer.lift)} ± ${number(peer.lift_error)}` : "–";
    const used = isAssistant ? peer.leases : s.ready_batches;
    return [peer.name, peer.silent_s.toFixed(1), peer.credits ? `${used} of ${peer.credits}` : "–", of(peer.windows),
      isAssistant ? share(ratio(peer.kept, peer.offered)) : "–", of(peer.backlog_records), of(peer.learned_through), lift,
      number(peer.cpu_percent), number(peer.rss_bytes / 1e6)];
  });
  rows.push(["broker", ...Array(7).fill("–"), number(s.broker_cpu_percent), number(s.broker_rss_bytes / 1e6)]);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, i) => {
    const row = body.rows[i] ?? body.appendChild(element("tr", {}, element("th", { scope: "row" }), ...cells.slice(1).map(() => element("td"))));
    cells.forEach((text, j) => say(row.cells[j], text));
  });
}
