// Asks the gateway and passes the answers on: the state every second, flows every two, the hour's history and the rest every five. A page out of sight asks nothing.

import { byId, fill, options, setText } from "./dom.js";
import { Flows } from "./flows.js";
import { bytes, duration, factor, percent } from "./format.js";
import { History } from "./history.js";
import { Peers } from "./peers.js";

const mostFlows = 10000;

const peers = new Peers();
const flows = new Flows();
const history = new History();
let shownSeconds = 3600;
let chosen = false; // by the reader; until then the charts show no more than the gateway's life
let uptime = 0;

async function get(path) {
  const answer = await fetch("api/v1/" + path, { cache: "no-store", signal: AbortSignal.timeout(15000) });
  if (!answer.ok) throw new Error(answer.status + " " + (await answer.text()).trim());
  return answer.json();
}

function showState(s) {
  if (s.uptime_seconds < uptime) history.clear(); // another process: its counters begin anew
  uptime = s.uptime_seconds;
  if (!chosen) showRange([...byId("range").children].map((b) => Number(b.dataset.seconds)).find((n) => n >= uptime) ?? 3600);
  document.title = "wanpair " + s.site;
  setText(byId("site"), s.site);
  setText(byId("about"), s.version + ", up " + duration(s.uptime_seconds));
  const health = byId("health");
  setText(health, s.health !== "ok" ? s.health : s.ready !== "ok" ? s.ready : "healthy");
  health.className = "pill" + (s.health !== "ok" ? " bad" : s.ready !== "ok" ? " warn" : "");
  peers.show(s.peers);

  const c = s.cache, part = c.capacity_bytes > 0 ? c.size_bytes / c.capacity_bytes : 0;
  byId("fill").style.width = Math.min(100, part * 100) + "%";
  setText(byId("cache"), `${bytes(c.size_bytes)} of ${bytes(c.capacity_bytes)} on disk (${percent(part, 0)}) in ${c.epochs} parts, ${bytes(c.memory_bytes)} of memory` + (c.state === "on" ? "" : ". Not used: " + c.state));
  fill(byId("passed"), s.flows_passed.map((r) => [[r.count.toLocaleString("en"), "number"], r.number + " " + r.name.replaceAll("_", " ") + ": " + r.text]));
  options(byId("filter").elements.peer, 1, s.peers.map((p) => [p.name, p.name]));
  options(byId("filter").elements.reason, 2, s.flows_passed.map((r) => [String(r.number), r.number + " " + r.name.replaceAll("_", " ")]));
}

function showTop(top) {
  for (const kind of ["ports", "hosts"]) {
    fill(byId(kind), top[kind].map((x) => [x.name, [bytes(x.saved_bytes), "number"], [bytes(x.lan_bytes), "number"],
      [factor(x.wan_bytes > 0 ? x.lan_bytes / x.wan_bytes : null), "number"], [x.flows.toLocaleString("en"), "number"]]));
  }
}

function showEvents(doc) {
  fill(byId("events"), doc.events.map((e) => [new Date(e.time).toLocaleString(), (e.peer ? e.peer + ": " : "") + e.text + (e.count > 1 ? ` (${e.count} times)` : "")]));
}

async function showFlows() {
  const query = new URLSearchParams({ sort: "lan", limit: mostFlows });
  for (const [name, value] of new FormData(byId("filter"))) {
    if (value !== "") query.set(name, value);
  }
  flows.show(await get("flows?" + query));
}

async function drawHistory() {
  history.add(await get("history?since=" + history.last));
  peers.draw(history, shownSeconds);
}

// every calls a function again and again, the next time only when the last one is done.
function every(seconds, what) {
  const again = async () => {
    if (!document.hidden) {
      try {
        await what();
        answered();
      } catch (err) {
        failed(err);
      }
    }
    setTimeout(again, seconds * 1000);
  };
  again();
}

let silent = 0; // failures in a row

function answered() {
  silent = 0;
  document.body.classList.remove("stale");
}

function failed(err) {
  if (++silent < 2) return; // one lost answer is no news
  document.body.classList.add("stale");
  setText(byId("health"), "no answer from the gateway: " + err.message);
  byId("health").className = "pill bad";
}

byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", () => showFlows().catch(failed));
byId("range").addEventListener("click", (event) => {
  const seconds = Number(event.target.dataset.seconds);
  if (!seconds) return;
  chosen = true;
  showRange(seconds);
});

function showRange(seconds) {
  if (seconds === shownSeconds) return;
  shownSeconds = seconds;
  for (const button of byId("range").children) button.setAttribute("aria-pressed", String(Number(button.dataset.seconds) === seconds));
  peers.draw(history, shownSeconds);
}

every(1, async () => showState(await get("stats")));
every(2, showFlows);
every(5, drawHistory);
every(5, async () => showTop(await get("top?limit=10")));
every(5, async () => showEvents(await get("events?limit=50")));
