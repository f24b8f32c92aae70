// Time charts over uPlot: lines or a stack, with the colours of the style sheet.

import uPlot from "./vendor/uplot/uPlot.esm.js";

const height = 170;
const dark = matchMedia("(prefers-color-scheme: dark)");
const clock = (v) => new Date(v * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Chart draws columns over time into a place of the page.
//   series: [{label, colour: "--name", format, scale?, fill?}]; stacked: the columns are drawn on top of each other, the first one lowest.
export class Chart {
  constructor(place, series, { stacked = false } = {}) {
    this.place = place;
    this.series = series;
    this.stacked = stacked;
    this.raw = [[], ...series.map(() => [])];
    this.from = 0;
    this.to = 1;
    this.build();
    new ResizeObserver(() => this.resize()).observe(place);
    dark.addEventListener("change", () => this.build());
  }

  build() {
    this.plot?.destroy();
    const text = colour("--dim"), line = colour("--line");
    const scales = [...new Set(this.series.map((s) => s.scale ?? "y"))];
    const axis = (scale, i) => ({
      scale, side: i === 0 ? 3 : 1, size: 72, stroke: text, grid: { show: i === 0, stroke: line, width: 1 }, ticks: { show: false },
      values: (_, splits) => splits.map((v) => (v === null ? "" : this.series.find((s) => (s.scale ?? "y") === scale).format(v))),
    });
    this.plot = new uPlot({
      width: this.width(), height,
      scales: {
        x: { time: true, range: () => [this.from, this.to] },
        ...Object.fromEntries(scales.map((s) => [s, { range: (_, _low, high) => [0, Math.max(high ?? 0, this.least(s)) * 1.05] }])),
      },
      axes: [{ stroke: text, space: 70, size: 30, grid: { show: false }, ticks: { stroke: line, size: 4 }, values: (_, splits) => splits.map(clock) }, ...scales.map(axis)],
      series: [{ value: (_, v) => (v === null ? "latest" : new Date(v * 1000).toLocaleTimeString([], { hourCycle: "h23" })) }, ...this.order().map((i) => {
        const s = this.series[i];
        return {
          label: s.label, scale: s.scale ?? "y", stroke: colour(s.colour), width: this.stacked ? 0 : 1.5, points: { show: false },
          fill: this.stacked || s.fill ? colour(s.colour) + (this.stacked ? "" : "33") : undefined,
          value: (_, _v, _s, at) => this.legend(i, at),
        };
      })],
      cursor: { y: false, drag: { x: false, y: false } },
      legend: { live: true },
    }, this.drawn(), this.place);
  }

  // legend is a series' value under the cursor or, without one, the latest.
  legend(i, at) {
    const v = this.raw[i + 1][at ?? this.raw[0].length - 1];
    return v == null ? "–" : this.series[i].format(v);
  }

  // order gives the indices of the series as they are drawn: a stack from the top, so that lower parts cover upper ones.
  order() {
    const all = this.series.map((_, i) => i);
    return this.stacked ? all.reverse() : all;
  }

  // least is the smallest top of a scale: an idle link shows a quiet line at the bottom, not noise blown up.
  least(scale) {
    return this.series.find((s) => (s.scale ?? "y") === scale).least ?? 1;
  }

  drawn() {
    const [time, ...columns] = this.raw;
    if (!this.stacked) return [time, ...columns];
    let below = time.map(() => 0);
    const sums = columns.map((column) => (below = column.map((v, i) => (v === null ? null : v + (below[i] ?? 0)))));
    return [time, ...this.order().map((i) => sums[i])];
  }

  // set shows columns over the seconds from and to.
  set(time, columns, from, to) {
    this.raw = [time, ...columns];
    this.from = from;
    this.to = to;
    this.plot.setData(this.drawn());
  }

  width() {
    return Math.max(200, this.place.clientWidth);
  }

  resize() {
    if (this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height });
  }
}
