// The page that gsd-inspect --html writes. The same script runs in the page and in its worker.
//
// #canvas at the end of the address draws without WebGL2, #webgl with it even where no GPU does the work.

import { headline, plural, showBytes, showSections, showTables } from "./about.mjs";
import { Grid } from "./grid.mjs";
import { byClass, found } from "./layout.mjs";
import { Painter } from "./painter.mjs";
import { serve } from "./store.mjs";
import { Viewer } from "./viewer.mjs";

const get = (id) => document.getElementById(id);

/** A function (what, value) that asks the worker, or this thread where there can be none. */
async function connect() {
  const waiting = new Map();
  let number = 0;
  const answered = ({ data: { id, answer, error } }) => {
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(answer);
    else reject(new Error(error));
  };
  let send;
  try {
    // The page's security policy takes an address of a script from this policy only, and text for HTML from nobody.
    const policy = globalThis.trustedTypes?.createPolicy("worker", { createScriptURL: (url) => url });
    const url = URL.createObjectURL(new Blob([get("code").textContent]));
    const worker = new Worker(policy?.createScriptURL(url) ?? url);
    await new Promise((resolve, reject) => ([worker.onmessage, worker.onerror] = [resolve, reject]));
    worker.onmessage = answered;
    send = (message) => worker.postMessage(message);
  } catch {
    const scope = { postMessage: (data) => data.id && answered({ data }) };
    serve(scope);
    send = (message) => setTimeout(() => scope.onmessage({ data: message }));
  }
  return (what, value) =>
    new Promise((resolve, reject) => {
      waiting.set(++number, [resolve, reject]);
      send({ id: number, what, value });
    });
}

function failed(error) {
  get("error").hidden = false;
  get("error").textContent = `This file cannot be shown: ${error.message}`;
}

/** What the viewer says of an image, and, as far as it is known without its chunk, the grid. */
function facts(summary, image, leading = [], values = null) {
  const name = (k) => summary.names[k] ?? `class ${k}`;
  // Isolated, so that a name that is written from right to left leaves what stands beside it alone.
  const part = ([k, share]) => `\u2068${name(k)}\u2069 ${(100 * share).toFixed(0)} %`;
  const rows = [["image", image.toLocaleString("en")]];
  if (leading.length) rows.push(["label", leading.map(part).join(", ")]);
  else if (summary.classes[image] >= 0) rows.push(["class", name(summary.classes[image])]);
  if (values) rows.push(["Gaussians", (values.length / (5 + summary.channels)).toLocaleString("en")]);
  return rows;
}

async function start() {
  const ask = await connect();
  const opened = ask("open", get("file").textContent.trim());
  const first = ask("chunk", 0).catch(() => null); // decoded while the page is set up; what is wrong with it is said when it is shown
  const summary = await opened;
  get("file").remove();
  get("headline").textContent = headline(summary);
  showBytes(get("bar"), get("legend"), summary);
  showSections(get("sections"), summary);
  showTables(get("tables"), [["rendering", rendering(summary)], ...summary.tables]);

  const painter = new Painter(ask, summary, first, location.hash.slice(1), failed);
  const groups = byClass(summary.classes, summary.names);
  let grid;
  const viewer = new Viewer(painter, (...about) => facts(summary, ...about), (image, steps) => grid.next(image, steps));
  grid = new Grid(get("grid"), get("tools"), painter, (image) => viewer.open(image), (image) => facts(summary, image).flat().join(" "));
  let shown = groups;
  const show = () => {
    const side = Number(get("side").value);
    grid.show(shown, side);
    get("side-out").textContent = `${Math.max(...grid.cell)} px`;
    const left = grid.layout.left ? `; ${plural(grid.layout.left, "image")} further down than a page can scroll` : "";
    get("found").textContent = `${shown.length} of ${plural(groups.length, "class", "classes")}${left}`;
    get("none").hidden = shown.length > 0;
  };
  get("side").addEventListener("input", show);
  get("search").addEventListener("input", () => {
    shown = found(groups, get("search").value);
    show();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || get("viewer").open || event.target === get("search")) return;
    get("search").focus();
    event.preventDefault();
  });
  show();
  const tell = () => (get("backend").textContent = painter.gl ? "drawn with WebGL2" : "drawn without WebGL2");
  painter.gl?.canvas.addEventListener("webglcontextlost", tell);
  tell();
  globalThis.gsd = { painter, grid, viewer, summary }; // for tests, and for who is curious
}

function rendering({ antialias, background, layout, channels }) {
  return [["kernel", "gaussian-compact-10"], ["antialias", antialias], ["background", background.join(", ")], ["channels", `${channels}`], ["labels", layout]];
}

if (typeof document === "undefined") serve(globalThis);
else start().catch(failed);
