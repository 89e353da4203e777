/* A drawing is an array of pixels as the model sees it, (height, width, channels). The pen is that of the data. */
"use strict";

const byId = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const encode = (bytes) => btoa(String.fromCharCode(...bytes));
const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const MAX_UNDO = 200;
const PAUSE = 250; // milliseconds after a stroke, before the model goes on
const COLOURS = [
  ["white", 255, 255, 255], ["black", 0, 0, 0], ["red", 214, 40, 40], ["orange", 247, 127, 0],
  ["yellow", 252, 211, 60], ["green", 56, 142, 60], ["blue", 25, 90, 200], ["brown", 121, 85, 72],
];

let model, height, width, channels;
let pixels; // of the drawing
let undo = []; // earlier pixels
let rows; // that the model gets
let pen; // the colour, a value for each channel
let scale = 1; // of the board
let realNumber = 0;

/* --- Display --- */

function paint(canvas, values) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = values[channels * i + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function newCanvas(canvas) {
  canvas.width = width;
  canvas.height = height;
}

function resize(canvas, factor) {
  canvas.style.width = `${width * factor}px`;
  canvas.style.height = `${height * factor}px`;
}

/* Every pixel of a drawing has the same size. */
function fit() {
  const wide = window.matchMedia("(min-width: 740px)").matches;
  const room = Math.min(392, byId("board").parentElement.clientWidth - 46);
  scale = Math.max(1, Math.floor(room / Math.max(width, height)));
  for (const id of ["drawing", "surprise"]) resize(byId(id), scale);
  const factor = Math.max(1, Math.round((wide ? 112 : 84) / Math.max(width, height)));
  for (const canvas of document.querySelectorAll("#completions canvas")) resize(canvas, factor);
  for (const side of ["width", "height"]) byId("cursor").style[side] = `${scale}px`;
  byId("line").style.setProperty("--line-length", `${width * scale + 30}px`);
  showLine();
  showCursor();
}

function showLine() {
  const line = byId("line");
  line.style.top = byId("below").style.top = `${rows * scale}px`;
  line.setAttribute("aria-valuenow", rows);
  line.setAttribute("aria-valuetext", `${rows} of ${height} rows`);
}

function say(text) {
  byId("status").textContent = text;
}

/* --- The pen: lines as wide as those of Quick, Draw!, whose pixels are inked by the share that the line covers --- */

let stroke = null; // {before, covered, x, y}

function coverage(offX, offY, halfLine) {
  const away = Math.max(Math.hypot(offX, offY), 1e-12);
  const wide = Math.abs(offX) / away, high = Math.abs(offY) / away;
  const most = Math.max(wide, high, 0.5), least = Math.min(wide, high);
  const inside = halfLine - away;
  const beyond = Math.max((most + least) / 2 - Math.abs(inside), 0);
  const tail = beyond < least ? beyond * beyond / Math.max(2 * most * least, 1e-12) : (beyond - least / 2) / most;
  return inside > 0 ? 1 - tail : tail;
}

function begin(x, y) {
  remember();
  stroke = { before: pixels.slice(), covered: new Float32Array(width * height), x, y };
  extend(x, y);
}

function extend(x, y) {
  const halfLine = 8 * Math.min(height, width) / 304, reach = halfLine + 0.71;
  const dx = x - stroke.x, dy = y - stroke.y;
  const from = (a, b, size) => clamp(Math.floor(Math.min(a, b) - reach), 0, size - 1);
  const to = (a, b, size) => clamp(Math.ceil(Math.max(a, b) + reach), 0, size - 1);
  const lengthSquared = Math.max(dx * dx + dy * dy, 1e-12);
  for (let row = from(y, stroke.y, height); row <= to(y, stroke.y, height); row++) {
    for (let column = from(x, stroke.x, width); column <= to(x, stroke.x, width); column++) {
      const toX = column - stroke.x, toY = row - stroke.y;
      const along = clamp((toX * dx + toY * dy) / lengthSquared, 0, 1);
      const offX = toX - along * dx, offY = toY - along * dy;
      if (Math.hypot(offX, offY) >= reach) continue;
      const i = row * width + column;
      stroke.covered[i] = Math.max(stroke.covered[i], coverage(offX, offY, halfLine));
      ink(i, stroke.covered[i]);
    }
  }
  Object.assign(stroke, { x, y });
  paint(byId("drawing"), pixels);
}

/* Where grey lines cross, the one that covers more of the pixel counts, as in the data; colours are mixed. */
function ink(i, share) {
  for (let c = 0; c < channels; c++) {
    const paper = model.paper[c], colour = pen[c], old = stroke.before[channels * i + c];
    const grey = channels === 1 && colour !== paper;
    let value = Math.round((grey ? paper : old) + (colour - (grey ? paper : old)) * share);
    if (grey && Math.abs(old - colour) < Math.abs(value - colour)) value = old;
    pixels[channels * i + c] = value;
  }
}

function end() {
  if (!stroke) return;
  stroke = null;
  byId("cursor").classList.remove("down");
  changed();
}

function remember() {
  undo.push(pixels.slice());
  if (undo.length > MAX_UNDO) undo.shift();
  byId("undo").disabled = false;
}

function replace(values) {
  stroke = null;
  pixels = values;
  paint(byId("drawing"), pixels);
  byId("undo").disabled = !undo.length;
  changed();
}

function blank() {
  return Uint8Array.from({ length: height * width * channels }, (_, i) => model.paper[i % channels]);
}

function undoLast() {
  if (undo.length) replace(undo.pop());
}

/* --- Mouse, finger and keys --- */

const cursor = { x: 0, y: 0 };

function showCursor() {
  byId("cursor").style.transform = `translate(${cursor.x * scale}px, ${cursor.y * scale}px)`;
}

function listen() {
  const drawing = byId("drawing");
  const position = (event) => {
    const box = drawing.getBoundingClientRect();
    return [(event.clientX - box.left) / scale - 0.5, (event.clientY - box.top) / scale - 0.5];
  };
  let pointer = null;
  drawing.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    end();
    pointer = event.pointerId;
    drawing.setPointerCapture(pointer);
    stop();
    begin(...position(event));
  });
  drawing.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer || !stroke) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of events.length ? events : [event]) extend(...position(each));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    drawing.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      end();
    });
  }

  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step && !event.ctrlKey && !event.metaKey && !event.altKey) {
      cursor.x = clamp(cursor.x + step[0], 0, width - 1);
      cursor.y = clamp(cursor.y + step[1], 0, height - 1);
      showCursor();
      if (stroke && pointer === null) extend(cursor.x, cursor.y);
    } else if (event.key === " " && pointer === null) {
      if (stroke) {
        end();
        say("The pen is up.");
      } else {
        stop();
        begin(cursor.x, cursor.y);
        byId("cursor").classList.add("down");
        say("The pen is down.");
      }
    } else {
      return;
    }
    event.preventDefault();
  });
  drawing.addEventListener("blur", end);
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.target.tagName === "INPUT") return;
    event.preventDefault();
    undoLast();
  });

  const line = byId("line");
  const move = (to) => {
    const row = clamp(Math.round(to), 0, height);
    if (row === rows) return;
    rows = row;
    showLine();
    changed();
  };
  line.addEventListener("pointerdown", (event) => line.setPointerCapture(event.pointerId));
  line.addEventListener("pointermove", (event) => {
    if (line.hasPointerCapture(event.pointerId)) move((event.clientY - drawing.getBoundingClientRect().top) / scale);
  });
  line.addEventListener("keydown", (event) => {
    const to = {
      ArrowUp: rows - 1, ArrowLeft: rows - 1, ArrowDown: rows + 1, ArrowRight: rows + 1,
      PageUp: rows - 4, PageDown: rows + 4, Home: 0, End: height,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });

  byId("undo").addEventListener("click", undoLast);
  byId("clear").addEventListener("click", () => {
    remember();
    replace(blank());
  });
  byId("real").addEventListener("click", async () => {
    const query = new URLSearchParams({ class: byId("class").value, number: realNumber++ });
    try {
      const { drawing } = await (await request(`real?${query}`)).json();
      remember();
      replace(decode(drawing));
    } catch (error) {
      say(error.message);
    }
  });
  byId("class").addEventListener("change", () => {
    realNumber = 0;
    showReal();
    changed();
  });
  for (const key of Object.keys(model.settings)) byId(key).addEventListener("change", changed);
  byId("again").addEventListener("click", () => {
    byId("seed").value = (Number(byId("seed").value) + 1) % 2 ** 31;
    changed();
  });
  byId("show-surprise").addEventListener("click", () => {
    const shown = byId("show-surprise").getAttribute("aria-pressed") !== "true";
    byId("show-surprise").setAttribute("aria-pressed", String(shown));
    byId("surprise").hidden = byId("legend").hidden = !shown;
  });
  window.addEventListener("resize", fit);
}

function showReal() {
  byId("real").hidden = !(byId("class").value in model.real);
}

function choosePen(button, colour) {
  pen = colour;
  for (const other of byId("pens").children) other.setAttribute("aria-pressed", String(other === button));
}

function addPens() {
  const ink = model.paper[0] < 128 ? 255 : 0;
  const pens = channels === 1 ? [["Pen", ink], ["Eraser", model.paper[0]]] : COLOURS;
  for (const [name, ...colour] of pens) {
    const button = document.createElement("button");
    button.type = "button";
    if (channels === 1) {
      button.textContent = name;
      button.className = "named";
    } else {
      button.style.background = `rgb(${colour})`;
      button.setAttribute("aria-label", name);
    }
    button.addEventListener("click", () => choosePen(button, colour));
    byId("pens").append(button);
  }
  const first = pens.findIndex(([, ...colour]) => colour.some((value, c) => value !== model.paper[c]));
  choosePen(byId("pens").children[first], pens[first].slice(1));
}

/* --- The model --- */

let timer, controller = new AbortController();

async function request(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  throw new Error((await response.text()).slice(0, 300));
}

/* Send a request, and pass on each line of its answer. */
async function stream(path, body, signal, handle) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) handle(JSON.parse(line));
  }
}

function stop() {
  clearTimeout(timer);
  controller.abort();
}

/* Whatever the completions depend on has changed. */
function changed() {
  stop();
  timer = setTimeout(update, PAUSE);
}

async function update() {
  controller = new AbortController();
  const { signal } = controller;
  const drawing = { class: byId("class").value, drawing: encode(pixels), rows };
  const settings = {};
  for (const key of Object.keys(model.settings)) {
    if (!byId(key).reportValidity()) return;
    settings[key] = Number(byId(key).value);
  }
  try {
    await complete({ ...drawing, ...settings }, signal);
    await stream("measure", drawing, signal, showMeasurement);
  } catch (error) {
    if (!signal.aborted) say(error instanceof TypeError ? "The server does not answer." : error.message);
  }
}

async function complete(body, signal) {
  const items = [...byId("completions").children];
  const drawn = items.map(() => blank());
  const size = width * channels;
  const start = performance.now();
  let pictures = null;
  for (const item of items) item.querySelector("a").removeAttribute("href");
  say("The model draws …");
  await stream("complete", body, signal, (line) => {
    if (line.pictures) {
      pictures = line.pictures;
      return;
    }
    const values = decode(line.pixels);
    for (let i = 0; i < values.length / size; i++) {
      drawn[line.first + i].set(values.subarray(i * size, (i + 1) * size), line.row * size);
      paint(items[line.first + i].querySelector("canvas"), drawn[line.first + i]);
    }
  });
  if (!pictures) throw new Error("The model has stopped: see the terminal.");
  items.forEach((item, i) => {
    const link = item.querySelector("a");
    link.href = `data:image/png;base64,${pictures[i]}`;
    link.download = `${body.class} ${body.seed}-${i + 1}.png`;
  });
  say(`${items.length} completions in ${((performance.now() - start) / 1000).toFixed(1)} seconds.`);
}

function showMeasurement({ probabilities, bits }) {
  const percent = (x) => `${(100 * x).toFixed(x > 0.0995 || x < 0.0005 ? 0 : 1)}%`;
  const guesses = model.classes.map((name, i) => [name, probabilities[i]]).sort((a, b) => b[1] - a[1]).slice(0, 5);
  byId("guesses").replaceChildren(...guesses.map(([name, probability]) => {
    const item = document.createElement("li");
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`;
    item.append(Object.assign(document.createElement("span"), { textContent: name }), bar);
    item.append(Object.assign(document.createElement("span"), { textContent: percent(probability) }));
    return item;
  }));

  const image = new ImageData(width, height);
  const most = 8 * channels; // the bits of a pixel under a uniform distribution
  bits.forEach((value, i) => image.data.set([230, 80, 0, Math.round(230 * Math.min(value / most, 1))], 4 * i));
  byId("surprise").getContext("2d").putImageData(image, 0, 0);
  const total = bits.slice(0, rows * width).reduce((sum, value) => sum + value, 0);
  byId("legend").textContent = `The stronger the orange, the less the model expected the pixel, given the class and the `
    + `pixels before it. The rows above the line need ${total.toFixed(0)} bits.`;
}

/* --- Start --- */

async function start() {
  model = await (await request("model")).json();
  [height, width, channels] = model.shape;
  byId("model").textContent = `The model: ${model.run}.`;
  if (channels === 1) document.body.classList.add(model.paper[0] < 128 ? "light-ink" : "dark-ink");
  for (const name of model.classes) byId("class").append(new Option(name, name));
  for (const [key, value] of Object.entries(model.settings)) byId(key).value = value;
  for (const id of ["drawing", "surprise"]) newCanvas(byId(id));
  for (let i = 0; i < model.completions; i++) {
    const item = document.createElement("li");
    const canvas = document.createElement("canvas");
    newCanvas(canvas);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Completion ${i + 1}`);
    const link = Object.assign(document.createElement("a"), { textContent: "Save" });
    link.setAttribute("aria-label", `Save completion ${i + 1}`);
    item.append(canvas, link);
    byId("completions").append(item);
    paint(canvas, blank());
  }
  byId("line").setAttribute("aria-valuemax", height);
  rows = Math.round(height / 2);
  Object.assign(cursor, { x: Math.floor(width / 2), y: Math.floor(height / 4) });
  pixels = blank();
  byId("undo").disabled = true;
  paint(byId("drawing"), pixels);
  addPens();
  showReal();
  fit();
  listen();
}

start().catch((error) => say(error.message));
