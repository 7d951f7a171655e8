// Draws learning curves from the points that runs logged; without it the page shows the static figure.
function curveNumber(value) {
  if (value === null) return "–";
  const size = Math.abs(value), tidy = (x) => String(Number(x.toPrecision(3)));
  if (size >= 1e12 || (size > 0 && size < 1e-3)) {
    const [digits, power] = value.toExponential(2).split("e");
    const raised = String(Number(power)).replace(/[-\d]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
    return `${Number(digits)}×10${raised}`.replace(/^-/, "−");
  }
  const [unit, name] = [[1e9, " B"], [1e6, " M"], [1e3, " k"]].find(([least]) => size >= least) ?? [1, ""];
  return (tidy(value / unit) + name).replace("-", "−");
}
function curvePlace(value) {
  return Number.isInteger(value) && value < 1e7 ? value.toLocaleString("en") : curveNumber(value);
}
function curveValue(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return curveNumber(value);
  return value.toFixed(size >= 1000 ? 1 : 4).replace("-", "−");
}
function linearTicks(low, high, most) {
  const rough = (high - low) / most, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((size) => size >= rough * (1 - 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}
function logTicks(low, high, most) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const k of [1, 2, 5]) found.push(Number(`${k}e${power}`));
  const inside = found.filter((x) => x >= low * (1 - 1e-9) && x <= high * (1 + 1e-9));
  if (inside.length < 3) return linearTicks(low, high, most);
  const tens = inside.filter((x) => String(x.toExponential())[0] === "1");
  const chosen = inside.length > most && tens.length > 1 ? tens : inside;
  return chosen.filter((_, i) => i % Math.ceil(chosen.length / most) === 0);
}
/** Mean, lowest and highest of an arm's finished runs at its common places; without these each run is a line. */
function curveLines(arm, axis, series) {
  const runs = arm.runs.filter((run) => run.x[axis] !== null);
  const own = (run) => run.x[axis] === null ? [] : series[run.x[axis]].map((x, i) => ({x, y: series[run.y][i]}));
  const done = runs.filter((run) => !run.diverged);
  const lost = runs.filter((run) => run.diverged).map(own);
  const common = series[arm.common];
  if (done.length > 0 && common.length > 1) {
    const tables = done.map((run) => new Map(series[run.x.tokens].map((t, i) => [t, [series[run.x[axis]][i], series[run.y][i]]])));
    const points = [];
    for (const place of common) {
      const pairs = tables.map((table) => table.get(place)).filter(Boolean);
      if (pairs.length < tables.length) continue;
      const mean = (j) => pairs.reduce((sum, pair) => sum + pair[j], 0) / pairs.length;
      const values = pairs.map((pair) => pair[1]);
      points.push({x: mean(0), y: mean(1), low: Math.min(...values), high: Math.max(...values)});
    }
    points.sort((a, b) => a.x - b.x);
    return {lines: [{name: arm.name, n: done.length, points}], thin: done.length > 1 ? done.map(own) : [], lost};
  }
  return {lines: done.map((run) => ({name: `${arm.name} (${run.pair})`, n: 1, points: own(run)})), thin: [], lost};
}
function nearestPoint(points, x, place) {
  return points.reduce((best, point) => Math.abs(place(point.x) - place(x)) < Math.abs(place(best.x) - place(x)) ? point : best);
}
function curveChart(box, data) {
  const make = (name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const button = (text, pressed, press) => {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = text;
    node.setAttribute("aria-pressed", pressed);
    node.addEventListener("click", press);
    return node;
  };
  const group = (label, buttons) => {
    const node = document.createElement("div");
    node.className = "buttons";
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", label);
    node.append(...buttons);
    return node;
  };
  const on = data.arms.map((arm) => arm.on);
  const state = {axis: "tokens" in data.axes ? "tokens" : Object.keys(data.axes)[0], logx: false, logy: false, end: false, runs: false, at: null};
  const plot = box.querySelector(".plot"), readout = box.querySelector(".readout"), drawing = make("svg", {"aria-hidden": "true"});
  plot.prepend(drawing);
  let view = null;

  function gather() {
    const everything = data.arms.map((arm, i) => ({i, arm, ...curveLines(arm, state.axis, data.series)}));
    const positive = (point) => (!state.logx || point.x > 0) && (!state.logy || (point.low ?? point.y) > 0);
    const most = Math.max(...everything.flatMap((one) => one.lines.flatMap((line) => line.points.map((point) => point.x))));
    const before = everything.flatMap((one) => one.lines.map((line) => line.points.at(-2)?.x ?? most));
    const start = state.end ? Math.min(data.zoom * most, Math.max(...before)) : -Infinity;
    const kept = (points) => points.filter((point) => positive(point) && point.x >= start);
    return everything.filter((one) => on[one.i]).map((one) => ({
      ...one, lines: one.lines.map((line) => ({...line, points: kept(line.points)})).filter((line) => line.points.length > 0),
      thin: state.runs ? one.thin.map(kept) : [], lost: one.lost.map(kept),
    }));
  }
  function span(values, log) {
    let low = Math.min(...values), high = Math.max(...values);
    if (values.length === 0) return [log ? 0.1 : 0, 1];
    if (low === high) return log ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
    const room = log ? (high / low) ** 0.04 : (high - low) * 0.04;
    return log ? [low / room, high * room] : [low - room, high + room];
  }
  function scale([low, high], log, from, to) {
    const f = log ? Math.log10 : (x) => x;
    return (x) => from + (f(x) - f(low)) / (f(high) - f(low)) * (to - from);
  }
  function draw() {
    const shown = gather();
    const width = Math.max(280, plot.clientWidth), height = Math.round(Math.min(480, Math.max(260, width * 0.42)));
    const edge = {left: 62, right: 14, top: 10, bottom: 42};
    const points = shown.flatMap((one) => one.lines.flatMap((line) => line.points));
    const xs = points.map((point) => point.x), ys = points.flatMap((point) => [point.low ?? point.y, point.high ?? point.y]);
    let reach = span(xs, state.logx);
    if (!state.logx && !state.end && xs.length > 0 && Math.min(...xs) >= 0) reach = [0, Math.max(...xs) * 1.015 || 1];
    const [xReach, yReach] = [reach, span(ys, state.logy)];
    const x = scale(xReach, state.logx, edge.left, width - edge.right), y = scale(yReach, state.logy, height - edge.bottom, edge.top);
    drawing.replaceChildren();
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("height", height);
    const clip = make("clipPath", {id: "chart-clip"});
    clip.append(make("rect", {x: edge.left, y: edge.top, width: width - edge.left - edge.right, height: height - edge.top - edge.bottom}));
    drawing.append(clip);
    const ticks = (range, log, most) => (log ? logTicks : linearTicks)(...range, most);
    for (const at of ticks(xReach, state.logx, Math.max(3, Math.floor(width / 110)))) {
      drawing.append(make("line", {class: "grid", x1: x(at), x2: x(at), y1: edge.top, y2: height - edge.bottom}));
      drawing.append(make("text", {class: "tick x", x: x(at), y: height - edge.bottom + 16, "text-anchor": "middle"}, curveNumber(at)));
    }
    for (const at of ticks(yReach, state.logy, 6)) {
      drawing.append(make("line", {class: "grid", x1: edge.left, x2: width - edge.right, y1: y(at), y2: y(at)}));
      drawing.append(make("text", {class: "tick y", x: edge.left - 6, y: y(at) + 4, "text-anchor": "end"}, curveNumber(at)));
    }
    const middle = (height - edge.bottom + edge.top) / 2;
    drawing.append(make("text", {class: "axis x", x: (edge.left + width - edge.right) / 2, y: height - 6, "text-anchor": "middle"}, data.axes[state.axis] + (state.logx ? " (log)" : "")));
    drawing.append(make("text", {class: "axis y", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`}, data.metric + (state.logy ? " (log)" : "")));
    const inside = make("g", {"clip-path": "url(#chart-clip)"});
    const path = (list) => list.map((point, i) => `${i ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`).join("");
    for (const {arm, i, lines, thin, lost} of shown) {
      const colour = `var(${arm.colour})`;
      for (const list of lost) inside.append(make("path", {class: "lost", d: path(list)}));
      for (const line of lines) {
        const band = line.points.filter((point) => point.low !== undefined);
        if (line.n > 1 && band.length > 1) {
          const edges = [...band.map((p) => ({x: p.x, y: p.high})), ...band.slice().reverse().map((p) => ({x: p.x, y: p.low}))];
          inside.append(make("path", {class: "band", "data-arm": i, d: `${path(edges)}Z`, style: `fill: ${colour}`}));
        }
      }
      for (const list of thin) inside.append(make("path", {class: "thin", "data-arm": i, d: path(list), style: `stroke: ${colour}`}));
      for (const line of lines) {
        const dash = arm.dash.map((part) => part * arm.width).join(" ");
        inside.append(make("path", {class: "mean", "data-arm": i, d: path(line.points), style: `stroke: ${colour}`, "stroke-width": arm.width * 1.4, "stroke-dasharray": dash}));
        const last = line.points.at(-1);
        inside.append(make("circle", {cx: x(last.x), cy: y(last.y), r: 3, style: `fill: ${colour}`}));
      }
    }
    const cross = make("g", {class: "cross"});
    drawing.append(inside, cross);
    const places = [...new Set(xs)].sort((a, b) => a - b);
    view = {shown, x, y, places, cross, width, height, edge};
    plot.setAttribute("aria-valuemax", Math.max(places.length - 1, 0));
    point(state.at === null || places.length === 0 ? null : nearestPoint(places.map((p) => ({x: p})), state.at, x).x);
  }
  /** Shows the values at one of the places, or none. */
  function point(at) {
    const {shown, x, y, places, cross, width, height, edge} = view;
    state.at = at;
    cross.replaceChildren();
    readout.hidden = at === null;
    if (at === null) return;
    const rows = shown.flatMap(({arm, lines}) => lines.map((line) => ({arm, line, point: nearestPoint(line.points, at, x)})));
    const sign = data.goal === "maximize" ? -1 : 1;
    rows.sort((a, b) => sign * (a.point.y - b.point.y));
    cross.append(make("line", {x1: x(at), x2: x(at), y1: edge.top, y2: height - edge.bottom}));
    const head = document.createElement("p"), list = document.createElement("ul");
    head.textContent = `${curvePlace(at)} ${data.axes[state.axis]}`;
    for (const {arm, line, point: found} of rows) {
      const item = document.createElement("li"), name = document.createElement("span"), value = document.createElement("b"), more = document.createElement("small");
      item.style.borderColor = `var(${arm.colour})`;
      name.textContent = line.name;
      value.textContent = curveValue(found.y);
      if (line.n > 1) more.textContent = `${curveValue(found.low)} to ${curveValue(found.high)}`;
      if (Math.abs(x(found.x) - x(at)) > 3) more.textContent += ` at ${curvePlace(found.x)}`;
      item.append(name, value, more);
      list.append(item);
      cross.append(make("circle", {cx: x(found.x), cy: y(found.y), r: 4, style: `fill: var(${arm.colour})`}));
    }
    readout.replaceChildren(head, list);
    readout.classList.toggle("many", rows.length > 12);
    const room = plot.clientWidth / width, left = x(at) * room;
    const beside = left > plot.clientWidth / 2 ? left - readout.offsetWidth - 12 : left + 12;
    readout.style.left = `${Math.max(0, Math.min(beside, plot.clientWidth - readout.offsetWidth))}px`;
    plot.setAttribute("aria-valuenow", places.indexOf(at));
    plot.setAttribute("aria-valuetext", `${head.textContent}: ${rows.map(({line, point: found}) => `${line.name} ${curveValue(found.y)}`).join(", ")}`);
  }
  function follow(event) {
    if (view.places.length === 0) return;
    const frame = drawing.getBoundingClientRect(), px = (event.clientX - frame.left) * view.width / frame.width;
    point(view.places.reduce((best, place) => Math.abs(view.x(place) - px) < Math.abs(view.x(best) - px) ? place : best));
  }
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") point(null); });
  plot.addEventListener("keydown", (event) => {
    const last = view.places.length - 1, now = state.at === null ? -1 : view.places.indexOf(state.at);
    const steps = {ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now < 0 ? last : now - 1, ArrowDown: now < 0 ? last : now - 1, PageUp: now + 10, PageDown: now - 10, Home: 0, End: last};
    if (event.key === "Escape") point(null);
    else if (last >= 0 && event.key in steps) point(view.places[Math.min(Math.max(steps[event.key], 0), last)]);
    else return;
    event.preventDefault();
  });

  const axes = Object.entries(data.axes).map(([key, name]) => button(name, key === state.axis, (event) => {
    Object.assign(state, {axis: key, at: null});
    for (const other of axes) other.setAttribute("aria-pressed", other === event.currentTarget);
    draw();
  }));
  const toggles = [["log x", "logx"], ["log y", "logy"], ["end of training", "end"], ["single runs", "runs"]].map(([text, key]) =>
    button(text, false, (event) => {
      state[key] = !state[key];
      event.currentTarget.setAttribute("aria-pressed", state[key]);
      draw();
    }));
  const legend = data.arms.map((arm, i) => {
    const node = button(arm.name, on[i], () => {
      on[i] = !on[i];
      node.setAttribute("aria-pressed", on[i]);
      draw();
    });
    const swatch = make("svg", {width: 26, height: 10, "aria-hidden": "true"});
    swatch.append(make("line", {x1: 0, x2: 26, y1: 5, y2: 5, style: `stroke: var(${arm.colour})`, "stroke-width": arm.width * 1.6, "stroke-dasharray": arm.dash.map((part) => part * arm.width).join(" ")}));
    node.prepend(swatch);
    return node;
  });
  const all = button("all", false, () => {
    const to = on.some((is) => !is);
    on.fill(to);
    for (const node of legend) node.setAttribute("aria-pressed", to);
    draw();
  });
  all.removeAttribute("aria-pressed");
  all.title = "all arms on, or all off";
  const arms = group("arms", data.arms.length > 1 ? [all, ...legend] : legend);
  arms.classList.add("legend");
  box.prepend(group("x axis", axes), group("view", toggles), arms);
  box.hidden = false;
  for (const still of box.closest("figure").querySelectorAll(".still")) still.hidden = true;
  draw();
  new ResizeObserver(() => { if (Math.max(280, plot.clientWidth) !== view.width) draw(); }).observe(plot);
}
for (const box of document.querySelectorAll(".chart")) curveChart(box, JSON.parse(document.getElementById("curves-data").textContent));
