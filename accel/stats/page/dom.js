// The few ways the page is written. Everything becomes text, never markup: host names and addresses come from the network.

export const byId = (id) => document.getElementById(id);

// element makes an element with text and a class.
export function element(name, text = "", className = "") {
  const e = document.createElement(name);
  if (text !== "") e.textContent = text;
  if (className !== "") e.className = className;
  return e;
}

// setText changes an element's text only when it differs, so that nothing is laid out again for nothing.
export function setText(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// fill replaces a table's rows. A cell is a text, or a text with a class.
export function fill(table, rows) {
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const [text, className] = Array.isArray(cell) ? cell : [cell, ""];
      tr.append(element("td", text, className));
    }
    return tr;
  }));
}

// options sets what a select offers after the options it has in the page, and keeps what is chosen.
export function options(select, fixed, values) {
  const wanted = values.map(([value, text]) => value + "\n" + text).join("\n");
  if (select.dataset.offered === wanted) return;
  select.dataset.offered = wanted;
  const chosen = select.value;
  while (select.options.length > fixed) select.remove(fixed);
  for (const [value, text] of values) select.add(new Option(text, value));
  select.value = chosen;
}
