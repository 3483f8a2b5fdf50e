// The scatter. Everything that comes from the file reaches the page as text, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const BAND = 26; // height of the strip under the plot for students without a value on the vertical axis
const PICK_PX = 24; // how far from a point a finger still means it

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function shape(state, x, y, r) {
  const paths = {
    trained: `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
    pruned: `M${x},${y - r - 1}L${x + r + 1},${y}L${x},${y + r + 1}L${x - r - 1},${y}z`,
    running: `M${x},${y - r - 1}L${x + r + 1},${y + r}L${x - r - 1},${y + r}z`,
    failed: `M${x - r},${y - r}L${x + r},${y + r}M${x - r},${y + r}L${x + r},${y - r}`,
    teacher: star(x, y, r + 4),
  };
  return paths[state] || paths.trained;
}

function star(x, y, r) {
  const corners = [];
  for (let i = 0; i < 10; i += 1) {
    const reach = i % 2 ? r * 0.45 : r;
    const angle = (Math.PI * i) / 5;
    corners.push(`${(x + reach * Math.sin(angle)).toFixed(2)},${(y - reach * Math.cos(angle)).toFixed(2)}`);
  }
  return `M${corners.join("L")}z`;
}

function stepOf(span, wanted) {
  const rough = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= rough) || rough;
}

function linearTicks(low, high, wanted) {
  const step = stepOf(high - low, wanted);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, wanted) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of [1, 2, 3, 5, 7]) {
      const value = Number((step * 10 ** power).toPrecision(12));
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push(value);
    }
  }
  if (ticks.length < 2) return linearTicks(low, high, wanted);
  return ticks.length > wanted + 2 ? ticks.filter((value) => /^[125]/.test(value.toExponential())) : ticks;
}

function scale(values, size, { log, pad = 0.06, zero = false }) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const flat = high - low <= Math.abs(high) * 1e-9;
  if (flat) [low, high] = log ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
  const to = log ? Math.log10 : (value) => value;
  const margin = (to(high) - to(low)) * pad;
  let [from, until] = [to(low) - margin, to(high) + margin];
  if (zero && !log && low >= 0) from = Math.max(0, from);
  const back = (value) => (log ? 10 ** value : value);
  const place = (value) => ((to(value) - from) / (until - from)) * size;
  return { place, low: back(from), high: back(until) };
}

// As kd3d.report.search_record.front, so that page and picture agree.
function frontOf(points, x, y) {
  let held = points.filter((point) => point[x] !== null && point[y] !== null);
  if (y === "score" && held.some((point) => point.state === "trained")) held = held.filter((point) => point.state === "trained");
  held.sort((a, b) => a[x] - b[x] || b[y] - a[y] || (a.name < b.name ? -1 : 1));
  const best = [];
  for (const point of held) if (!best.length || point[y] > best[best.length - 1][y]) best.push(point);
  return best;
}

// What a budget buys stays the same until the next student on the front fits: steps, not slopes.
function staircase(corners) {
  return corners.map(([x, y], i) => (i ? `H${x}V${y}` : `M${x},${y}`)).join("");
}

function drawChart(root, view) {
  const { x, y, log, points, limits, teacher, form } = view;
  const width = root.clientWidth;
  const height = root.clientHeight;
  root.replaceChildren();
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const lost = points.filter((point) => point[y] === null && point[x] !== null);
  const shown = points.filter((point) => point[y] !== null && point[x] !== null);
  const box = { left: 58, right: width - 16, top: 26, bottom: height - 48 - (lost.length ? BAND : 0) };
  const inView = teacher && view.withTeacher && teacher[x] !== null;
  const level = teacher && teacher[y] !== undefined ? teacher[y] : null;
  const xs = [...shown, ...lost].map((point) => point[x]).concat(limits.map((limit) => limit.value), inView ? [teacher[x]] : []);
  const ys = shown.map((point) => point[y]).concat(level === null ? [] : [level]);
  if (!shown.length && !lost.length) {
    root.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No student has these values. Change an axis or the filter."));
    return [];
  }
  const useLog = log && Math.min(...xs) > 0;
  const across = scale(xs, box.right - box.left, { log: useLog });
  const up = scale(ys.length ? ys : [0, 1], box.bottom - box.top, { log: false, pad: 0.08, zero: y === "score" });
  const px = (value) => box.left + across.place(value);
  const py = (value) => box.bottom - up.place(value);
  drawAxes(root, { box, across, up, px, py, useLog, x, y, form, width, height });
  limits.forEach((limit, index) => drawLimit(root, limit, { box, px, index }));
  const picture = { box, px, py };
  const chosen = shown.find((point) => point.name === view.chosen);
  const below = chosen && level !== null && py(level) - py(chosen[y]) > -12 && py(level) - py(chosen[y]) < 32;
  drawTeacher(root, { teacher, level, inView, below, x, form, ...picture });
  const best = frontOf(shown, x, y);
  if (best.length > 1) root.append(svg("path", { class: "front", d: staircase(best.map((point) => [px(point[x]), py(point[y])])) }));
  const small = shown.length > 150 ? 3.6 : 5.5;
  const order = { untrained: 0, failed: 1, pruned: 2, running: 3, trained: 4 };
  const places = [...shown, ...lost].map((point) => ({ point, cx: px(point[x]), cy: point[y] === null ? box.bottom + BAND / 2 : py(point[y]) }));
  if (lost.length) drawBand(root, box, lost.length, y);
  places.sort((a, b) => order[a.point.state] - order[b.point.state]);
  for (const place of places) {
    const radius = place.point.state === "trained" ? Math.max(small, 5) : small;
    place.mark = svg("path", { class: `mark ${place.point.state}`, d: shape(place.point.state, place.cx, place.cy, radius), tabindex: -1, role: "button", "data-index": place.point.index });
    root.append(place.mark);
  }
  drawChosen(root, places, view.chosen, box);
  const picked = places.find((place) => place.point.index === view.picked);
  if (picked) root.append(svg("circle", { class: "ring", cx: picked.cx, cy: picked.cy, r: 13 }));
  places.sort((a, b) => a.cx - b.cx || a.cy - b.cy);
  return places;
}

function drawAxes(root, { box, across, up, px, py, useLog, x, y, form, width, height }) {
  const base = height - 40;
  const xTicks = (useLog ? logTicks : linearTicks)(across.low, across.high, Math.max(2, Math.floor(width / 110)));
  for (const tick of xTicks) {
    root.append(svg("line", { class: "grid", x1: px(tick), x2: px(tick), y1: box.top, y2: box.bottom }));
    root.append(svg("text", { x: px(tick), y: base + 8, "text-anchor": "middle" }, form.tick(x, tick)));
  }
  for (const tick of linearTicks(up.low, up.high, 6)) {
    root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: py(tick), y2: py(tick) }));
    root.append(svg("text", { x: box.left - 8, y: py(tick) + 4, "text-anchor": "end" }, form.tick(y, tick)));
  }
  root.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  root.append(svg("text", { class: "strong", x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, form.label(x)));
  root.append(svg("text", { class: "strong", x: 8, y: 15 }, form.label(y)));
}

function drawLimit(root, limit, { box, px, index }) {
  const at = px(limit.value);
  const end = at > (box.left + box.right) / 2;
  root.append(svg("line", { class: "budget", x1: at, x2: at, y1: box.top, y2: box.bottom }));
  const text = { class: "budget-text halo", x: at + (end ? -6 : 6), y: box.bottom - 10 - 17 * index, "text-anchor": end ? "end" : "start" };
  root.append(svg("text", text, `budget ${limit.text}`));
}

function drawTeacher(root, { teacher, level, inView, below, box, px, py, x, form }) {
  if (!teacher) return;
  const cost = teacher[x] === null ? "" : form.value(x, teacher[x]);
  if (level !== null) {
    root.append(svg("line", { class: "level", x1: box.left, x2: box.right, y1: py(level), y2: py(level) }));
    const words = `teacher ${form.value("score", level)}${inView || !cost ? "" : `, at ${cost} \u2192`}`;
    root.append(svg("text", { class: "teacher-text halo", x: box.left + 6, y: py(level) + (below ? 16 : -7) }, words));
    if (inView) root.append(svg("path", { class: "teacher", d: shape("teacher", px(teacher[x]), py(level), 6) }));
  } else if (inView) {
    const at = px(teacher[x]);
    root.append(svg("line", { class: "level", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    root.append(svg("text", { class: "teacher-text halo", x: at - 6, y: box.top + 14, "text-anchor": "end" }, "teacher"));
  }
}

function drawBand(root, box, count, y) {
  const words = y === "score" ? `not trained (${count})` : `without this value (${count})`;
  root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: box.bottom + BAND, y2: box.bottom + BAND }));
  root.append(svg("text", { class: "halo", x: box.left, y: box.bottom - 6 }, words));
}

function drawChosen(root, places, name, box) {
  const place = places.find((item) => item.point.name === name);
  if (!place) return;
  root.append(svg("circle", { class: "chosen-ring", cx: place.cx, cy: place.cy, r: 9 }));
  const end = place.cx > (box.left + box.right) / 2;
  const text = { class: "strong halo", x: place.cx + (end ? -18 : 18), y: place.cy + 4, "text-anchor": end ? "end" : "start" };
  root.append(svg("text", text, "chosen"));
}
