// One figure: a picture by uPlot, a legend with the latest values, and the same as a table.

import { clock, colour, element, say, write } from "./format.js";

const TABLE_ROWS = 12;
const HEIGHT = 170;

export class Chart {
  // x: "time" (seconds since 1970), or what the numbers below the axis are; bars: edges instead of points.
  constructor(parent, { title, form, meaning, series, x = "time", bars = false }) {
    Object.assign(this, { title, form, series, x, bars });
    this.data = [[], ...series.map(() => [])];
    this.legend = element("ul", { class: "legend" });
    this.items = series.map(({ limit }, i) => this.legend.appendChild(element("li", { class: limit ? "limit" : `c${i}` })));
    this.picture = element("div", { role: "img" });
    this.table = element("table");
    this.details = element("details", {}, element("summary", {}, "Table: " + title),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table: " + title }, this.table));
    this.details.addEventListener("toggle", () => this.fill());
    const caption = element("figcaption", {}, element("h3", {}, title), element("p", {}, meaning));
    parent.append(element("figure", { "data-chart": title }, caption, this.legend, this.picture, this.details));
    this.build();
    new ResizeObserver(() => this.resize()).observe(this.picture);
  }

  width() {
    return Math.max(120, Math.floor(this.picture.clientWidth));
  }

  resize() {
    if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: HEIGHT });
  }

  build() {
    if (this.plot) this.plot.destroy();
    this.zoomed = false;
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid") } };
    const form = write[this.form];
    const curve = ({ label, limit }, i) => ({
      label,
      stroke: colour(limit ? "--limit" : `--curve-${i}`),
      width: 2,
      dash: limit ? [6, 4] : undefined,
      points: { show: this.x !== "time" && !this.bars },
      ...(this.bars ? { paths: uPlot.paths.bars({ size: [0.9, 100] }), fill: colour(`--curve-${i}`) + "99" } : {}),
    });
    this.plot = new uPlot({
      width: this.width(),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: this.x === "time", y: false } },
      scales: { x: { time: this.x === "time", ...this.across() }, y: { range: (_, low, high) => this.range(low, high) } },
      axes: [
        { ...axis, ...(this.x === "time" ? {} : { values: (_, found) => found.map((v) => this.under(v)) }) },
        { ...axis, size: 62, values: (_, found) => found.map((v) => form(v)) },
      ],
      series: [{}, ...this.series.map(curve)],
      hooks: { setSelect: [() => { this.zoomed = true; }] },
    }, this.places(), this.picture);
    this.plot.over.addEventListener("dblclick", () => { this.zoomed = false; });
  }

  // Bars of a histogram stand side by side by their number, whatever their edges are.
  across() {
    return this.bars ? { range: (_, low, high) => [low - 0.6, high + 0.6] } : {};
  }

  places() {
    return this.bars ? [this.data[0].map((_, i) => i), ...this.data.slice(1)] : this.data;
  }

  // What stands below the axis at a place.
  under(place) {
    if (!this.bars) return write.number(place);
    return Number.isInteger(place) && place in this.data[0] ? write.number(this.data[0][place]) : "";
  }

  range(low, high) {
    if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
    if (this.x === "Boss passes") return [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
    const from = Math.min(0, low);
    return this.form === "share" ? [0, Math.max(high * 1.1, 0.01)] : [from, high > from ? high + 0.08 * (high - from) : from + 1];
  }

  show(data) {
    this.data = data;
    this.plot.setData(this.places(), !this.zoomed);
    if (this.zoomed) this.plot.redraw();
    const form = write[this.form];
    const last = this.series.map((_, i) => (this.bars ? null : data[i + 1].at(-1) ?? null));
    this.series.forEach(({ label }, i) => say(this.items[i], this.bars ? label : `${label}: ${form(last[i])}`));
    const words = this.bars ? "a histogram" : this.series.map(({ label }, i) => `${label} ${form(last[i])}`).join(", ");
    this.picture.setAttribute("aria-label", `${this.title}: ${words}. The table below has the values.`);
    this.fill();
  }

  // Only while it is open.
  fill() {
    if (!this.details.open) return;
    const form = write[this.form];
    const [xs, ...ys] = this.data;
    const step = this.x === "time" ? Math.max(1, Math.floor(xs.length / TABLE_ROWS)) : 1;
    const head = element("tr", {}, element("th", { scope: "col" }, this.x === "time" ? "Time" : this.x),
      ...this.series.map(({ label }) => element("th", { scope: "col" }, label)));
    const rows = [];
    for (let i = xs.length - 1; i >= 0; i -= step) {
      const first = this.x === "time" ? clock(xs[i]) : write.number(xs[i]);
      rows.push(element("tr", {}, element("th", { scope: "row" }, first), ...ys.map((y) => element("td", {}, form(y[i])))));
    }
    if (this.x !== "time") rows.reverse();
    this.table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }
}
