// The page around the viewer: poses, colours, layers, tabs.
"use strict";

const all = (query, within = document) => [...within.querySelectorAll(query)];
const one = (query) => document.querySelector(query);

function tabs() {
  const buttons = all("[role=tab]");
  const open = (chosen) => {
    for (const button of buttons) {
      const on = button === chosen;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !on;
    }
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => open(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(i + step + buttons.length) % buttons.length];
      open(next);
      next.focus();
      event.preventDefault();
    });
  });
  open(buttons[0]);
}

function copying() {
  for (const button of all("[data-copy]"))
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      const selected = getSelection();
      selected.selectAllChildren(text);
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        document.execCommand("copy");
      }
      selected.removeAllRanges();
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
}

// Which pose is shown: told to the viewer, if there is one, and to everything on the page that depends on it.
function choosing(viewer) {
  const choose = (index) => {
    for (const button of all("[data-show]")) button.setAttribute("aria-pressed", Number(button.dataset.show) === index);
    for (const part of all("[data-of]")) part.hidden = Number(part.dataset.of) !== Math.max(index, 0);
    for (const row of all("tr[data-row]")) row.classList.toggle("shown", Number(row.dataset.row) === index);
    document.body.dataset.pose = index;
    viewer?.show(index);
  };
  for (const button of all("[data-show]")) button.addEventListener("click", () => choose(Number(button.dataset.show)));
  choose(0);
}

function controls(viewer) {
  const legends = all("[data-legend]");
  const colour = (mode) => {
    for (const button of all("[data-mode]")) button.setAttribute("aria-pressed", Number(button.dataset.mode) === mode);
    for (const legend of legends) legend.hidden = Number(legend.dataset.legend) !== mode;
    viewer.set({ mode });
  };
  for (const button of all("[data-mode]")) button.addEventListener("click", () => colour(Number(button.dataset.mode)));
  for (const box of all("[data-layer]"))
    box.addEventListener("change", () => {
      viewer.set({ [box.dataset.layer]: box.checked });
      for (const part of all(`[data-with=${box.dataset.layer}]`)) part.hidden = !box.checked;
    });
  one("[data-layer=apart]").addEventListener("change", () => viewer.show(viewer.index));
  one("#size").addEventListener("input", (event) => viewer.set({ size: 2 ** Number(event.target.value) }));
  one("#cut").addEventListener("input", (event) => viewer.set({ cut: Number(event.target.value) }));
  for (const button of all("[data-view]"))
    button.addEventListener("click", () => viewer.home(...JSON.parse(button.dataset.view)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => viewer.recolour());
  colour(0);
}

// Axes of the target's frame in the corner, and a length to measure by.
function measures(viewer) {
  const axes = all("#axes line"), names = all("#axes text"), bar = one("#scale"), length = one("#scale span");
  viewer.onframe = ({ right, up }) => {
    axes.forEach((line, i) => {
      const [x, y] = [26 * right[i], -26 * up[i]];
      line.setAttribute("x2", x.toFixed(1));
      line.setAttribute("y2", y.toFixed(1));
      names[i].setAttribute("x", (1.3 * x).toFixed(1));
      names[i].setAttribute("y", (1.3 * y + 4).toFixed(1));
    });
    const unit = (2 * viewer.eye.distance * Math.tan(FOV / 2)) / viewer.canvas.clientHeight;
    const power = 10 ** Math.floor(Math.log10(110 * unit));
    const round = [5, 2, 1].map((step) => step * power).find((step) => step <= 110 * unit);
    bar.style.width = `${round / unit}px`;
    length.textContent = String(Number(round.toPrecision(2)));
  };
}

function start() {
  tabs();
  copying();
  let viewer = null;
  document.body.classList.add("live"); // so that the canvas has a size
  try {
    viewer = new Viewer(one("#view"), JSON.parse(one("#data").textContent));
    measures(viewer);
    controls(viewer);
  } catch (error) {
    document.body.classList.remove("live");
    one("#still").title = `A still picture: ${error.message}.`;
    viewer = null;
  }
  window.viewer = viewer;
  choosing(viewer);
}

start();
