"use strict";
for (const figure of document.querySelectorAll("figure[data-hover]")) {
  const { at, x, values } = JSON.parse(figure.dataset.hover);
  if (!at.length) continue;
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const outputs = figure.querySelectorAll("output[data-line]");
  const where = figure.querySelector("output[data-at]");
  const rest = [...outputs].map((output) => output.textContent);
  const restWhere = where.textContent;
  let chosen = null;

  const show = (i) => {
    chosen = i;
    cursor.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i !== null) {
      cursor.setAttribute("x1", at[i]);
      cursor.setAttribute("x2", at[i]);
    }
    where.textContent = i === null ? restWhere : x[i];
    outputs.forEach((output, line) => {
      output.textContent = i === null ? rest[line] : values[line][i];
    });
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = 0;
    at.forEach((position, i) => {
      if (Math.abs(position - place) < Math.abs(at[best] - place)) best = i;
    });
    return best;
  };
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerdown", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const last = at.length - 1;
    const start = chosen ?? last;
    const moves = { ArrowLeft: start - 1, ArrowRight: start + 1, Home: 0, End: last };
    if (event.key === "Escape") show(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(chosen === null ? start : Math.min(last, Math.max(0, moves[event.key])));
  });
}

// Answers before and after training, narrowed by outcome and by words.
for (const part of document.querySelectorAll(".filtered")) {
  const items = [...part.querySelectorAll(".sample")];
  const inputs = [...part.querySelectorAll("[data-filter]")];
  const count = part.querySelector("[data-count]");
  const words = items.map((item) => {
    const shown = item.querySelector(".problem")?.textContent ?? "";
    const key = item.querySelector(".key");
    return `${key.textContent} ${key.querySelector("[title]")?.title ?? ""} ${shown}`.toLowerCase();
  });
  const fits = (item, i) =>
    inputs.every(({ value, dataset }) =>
      !value || (dataset.filter === "text" ? words[i].includes(value.toLowerCase()) : item.dataset[dataset.filter] === value),
    );
  const narrow = () => {
    const kept = items.filter((item, i) => !(item.hidden = !fits(item, i)));
    count.textContent = kept.length < items.length ? `${kept.length} of ${items.length} problems` : "";
  };
  inputs.forEach((input) => input.addEventListener("input", narrow));
  part.querySelector(".controls").hidden = false;
}
