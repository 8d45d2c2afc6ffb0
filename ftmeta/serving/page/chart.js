// Learning curves and score intervals as inline SVG. Sizes are those of the viewBox; colours come from the style sheet.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The predicted curves of all pipelines; the chosen one with its band. `items` are recommendations, best first. */
export function curves(items, chosen, width) {
  const height = Math.round(Math.max(220, Math.min(300, width * 0.42)));
  const box = { left: 40, right: 26, top: 12, bottom: 40 };
  const steps = items[0].curve.length;
  const ticks = scoreTicks(Math.max(...items.flatMap((item) => item.curve_high)));
  const top = ticks.at(-1);
  const x = (fidelity) => box.left + (width - box.left - box.right) * (fidelity / steps);
  const y = (score) => box.top + (height - box.top - box.bottom) * (1 - score / top);
  const best = items[chosen];
  const spoken = `Predicted score of pipeline ${chosen + 1} by share of the training: ` +
    best.curve.map((score, index) => `${percent((index + 1) / steps)} ${score.toFixed(2)}`).join(", ") + ".";
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken });

  for (const tick of ticks) {
    svg.append(element("line", { class: "grid", x1: box.left, x2: width - box.right, y1: y(tick), y2: y(tick) }));
    svg.append(element("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(ticks[1] < 0.1 ? 2 : 1)));
  }
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(element("text", { x: x(share * steps), y: height - box.bottom + 18, "text-anchor": "middle" }, percent(share)));
  }
  svg.append(element("text", { x: (box.left + width - box.right) / 2, y: height - 4, "text-anchor": "middle" }, "share of the full training"));

  const path = (scores) => "M" + scores.map((score, index) => `${x(index).toFixed(1)},${y(score).toFixed(1)}`).join("L");
  const there = [0, ...best.curve_high], back = [0, ...best.curve_low];
  const around = path(there) + back.map((score, index) => [index, score]).reverse()
    .map(([index, score]) => `L${x(index).toFixed(1)},${y(score).toFixed(1)}`).join("") + "Z";
  svg.append(element("path", { class: "band", d: around }));
  const order = items.map((_, index) => index).filter((index) => index !== chosen).concat(chosen);
  for (const index of order) {
    svg.append(element("path", { class: index === chosen ? "curve chosen" : "curve", d: path([0, ...items[index].curve]) }));
  }
  svg.append(element("circle", { class: "end", cx: x(steps), cy: y(best.curve.at(-1)), r: 4 }));
  for (const { index, at } of spread(items.map((item, index) => ({ index, at: y(item.curve.at(-1)) })), 13)) {
    svg.append(element("text", { class: index === chosen ? "name chosen" : "name", x: width - box.right + 9, y: at + 4 }, String(index + 1)));
  }
  return svg;
}

/** A score and its interval on the line from 0 to 1. */
export function interval(item) {
  const at = (score) => 4 + 292 * score;
  return element("svg", { class: "interval", viewBox: "0 0 300 18", preserveAspectRatio: "none", "aria-hidden": "true" },
    element("line", { class: "track", x1: 4, x2: 296, y1: 9, y2: 9 }),
    element("line", { class: "range", x1: at(item.score_low), x2: at(item.score_high), y1: 9, y2: 9 }),
    element("ellipse", { class: "dot", cx: at(item.score), cy: 9, rx: 4.5, ry: 5 }));
}

/** Round steps from 0 to just above the highest score. */
export function scoreTicks(highest) {
  const step = [0.02, 0.05, 0.1, 0.2, 0.25].find((one) => highest / one <= 5) ?? 0.25;
  const count = Math.max(1, Math.min(Math.round(1 / step), Math.ceil(highest / step - 1e-9)));
  return Array.from({ length: count + 1 }, (_, index) => index * step);
}

/** Moves labels apart that would lie on each other: first down, then the pile as a whole back up. */
function spread(labels, gap) {
  const sorted = labels.sort((a, b) => a.at - b.at);
  const middle = sorted.reduce((sum, label) => sum + label.at, 0) / sorted.length;
  for (let i = 1; i < sorted.length; i++) sorted[i].at = Math.max(sorted[i].at, sorted[i - 1].at + gap);
  const shift = middle - sorted.reduce((sum, label) => sum + label.at, 0) / sorted.length;
  for (const label of sorted) label.at = Math.max(10, label.at + shift);
  for (let i = 1; i < sorted.length; i++) sorted[i].at = Math.max(sorted[i].at, sorted[i - 1].at + gap);
  return sorted;
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}
