"use strict";
// Shows the JSON documents of the gateway as tables, once a second. Everything is set as text, never as markup: names and addresses come from the network.

const shownFlows = 200;

const byId = (id) => document.getElementById(id);

function bytes(n) {
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= size) return (n / size).toFixed(1) + " " + unit;
  }
  return n + " B";
}

function bits(n) {
  for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]]) {
    if (n >= size) return (n / size).toFixed(1) + " " + unit;
  }
  return Math.round(n) + " bit/s";
}

function duration(s) {
  if (s < 60) return Math.round(s) + " s";
  if (s < 3600) return Math.round(s / 60) + " min";
  if (s < 86400) return (s / 3600).toFixed(1) + " h";
  return (s / 86400).toFixed(1) + " d";
}

const times = (r) => (r === null ? "–" : r >= 100 ? Math.round(r) + "×" : r.toFixed(1) + "×");

function fill(table, rows) {
  const body = table.tBodies[0];
  body.replaceChildren(...rows.map((cells) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const td = document.createElement("td");
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      td.textContent = text;
      td.className = kind;
      tr.append(td);
    }
    return tr;
  }));
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}

function showStats(s) {
  byId("site").textContent = s.site;
  document.title = "wanpair " + s.site;
  const health = byId("health");
  const fault = s.health !== "ok" ? s.health : s.ready !== "ok" ? s.ready : "";
  health.textContent = (fault || "healthy") + ", up for " + duration(s.uptime_seconds);
  health.className = fault ? "bad" : "good";
  fill(byId("peers"), s.peers.map((p) => {
    const t = p.throughput_bits_per_second;
    return [p.name, [p.state + (p.detail ? ": " + p.detail : ""), p.state === "up" ? "good" : "bad"], Math.round(p.rtt_seconds * 1000) + " ms", (p.loss_ratio * 100).toFixed(1) + " %",
      bits(t.lan.sent), bits(t.wan.sent), bits(t.lan.received), bits(t.wan.received), times(p.reduction_ratio), times(p.dedupe_ratio), p.flows_active];
  }));
  const c = s.cache;
  byId("cache").textContent = bytes(c.size_bytes) + " of " + bytes(c.capacity_bytes) + (c.state === "on" ? "" : ", not used: " + c.state);
}

function showFlows(f) {
  byId("shown").textContent = f.total > f.flows.length ? "(" + f.flows.length + " of " + f.total + ")" : "(" + f.total + ")";
  fill(byId("flows"), f.flows.map((x) => [x.id, x.source, x.destination, x.peer, x.state, bytes(x.lan_bytes.sent + x.lan_bytes.received),
    bytes(x.wan_bytes.sent + x.wan_bytes.received), duration(x.age_seconds), x.reason ? x.reason.number + " " + x.reason.text : ""]));
}

function showEvents(e) {
  fill(byId("events"), e.events.map((x) => [new Date(x.time).toLocaleString(), x.peer || "", x.text + (x.count > 1 ? " (" + x.count + " times)" : "")]));
}

async function update() {
  try {
    const [stats, flows, events] = await Promise.all([get("api/v1/stats"), get("api/v1/flows?sort=lan&limit=" + shownFlows), get("api/v1/events?limit=20")]);
    showStats(stats);
    showFlows(flows);
    showEvents(events);
  } catch (err) {
    byId("health").textContent = "no answer from the gateway (" + err.message + ")";
    byId("health").className = "bad";
  }
  setTimeout(update, 1000);
}

update();
