// What a file says of itself: its bytes as a bar, its tables. Texts of the file are put in as text, never as HTML.

const count = (number) => number.toLocaleString("en");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
const MEANING = {
  payload: "sections of Gaussians",
  labels: "sections of labels",
  index: "the section table",
  overhead: "preamble, header, optional sections",
};

function add(parent, name, text = "", className = "") {
  const element = parent.appendChild(document.createElement(name));
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

const share = (part, total) => `${((100 * part) / total).toFixed(2)} %`;

/** The line under the title. */
export function headline({ images, names, classCount, size, gaussians, total }) {
  const number = images.reduce((a, b) => a + b, 0);
  const classes = plural(classCount || names.length, "class", "classes");
  const each = number ? `, ${(gaussians / number).toFixed(1)} Gaussians and ${(total / number).toFixed(1)} bytes each` : "";
  return `${plural(number, "image")} of ${size.join("x")} pixels, ${classes}, ${count(total)} bytes${each}`;
}

/** Fills the bar and the legend under it. */
export function showBytes(bar, legend, { parts, total }) {
  for (const [name, size] of Object.entries(parts)) {
    add(bar, "span", "", name).style.flexGrow = size;
    const item = add(legend, "li", "", name);
    item.title = MEANING[name];
    add(item, "b", name);
    add(item, "span", `${count(size)} bytes`);
    add(item, "span", share(size, total), "share");
  }
  bar.setAttribute("aria-label", Object.entries(parts).map(([name, size]) => `${name} ${share(size, total)}`).join(", "));
}

/** Fills a table with a line per section of the file. */
export function showSections(body, { sections, total }) {
  const largest = Math.max(1, ...sections.map(({ stored }) => stored));
  for (const { name, part, stored, raw, codecs } of sections) {
    const row = add(body, "tr");
    add(add(row, "th"), "bdi", name);
    add(row, "td", count(stored));
    add(row, "td", share(stored, total));
    add(row, "td", count(raw));
    add(row, "td", codecs, "codec");
    add(add(row, "td", "", "measure"), "span", "", part).style.width = `${(100 * stored) / largest}%`;
  }
}

/** Fills a place with a table for each of [title, rows of a name and a text]. */
export function showTables(place, tables) {
  for (const [title, rows] of tables) {
    if (!rows.length) continue;
    const part = add(place, "section");
    add(part, "h2", title);
    const list = add(part, "dl");
    for (const [name, text] of rows) {
      add(list, "dt", name);
      add(list, "dd", text);
    }
  }
}
