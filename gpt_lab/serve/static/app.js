"use strict";

const at = (id) => document.getElementById(id);
const SCORE_EVERY = 48; // new tokens after which the other model is asked again while a text grows
const NONE = "(none)";
let models = [];
let stopping = null;

const panes = [...document.querySelectorAll(".pane")].map((element, side) => ({
  side,
  select: element.querySelector(".model"),
  speed: element.querySelector(".speed"),
  text: element.querySelector(".text"),
  turns: [],
  here: -1,
}));

// ---------------------------------------------------------------- asking

function headers() {
  const key = at("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function call(path, body, signal) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await fetch(path, { ...options, headers: headers(), signal });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = said && said.error ? said.error.message : `the server answered ${answer.status}`;
  throw Object.assign(new Error(message), { status: answer.status });
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n").trim();
      if (data === "[DONE]") return;
      if (!data) continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message || "the server failed");
      yield event;
    }
  }
}

async function loadModels() {
  try {
    models = (await (await call("v1/models")).json()).data;
  } catch (error) {
    at("key-field").hidden = error.status !== 401;
    say(error.message, true);
    return;
  }
  say("");
  panes.forEach((pane) => {
    const names = models.map((model) => model.id).concat(pane.side ? [NONE] : []);
    pane.select.replaceChildren(...names.map((name) => new Option(name, name)));
    pane.select.selectedIndex = Math.min(pane.side, names.length - 1);
  });
  at("prompt").value ||= models[0].lab.text || "";
  offerChat();
}

const known = (pane) => models.find((model) => model.id === pane.select.value);
// Whether the same token is the same text to both models.
const alike = () => {
  const [one, other] = panes.map((pane) => known(pane) && known(pane).lab.vocabulary);
  return Boolean(one) && one === other;
};
const chosen = () => panes.filter((pane) => known(pane));

function offerChat() {
  const able = chosen().length > 0 && chosen().every((pane) => known(pane).lab.chat);
  const option = at("mode").options[1];
  option.disabled = !able;
  option.textContent = able ? "chat" : "chat (no template)";
  if (!able) at("mode").value = "completion";
}

// ---------------------------------------------------------------- one generation

async function generate() {
  const using = chosen();
  if (!using.length || stopping) return;
  const chat = at("mode").value === "chat";
  const settings = {
    max_tokens: Number(at("max_tokens").value),
    temperature: Number(at("temperature").value),
    top_p: Number(at("top_p").value),
    seed: Number(at("seed").value),
  };
  const prompt = at("prompt").value;
  const asking = (stopping = new AbortController());
  busy(true);
  panes.forEach((pane) => {
    if (!chat || !using.includes(pane)) pane.turns = [];
    pane.speed.textContent = "";
    pane.here = -1;
  });
  for (const pane of using) {
    pane.turn = {
      given: prompt, chat, settings, model: pane.select.value, tokens: [], ids: [], promptIds: null,
      ended: false, failed: "", began: performance.now(), scored: 0, asking: null,
    };
    pane.turns.push(pane.turn);
  }
  draw();
  try {
    await Promise.all(using.map((pane) => read(pane, pane.turn, asking.signal)));
    say(summary());
  } catch (error) {
    say(error.message, true);
  } finally {
    stopping = null;
    busy(false);
  }
  showAttention();
  if (chat && using.some((pane) => pane.turn)) at("prompt").value = "";
}

async function read(pane, turn, signal) {
  const local = known(pane).lab.kind === "local";
  const body = { model: turn.model, stream: true, ...turn.settings };
  if (turn.chat) {
    body.logprobs = true;
    body.messages = pane.turns.flatMap((one) => [
      { role: "user", content: one.given },
      ...(one === turn ? [] : [{ role: "assistant", content: textOf(one) }]),
    ]);
  } else {
    body.prompt = turn.given;
    body.logprobs = 0;
  }
  if (local) body.return_token_ids = true;
  try {
    const answer = await call(turn.chat ? "v1/chat/completions" : "v1/completions", body, signal);
    for await (const event of events(answer)) {
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.prompt_token_ids) turn.promptIds = choice.prompt_token_ids;
      const text = turn.chat ? choice.delta.content || "" : choice.text;
      take(turn, text, choice);
      turn.seconds = (performance.now() - turn.began) / 1000;
      if (turn.tokens.length && turn === pane.turn) pane.speed.textContent = `${turn.tokens.length} tokens, ${rate(turn)} tokens/s`;
      draw();
      if (turn.ids.length - turn.scored >= SCORE_EVERY) score(pane, turn);
    }
  } catch (error) {
    if (error.name !== "AbortError") turn.failed = error.message;
  }
  turn.ended = true;
  draw();
  await score(pane, turn, true);
}

const rate = (turn) => (turn.tokens.length / Math.max(turn.seconds, 1e-3)).toFixed(0);

// A piece of text and its tokens: offsets count code points, and a token inside a character has no text of its own.
function take(turn, text, choice) {
  const letters = [...text];
  const entries = turn.chat
    ? (choice.logprobs && choice.logprobs.content || []).map((one) => ({ p: Math.exp(one.logprob), size: null, text: one.token }))
    : (choice.logprobs && choice.logprobs.tokens || []).map((one, i) => ({ p: Math.exp(choice.logprobs.token_logprobs[i]) }));
  if (!entries.length) {
    const last = turn.tokens.at(-1);
    if (last && last.id !== undefined) last.text += text; // what is left of a character that its tokens did not end
    else if (text) turn.tokens.push({ text, p: null, other: null });
    return;
  }
  let starts = null;
  if (!turn.chat && choice.logprobs.text_offset) {
    const first = choice.logprobs.text_offset[0];
    starts = choice.logprobs.text_offset.map((offset) => offset - first);
  }
  const joined = entries.map((one) => one.text || "").join("");
  const said = turn.chat && !turn.tokens.length ? joined.trimStart() : joined; // an answer begins with its first word
  let spaces = joined.length - said.length;
  entries.forEach((entry, i) => {
    let own;
    const cut = Math.min(spaces, (entry.text || "").length);
    spaces -= cut;
    if (starts) own = letters.slice(starts[i], i + 1 < starts.length ? starts[i + 1] : letters.length).join("");
    else if (said === text) own = entry.text.slice(cut);
    else own = i + 1 === entries.length ? text : ""; // pieces of characters: the last token shows the whole piece
    turn.tokens.push({ id: choice.token_ids && choice.token_ids[i], text: own, p: entry.p, other: null });
  });
  if (choice.token_ids) turn.ids.push(...choice.token_ids);
}

// The other model's probability of the same tokens after the same text.
async function score(pane, turn, last = false) {
  if (turn.asking) {
    await turn.asking;
    if (!last) return;
  }
  if (turn !== pane.turn) return; // it was reset meanwhile
  const other = panes[1 - pane.side];
  const theirs = known(other);
  if (!theirs || !alike() || !turn.promptIds || turn.ids.length === turn.scored) return;
  turn.asking = (async () => {
    const ids = [...turn.promptIds, ...turn.ids];
    const count = turn.ids.length;
    try {
      const body = { model: theirs.id, prompt: ids, echo: true, logprobs: 0, max_tokens: 0 };
      const found = (await (await call("v1/completions", body)).json()).choices[0].logprobs.token_logprobs;
      for (let i = turn.scored; i < count; i++) turn.tokens[i].other = Math.exp(found[turn.promptIds.length + i]);
      turn.scored = count;
    } catch (error) {
      turn.unscored = error.message;
    }
    turn.asking = null;
    draw();
  })();
  await turn.asking;
}

// ---------------------------------------------------------------- showing

const textOf = (turn) => turn.tokens.map((token) => token.text).join("");
const same = (one, other) => (alike() && one.id !== undefined && other.id !== undefined ? one.id === other.id : one.text === other.text);

// Both panes show the same number of tokens, until one of the texts ends.
function visible(turn, other) {
  return !other || other.ended ? turn.tokens.length : Math.min(turn.tokens.length, other.tokens.length);
}

function partsAt(turn, other) {
  if (!other) return -1;
  const most = Math.min(turn.tokens.length, other.tokens.length);
  for (let i = 0; i < most; i++) if (!same(turn.tokens[i], other.tokens[i])) return i;
  return turn.ended && other.ended && turn.tokens.length !== other.tokens.length ? most : -1;
}

function shade(token) {
  if (token.p === null || token.other === null) return "";
  const difference = token.p - token.other, size = Math.abs(difference);
  const step = size < 0.02 ? 0 : size < 0.1 ? 1 : size < 0.3 ? 2 : 3;
  return step ? ` ${difference > 0 ? "p" : "m"}${step}` : "";
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    panes.forEach(drawPane);
  });
}

function drawPane(pane) {
  const other = panes[1 - pane.side];
  const follow = pane.text.scrollHeight - pane.text.scrollTop - pane.text.clientHeight < 40;
  const parts = [];
  pane.turns.forEach((turn, number) => {
    const beside = other.turns[number];
    parts.push(span("given", turn.chat ? `You: ${turn.given}\n` : turn.given));
    const parting = partsAt(turn, beside);
    turn.tokens.slice(0, visible(turn, beside)).forEach((token, i) => {
      const shown = span(`token${shade(token)}${i === parting ? " parts" : ""}`, token.text);
      if (turn === pane.turn && i === pane.here) shown.classList.add("here");
      parts.push(shown);
    });
    if (turn.failed) parts.push(span("failed", `\n[${turn.failed}]`));
    if (turn.chat) parts.push(span("given", "\n"));
  });
  pane.text.replaceChildren(...parts);
  if (follow) pane.text.scrollTop = pane.text.scrollHeight;
}

function span(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}

const quote = (token) => (token.text ? JSON.stringify(token.text) : "part of a character");

function summary() {
  const [left, right] = panes.map((pane) => pane.turns.at(-1));
  const wrong = panes.map((pane) => pane.turns.at(-1)).filter((turn) => turn && turn.failed);
  if (wrong.length) return wrong[0].failed;
  if (!left || !right) return "";
  const place = partsAt(left, right);
  if (place < 0) return "Both texts are the same.";
  const [one, two] = [left, right].map((turn) => (turn.tokens[place] ? quote(turn.tokens[place]) : "the end"));
  const colours = alike() ? "" : " The models have different tokens, so these are not coloured.";
  return `They part at token ${place + 1}: ${one} on the left, ${two} on the right.${colours}`;
}

function say(line, wrong = false) {
  at("status").textContent = line;
  at("status").classList.toggle("wrong", wrong);
}

const percent = (p) => (p === null || p === undefined || Number.isNaN(p) ? "unknown" : `${(100 * p).toPrecision(3)} %`);

function point(pane, place) {
  const turn = pane.turn;
  if (!turn || !turn.tokens.length) return;
  pane.here = Math.max(0, Math.min(place, turn.tokens.length - 1));
  const token = turn.tokens[pane.here];
  at("detail").textContent =
    `token ${pane.here + 1} of ${turn.model}: ${quote(token)}, here ${percent(token.p)}, in the other ${percent(token.other)}`;
  draw();
}

function busy(is) {
  at("go").disabled = is;
  at("stop").disabled = !is;
  at("export").disabled = is || !panes.some((pane) => pane.turns.length);
}

// ---------------------------------------------------------------- attention

const MOST_OF_A_MAP = 128; // tokens
let places = null;

let looks = 0;
async function showAttention() {
  if (!at("inside").open) return;
  const look = ++looks;
  await Promise.all(panes.map(async (pane) => {
    const figure = document.querySelectorAll(".maps figure")[pane.side];
    const turn = pane.turn;
    pane.map = null;
    figure.hidden = !turn || !turn.promptIds;
    if (figure.hidden) return;
    const context = known(pane).lab.context;
    const prompt = [...turn.promptIds, ...turn.ids].slice(-Math.min(context, MOST_OF_A_MAP));
    const body = { model: turn.model, prompt, place: Number(at("place").value || 0), head: Number(at("head").value || 0) };
    try {
      const map = await (await call("lab/attention", body)).json();
      if (look !== looks) return; // something else was chosen meanwhile
      pane.map = map;
      if (!places) offerPlaces(pane.map.offers);
      paint(figure.querySelector("canvas"), pane.map);
      figure.querySelector("figcaption").textContent = pane.map.offers.length ? turn.model : `${turn.model} shows no attention and no state`;
    } catch (error) {
      figure.querySelector("figcaption").textContent = `${turn.model}: ${error.message}`;
    }
  }));
}

function offerPlaces(offers) {
  places = offers;
  at("place").replaceChildren(...offers.map((one, i) => new Option(`${one.layer}${one.name ? ` ${one.name}` : ""}${one.kind === "state" ? " state" : ""}`, i)));
  offerHeads();
}

function offerHeads() {
  const heads = places && places.length ? places[Number(at("place").value)].heads : 0;
  at("head").replaceChildren(...Array.from({ length: heads }, (_, head) => new Option(head, head)));
}

function paint(canvas, map) {
  const rows = map.values.length, columns = rows ? map.values[0].length : 0;
  const brush = canvas.getContext("2d");
  brush.clearRect(0, 0, canvas.width, canvas.height);
  const most = Math.max(1e-9, ...map.values.map((row) => Math.max(...row.map(Math.abs))));
  const high = canvas.height / rows, wide = canvas.width / columns;
  map.values.forEach((row, y) => row.forEach((value, x) => {
    if (!value) return;
    brush.globalAlpha = Math.min(1, Math.abs(value) / (map.columns.length ? most : Math.min(1, most)));
    brush.fillStyle = value < 0 ? "#d2691e" : "#2a78c8";
    brush.fillRect(Math.floor(x * wide), Math.floor(y * high), Math.ceil(wide), Math.ceil(high));
  }));
  brush.globalAlpha = 1;
  const strongest = rows ? map.values[rows - 1].indexOf(Math.max(...map.values[rows - 1])) : -1;
  const label = map.columns.length ? map.columns[strongest] : JSON.stringify(map.tokens[strongest] || "");
  canvas.setAttribute("aria-label", rows ? `${rows} by ${columns}; the last token reads ${label} most` : "no map");
}

function tellCell(pane, event) {
  if (!pane.map || !pane.map.values.length) return;
  const box = event.target.getBoundingClientRect(), rows = pane.map.values.length, columns = pane.map.values[0].length;
  const y = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
  const x = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
  const of = pane.map.columns.length ? pane.map.columns[x] : JSON.stringify(pane.map.tokens[x]);
  event.target.nextElementSibling.textContent =
    `${pane.turn.model}: token ${y + 1} ${JSON.stringify(pane.map.tokens[y])}, ${of}: ${pane.map.values[y][x]}`;
}

// ---------------------------------------------------------------- export

async function exportPage() {
  const style = await (await fetch("style.css")).text();
  const made = document.implementation.createHTMLDocument("");
  const add = (parent, tag, text = "", kind = "") => {
    const element = parent.appendChild(made.createElement(tag));
    if (kind) element.className = kind;
    element.textContent = text;
    return element;
  };
  const turn = panes.map((pane) => pane.turns.at(-1)).find(Boolean);
  const settings = Object.entries(turn.settings).map(([key, value]) => `${key} ${value}`).join(", ");
  add(made.body, "p", `${turn.chat ? "chat" : "completion"}, ${settings}. ${summary()}`);
  const main = add(made.body, "main");
  main.id = "panes";
  for (const pane of panes.filter((one) => one.turns.length)) {
    const section = add(main, "section", "", "pane");
    const head = add(section, "div", "", "head");
    add(head, "strong", pane.turns[0].model);
    add(head, "span", pane.speed.textContent, "speed");
    const text = add(section, "div", "", "text");
    for (const one of pane.text.children) {
      const copy = add(text, "span", one.textContent, one.className.replace(" here", ""));
      const token = one.classList.contains("token") ? pane.turn.tokens[[...pane.text.children].filter((x) => x.classList.contains("token")).indexOf(one)] : null;
      if (token && pane.turns.length === 1) copy.title = `here ${percent(token.p)}, in the other ${percent(token.other)}`;
    }
  }
  add(made.body, "p", "Blue: likelier here. Orange: likelier in the other model. Underlined in red: the first token where they part.", "legend");
  const head = `<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>gpt_lab conversation</title><style>${style}</style>`;
  return `<!doctype html>\n<html lang="en"><head>${head}</head>${made.body.outerHTML}</html>\n`;
}

async function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([await exportPage()], { type: "text/html" }));
  link.download = "conversation.html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---------------------------------------------------------------- events

function reset() {
  places = null;
  if (stopping) stopping.abort();
  panes.forEach((pane) => Object.assign(pane, { turns: [], turn: null, here: -1 }));
  panes.forEach((pane) => (pane.speed.textContent = ""));
  at("detail").textContent = "";
  say("");
  busy(Boolean(stopping));
  draw();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => stopping && stopping.abort());
at("reset").addEventListener("click", reset);
at("export").addEventListener("click", download);
at("key").addEventListener("change", loadModels);
at("mode").addEventListener("change", reset);
panes.forEach((pane) => {
  pane.select.addEventListener("change", () => {
    reset();
    offerChat();
  });
  pane.text.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    if (event.key in steps) {
      event.preventDefault();
      point(pane, pane.here + steps[event.key]);
    }
  });
  pane.text.addEventListener("click", (event) => {
    const tokens = [...pane.text.children].filter((one) => one.classList.contains("token"));
    const before = pane.turns.slice(0, -1).reduce((sum, turn) => sum + turn.tokens.length, 0);
    const place = tokens.indexOf(event.target) - before;
    if (place >= 0) point(pane, place);
  });
});
at("inside").addEventListener("toggle", showAttention);
at("place").addEventListener("change", () => {
  offerHeads();
  showAttention();
});
at("head").addEventListener("change", showAttention);
document.querySelectorAll(".map").forEach((canvas, side) => canvas.addEventListener("mousemove", (event) => tellCell(panes[side], event)));
loadModels();
