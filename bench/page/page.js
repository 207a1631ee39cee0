"use strict";

const root = document.documentElement;
const data = JSON.parse(document.getElementById("data").textContent);
root.classList.add("js");

/* Theme: the system's, until the reader chooses. */

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = document.getElementById("theme");

function remembered(value) {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null; // storage may be forbidden
  }
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
}

function paint() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `${theme.textContent} theme`);
}

if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
theme.addEventListener("click", () => {
  root.dataset.theme = remembered(isDark() ? "light" : "dark") ?? (isDark() ? "light" : "dark");
  paint();
});
dark.addEventListener("change", paint);
paint();

/* Tables: sorting and filtering. What is missing sorts last, either way. */

const NEXT = { none: "first", first: "second", second: "none" };

function keyOf(row, column) {
  const cell = row.cells[column];
  if (column === 0) return cell.dataset.name;
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b, "en") : a - b;
}

function sorted(rows, column, sign) {
  const keyed = rows.map((row) => [keyOf(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * compare(a, b);
  });
  return keyed.map(([, row]) => row);
}

function makeSortable(section) {
  const body = section.querySelector("tbody");
  const declared = [...body.rows];
  const buttons = section.querySelectorAll(".sort");
  const states = new Map();

  function sortBy(button) {
    const state = NEXT[states.get(button) ?? "none"];
    const sign = (button.dataset.better === "higher" ? -1 : 1) * (state === "second" ? -1 : 1);
    for (const other of buttons) other.closest("th").setAttribute("aria-sort", "none");
    states.clear();
    states.set(button, state);
    if (state === "none") return body.append(...declared);
    button.closest("th").setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...sorted(declared, Number(button.dataset.column), sign));
  }

  for (const button of buttons) button.addEventListener("click", () => sortBy(button));
}

function makeFilterable(section) {
  const rows = [...section.querySelector("tbody").rows];
  const search = section.querySelector("input[type=search]");
  const numbered = section.querySelector(".numbered");
  const count = section.querySelector(".count");

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const name = row.cells[0].dataset.name.toLowerCase();
      const has = row.querySelector("[data-value]") !== null;
      row.hidden = !words.every((word) => name.includes(word)) || (numbered.checked && !has);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length} methods shown`;
  }

  search.addEventListener("input", filter);
  numbered.addEventListener("change", filter);
  filter();
}

function makeFoldable(section) {
  for (const box of section.querySelectorAll(".columns input")) {
    box.addEventListener("change", () => {
      for (const cell of section.querySelectorAll(`[data-group="${box.value}"]`)) {
        cell.hidden = !box.checked;
      }
    });
  }
  const reported = section.querySelector(".show-reported");
  reported?.addEventListener("click", () => {
    const on = section.querySelector(".scroll").classList.toggle("with-reported");
    reported.setAttribute("aria-pressed", String(on));
  });
}

for (const section of document.querySelectorAll(".board")) {
  makeSortable(section);
  makeFilterable(section);
  makeFoldable(section);
}

/* Provenance: what is behind a number. All text is set as text, never as markup. */

const dialog = document.getElementById("provenance");
const content = dialog.querySelector(".content");

function make(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children.map((child) => child ?? ""));
  return node;
}

function list(pairs) {
  const known = pairs.filter(([, value]) => value !== "");
  return make("dl", ...known.map(([key, value]) => make("div", make("dt", key), make("dd", value))));
}

function rounded(number, digits) {
  return typeof number === "number" ? String(Number(number.toPrecision(digits))) : "–";
}

function seedTable(entry) {
  const heads = ["seed", "value", "training, s", "task, s", "device", "torch", "commit", "date", "file"];
  const head = make("tr", ...heads.map((text) => {
    const cell = make("th", text);
    cell.scope = "col";
    return cell;
  }));
  const rows = entry.cells.map(([index, value]) => {
    const cell = data.cells[index];
    const made = data.made[cell.made];
    const seed = make("th", String(cell.seed));
    seed.scope = "row";
    const rest = [rounded(value, 6), rounded(cell.training, 3), rounded(cell.seconds, 3)];
    rest.push(made.device, made.torch, made.commit, cell.time.replace("T", " ").replace("+00:00", " UTC"));
    return make("tr", seed, ...rest.map((text) => make("td", text)), make("td", make("code", cell.file)));
  });
  const table = make("table", make("caption"), make("thead", head), make("tbody", ...rows));
  table.caption.className = "heard";
  table.caption.textContent = "Each seed";
  const box = make("div", table);
  box.className = "scroll";
  box.tabIndex = 0;
  return box;
}

function commands(entry) {
  return [...new Set(entry.cells.map(([index]) => data.made[data.cells[index].made].command))]
    .filter(Boolean);
}

function parts(entry) {
  const found = [];
  if (entry.why) found.push(make("p", `n/a: ${entry.why}`));
  if (entry.cells.length) found.push(seedTable(entry));
  if (entry.reported) {
    const facts = list(entry.reported);
    facts.className = "long";
    found.push(make("h3", "Reported, never mixed with what was measured"), facts);
  }
  const said = commands(entry);
  if (said.length) found.push(make("h3", "Command"), ...said.map((text) => make("p", make("code", text))));
  if (entry.cells.length) {
    for (const [what, index] of Object.entries(data.cells[entry.cells[0][0]].parameters)) {
      const pairs = Object.entries(data.parameters[index]);
      if (pairs.length) found.push(make("h3", `Parameters of the ${what}`), list(pairs));
    }
  }
  return found;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".cell");
  if (button) {
    const entry = data.entries[Number(button.dataset.entry)];
    dialog.querySelector("h2").textContent = `${entry.method}: ${entry.title}`;
    dialog.querySelector(".of").textContent = `${entry.task} in ${entry.setting}`;
    content.replaceChildren(...parts(entry));
    dialog.showModal();
    dialog.scrollTop = 0;
  } else if (event.target === dialog || event.target.closest(".close")) {
    dialog.close();
  }
});
