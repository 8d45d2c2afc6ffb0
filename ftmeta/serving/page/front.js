// Predicted score against cost: the pipelines that no cheaper one beats as a staircase, the recommended ones by number.

import { element, scoreTicks } from "/page/chart.js";

const COARSE_S = [1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000];
const FINE_S = [1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 120, 180, 300, 480, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200, 10_800, 18_000, 28_800, 43_200, 86_400, 172_800];

/** `front` as the service answers it, the cheapest first; `items` the recommendations; `said` writes seconds. */
export function trade(front, items, chosen, width, said) {
  const height = Math.round(Math.max(200, Math.min(280, width * 0.38)));
  const box = { left: 40, right: 26, top: 14, bottom: 40 };
  const costs = [...front, ...items].map((one) => Math.log(one.cost_s));
  const low = Math.min(...costs), high = Math.max(Math.max(...costs), low + 0.1);
  const ticks = scoreTicks(Math.max(...[...front, ...items].map((one) => one.score)));
  const x = (seconds) => box.left + 12 + (width - box.left - box.right - 12) * ((Math.log(seconds) - low) / (high - low));
  const y = (score) => box.top + (height - box.top - box.bottom) * (1 - score / ticks.at(-1));
  const best = items[chosen];
  const spoken = `Predicted score against time: from ${front[0].score.toFixed(2)} for ${said(front[0].cost_s)} to ` +
    `${front.at(-1).score.toFixed(2)} for ${said(front.at(-1).cost_s)}; pipeline ${chosen + 1} scores ${best.score.toFixed(2)} for ${said(best.cost_s)}.`;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken });

  for (const tick of ticks) {
    svg.append(element("line", { class: "grid", x1: box.left, x2: width - box.right, y1: y(tick), y2: y(tick) }));
    svg.append(element("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(ticks[1] < 0.1 ? 2 : 1)));
  }
  for (const seconds of timeTicks(low, high)) {
    svg.append(element("text", { x: x(seconds), y: height - box.bottom + 18, "text-anchor": "middle" }, said(seconds)));
  }
  svg.append(element("text", { x: (box.left + width - box.right) / 2, y: height - 4, "text-anchor": "middle" }, "device time of a full run"));

  const steps = front.map((one, at) => `${at ? "H" : "M"}${x(one.cost_s).toFixed(1)}${at ? "V" : ","}${y(one.score).toFixed(1)}`);
  svg.append(element("path", { class: "front", d: `${steps.join("")}H${width - box.right}` }));
  for (const one of front) svg.append(element("circle", { class: "on-front", cx: x(one.cost_s), cy: y(one.score), r: 3 }));
  const order = items.map((_, index) => index).filter((index) => index !== chosen).reverse().concat(chosen);
  for (const index of order) {
    const at = [x(items[index].cost_s), y(items[index].score)];
    const name = index === chosen ? "pick chosen" : "pick";
    svg.append(element("circle", { class: name, cx: at[0], cy: at[1], r: 9 }));
    svg.append(element("text", { class: name, x: at[0], y: at[1] + 4, "text-anchor": "middle" }, String(index + 1)));
  }
  return svg;
}

/** Between the logarithms of two times: round ones, far enough apart to be read; else the two themselves. */
function timeTicks(low, high) {
  const within = (ticks) => ticks.filter((one) => Math.log(one) >= low && Math.log(one) <= high);
  const coarse = within(COARSE_S);
  if (coarse.length > 2) return coarse;
  const fine = within(FINE_S), gap = (high - low) / 6;
  const apart = fine.filter((one, at) => at === 0 || Math.log(one) - Math.log(fine[at - 1]) >= gap);
  return apart.length > 1 ? apart : [Math.exp(low), Math.exp(high)];
}
