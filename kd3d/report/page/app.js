// Controls, the picked student, the table. `drawChart` is in chart.js.
const ROWS = 100; // table rows shown at first

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const points = data.points.map((point, index) => ({ ...point, index }));
const labels = Object.fromEntries(data.axes.map((axis) => [axis.key, axis.label]));
const state = { x: data.x, y: data.y, log: false, withTeacher: data.teacher_in_view, picked: null, sort: null, down: false, all: false, states: new Set(data.states) };
let places = [];
let hovered = null;

function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function si(value, digits = 3) {
  const size = Math.abs(value);
  const [unit, by] = size >= 1e9 ? ["\u202fG", 1e9] : size >= 1e6 ? ["\u202fM", 1e6] : size >= 1e3 ? ["\u202fk", 1e3] : ["", 1];
  return `${Number((value / by).toPrecision(digits))}${unit}`;
}

const form = {
  label: (key) => labels[key],
  value(key, value) {
    if (value === null || value === undefined) return "\u2013";
    if (key === "score") return value.toFixed(4);
    if (key === "prior") return value.toFixed(3);
    if (key === "latency_ms") return `${value.toPrecision(3)}\u202fms`;
    return key === "steps" ? String(value) : si(value, 4);
  },
  tick(key, value) {
    if (key === "latency_ms" || key === "score" || key === "prior") return String(Number(value.toPrecision(6)));
    return si(value, 6);
  },
};

function share(key, value) {
  const whole = data.teacher && data.teacher[key];
  return whole && value !== null ? ` (${((100 * value) / whole).toFixed(1)}\u202f%)` : "";
}

function visible() {
  return points.filter((point) => state.states.has(point.state));
}

function draw() {
  const limits = data.limits.filter((limit) => limit.axis === state.x);
  places = drawChart(byId("chart"), { ...state, points: visible(), limits, teacher: data.teacher, chosen: data.chosen, form });
  places.forEach((place) => place.mark.setAttribute("aria-label", summary(place.point)));
  const first = places.find((place) => place.point.index === state.picked) || places[0];
  if (first) first.mark.setAttribute("tabindex", 0);
  byId("caption").textContent = caption();
}

function caption() {
  const shown = visible().length;
  const line = state.y === "score" ? "trained students that no other beats in both" : "students that no other beats in both";
  return `${shown} of ${points.length} students. The line is the front: ${line}. Hover or focus a point for its figures; click it, or press Enter, for its command.`;
}

function summary(point) {
  const parts = [point.name, stateWords(point), `${labels[state.x]}: ${form.value(state.x, point[state.x])}${share(state.x, point[state.x])}`];
  if (point.score !== null) parts.push(`mAP ${form.value("score", point.score)}`);
  if (point.prior !== null) parts.push(`prior ${form.value("prior", point.prior)}`);
  return parts.join("\n");
}

function stateWords(point) {
  return point.steps === null || point.score === null ? point.state : `${point.state}, ${point.steps} steps`;
}

function tip(place) {
  const box = byId("tip");
  hovered = place;
  box.hidden = !place;
  if (!place) return;
  box.textContent = summary(place.point);
  const frame = byId("frame").clientWidth;
  const left = Math.min(Math.max(4, place.cx + 14), Math.max(4, frame - box.offsetWidth - 4));
  const above = place.cy - box.offsetHeight - 12;
  box.style.left = `${left}px`;
  box.style.top = `${above > 0 ? above : place.cy + 14}px`;
}

function nearest(event) {
  const area = byId("chart").getBoundingClientRect();
  let best = null;
  let reach = PICK_PX;
  for (const place of places) {
    const away = Math.hypot(place.cx - (event.clientX - area.left), place.cy - (event.clientY - area.top));
    if (away <= reach) [best, reach] = [place, away];
  }
  return best;
}

function pick(index, { focus = false } = {}) {
  state.picked = index;
  draw();
  detail(points[index]);
  for (const row of byId("table").tBodies[0].rows) row.classList.toggle("picked", Number(row.dataset.index) === index);
  const place = places.find((item) => item.point.index === index);
  if (focus && place) place.mark.focus();
}

function figures(pairs) {
  const list = html("dl");
  for (const [name, value] of pairs) list.append(html("dt", {}, name), html("dd", {}, value));
  return list;
}

function detail(point) {
  const box = byId("detail");
  box.replaceChildren();
  if (!point) {
    box.append(html("h2", {}, "Pick a student"), html("p", {}, "Click a point or a name in the table: its figures and the command that trains it appear here."));
    return;
  }
  box.append(html("h2", {}, point.name), html("p", {}, stateWords(point) + (point.name === data.chosen ? ", chosen" : "")));
  const costs = data.axes.filter((axis) => point[axis.key] !== null && point[axis.key] !== undefined);
  box.append(figures(costs.map((axis) => [axis.label, form.value(axis.key, point[axis.key]) + (axis.cost ? share(axis.key, point[axis.key]) : "")])));
  if (data.teacher && costs.some((axis) => axis.cost)) box.append(html("p", {}, "Percentages are of the teacher."));
  if (point.choice.length) box.append(html("h3", {}, "Differs from the teacher by"), figures(point.choice));
  box.append(html("h3", {}, "Make this student"));
  if (point.command) box.append(...commandBox(point));
  else box.append(html("p", {}, "Its specification was not kept in the run folder, so there is no command."));
}

function commandBox(point) {
  const text = data.command + point.command;
  const button = html("button", { type: "button", id: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Select the text and copy it";
  });
  const parts = [html("pre", { id: "command" }, text), button];
  if (data.placeholders.length) parts.push(html("p", {}, `The run does not say what ${data.placeholders.join(" and ")} were: fill them in.`));
  return parts;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = html("textarea", { readonly: "" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function sorted() {
  const rows = visible();
  if (!state.sort) return rows;
  const sign = state.down ? -1 : 1;
  return rows.sort((a, b) => {
    const [left, right] = [a[state.sort], b[state.sort]];
    if (left === null || right === null) return (left === null) - (right === null); // those without a value come last
    return sign * (left < right ? -1 : left > right ? 1 : 0);
  });
}

function table() {
  const columns = [{ key: "name", label: "student" }, { key: "state", label: "state" }, ...data.axes];
  const head = byId("table").tHead.rows[0];
  if (!head.cells.length) for (const column of columns) head.append(heading(column));
  for (const cell of head.cells) {
    const active = cell.dataset.key === state.sort;
    if (active) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    cell.querySelector("span").textContent = active ? (state.down ? " \u25bc" : " \u25b2") : "";
  }
  const rows = sorted();
  byId("table").tBodies[0].replaceChildren(...(state.all ? rows : rows.slice(0, ROWS)).map((point) => line(point, columns)));
  byId("more").hidden = state.all || rows.length <= ROWS;
  byId("more").textContent = `Show all ${rows.length}`;
}

function heading(column) {
  const button = html("button", { type: "button" }, column.label, html("span", { "aria-hidden": "true" }));
  button.addEventListener("click", () => {
    state.down = state.sort === column.key ? !state.down : column.key === "score" || column.key === "prior";
    state.sort = column.key;
    table();
  });
  return html("th", { scope: "col", "data-key": column.key }, button);
}

function line(point, columns) {
  const row = html("tr", { "data-index": point.index, class: point.index === state.picked ? "picked" : "" });
  for (const { key } of columns) {
    if (key !== "name") row.append(html("td", {}, key === "state" ? point.state : form.value(key, point[key])));
    else {
      const button = html("button", { type: "button" }, point.name);
      button.addEventListener("click", () => {
        pick(point.index);
        byId("detail").scrollIntoView({ block: "nearest" });
      });
      row.append(html("td", {}, button, point.name === data.chosen ? " (chosen)" : ""));
    }
  }
  return row;
}

function keys(event) {
  const index = places.findIndex((place) => place.mark === document.activeElement);
  if (index < 0) return;
  const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -index, End: places.length - 1 - index };
  if (event.key in moves) {
    const next = places[Math.min(places.length - 1, Math.max(0, index + moves[event.key]))];
    places[index].mark.setAttribute("tabindex", -1);
    next.mark.setAttribute("tabindex", 0);
    next.mark.focus();
  } else if (event.key === "Enter" || event.key === " ") pick(places[index].point.index, { focus: true });
  else if (event.key === "Escape") tip(null);
  else return;
  event.preventDefault();
}

function options(select, axes, value, change) {
  select.append(...axes.map((axis) => html("option", { value: axis.key }, axis.label)));
  select.value = value;
  select.addEventListener("change", () => { change(select.value); tip(null); draw(); });
}

function swatch(name) {
  const picture = svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" });
  picture.append(svg("path", { class: name, d: shape(name, 7, 7, 5) }));
  return picture;
}

function controls() {
  options(byId("x-axis"), data.axes.filter((axis) => axis.cost), state.x, (value) => { state.x = value; });
  options(byId("y-axis"), data.axes.filter((axis) => axis.quality), state.y, (value) => { state.y = value; });
  byId("teacher-toggle").hidden = !data.teacher;
  for (const [id, key] of [["log-scale", "log"], ["with-teacher", "withTeacher"]]) {
    byId(id).checked = state[key];
    byId(id).addEventListener("change", (event) => { state[key] = event.target.checked; draw(); });
  }
  for (const name of data.states) {
    const box = html("input", { type: "checkbox", value: name, checked: "" });
    box.addEventListener("change", () => { state.states[box.checked ? "add" : "delete"](name); tip(null); draw(); table(); });
    byId("states").append(html("label", {}, box, swatch(name), `${name} (${points.filter((point) => point.state === name).length})`));
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => { state.all = true; table(); });
}

function pointer() {
  const chart = byId("chart");
  chart.addEventListener("pointermove", (event) => { const found = nearest(event); if (found !== hovered) tip(found); });
  chart.addEventListener("pointerleave", () => tip(null));
  chart.addEventListener("click", (event) => { const found = nearest(event); if (found) pick(found.point.index, { focus: true }); });
  chart.addEventListener("keydown", keys);
  chart.addEventListener("focusin", () => tip(places.find((place) => place.mark === document.activeElement) || null));
  chart.addEventListener("focusout", () => tip(null));
  new ResizeObserver(() => { tip(null); draw(); }).observe(byId("frame"));
}

controls();
pointer();
draw();
table();
detail(null);
const start = points.find((point) => point.name === data.chosen);
if (start) pick(start.index);
