// Numbers as people read them.

const binary = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];
const decimal = [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]];

function scaled(n, units, base) {
  for (const [unit, size] of units) {
    if (Math.abs(n) >= size) {
      const v = n / size;
      return (Math.abs(v) >= 100 ? v.toFixed(0) : v.toFixed(1)) + " " + unit;
    }
  }
  return Math.round(n) + " " + base;
}

export const bytes = (n) => scaled(n, binary, "B");
export const bits = (n) => scaled(n, decimal, "bit/s");
export const percent = (part, digits = 1) => (part * 100).toFixed(digits) + " %";
export const milliseconds = (s) => (s * 1000).toFixed(s < 0.01 ? 1 : 0) + " ms";

// factor writes how many times; null stands for "nothing was sent".
export function factor(r) {
  if (r === null || r === undefined || !Number.isFinite(r)) return "–";
  return (r >= 100 ? Math.round(r).toLocaleString("en") : r.toFixed(r >= 10 ? 1 : 2)) + "×";
}

export function duration(s) {
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return (s / 3600).toFixed(1) + " h";
  return (s / 86400).toFixed(1) + " d";
}
