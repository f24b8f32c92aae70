// The last hour, kept here as the gateway keeps it: fetched once, then only what is new.

const most = 720; // points, as the gateway keeps

export class History {
  time = [];
  peers = new Map(); // name to columns

  get last() {
    return this.time.at(-1) ?? 0;
  }

  clear() {
    this.time = [];
    this.peers.clear();
  }

  // add takes a document of /api/v1/history that begins where this one ends.
  add(doc) {
    const before = this.time.length, added = doc.time.length;
    const gap = (n) => new Array(n).fill(null);
    for (const [name, columns] of Object.entries(doc.peers)) {
      if (!this.peers.has(name)) this.peers.set(name, Object.fromEntries(Object.keys(columns).map((c) => [c, gap(before)])));
      const mine = this.peers.get(name);
      for (const [c, values] of Object.entries(columns)) mine[c].push(...values);
    }
    this.time.push(...doc.time);
    const surplus = Math.max(0, this.time.length - most);
    this.time.splice(0, surplus);
    for (const columns of this.peers.values()) {
      for (const values of Object.values(columns)) {
        values.push(...gap(before + added - values.length)); // a peer that was not there
        values.splice(0, surplus);
      }
    }
  }
}
