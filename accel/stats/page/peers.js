// One section per peer: what is now in tiles, the last hour in charts.

import { Chart } from "./chart.js";
import { byId, element, setText } from "./dom.js";
import { bits, bytes, duration, factor, milliseconds, percent } from "./format.js";

const parts = (text) => text.split("\n");

// tiles lists what is shown: a title, the value, and a smaller line below it.
function tiles(p) {
  const now = p.throughput_bits_per_second, minute = p.throughput_bits_per_second_60s;
  const g = p.gain, all = (x) => x.matched_bytes + x.literal_bytes;
  const raw = all(g.sent) + all(g.received);
  const share = (n) => (raw === 0 ? "–" : percent(n / raw));
  const opaque = g.sent.opaque_bytes + g.received.opaque_bytes;
  const literal = g.sent.literal_bytes + g.received.literal_bytes;
  const wire = g.sent.literal_wire_bytes + g.received.literal_wire_bytes;
  return [
    ["LAN sent", bits(now.lan.sent), "60 s: " + bits(minute.lan.sent) + "\nin all: " + bytes(p.lan_bytes.sent)],
    ["WAN sent", bits(now.wan.sent), "60 s: " + bits(minute.wan.sent) + "\nin all: " + bytes(p.wan_bytes.sent)],
    ["LAN received", bits(now.lan.received), "60 s: " + bits(minute.lan.received) + "\nin all: " + bytes(p.lan_bytes.received)],
    ["WAN received", bits(now.wan.received), "60 s: " + bits(minute.wan.received) + "\nin all: " + bytes(p.wan_bytes.received)],
    ["Reduction, sent", factor(p.reduction_ratio), "60 s: " + factor(p.reduction_ratio_60s) + "\ndedupe: " + factor(p.dedupe_ratio)],
    ["Reduction, received", factor(p.received_reduction_ratio), "60 s: " + factor(p.received_reduction_ratio_60s) + "\ndedupe: " + factor(p.received_dedupe_ratio)],
    ["Bytes known already", share(raw - literal), "new: " + share(literal - opaque) + ", as " + bytes(wire) + "\nnot reducible: " + share(opaque) + (p.hit_age_bytes > 0 ? "\nfound " + bytes(p.hit_age_bytes) + " back" : "")],
    ["Round trip", p.rtt_seconds > 0 ? milliseconds(p.rtt_seconds) : "–", percent(p.loss_ratio, 2) + " lost\n" + bytes(p.resent_bytes) + " sent again"],
    ["Flows", p.flows_active.toLocaleString("en"), p.flows_held.toLocaleString("en") + " held"],
    ["Lanes", String(p.lanes), p.cache_miss_repairs + " repairs\n" + p.frame_errors + " bad frames"],
    ...(p.classes ?? []).map((c) => ["Class " + (c.name || "of all others"), c.share_percent + " %", bytes(c.sent_bytes) + " sent"]),
  ];
}

// Peer shows one peer.
class Peer {
  constructor(name) {
    this.section = byId("peer").content.firstElementChild.cloneNode(true);
    setText(this.section.querySelector(".name"), name);
    this.tiles = this.section.querySelector(".tiles");
    byId("peers").append(this.section);
    const place = (chart) => this.section.querySelector(`[data-chart=${chart}]`);
    this.charts = {
      throughput: new Chart(place("throughput"), [
        { label: "LAN sent", colour: "--lan", format: bits, fill: true, least: 1e3 }, { label: "LAN received", colour: "--lan-in", format: bits },
        { label: "WAN sent", colour: "--wan", format: bits }, { label: "WAN received", colour: "--wan-in", format: bits },
      ]),
      gain: new Chart(place("gain"), [
        { label: "known already", colour: "--matched", format: bits, least: 1e3 }, { label: "new", colour: "--literal", format: bits },
        { label: "not reducible", colour: "--opaque", format: bits },
      ], { stacked: true }),
      link: new Chart(place("link"), [
        { label: "round trip", colour: "--lan", format: milliseconds, least: 0.001 },
        { label: "loss", colour: "--wan", format: (v) => percent(v), scale: "loss", least: 0.01 },
      ]),
    };
  }

  show(p) {
    const state = this.section.querySelector(".state");
    setText(state, p.state);
    state.className = "state pill" + (p.state === "up" ? "" : p.state === "connecting" ? " warn" : " bad");
    const detail = "for " + duration(p.state_seconds) + (p.software ? ", runs " + p.software : "") + (p.detail ? ": " + p.detail : "") +
      (Math.abs(p.clock_skew_seconds) > 1 ? ", its clock differs by " + p.clock_skew_seconds.toFixed(1) + " s" : "");
    setText(this.section.querySelector(".detail"), detail);
    const shown = tiles(p);
    shown.forEach(([title, value, more], i) => this.tile(i, title, value, more));
    while (this.tiles.children.length > shown.length) this.tiles.lastChild.remove();
  }

  tile(i, title, value, more) {
    let dl = this.tiles.children[i];
    if (!dl) {
      dl = element("div");
      dl.append(element("dt"), element("dd"));
      dl.lastChild.append(element("span"));
      this.tiles.append(dl);
    }
    setText(dl.firstChild, title);
    const dd = dl.lastChild, lines = parts(more);
    setText(dd.firstChild, value);
    while (dd.children.length <= lines.length) dd.append(element("small"));
    lines.forEach((line, j) => setText(dd.children[j + 1], line));
  }

  draw(time, h, from, to) {
    this.charts.throughput.set(time, [h.lan_sent, h.lan_received, h.wan_sent, h.wan_received], from, to);
    this.charts.gain.set(time, [h.matched, h.literal, h.opaque], from, to);
    this.charts.link.set(time, [h.rtt_seconds, h.loss_ratio], from, to);
  }
}

// Peers shows all peers.
export class Peers {
  #peers = new Map();

  show(list) {
    for (const p of list) {
      if (!this.#peers.has(p.name)) this.#peers.set(p.name, new Peer(p.name));
      this.#peers.get(p.name).show(p);
    }
    for (const [name, peer] of this.#peers) {
      if (list.some((p) => p.name === name)) continue;
      peer.section.remove();
      this.#peers.delete(name);
    }
  }

  draw(history, seconds) {
    const to = Math.max(history.time.at(-1) ?? 0, Date.now() / 1000 - 60), from = to - seconds;
    for (const [name, peer] of this.#peers) {
      const columns = history.peers.get(name);
      if (columns) peer.draw(history.time, columns, from, to);
    }
  }
}
