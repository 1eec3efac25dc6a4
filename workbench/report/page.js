// What a page does when it is opened: it unpacks its libraries, draws each figure and each view of CircuitsVis when it comes near
// the window, and makes tables that can be sorted, searched and saved.
"use strict";

const Page = (() => {
  // Text that stands deflated and in base64 in a script element.
  async function unpacked(element) {
    const characters = atob(element.textContent.trim());
    const bytes = new Uint8Array(characters.length);
    for (let at = 0; at < characters.length; at++) bytes[at] = characters.charCodeAt(at);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  }

  async function loadLibraries() {
    for (const packed of document.querySelectorAll("script[data-library]")) {
      const script = document.createElement("script");
      script.textContent = await unpacked(packed);
      document.head.append(script);
      packed.remove();
    }
  }

  async function drawFigure(place) {
    const packed = place.querySelector("script");
    if (!packed) return;
    packed.remove();
    const { data, layout, frames, config } = JSON.parse(await unpacked(packed));
    await Plotly.newPlot(place, { data, layout, frames, config });
    place.classList.add("drawn");
  }

  // What stands in a template, its scripts included, begins to live in the page.
  function bringIn(place) {
    const template = place.querySelector("template");
    if (!template) return;
    template.remove();
    place.append(document.importNode(template.content, true));
  }

  const drawings = () => [...document.querySelectorAll(".plot, .later")];
  const draw = (place) => (place.matches(".plot") ? drawFigure(place) : bringIn(place));

  // Everything at once, for the printer.
  const drawAll = () => ready.then(() => Promise.all(drawings().map(draw)));

  function drawWhenNear() {
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          observer.unobserve(entry.target);
          draw(entry.target);
        }
      },
      { rootMargin: "900px" },
    );
    drawings().forEach((place) => observer.observe(place));
    addEventListener("beforeprint", drawAll);
  }

  // Numbers by size, everything else by its letters; what is empty comes last either way.
  function compared(a, b, down) {
    const empty = (value) => value === null || value === "";
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  }

  const SHOWN = 200;

  function shownCell(value) {
    if (value === null) return "";
    return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
  }

  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  function save(name, { columns, rows }) {
    const text = [columns, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  async function openTable(details) {
    const packed = details.querySelector("script");
    if (!packed) return;
    packed.remove();
    const table = JSON.parse(await unpacked(packed));
    const isNumber = table.columns.map((_, at) => table.rows.every((row) => row[at] === null || typeof row[at] === "number"));
    let rows = table.rows;
    let sorted = { at: -1, down: false };
    const search = make("input", { type: "search", placeholder: "rows that hold …", ariaLabel: `Rows of ${table.name} that hold` });
    const download = make("button", { type: "button", textContent: "Download CSV" });
    const said = make("span", { role: "status" });
    const body = make("tbody", {});
    const heads = table.columns.map((column, at) => {
      const button = make("button", { type: "button", textContent: column });
      button.addEventListener("click", () => {
        sorted = { at, down: sorted.at === at && !sorted.down };
        show();
      });
      return make("th", { scope: "col", className: isNumber[at] ? "number" : "" }, button);
    });

    function show() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = table.rows.filter((row) => {
        const text = row.map((value) => (value === null ? "" : String(value).toLowerCase()));
        return words.every((word) => text.some((cell) => cell.includes(word)));
      });
      if (sorted.at >= 0) rows = [...rows].sort((a, b) => compared(a[sorted.at], b[sorted.at], sorted.down));
      heads.forEach((head, at) => (head.ariaSort = at !== sorted.at ? "none" : sorted.down ? "descending" : "ascending"));
      const cells = (row) => row.map((value, at) => make("td", { className: isNumber[at] ? "number" : "", textContent: shownCell(value) }));
      body.replaceChildren(...rows.slice(0, SHOWN).map((row) => make("tr", {}, ...cells(row))));
      said.textContent = `${rows.length} of ${table.rows.length} rows${rows.length > SHOWN ? `, the first ${SHOWN} shown` : ""}`;
    }

    search.addEventListener("input", show);
    download.addEventListener("click", () => save(table.name, { columns: table.columns, rows }));
    details.querySelector("div").append(
      make("p", { className: "table-bar" }, search, download, said),
      make("div", { className: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)),
    );
    show();
  }

  function tell(text) {
    document.querySelector("main").prepend(make("p", { className: "problem", role: "alert", textContent: text }));
  }

  const ready = new Promise((resolve) => addEventListener("DOMContentLoaded", resolve)).then(async () => {
    if (!window.DecompressionStream) {
      tell("This browser cannot unpack the figures of this page; one of 2023 or later can.");
      return;
    }
    await loadLibraries();
    for (const details of document.querySelectorAll("details.data")) details.addEventListener("toggle", () => openTable(details));
    drawWhenNear();
  });

  return { ready, drawAll, unpacked };
})();
