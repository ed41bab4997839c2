// What a reader chooses: models, light or dark, the full size of a figure, the order of a table.
"use strict";

// Some browsers keep a store for each file, so that links carry the choice too.
const query = new URLSearchParams(location.search);
const choice = {
  read(key) {
    try {
      if (query.has(key)) localStorage.setItem(`microtome-${key}`, query.get(key));
      return localStorage.getItem(`microtome-${key}`) ?? "";
    } catch {
      return query.get(key) ?? "";
    }
  },
  keep(key, value) {
    query.set(key, value);
    try {
      localStorage.setItem(`microtome-${key}`, value);
      history.replaceState(null, "", location.pathname + location.hash);
    } catch {}
  },
};
const hidden = new Set(choice.read("hidden").split(",").filter(Boolean));
let theme = choice.read("theme");
const setTheme = () => {
  if (theme) document.documentElement.dataset.theme = theme;
};
setTheme(); // before anything is drawn

function showModels() {
  for (const element of document.querySelectorAll("[data-model]"))
    element.hidden = hidden.has(element.dataset.model);
  // Of several pictures of a study, the first chosen model's; none chosen, the first.
  for (const group of document.querySelectorAll(".one")) {
    const all = [...group.children];
    const first = all.find((picture) => !hidden.has(picture.dataset.model)) ?? all[0];
    for (const picture of all) picture.hidden = picture !== first;
  }
  const boxes = [...document.querySelectorAll(".models input")];
  for (const box of boxes) box.checked = !hidden.has(box.value);
  for (const note of document.querySelectorAll(".none"))
    note.hidden = boxes.some((box) => box.checked);
}

function sortBy(header) {
  const table = header.closest("table");
  const column = [...header.parentElement.children].indexOf(header);
  const sign = header.ariaSort === "ascending" ? -1 : 1;
  for (const other of header.parentElement.children) other.ariaSort = null;
  header.ariaSort = sign > 0 ? "ascending" : "descending";
  const key = (row) => {
    const text = row.cells[column].textContent;
    const number = Number(text.replaceAll("−", "-"));
    return text.trim() && !Number.isNaN(number) ? number : text;
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // numbers first, either way
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function showFull(link) {
  const dialog = document.createElement("dialog");
  dialog.className = "large";
  const image = link.querySelector("img").cloneNode();
  image.src = link.href;
  image.loading = "eager";
  image.style.setProperty("--inches", image.getAttribute("width") / 96);
  const name = document.createElement("p");
  name.textContent = image.alt;
  const svg = document.createElement("a");
  svg.href = link.href;
  svg.textContent = "SVG";
  const close = document.createElement("button");
  close.textContent = "Close";
  const head = document.createElement("header");
  head.append(name, svg, close);
  const frame = document.createElement("div");
  frame.append(image);
  dialog.append(head, frame);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target === close) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("DOMContentLoaded", () => {
  showModels();
  for (const box of document.querySelectorAll(".models input"))
    box.addEventListener("change", () => {
      hidden[box.checked ? "delete" : "add"](box.value);
      choice.keep("hidden", [...hidden].join(","));
      showModels();
    });

  const button = document.querySelector("button.theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (theme ? theme === "dark" : dark.matches);
  const label = () => (button.textContent = isDark() ? "Light" : "Dark");
  label();
  dark.addEventListener("change", label);
  button.addEventListener("click", () => {
    theme = isDark() ? "light" : "dark";
    choice.keep("theme", theme);
    setTheme();
    label();
  });

  for (const header of document.querySelectorAll(".sorts thead th")) {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (link?.matches("figure > a")) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      showFull(link);
    } else if (link && new URL(link.href).pathname.endsWith(".html") && !link.hash) {
      const target = new URL(link.href);
      target.search = new URLSearchParams({ hidden: [...hidden].join(","), theme });
      link.href = target;
    }
    const header = event.target.closest(".sorts thead th");
    if (header) sortBy(header);
  });

  // What a link leads to may lie in a chapter that is closed.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    const chapter = target?.closest("details");
    if (!chapter) return;
    chapter.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => {
    for (const chapter of document.querySelectorAll("details.chapter")) chapter.open = true;
  });
});
