// Attention patterns over the checkpoints of one or several runs, on canvas. One ES module: a report mounts it on a <div>
// that holds the data, a notebook through anywidget. Text from outside is only ever set as textContent or drawn by fillText.

const SEQUENTIAL = {
  light: ["#ffffff", "#cfe3f3", "#7fb5dc", "#0072b2", "#00406b", "#001d33"],
  dark: ["#1d232a", "#0b3f63", "#0072b2", "#56b4e9", "#bfe3fa", "#ffffff"],
};
const DIVERGING = {
  light: ["#00406b", "#0072b2", "#8fc1e3", "#ffffff", "#f0a878", "#d55e00", "#7a3500"],
  dark: ["#bfe3fa", "#56b4e9", "#135a86", "#1d232a", "#8a4410", "#e8782a", "#ffd9b8"],
};
const COLOURS = { attention: "attention", value_weighted: "value-weighted attention", streamed: "streamed part" };
const STREAMED = {
  value: "the part of the value-weighted attention that came along the wire, measured along what the head writes",
  query: "the part of the score (before the softmax) that came along the wire with the query",
  key: "the part of the score (before the softmax) that came along the wire with the key",
};
const SMALL = { this: "this run", other: "the other", difference: "the difference" };
const LEAST_MARGIN = 24, MOST_MARGIN = 62, TOP = 6, CHART_LEFT = 36, THUMB_HALF = 8, FRAME = 140;

const hex = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** 256 colours between the stops, as pixels of an ImageData; the diverging scale is neutral at 128. */
function table(stops) {
  const found = new Uint32Array(256);
  const bytes = new Uint8Array(found.buffer);
  for (let index = 0; index < 256; index++) {
    const place = (index / 255) * (stops.length - 1), from = Math.min(Math.floor(place), stops.length - 2);
    const low = hex(stops[from]), high = hex(stops[from + 1]);
    for (let part = 0; part < 3; part++) bytes[4 * index + part] = Math.round(low[part] + (high[part] - low[part]) * (place - from));
    bytes[4 * index + 3] = 255;
  }
  return found;
}

/** A diverging scale whose entry 128 is exactly the middle stop. */
function diverging(stops) {
  const found = table(stops), half = (stops.length - 1) / 2;
  const low = table(stops.slice(0, half + 1)), high = table(stops.slice(half));
  for (let index = 0; index < 128; index++) found[index] = low[Math.round((index / 128) * 255)];
  for (let index = 128; index < 256; index++) found[index] = high[Math.round(((index - 128) / 127) * 255)];
  found.neutral = 128;
  return found;
}

const css = (pixel) => `rgb(${pixel & 255} ${(pixel >> 8) & 255} ${(pixel >> 16) & 255})`;

/** A blob as bytes: base64 text from a page, a DataView from a notebook; deflated in both. */
async function inflated(blob) {
  const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter(), parts = [];
  const fails = () => {}; // Damaged bytes also fail where they are read.
  writer.write(typeof blob === "string" ? decoded(blob) : new Uint8Array(blob.buffer, blob.byteOffset, blob.byteLength)).catch(fails);
  writer.close().catch(fails);
  // By hand: a Response, or a Blob as the source, takes two to four times as long.
  let length = 0;
  for (const reader = stream.readable.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
  }
  const bytes = new Uint8Array(length);
  for (let at = 0; parts.length; at += parts.shift().length) bytes.set(parts[0], at);
  return bytes;
}

function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let index = 0; index < characters.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}

/** Bytes from their differences between neighbouring steps, in place. */
function summed(bytes, each) {
  for (let index = each; index < bytes.length; index++) bytes[index] += bytes[index - each];
  return bytes;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const segments = typeof Intl !== "undefined" && Intl.Segmenter ? new Intl.Segmenter() : null;
function short(text, most) {
  const parts = segments ? [...segments.segment(text)].map((part) => part.segment) : [...text];
  return parts.length > most ? `${parts.slice(0, most - 1).join("")}…` : text;
}

const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3));
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + number(Math.abs(value));
const nearest = (steps, step) =>
  steps.reduce((best, each, index) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? index : best), 0);

/** When an event took place, with the interval where the table has one. */
const when = ({ step, interval }, full = false) =>
  `${Math.round(step)}${interval ? ` (${full ? "95 % interval over sequences: " : ""}${interval.map((end) => Math.round(end)).join(" to ")})` : ""}`;

class Viewer {
  constructor(root, payload, { state = {}, changed = () => {} } = {}) {
    this.root = root;
    this.runs = payload.manifest.runs;
    this.limits = payload.manifest.notes;
    this.blobs = payload.blobs;
    this.changed = changed;
    this.decoded = new Map();
    this.cursor = null;
    this.shownCurves = new Set(["accuracy", "scores"]);
    this.marks = true;
    this.state = this._checked({ ...this._defaults(), ...state });
    this.dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.timing = { draw: 0 };
    this._build();
    this._recolour = () => { this._scales(); this._chart(); this._draw(); };
    this.dark.addEventListener("change", this._recolour);
    // Also told of heights, which the drawing itself changes.
    this._resized = new ResizeObserver(() => { if (this.fitted !== this._size) this._fit(); });
    this._resized.observe(root);
    this._scales();
    this.ready = this._show();
  }

  destroy() {
    this.pause();
    this.dark.removeEventListener("change", this._recolour);
    this._resized.disconnect();
  }

  // What is shown

  _defaults() {
    const run = this.runs[0];
    const head = Object.keys(run.roles).find((name) => run.roles[name].startsWith("induction") && run.heads.includes(name));
    return {
      run: run.label, second: null, step: run.steps.at(-1), at: null, head: head ?? run.heads[0],
      sequence: run.sequences[0], colour: "attention", lock: null, small: "this",
    };
  }

  /** The nearest state that these data have: a link may come from other runs, or be cut off. */
  _checked(wanted) {
    const state = { ...wanted };
    const run = this.runs.find((each) => each.label === state.run) ?? this.runs[0];
    const second = this.runs.find((each) => each.label === state.second) ?? null;
    const whole = (value) => value !== null && value !== "" && Number.isFinite(Number(value));
    state.run = run.label;
    state.second = second ? second.label : null;
    state.step = run.steps[whole(state.step) ? nearest(run.steps, Number(state.step)) : run.steps.length - 1];
    if (!second || !whole(state.at)) state.at = null;
    else state.at = second.steps[nearest(second.steps, Number(state.at))];
    if (second === run && state.at === null) state.at = run.steps[0];
    if (!run.heads.includes(state.head)) state.head = run.heads[0];
    state.sequence = run.sequences.includes(Number(state.sequence)) ? Number(state.sequence) : run.sequences[0];
    if (!Object.hasOwn(COLOURS, state.colour) || !this.runs.some((each) => Object.hasOwn(each.colours, state.colour))) state.colour = "attention";
    state.lock = whole(state.lock) && Number(state.lock) >= 0 && Number(state.lock) < run.positions ? Math.floor(Number(state.lock)) : null;
    if (!Object.hasOwn(SMALL, state.small) || !second) state.small = "this";
    return state;
  }

  get run() { return this.runs.find((run) => run.label === this.state.run); }
  get second() { return this.runs.find((run) => run.label === this.state.second) ?? null; }
  get place() { return this.run.steps.indexOf(this.state.step); }
  get secondStep() { return this.second.steps[nearest(this.second.steps, this.state.at ?? this.state.step)]; }

  /** Change the state; `quiet` where the change came from outside (a link, a notebook's cell). */
  set(change, quiet = false) {
    const before = this.state, data = `${before.run} ${before.second} ${before.sequence} ${before.colour}`;
    this.state = this._checked({ ...before, ...change });
    const now = this.state;
    if (!quiet && Object.keys(now).some((name) => now[name] !== before[name])) this.changed(now);
    if (data !== `${now.run} ${now.second} ${now.sequence} ${now.colour}`) return (this.ready = this._show());
    if (before.head !== now.head) this._chart();
    if (before.small !== now.small || before.lock !== now.lock || before.at !== now.at || before.head !== now.head) this._controls();
    this._draw();
    return this.ready;
  }

  move(by) { this.set({ step: this.run.steps[Math.max(0, Math.min(this.run.steps.length - 1, this.place + by))] }); }

  play() {
    if (this.playing) return;
    if (this.place === this.run.steps.length - 1) this.set({ step: this.run.steps[0] });
    this.playing = setInterval(() => (this.place === this.run.steps.length - 1 ? this.pause() : this.move(1)), FRAME);
    this._playLabel();
  }

  pause() {
    clearInterval(this.playing);
    this.playing = null;
    this._playLabel();
  }

  // Data

  /** A decoded blob; null while it is on its way. */
  _blob(name) { return this.decoded.get(name) ?? null; }

  /** The blobs that a run's view needs, each with the bytes that it takes for one step. */
  _needed(run) {
    const sequence = this._sequence(run), { colour } = this.state, names = [];
    if (colour in run.colours) {
      if (run.colours[colour].kind !== "bytes") names.push([`${run.id}/${sequence}/attention`, run.heads.length * this._cells(run)]);
      const each = run.colours[colour].kind === "factors" ? 2 * run.heads.length * run.positions : run.heads.length * this._cells(run);
      names.push([`${run.id}/${sequence}/${colour}`, each]);
    }
    return names;
  }

  get _loaded() { return [this.run, this.second].filter(Boolean).every((run) => this._needed(run).every(([name]) => this.decoded.has(name))); }

  async _decode(run) {
    await Promise.all(this._needed(run).filter(([name]) => !this.decoded.has(name)).map(async ([name, each]) => {
      this.decoded.set(name, summed(await inflated(this.blobs[name]), each));
    }));
  }

  _cells(run) { return (run.positions * (run.positions + 1)) / 2; }
  _sequence(run) { return run.sequences.includes(this.state.sequence) ? this.state.sequence : run.sequences[0]; }
  _tokens(run) { return run.tokens[run.sequences.indexOf(this._sequence(run))]; }

  /** Whether a head has the colour at all: layers that receive no stream have no streamed part. */
  has(run, head, colour = this.state.colour) {
    const found = run.colours[colour];
    return run.heads.includes(head) && !!found && (!found.heads || found.heads.includes(head));
  }

  /** The quantised attention of a head, row by row up to each destination: 0 to 255. */
  bytes(label, step, head, colour = "attention") {
    const run = this.runs.find((each) => each.label === label), cells = this._cells(run);
    const at = (run.steps.indexOf(step) * run.heads.length + run.heads.indexOf(head)) * cells;
    return this._blob(`${run.id}/${this._sequence(run)}/${colour}`).subarray(at, at + cells);
  }

  /** The values of a head in the colour shown, row by row up to each destination. */
  values(label, step, head, colour = this.state.colour) {
    const run = this.runs.find((each) => each.label === label), n = run.positions, found = new Float32Array(this._cells(run));
    const { kind, scales } = run.colours[colour];
    if (kind === "signed") {
      const bytes = this.bytes(label, step, head, colour);
      for (let cell = 0; cell < found.length; cell++) found[cell] = ((bytes[cell] - 128) / 127) * scales[run.heads.indexOf(head)];
      return found;
    }
    const bytes = this.bytes(label, step, head);
    const factors = kind === "factors" ? this._factors(run, step, head, colour) : null;
    for (let t = 0, cell = 0; t < n; t++)
      for (let s = 0; s <= t; s++, cell++) found[cell] = (bytes[cell] / 255) * (factors ? factors[s] : 1);
    return found;
  }

  /** What each source's attention is multiplied by: 16 bits, the low bytes of all positions before the high ones. */
  _factors(run, step, head, colour) {
    const blob = this._blob(`${run.id}/${this._sequence(run)}/${colour}`), n = run.positions, heads = run.heads.length;
    const at = run.steps.indexOf(step) * 2 * heads * n + run.heads.indexOf(head) * n, found = new Float32Array(n);
    const { factor, offset } = run.colours[colour];
    for (let s = 0; s < n; s++) found[s] = (blob[at + s] + 256 * blob[at + heads * n + s] - offset) * factor;
    return found;
  }

  /** The difference is only of what can be compared: the same tokens, the same head, both with the colour. */
  get comparable() {
    const [run, other] = [this.run, this.second];
    return !!other && run.positions === other.positions && this._tokens(run).text.join("\0") === this._tokens(other).text.join("\0");
  }

  /** What one panel shows of a head: indices into a colour table, or null where there is nothing. */
  indices(which, head) {
    const { run, second, state } = this, colour = state.colour;
    const scale = this._scale(head);
    if (which === "difference") {
      if (!this.comparable || !this.has(run, head) || !this.has(second, head)) return null;
      const one = this.values(run.label, state.step, head), other = this.values(second.label, this.secondStep, head);
      return Uint8Array.from(one, (value, cell) => 128 + Math.round(Math.max(-1, Math.min(1, (value - other[cell]) / scale)) * 127));
    }
    const [shown, step] = which === "this" ? [run, state.step] : [second, this.secondStep];
    if (!this.has(shown, head)) return null;
    if (colour === "attention") return this.bytes(shown.label, step, head);
    const values = this.values(shown.label, step, head), zero = colour === "streamed" ? 128 : 0, most = 255 - zero;
    const found = new Uint8Array(values.length);
    for (let cell = 0; cell < found.length; cell++) found[cell] = zero + Math.round(Math.max(zero ? -1 : 0, Math.min(1, values[cell] / scale)) * most);
    return found;
  }

  /** The value at the end of the colour scale: one for all steps of a head, in both runs where two are shown. */
  _scale(head = this.state.head) {
    const shown = this.second ? [this.run, this.second] : [this.run];
    return Math.max(...shown.map((run) => run.colours[this.state.colour]?.scales[run.heads.indexOf(head)] ?? 0)) || 1;
  }

  _table(which) { return which === "difference" || this.state.colour === "streamed" ? this.diverging : this.sequential; }

  _scales() {
    const scheme = this.dark.matches ? "dark" : "light";
    this.sequential = table(SEQUENTIAL[scheme]);
    this.diverging = diverging(DIVERGING[scheme]);
  }

  // The page

  _build() {
    const root = this.root;
    root.classList.add("wbv");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Attention over training");
    const select = (name, label, on) => {
      const made = element("select", { name, onchange: () => on(made.value) });
      this.selects[name] = made;
      return element("label", {}, element("span", { text: label }), made);
    };
    this.selects = {};
    const bar = element("div", { class: "wbv-bar" },
      select("run", "Run", (value) => this.set({ run: value })),
      select("colour", "Colour", (value) => this.set({ colour: value })),
      select("sequence", "Sequence", (value) => this.set({ sequence: Number(value), lock: null })),
      select("second", "Compare with", (value) => this.set({ second: value || null, at: null, small: "this" })),
      select("at", "at its step", (value) => this.set({ at: value === "" ? null : Number(value) })),
      select("small", "Heads show", (value) => this.set({ small: value })),
    );
    this.chart = element("canvas", { class: "wbv-chart", role: "img" });
    this.needle = element("div", { class: "wbv-needle" });
    this.slider = element("input", { type: "range", min: 0, step: 1, "aria-label": "Checkpoint", oninput: () => this.set({ step: this.run.steps[Number(this.slider.value)] }) });
    this.chart.addEventListener("pointerdown", (event) => {
      const go = (at) => this.set({ step: this.run.steps[this._indexAt(at.offsetX)] });
      go(event);
      this.chart.setPointerCapture(event.pointerId);
      this.chart.onpointermove = go;
      this.chart.onpointerup = this.chart.onpointercancel = () => (this.chart.onpointermove = null);
    });
    const button = (label, sign, on) => element("button", { type: "button", "aria-label": label, title: label, text: sign, onclick: on });
    this.playButton = button("Play", "▶", () => (this.playing ? this.pause() : this.play()));
    this.stepText = element("output", { class: "wbv-step" });
    const transport = element("div", { class: "wbv-transport" },
      button("First checkpoint", "⇤", () => this.move(-Infinity)), button("Previous checkpoint", "←", () => this.move(-1)), this.playButton,
      button("Next checkpoint", "→", () => this.move(1)), button("Last checkpoint", "⇥", () => this.move(Infinity)), this.stepText);
    this.events = element("div");
    this.curves = element("div", { class: "wbv-curves" });
    const time = element("div", { class: "wbv-time" }, this.curves, element("div", { class: "wbv-plot" }, this.chart, this.needle), this.slider, transport, this.events);
    this.panels = Object.fromEntries(["this", "other", "difference"].map((which) => [which, this._panel(which)]));
    this.large = element("div", { class: "wbv-large" }, ...Object.values(this.panels).map((panel) => panel.box));
    this.heads = element("div", { class: "wbv-heads", role: "group", "aria-label": "Heads" });
    this.readout = element("p", { class: "wbv-readout", "aria-live": "polite" });
    this.scaleBar = element("canvas", { class: "wbv-scale", width: 256, height: 1, role: "img" });
    this.scaleLow = element("span"); this.scaleHigh = element("span"); this.scaleName = element("span", { class: "wbv-name" });
    const markBox = element("input", { type: "checkbox", checked: true, onchange: () => { this.marks = markBox.checked; this._overlays(); } });
    this.side = element("div", { class: "wbv-side" }, this.heads, this.readout,
      element("div", { class: "wbv-key" }, this.scaleName, element("div", {}, this.scaleLow, this.scaleBar, this.scaleHigh)),
      element("label", { class: "wbv-mark" }, markBox, element("span", { class: "wbv-ring" }), element("span", { text: "where an induction head attends: right after the last earlier occurrence" })));
    this.strip = element("ol", { class: "wbv-tokens", "aria-label": "Tokens: click one to lock it as the destination" });
    this.notes = element("div", { class: "wbv-notes" });
    root.append(bar, time, element("div", { class: "wbv-main" }, this.large, this.side), this.strip, this.notes);
    root.addEventListener("keydown", (event) => this._key(event));
    this.strip.addEventListener("click", (event) => {
      const at = event.target.closest("li");
      if (at) this._toggle(Number(at.dataset.position));
    });
  }

  _panel(which) {
    const title = element("p", { class: "wbv-title" });
    const cells = element("canvas", { class: "wbv-cells" });
    const over = element("canvas", { class: "wbv-over", tabindex: which === "this" ? 0 : -1, role: "application" });
    const note = element("p", { class: "wbv-none" });
    const panel = { which, title, cells, over, note, box: element("figure", { "data-panel": which }, title, element("div", { class: "wbv-stack" }, cells, over, note)) };
    const cell = (event) => {
      const n = this.run.positions, size = panel.size / n;
      const s = Math.floor((event.offsetX - this.margin) / size), t = Math.floor((event.offsetY - TOP) / size);
      return t >= 0 && t < n && s < n ? { t, s: Math.max(0, s) > t ? -1 : s } : null;
    };
    over.addEventListener("pointermove", (event) => {
      const at = cell(event);
      this.cursor = at && at.s >= 0 ? at : null;
      this._hover();
    });
    over.addEventListener("pointerleave", () => { this.cursor = null; this._hover(); });
    over.addEventListener("click", (event) => {
      const at = cell(event);
      if (at) this._toggle(at.t);
    });
    return panel;
  }

  _toggle(position) { this.set({ lock: this.state.lock === position ? null : position }); }

  _key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "SELECT") return;
    const matrix = event.target.classList.contains("wbv-over");
    const arrow = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (matrix && arrow) {
      const last = this.run.positions - 1, from = this.cursor ?? { t: this.state.lock ?? last, s: 0 };
      const t = Math.max(0, Math.min(last, from.t + (this.cursor ? arrow[0] : 0)));
      this.cursor = { t, s: Math.max(0, Math.min(t, from.s + (this.cursor ? arrow[1] : 0))) };
      this._hover();
    } else if (matrix && (event.key === "PageUp" || event.key === "PageDown")) this.move(event.key === "PageUp" ? -1 : 1);
    else if (matrix && event.key === "Enter" && this.cursor) this._toggle(this.cursor.t);
    else if (event.key === "Escape") this.set({ lock: null });
    else if (event.key === "ArrowLeft" || event.key === "ArrowDown") this.move(-1);
    else if (event.key === "ArrowRight" || event.key === "ArrowUp") this.move(1);
    else if (event.key === "Home") this.move(-Infinity);
    else if (event.key === "End") this.move(Infinity);
    else if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.type !== "checkbox") this.playing ? this.pause() : this.play();
    else return;
    event.preventDefault();
  }

  _options(name, options, value) {
    const select = this.selects[name];
    const wanted = JSON.stringify(options);
    if (select.dataset.options !== wanted) {
      select.replaceChildren(...options.map(([each, text]) => element("option", { value: each, text })));
      select.dataset.options = wanted;
    }
    select.value = value ?? "";
  }

  _controls() {
    const { run, second, state } = this;
    this._options("run", this.runs.map(({ label }) => [label, label]), state.run);
    const streamed = this.runs.some((each) => "streamed" in each.colours);
    this._options("colour", Object.entries(COLOURS).filter(([name]) => name !== "streamed" || streamed), state.colour);
    this._options("sequence", run.sequences.map((sequence) => [String(sequence), String(sequence)]), String(state.sequence));
    this._options("second", [["", "nothing"], ...this.runs.map(({ label }) => [label, label === state.run ? `${label}, another step` : label])], state.second);
    this._options("at", second ? [...(second === run ? [] : [["", "moves together"]]), ...second.steps.map((step) => [String(step), String(step)])] : [["", "–"]], state.at === null ? "" : String(state.at));
    this._options("small", Object.entries(SMALL), state.small);
    for (const name of ["at", "small"]) this.selects[name].parentElement.hidden = !second;
    this.slider.max = run.steps.length - 1;
    const buttons = [...this.heads.children];
    for (const made of buttons) made.setAttribute("aria-pressed", made.dataset.head === state.head);
  }

  async _show() {
    try {
      await Promise.all([this.run, this.second].filter(Boolean).map((run) => this._decode(run)));
    } catch (error) {
      this.root.replaceChildren(element("p", { class: "wbv-error", text: typeof DecompressionStream === "undefined"
        ? "This browser cannot unpack the patterns (it has no DecompressionStream): any browser of 2023 or later can."
        : `The patterns cannot be unpacked: ${error.message}` }));
      return;
    }
    if (!this._loaded) return;
    this._thumbnails();
    this._controls();
    this._events();
    this._strip();
    this._words();
    this._fit();
    this.root.dataset.ready = "true";
  }

  _thumbnails() {
    const { run } = this, wanted = `${run.label} ${run.heads}`;
    if (this.heads.dataset.run === wanted) return;
    this.heads.dataset.run = wanted;
    this.visible = new Set();
    this._watch?.disconnect();
    this._watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        this.visible[entry.isIntersecting ? "add" : "delete"](entry.target);
        if (entry.isIntersecting) this._thumbnail(entry.target);
      }
    }, { rootMargin: "200px" });
    this.heads.replaceChildren(...run.heads.map((head) => {
      const role = run.roles[head];
      const made = element("button", { type: "button", "data-head": head, "aria-label": role ? `${head}, ${role}` : head, title: role ? `${head}: ${role}` : head, onclick: () => this.set({ head }) },
        element("canvas"), element("span", { text: head }));
      if (role) made.append(element("em", { text: role.replace(/ head$/, "") }));
      this._watch.observe(made);
      return made;
    }));
  }

  /** The runs whose events are marked; the second's are those with hollow numbers. */
  get _marked() {
    const { run, second } = this;
    return [run, ...(second && second !== run && second.events.length ? [second] : [])];
  }

  _events() {
    const marked = this._marked;
    this.events.replaceChildren(...marked.filter((each) => each.events.length).map((each) => element("div", { class: "wbv-events", "data-run": each.label },
      element("span", {}, ...(marked.length > 1 ? [each === this.run ? "● " : "○ ", element("bdi", { text: each.label }), ", midpoint"] : ["Midpoint"]), " of each rise, at step:"),
      ...each.events.map((event, index) => element("button", {
        type: "button", text: `${index + 1} ${event.name}: ${Math.round(event.step)}`, title: `Midpoint of the fitted rise: step ${when(event, true)}. Go to the nearest checkpoint.`,
        onclick: () => this._go(each, event.step),
      })))));
  }

  /** To the checkpoint nearest to an event; a second run that stands at a step of its own goes there alone. */
  _go(run, step) {
    if (run !== this.run && this.state.at !== null) this.set({ at: run.steps[nearest(run.steps, step)] });
    else this.set({ step: this.run.steps[nearest(this.run.steps, step)] });
  }

  _strip() {
    const { answered, text } = this._tokens(this.run);
    this.strip.replaceChildren(...text.map((word, position) => element("li", { "data-position": position, class: answered[position] ? "answered" : null },
      element("bdi", { text: word }), element("small", { text: position }))));
  }

  _words() {
    const { run, second, state } = this, lines = [];
    const shown = [run, ...(second && second !== run ? [second] : [])];
    for (const each of shown) {
      const name = this.runs.length > 1 ? `${each.label}: ` : "";
      const every = (each.analysed - 1) / (each.steps.length - 1);
      if (each.steps.length < each.analysed) lines.push(`${name}${Number.isInteger(every) ? `every ${every}${["th", "st", "nd", "rd"][every % 10 > 3 || (every > 10 && every < 14) ? 0 : every % 10]} of` : `${each.steps.length} of`} ${each.analysed} checkpoints${Number.isInteger(every) ? "" : ", evenly spaced"}.`);
      if (each.positions < each.all_positions) lines.push(`${name}the first ${each.positions} of ${each.all_positions} positions.`);
      if (each.heads.length < each.all_heads) lines.push(`${name}${each.heads.length} of ${each.all_heads} heads, those with a role first.`);
      if (each.sequences.length < each.all_sequences) lines.push(`${name}${each.sequences.length} of ${each.all_sequences} sequences.`);
    }
    if (state.colour === "value_weighted") lines.push("Value-weighted: attention times the length of the vector that the head writes from the source (Kobayashi et al. 2020).");
    if (state.colour === "streamed") for (const kind of new Set(shown.map((each) => each.stream).filter((kind) => kind in STREAMED))) lines.push(`Streamed, ${kind} stream: ${STREAMED[kind]}. Blue is negative, orange positive.`);
    if (second && !this.comparable) lines.push("The two runs do not read the same tokens, so there is no difference to show.");
    const pool = this._pool(run.positions);
    if (pool > 1) lines.push(`In the small patterns ${pool} x ${pool} positions are one, which has the colour of the strongest.`);
    lines.push(...this.limits);
    lines.push("Row: the position that attends; column: the position attended to. Arrow keys, Home and End move through the checkpoints, space plays; in the large pattern the arrow keys move from cell to cell, Enter locks the row, Escape frees it, Page Up and Page Down move through the checkpoints.");
    this.notes.replaceChildren(...lines.map((text) => element("p", { text })));
    this._legend();
  }

  _legend() {
    const { run, state } = this, value = this._scale(), streamedColour = state.colour === "streamed";
    this.scaleName.textContent = `${COLOURS[state.colour]}${streamedColour && run.stream !== "value" && run.stream !== "none" ? " of the score" : ""}${state.colour === "attention" ? "" : `, one scale for all steps of ${state.head}`}`;
    this.scaleLow.textContent = streamedColour ? `−${number(value)}` : "0";
    this.scaleHigh.textContent = number(value).replace(/\.000$/, "");
  }

  // Sizes and drawing

  get _size() { return `${this.root.clientWidth} ${window.devicePixelRatio}`; }

  _fit() {
    const width = this.root.clientWidth;
    if (!width || !this._loaded) return;
    this.fitted = this._size;
    const { run, second } = this, n = run.positions, ratio = window.devicePixelRatio || 1;
    this.root.classList.toggle("wbv-compare", !!second);
    this.root.classList.toggle("wbv-narrow", width < 640);
    const narrow = width < 640, gap = 12;
    const across = second ? (narrow ? 1 : 3) : 1;
    const margin = (this.margin = this._margin());
    const room = second ? (width - gap * (across - 1)) / across : narrow ? width : Math.min(0.56 * width, 600);
    const size = Math.max(120, Math.min(room - margin - 2, 560));
    // Cells of a whole number of screen pixels, where that leaves the pattern near its size.
    const whole = (Math.floor((size * ratio) / n) * n) / ratio;
    for (const panel of Object.values(this.panels)) {
      const drawn = panel.which === "this" || !!second;
      panel.box.hidden = !drawn;
      panel.size = whole > 0.75 * size ? whole : Math.max(size, n / ratio);
      panel.cells.width = panel.cells.height = n;
      panel.image = new ImageData(n, n);
      Object.assign(panel.cells.style, { width: `${panel.size}px`, height: `${panel.size}px`, left: `${margin}px`, top: `${TOP}px` });
      const box = [panel.size + margin + 2, TOP + panel.size + margin];
      panel.box.style.width = `${box[0]}px`;
      panel.note.style.left = `${margin}px`;
      Object.assign(panel.over.style, { width: `${box[0]}px`, height: `${box[1]}px` });
      Object.assign(panel.over.parentElement.style, { width: `${box[0]}px`, height: `${box[1]}px` });
      [panel.over.width, panel.over.height] = box.map((side) => Math.round(side * ratio));
    }
    // One row of small patterns a layer where that fits, or all of them in one.
    const layers = new Set(run.heads.map((head) => head.split("H")[0])).size, columns = Math.ceil(run.heads.length / layers);
    const fits = [run.heads.length, columns].find((count) => count * 76 + 12 <= this.heads.clientWidth && count * (second ? 0 : layers) <= run.heads.length);
    this.heads.style.gridTemplateColumns = fits ? `repeat(${fits}, minmax(0, 132px))` : "";
    this._chart();
    this._draw();
  }

  /** Room beside a pattern for the longest of its tokens, as they are written there. */
  _margin() {
    const context = this.chart.getContext("2d");
    context.font = `700 12px ${getComputedStyle(this.root).fontFamily}`;
    const widths = this._tokens(this.run).text.map((text) => context.measureText(short(text, 7)).width);
    return Math.ceil(Math.max(LEAST_MARGIN, Math.min(MOST_MARGIN, Math.max(...widths) + 10)));
  }

  _chart() {
    const { run, second, state } = this, ratio = window.devicePixelRatio || 1;
    const marked = this._marked, width = this.root.clientWidth, top = 16 * marked.length, bottom = 18, height = 96 + top;
    this.chart.width = width * ratio; this.chart.height = height * ratio;
    Object.assign(this.chart.style, { width: `${width}px`, height: `${height}px` });
    const context = this.chart.getContext("2d"), style = getComputedStyle(this.root);
    const ink = style.getPropertyValue("--wbv-ink"), soft = style.getPropertyValue("--wbv-soft"), line = style.getPropertyValue("--wbv-line");
    const seen = (colour) => (this.dark.matches ? `rgb(${hex(colour).map((part) => Math.round(part + 0.4 * (255 - part))).join(" ")})` : colour);
    context.scale(ratio, ratio);
    context.font = `11px ${style.fontFamily}`;
    const y = (value) => height - bottom - value * (height - top - bottom);
    context.fillStyle = soft; context.strokeStyle = line; context.lineWidth = 1;
    context.textBaseline = "middle"; context.textAlign = "right";
    for (const value of [0, 0.5, 1]) {
      context.fillText(String(value), CHART_LEFT - 4, y(value));
      context.beginPath(); context.moveTo(CHART_LEFT + THUMB_HALF, y(value)); context.lineTo(width - THUMB_HALF, y(value)); context.stroke();
    }
    context.textAlign = "center"; context.textBaseline = "alphabetic";
    const apart = Math.max(1, Math.ceil(run.steps.length / Math.max(2, Math.floor(width / 90))));
    for (let index = 0; index < run.steps.length; index += apart) context.fillText(String(run.steps[index]), Math.min(this._x(index), width - 14), height - 4);
    const [first, last] = [run.steps[0], run.steps.at(-1)], raised = style.getPropertyValue("--wbv-raised");
    marked.forEach((each, row) => {
      const taken = [], from = 16 * row;
      each.events.forEach((event, index) => {
        // The axis is the first run's: what the second does beyond it stands in the list alone.
        if (row && (event.step < first || event.step > last)) return;
        const at = this._x(this._index(event.step));
        context.strokeStyle = soft; context.setLineDash(row ? [1, 5] : [2, 3]);
        context.beginPath(); context.moveTo(at, from + 16); context.lineTo(at, height - bottom); context.stroke();
        context.setLineDash([]);
        let label = at;
        while (taken.some((other) => Math.abs(other - label) < 13)) label += 13;
        taken.push(label);
        context.fillStyle = row ? raised : soft; context.beginPath(); context.arc(label, from + 8, row ? 6.5 : 7, 0, 7); context.fill();
        if (row) context.stroke();
        context.fillStyle = row ? soft : raised; context.fillText(String(index + 1), label, from + 12);
      });
    });
    const curve = (points, colour, dash) => {
      if (!points?.length) return;
      context.strokeStyle = colour; context.lineWidth = 2; context.setLineDash(dash); context.beginPath();
      points.forEach(([step, value], index) => context[index ? "lineTo" : "moveTo"](this._x(this._index(step)), y(Math.max(0, Math.min(1, value)))));
      context.stroke(); context.setLineDash([]);
    };
    const shown = second && second !== run ? [second, run] : [run], scores = run.curves.heads[state.head] ?? {};
    if (this.shownCurves.has("accuracy")) for (const each of shown) curve(each.curves.accuracy, seen(each.colour), []);
    const looks = [[2, 3], [8, 4]];
    if (this.shownCurves.has("scores")) Object.values(scores).forEach((points, index) => curve(points, ink, looks[index % 2]));
    const keys = [];
    if (shown.some((each) => each.curves.accuracy.length)) keys.push(["accuracy", "in-context accuracy", shown.map((each) => [each.label, seen(each.colour), "solid"]).reverse()]);
    if (Object.keys(scores).length) keys.push(["scores", `scores of ${state.head}`, Object.keys(scores).map((name, index) => [name, ink, index % 2 ? "dashed" : "dotted"])]);
    const wanted = JSON.stringify(keys);
    if (this.curves.dataset.keys !== wanted) {
      this.curves.dataset.keys = wanted;
      this.curves.replaceChildren(...keys.map(([name, text, parts]) => {
        const box = element("input", { type: "checkbox", checked: this.shownCurves.has(name), onchange: () => { this.shownCurves[box.checked ? "add" : "delete"](name); this._chart(); } });
        return element("label", {}, box, element("span", { text: `${text}:` }), ...parts.map(([label, colour, dash]) =>
          element("span", { class: "wbv-curve" }, element("i", { style: `border-top: 2px ${dash} ${colour}` }), element("bdi", { text: label }))));
      }));
    }
    const events = marked.map((each) => `${marked.length > 1 ? `${each.label}: ` : ""}${each.events.length} events${each.events.map((event, index) => `${index ? "," : ":"} ${event.name} at step ${when(event)}`).join("")}`);
    this.chart.setAttribute("aria-label", `In-context accuracy over checkpoints, with the midpoints of rises. ${events.join("; ")}`);
    this.needle.style.top = `${top}px`;
    this._needle();
  }

  /** A step as a place among the checkpoints, between two of them where it is none. */
  _index(step) {
    const { steps } = this.run;
    if (step <= steps[0]) return 0;
    const after = steps.findIndex((each) => each >= step);
    if (after < 0) return steps.length - 1;
    return after - (steps[after] - step) / (steps[after] - steps[after - 1]);
  }

  _x(index) {
    const left = CHART_LEFT + THUMB_HALF, width = this.root.clientWidth - left - THUMB_HALF;
    return left + (this.run.steps.length > 1 ? index / (this.run.steps.length - 1) : 0.5) * width;
  }

  _indexAt(x) {
    const left = CHART_LEFT + THUMB_HALF, width = this.root.clientWidth - left - THUMB_HALF, last = this.run.steps.length - 1;
    return Math.max(0, Math.min(last, Math.round(((x - left) / width) * last)));
  }

  _needle() { this.needle.style.transform = `translateX(${this._x(this.place)}px)`; }

  _draw() {
    if (!this._loaded || !this.panels.this.image) return;
    const started = performance.now(), { run, second, state } = this;
    this.slider.value = this.place;
    this.slider.setAttribute("aria-valuetext", `step ${state.step}, checkpoint ${this.place + 1} of ${run.steps.length}`);
    this.stepText.textContent = `step ${state.step}, checkpoint ${this.place + 1} of ${run.steps.length}`;
    this._needle();
    this._legend();
    for (const panel of Object.values(this.panels)) {
      if (panel.box.hidden) continue;
      const found = this.indices(panel.which, state.head);
      panel.note.hidden = !!found;
      panel.found = found;
      paint(panel.cells, panel.image, found, run.positions, this._table(panel.which), 1);
      if (!found) panel.note.textContent = this._why(panel.which);
    }
    this.panels.this.title.textContent = `${state.head}${run.roles[state.head] ? `, ${run.roles[state.head]}` : ""}: ${run.label}, step ${state.step}`;
    if (second) {
      this.panels.other.title.textContent = `${state.head}: ${second.label}, step ${this.secondStep}`;
      this.panels.difference.title.textContent = `Difference: first − second, −${number(this._scale())} blue to ${number(this._scale())} orange`.replace(/\.000/g, "");
    }
    for (const made of this.visible ?? []) this._thumbnail(made);
    const context = this.scaleBar.getContext("2d"), image = new ImageData(256, 1);
    new Uint32Array(image.data.buffer).set(this._table("this"));
    context.putImageData(image, 0, 0);
    this._hover();
    this.timing.draw = performance.now() - started;
  }

  _why(which) {
    const { run, second, state } = this, shown = which === "this" ? run : second;
    if (which === "difference") return "no difference to show";
    if (!shown.heads.includes(state.head)) return `${shown.label} has no ${state.head} here`;
    if (!(state.colour in shown.colours)) return `${shown.label} has no ${state.colour === "streamed" ? "stream" : COLOURS[state.colour]}`;
    return "this layer receives no stream";
  }

  /** How many positions are one in a small pattern. */
  _pool(n) { return Math.max(1, Math.ceil(n / 128)); }

  _thumbnail(made) {
    if (!this._loaded) return;
    const which = this.second ? this.state.small : "this", n = this.run.positions, pool = this._pool(n), side = Math.ceil(n / pool);
    const canvas = made.firstChild;
    if (canvas.width !== side) { canvas.width = canvas.height = side; made.image = null; }
    made.image ??= new ImageData(side, side);
    paint(canvas, made.image, this.indices(which, made.dataset.head), n, this._table(which), pool);
  }

  // The cell under the cursor

  _hover() {
    this._overlays();
    this._say();
    this._shade();
  }

  _overlays() {
    const style = getComputedStyle(this.root), names = ["ink", "soft", "mark", "accent", "raised"];
    const look = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--wbv-${name}`)]));
    for (const panel of Object.values(this.panels)) if (!panel.box.hidden) this._overlay(panel, look, style.fontFamily);
  }

  _overlay(panel, look, font) {
    const { run, state, cursor, margin } = this, ratio = window.devicePixelRatio || 1, n = run.positions, size = panel.size / n;
    const { answered, text, read_from: from } = this._tokens(run), context = panel.over.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, panel.over.width, panel.over.height);
    context.translate(0, TOP);
    const row = cursor?.t ?? state.lock;
    context.strokeStyle = look.accent; context.lineWidth = 1.5;
    if (state.lock !== null) context.strokeRect(margin + 0.5, state.lock * size, (state.lock + 1) * size, size);
    if (cursor) {
      context.strokeStyle = look.soft; context.lineWidth = 1;
      context.strokeRect(margin, cursor.t * size, (cursor.t + 1) * size, size);
      context.strokeRect(margin + cursor.s * size, cursor.t * size, size, (n - cursor.t) * size);
      context.strokeStyle = look.ink; context.lineWidth = 2;
      context.strokeRect(margin + cursor.s * size, cursor.t * size, size, size);
    }
    if (this.marks) {
      context.strokeStyle = look.mark; context.lineWidth = 1.5;
      for (let t = 0; t < n; t++) {
        if (!answered[t] || from[t] < 0) continue;
        context.beginPath(); context.arc(margin + (from[t] + 0.5) * size, (t + 0.5) * size, Math.max(4, size / 2 + 1.5), 0, 7); context.stroke();
      }
    }
    const each = Math.max(1, Math.ceil(11 / size)), high = Math.max(9, Math.min(12, size));
    context.direction = "ltr"; context.textBaseline = "middle";
    const label = (position, across, strong) => {
      context.save();
      context.font = `${strong ? "700 " : ""}${strong ? 12 : high}px ${font}`;
      const word = short(text[position], 7);
      context.translate(...(across ? [margin + (position + 0.5) * size, panel.size + 5] : [margin - 5, (position + 0.5) * size]));
      if (across) context.rotate(-Math.PI / 2);
      context.textAlign = "right";
      if (strong) {
        const width = Math.min(context.measureText(word).width, margin - 8);
        context.fillStyle = look.raised; context.fillRect(-width - 3, -8, width + 6, 16);
        context.fillStyle = look.ink;
      } else context.fillStyle = answered[position] && this.marks ? look.mark : look.soft;
      context.fillText(word, 0, 0, margin - 8);
      context.restore();
    };
    for (let position = 0; position < n; position += each) { label(position, false, false); label(position, true, false); }
    // Labels of the places that matter stand over their neighbours.
    if (this.marks && row !== null && row !== undefined && answered[row] && from[row] >= 0) label(from[row], true, true);
    if (state.lock !== null) label(state.lock, false, true);
    if (cursor) { label(cursor.t, false, true); label(cursor.s, true, true); }
    panel.over.setAttribute("aria-label", `${panel.title.textContent}. Attention of ${n} positions; arrow keys move from cell to cell`);
  }

  _value(which, t, s) {
    const { run, second, state } = this, cell = (t * (t + 1)) / 2 + s;
    const [shown, step] = which === "this" ? [run, state.step] : [second, this.secondStep];
    if (!this.has(shown, state.head) || t >= shown.positions) return null;
    return this.values(shown.label, step, state.head)[cell];
  }

  _say() {
    const { run, second, state, cursor } = this, { text, answered, read_from: from } = this._tokens(run), parts = [];
    const word = (position) => [element("bdi", { text: `‘${text[position]}’` }), ` (${position})`];
    const told = (value) => (state.colour === "streamed" ? signed(value) : number(value));
    if (cursor) {
      const one = this._value("this", cursor.t, cursor.s);
      parts.push(...word(cursor.t), " attends to ", ...word(cursor.s), ": ", element("strong", { text: one === null ? "none" : told(one) }));
      if (second) {
        const other = this._value("other", cursor.t, cursor.s);
        if (other !== null) parts.push(`; ${second === run ? `step ${this.secondStep}` : second.label} ${told(other)}`);
        if (one !== null && other !== null && this.comparable) parts.push(`, difference ${signed(one - other)}`);
      }
      parts.push(". ");
    }
    const row = cursor ? null : state.lock;
    if (row !== null) {
      parts.push("Locked: ", ...word(row), " attends to ");
      const found = this.has(run, state.head) ? this.values(run.label, state.step, state.head) : null, start = (row * (row + 1)) / 2;
      const order = found ? [...Array(row + 1).keys()].sort((a, b) => Math.abs(found[start + b]) - Math.abs(found[start + a])).slice(0, 3) : [];
      order.forEach((s, index) => parts.push(...word(s), ` ${told(found[start + s])}${index < order.length - 1 ? ", " : ". "}`));
      if (!found) parts.push("nothing in this colour. ");
    }
    const at = cursor?.t ?? state.lock;
    if (at !== null && at !== undefined && answered[at] && from[at] >= 0)
      parts.push("Its earlier occurrence is at ", String(from[at] - 1), "; what followed, the answer, is ", ...word(from[at]), ".");
    if (!parts.length) parts.push("Point at a cell to read it, click to lock its row.");
    this.readout.replaceChildren(...parts);
  }

  _shade() {
    const { run, state, cursor } = this, row = cursor?.t ?? state.lock, found = this.panels.this.found, colours = this._table("this");
    const from = this._tokens(run).read_from, items = this.strip.children, start = row === null || row === undefined ? 0 : (row * (row + 1)) / 2;
    for (let s = 0; s < items.length; s++) {
      const inside = row !== null && row !== undefined && s <= row && found;
      const pixel = inside ? colours[found[start + s]] : 0;
      items[s].style.background = inside ? css(pixel) : "";
      const light = 0.299 * (pixel & 255) + 0.587 * ((pixel >> 8) & 255) + 0.114 * ((pixel >> 16) & 255);
      items[s].style.color = inside ? (light > 140 ? "#10161c" : "#ffffff") : "";
      items[s].classList.toggle("destination", s === row);
      items[s].classList.toggle("expected", row !== null && row !== undefined && this._tokens(run).answered[row] && from[row] === s);
    }
  }

  _playLabel() {
    this.playButton.textContent = this.playing ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    this.playButton.title = this.playing ? "Pause" : "Play";
  }
}

/** Indices of a lower triangle as pixels; of `pool` x `pool` cells the one farthest from the neutral colour. */
function paint(canvas, image, found, n, colours, pool) {
  const pixels = new Uint32Array(image.data.buffer), side = image.width, context = canvas.getContext("2d");
  pixels.fill(0);
  if (found && pool === 1) {
    for (let t = 0, cell = 0; t < n; t++) for (let s = 0, at = t * side; s <= t; s++) pixels[at++] = colours[found[cell++]];
  } else if (found) {
    const neutral = colours.neutral ?? 0, most = new Int16Array(side * side).fill(-1), kept = new Uint8Array(side * side);
    for (let t = 0, cell = 0; t < n; t++) {
      const line = Math.floor(t / pool) * side;
      for (let s = 0; s <= t; s++, cell++) {
        const at = line + Math.floor(s / pool), far = Math.abs(found[cell] - neutral);
        if (far > most[at]) { most[at] = far; kept[at] = found[cell]; }
      }
    }
    for (let at = 0; at < most.length; at++) if (most[at] >= 0) pixels[at] = colours[kept[at]];
  }
  context.putImageData(image, 0, 0);
}

const NAMES = ["run", "second", "step", "at", "head", "sequence", "colour", "lock", "small"];

/** The view that the page's address names, after `#NAME?`; null where it names none. */
function fromFragment(name) {
  const [, words] = window.location.hash.split(`#${name}?`);
  if (words === undefined) return null;
  const given = new URLSearchParams(words);
  return Object.fromEntries(NAMES.map((each) => [each, given.get(each)]).filter(([each, value]) => value !== null || each === "second" || each === "at" || each === "lock"));
}

function toFragment(name, state) {
  const words = new URLSearchParams();
  for (const each of NAMES) if (state[each] !== null && !(each === "small" && state[each] === "this")) words.set(each, state[each]);
  return `#${name}?${words}`;
}

/** Draw the viewer in `root`; with `fragment` its state is kept in the page's address. */
export function mount(root, payload, { fragment = null, state = {}, changed = null } = {}) {
  let waiting = null;
  const keep = (now) => {
    // Browsers limit how often an address may change.
    clearTimeout(waiting);
    waiting = setTimeout(() => window.history.replaceState(null, "", toFragment(fragment, now)), 200);
  };
  const given = fragment === null ? null : fromFragment(fragment);
  const viewer = new Viewer(root, payload, { state: { ...state, ...given }, changed: fragment === null ? changed ?? (() => {}) : keep });
  root.workbenchViewer = viewer;
  if (fragment !== null) {
    const look = () => root.closest("section, body").scrollIntoView();
    if (given) viewer.ready.then(look);
    window.addEventListener("hashchange", () => {
      const wanted = fromFragment(fragment);
      if (wanted) { viewer.set(wanted, true); look(); }
    });
  }
  return viewer;
}

/** Every viewer that stands in the page with its data inside. */
export function mountAll() {
  for (const root of document.querySelectorAll("[data-attention-viewer]")) {
    const held = root.querySelector('script[type="application/json"]');
    mount(root, JSON.parse(held.textContent), { fragment: root.dataset.attentionViewer });
  }
}

/** As a notebook's widget (anywidget): the state is the model's traits. */
export default {
  render({ model, el }) {
    const root = document.createElement("div");
    el.append(root);
    const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name) ?? null]));
    const unset = (state) => Object.fromEntries(Object.entries(state).filter(([name, value]) => value !== null || ["second", "at", "lock"].includes(name)));
    const viewer = mount(root, { manifest: model.get("manifest"), blobs: model.get("blobs") }, {
      state: unset(read()),
      changed: (state) => { for (const name of NAMES) model.set(name, state[name]); model.save_changes(); },
    });
    viewer.changed(viewer.state);
    const follow = () => viewer.set(unset(read()), true);
    for (const name of NAMES) model.on(`change:${name}`, follow);
    return () => { for (const name of NAMES) model.off(`change:${name}`, follow); viewer.destroy(); };
  },
};
