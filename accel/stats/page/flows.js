// The list of flows. Only the rows in sight exist, so that ten thousand flows cost no more than thirty.

import { byId, element, setText } from "./dom.js";
import { bits, bytes, duration, factor } from "./format.js";

const rowHeight = 26; // as in the style sheet
const spare = 6; // rows beyond either edge

const total = (t) => t.sent + t.received;
const gain = (f) => (total(f.wan_bytes) > 0 && total(f.lan_bytes) > 0 ? total(f.lan_bytes) / total(f.wan_bytes) : null);

// Connections that passed raw beside the gateway are samples: their numbers, from here on, say nothing and are in no log.
const samples = 2 ** 62;

// The columns: title, text, key to sort by, class.
const columns = [
  ["id", (f) => (f.id < samples ? String(f.id) : ""), (f) => f.id, "number more"],
  ["source", (f) => f.source, (f) => f.source, ""],
  ["destination", (f) => f.destination, (f) => f.destination, ""],
  ["peer", (f) => f.peer, (f) => f.peer, "more"],
  ["state", (f) => f.state.replace("_", " "), (f) => f.state, "more"],
  ["LAN", (f) => bytes(total(f.lan_bytes)), (f) => total(f.lan_bytes), "number"],
  ["WAN", (f) => bytes(total(f.wan_bytes)), (f) => total(f.wan_bytes), "number more"],
  ["gain", (f) => factor(gain(f)), (f) => gain(f) ?? -1, "number"],
  ["now", (f) => (f.rate > 0 ? bits(f.rate) : ""), (f) => f.rate, "number more"],
  ["age", (f) => duration(f.age_seconds), (f) => f.age_seconds, "number more"],
  ["why not accelerated", (f) => (f.reason ? f.reason.number + " " + f.reason.text : ""), (f) => (f.reason ? f.reason.number : 0), "more"],
];

export class Flows {
  #flows = []; // in the order shown
  #before = new Map(); // id to LAN bytes, of the answer before
  #asked = 0; // when that was, in milliseconds
  #sort = { column: 5, down: true };
  #pool = [];
  #list = byId("list");
  #rows = this.#list.querySelector(".rows");

  constructor() {
    const head = this.#list.querySelector(".head");
    columns.forEach(([title, , , className], i) => {
      const cell = element("div", "", className), button = element("button", title);
      cell.setAttribute("role", "columnheader");
      button.type = "button";
      button.addEventListener("click", () => this.#sortBy(i));
      cell.append(button);
      head.append(cell);
    });
    this.#mark();
    this.#list.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this.#list);
  }

  // show takes a document of /api/v1/flows.
  show(doc) {
    const now = performance.now(), elapsed = (now - this.#asked) / 1000;
    for (const f of doc.flows) {
      const before = this.#before.get(f.id);
      f.rate = before === undefined || elapsed > 10 ? 0 : Math.max(0, ((total(f.lan_bytes) - before) * 8) / elapsed);
    }
    this.#before = new Map(doc.flows.map((f) => [f.id, total(f.lan_bytes)]));
    this.#asked = now;
    this.#flows = doc.flows;
    setText(byId("count"), doc.total > doc.flows.length ? `${doc.flows.length.toLocaleString("en")} of ${doc.total.toLocaleString("en")}` : doc.total.toLocaleString("en"));
    this.#order();
    this.#draw();
  }

  #sortBy(column) {
    const same = this.#sort.column === column;
    this.#sort = { column, down: same ? !this.#sort.down : columns[column][3].includes("number") };
    this.#mark();
    this.#order();
    this.#list.scrollTop = 0;
    this.#draw();
  }

  #mark() {
    [...this.#list.querySelector(".head").children].forEach((cell, i) => {
      if (i === this.#sort.column) cell.setAttribute("aria-sort", this.#sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  #order() {
    const key = columns[this.#sort.column][2], sign = this.#sort.down ? -1 : 1;
    this.#flows = this.#flows.map((f) => [key(f), f])
      .sort(([a, f], [b, g]) => (a < b ? -sign : a > b ? sign : f.id - g.id)).map(([, f]) => f);
  }

  #draw() {
    this.#rows.style.height = this.#flows.length * rowHeight + "px";
    const first = Math.max(0, Math.floor(this.#list.scrollTop / rowHeight) - spare);
    const count = Math.min(this.#flows.length - first, Math.ceil(this.#list.clientHeight / rowHeight) + 2 * spare);
    while (this.#pool.length < count) this.#pool.push(this.#newRow());
    this.#pool.forEach((row, i) => {
      row.hidden = i >= count;
      row.style.display = i < count ? "" : "none";
      if (i >= count) return;
      const f = this.#flows[first + i];
      row.style.top = (first + i) * rowHeight + "px";
      columns.forEach(([, text], c) => {
        const cell = row.children[c], value = text(f);
        if (cell.textContent !== value) {
          cell.textContent = value;
          cell.title = value;
        }
      });
    });
  }

  #newRow() {
    const row = element("div", "", "row");
    row.setAttribute("role", "row");
    for (const [, , , className] of columns) {
      const cell = element("div", "", className);
      cell.setAttribute("role", "cell");
      row.append(cell);
    }
    this.#rows.append(row);
    return row;
  }
}
