// Draws the figures of a page from the data beside them. plotly paints its sliders and menus as SVG, which keyboards and
// screen readers do not reach and fingers hardly hit: here they become HTML controls above the figure.

// plotly.js offers a button that uploads the figure; nothing leaves the machine from here.
const PRIVATE = { showSendToCloud: false, plotlyServerURL: "" };
const METHODS = ["restyle", "relayout", "update"];
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"' };
const isShown = (part) => part.visible !== false;

// plotly's texts are escaped for its own reader of tags; a control shows them as they were meant.
function readText(text) {
  const read = (_, name, code) => (name ? NAMED[name] : String.fromCodePoint(code));
  return String(text ?? "").replace(/&(?:(amp|lt|gt|quot)|#(\d{1,5}));/g, read);
}

function make(tag, properties = {}, parts = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...parts);
  return element;
}

function makeControl(label, field, ...more) {
  const head = make("label", {}, [make("span", { textContent: `${label} ` }), field]);
  return make("div", { className: "control" }, [head, ...more]);
}

function makeMenu(menu, apply) {
  const buttons = menu.buttons.filter(isShown);
  const select = make("select", {}, buttons.map((button) => make("option", { textContent: readText(button.label) })));
  select.selectedIndex = menu.active ?? 0;
  select.addEventListener("change", () => apply(buttons[select.selectedIndex]));
  return makeControl(readText(menu.name) || "show", select);
}

function makeSlider(slider, apply) {
  const steps = slider.steps.filter(isShown);
  const label = readText(slider.currentvalue?.prefix).trim().replace(/:$/, "") || readText(slider.name) || "step";
  const input = make("input", { type: "range", min: 0, max: steps.length - 1, step: 1 });
  input.value = slider.active ?? 0;
  const output = make("output");
  output.setAttribute("aria-hidden", "true"); // its text is the value of the slider already
  const tell = () => {
    output.textContent = readText(steps[input.value].label) + readText(slider.currentvalue?.suffix);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  tell();
  input.addEventListener("input", () => { tell(); apply(steps[input.value]); });
  return makeControl(label, input, output);
}

// Returns [how to make it, what it is] of every control that HTML can stand for; others stay with plotly.
function listControls({ updatemenus = [], sliders = [] }) {
  const menus = updatemenus.map((menu) => [makeMenu, menu, menu.buttons]);
  const found = [...menus, ...sliders.map((slider) => [makeSlider, slider, slider.steps])];
  return found.filter(([, part, steps]) => isShown(part) && steps?.some(isShown)
    && steps.every((step) => METHODS.includes(step.method)));
}

// Returns the pixels that plotly's own controls take up above and below the plot.
function measureRoom(plot) {
  const { t, h } = plot._fullLayout._size;
  const [top, bottom] = [plot.getBoundingClientRect().top + t, plot.getBoundingClientRect().top + t + h];
  const boxes = [...plot.querySelectorAll(".slider-group, .updatemenu-header-group")]
    .map((group) => group.getBoundingClientRect()).filter((box) => box.height > 0);
  const span = (part) => part.length && Math.max(...part.map((b) => b.bottom)) - Math.min(...part.map((b) => b.top));
  return { t: span(boxes.filter((box) => box.bottom <= top + 1)), b: span(boxes.filter((box) => box.top >= bottom - 1)) };
}

// Gives the figure another height through its element, which plotly fits it to: told to plotly itself, the height would
// freeze the width too.
function setHeight(plot, height) {
  plot.style.height = plot.style.minHeight = `${height}px`;
  return Plotly.Plots.resize(plot);
}

// Takes the controls out of the drawn figure, and the margins that its author made for them.
async function closeGaps(plot, controls) {
  const parts = controls.map(([, part]) => part);
  const left = (all = []) => all.filter((part) => !parts.includes(part));
  const { updatemenus, sliders, margin = {}, height } = plot.layout;
  const [room, size] = [measureRoom(plot), plot._fullLayout._size];
  const change = { updatemenus: left(updatemenus), sliders: left(sliders) };
  let gone = 0;
  for (const side of ["t", "b"]) {
    const given = margin[side] ?? 80;
    const pushed = Math.max(0, size[side] - given); // plotly's own doing, which it undoes by itself
    const cut = Math.max(0, Math.min(room[side] - pushed, given - 10));
    change[`margin.${side}`] = given - cut;
    gone += cut;
  }
  await Plotly.relayout(plot, change);
  if (height) await setHeight(plot, height - gone);
}

// Returns the layout with its title broken into more lines, and room for them, where the screen is too narrow for it.
function fitTitle(layout, width) {
  const { text, font = {} } = layout.title ?? {};
  if (!text || /<(?!br *\/?>)/.test(text)) return layout; // breaking at a space may cut a tag in two
  const size = font.size ?? 17;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${size}px ${font.family ?? layout.font?.family ?? "sans-serif"}`;
  const fits = (line) => pen.measureText(readText(line)).width <= width - 2 * size;
  const before = text.split(/<br *\/?>/);
  if (before.every(fits)) return layout;
  const lines = [];
  for (const word of before.join(" ").split(" ")) {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length && fits(longer)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const more = Math.round(1.4 * size * Math.max(0, lines.length - before.length));
  // plotly sets the first of several lines 0.7 em too high; a title that came in several has room for that already
  const raised = before.length === 1 && lines.length > 1 ? 0.7 * size : 0;
  const pad = { ...layout.title.pad, t: (layout.title.pad?.t ?? 0) + raised };
  return { ...layout, title: { ...layout.title, text: lines.join("<br>"), pad },
    height: layout.height && layout.height + more, margin: { ...layout.margin, t: (layout.margin?.t ?? 100) + more } };
}

// Makes the figure as high as its width asks for. `meta.scaled` is the part of the plot, in pixels at full height, that
// shrinks with the width below the one it names: slices, whose millimetres are as long across as up.
function fitHeight(plot, full) {
  const { l, r } = plot._fullLayout._size;
  const { width, height } = plot.layout.meta.scaled;
  const room = plot.clientWidth - l - r;
  const fitting = Math.round(full - height * Math.max(0, 1 - room / width));
  if (room > 0 && fitting !== plot.clientHeight) setHeight(plot, fitting); // without a width the figure is folded away
}

async function draw(box) {
  const { data, layout: given = {}, frames = [] } = JSON.parse(box.querySelector("script").textContent);
  const small = box.classList.contains("thumbnail");
  const plot = box.querySelector("div");
  const layout = small ? given : fitTitle(given, plot.clientWidth);
  const bare = { title: undefined, width: undefined, height: 190, margin: { l: 30, r: 30, t: 15, b: 25 },
    showlegend: false, annotations: [], updatemenus: [], sliders: [] };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    bare[axis] = { ...layout[axis], title: undefined };
  }
  await Plotly.newPlot(plot, { data, frames: small ? [] : frames,
    layout: small ? { ...layout, ...bare } : layout,
    config: { responsive: true, displaylogo: false, staticPlot: small, ...PRIVATE } });
  const controls = small ? [] : listControls(layout);
  if (controls.length) {
    await closeGaps(plot, controls);
    const apply = (step) => Plotly[step.method](plot, ...step.args);
    plot.before(make("div", { className: "controls" }, controls.map(([build, part]) => build(part, apply))));
  }
  if (!small && layout.meta?.scaled) {
    const full = plot._fullLayout.height;
    new ResizeObserver(() => fitHeight(plot, full)).observe(box);
  }
}

for (const box of document.querySelectorAll(".plotly-figure")) draw(box);
