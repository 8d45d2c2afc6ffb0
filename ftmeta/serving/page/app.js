// The page: what was chosen, what is sent, what came back. Data from outside only ever becomes text, never markup.

import { DatasetError, decode, plural, promptAndAnswer, understand } from "/page/parse.js";
import { curves, interval } from "/page/chart.js";
import { command, exportQuestion, rayJob, TOOLS, yaml } from "/page/copies.js";
import { trade } from "/page/front.js";

const $ = (id) => document.getElementById(id);
const state = { dataset: null, answer: null, chosen: 0, pasteTimer: 0 };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// What the service offers ---------------------------------------------------------------------------------------

async function ask(path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value}`;
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body });
  } catch {
    throw { detail: "The service cannot be reached. Is it still running?", errors: [] };
  }
  let document = null;
  try {
    document = await response.json();
  } catch { /* a proxy's own error page */ }
  if (response.ok && document) return document;
  const retry = response.headers.get("Retry-After");
  const detail = document?.detail ?? `The service answered ${response.status}.`;
  throw { status: response.status, detail: retry ? `${detail} (in ${retry} s)` : detail, errors: document?.errors ?? [], request_id: document?.request_id };
}

async function loadSelector() {
  try {
    const selector = await ask("/v1/selector");
    fill($("base-model"), selector.base_models.map((model) => [model.name, `${model.name} · ${parameters(model.parameters)}${model.known ? "" : " · not in its experience"}`]));
    fill($("hardware"), selector.hardware.map((one) => [one.name, one.description ? `${one.name} · ${one.description}` : one.name]));
    $("base-model").value = selector.default_base_model;
    $("hardware").value = selector.default_hardware;
    $("selector-line").textContent = `${selector.name} ${selector.version}, from ${plural(selector.meta_dataset.runs, "run")} on ${plural(selector.meta_dataset.tasks, "dataset")}`;
    show("token-problem", null);
    show("form-problem", null);
  } catch (problem) {
    if (problem.status === 401) {
      $("token-fields").hidden = false;
      if ($("token").value) show("token-problem", problem.detail);
    } else show("form-problem", problem.detail);
  }
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

// The dataset ---------------------------------------------------------------------------------------------------

function take(text, name) {
  state.dataset = null;
  show("dataset-problem", null);
  $("understood").hidden = true;
  try {
    state.dataset = understand(text, name);
    $("understood").replaceChildren(...describe(state.dataset));
    $("understood").hidden = false;
  } catch (error) {
    if (!(error instanceof DatasetError)) throw error;
    show("dataset-problem", error.message);
  }
  sayWhatIsSent();
}

function describe(dataset) {
  const sample = dataset.rows.slice(0, 3).map((row) => {
    const [prompt, answer] = promptAndAnswer(row);
    return make("li", {}, make("span", {}, clip(prompt)), make("span", { class: "answer" }, clip(answer)));
  });
  const left = dataset.columns.filter((column) => !dataset.kept.includes(column));
  return [
    make("p", {}, make("b", {}, dataset.name), ` is read as ${dataset.format}`),
    make("dl", {},
      make("dt", {}, "Rows"), make("dd", {}, dataset.rows.length.toLocaleString("en")),
      make("dt", {}, "Columns"), make("dd", {}, dataset.kept.join(", ")),
      ...(left.length ? [make("dt", {}, "Not used"), make("dd", {}, left.slice(0, 8).join(", "))] : [])),
    make("ul", { class: "sample", "aria-label": "The first rows" }, ...sample),
    dataset.warnings.length ? make("ul", { class: "warnings" }, ...dataset.warnings.map((text) => make("li", {}, text))) : "",
  ];
}

function clip(text) {
  return text.length > 240 ? `${text.slice(0, 240)}…` : text;
}

function sayWhatIsSent() {
  $("sending").textContent = state.dataset
    ? `The button sends ${plural(state.dataset.rows.length, "row")} (${state.dataset.kept.join(", ")}; ${size(state.dataset.bytes)}) to ${location.host}, which answers and keeps nothing.`
    : "Files are read in this browser. Nothing is sent until you press the button.";
}

async function takeFile(file) {
  if (!file) return;
  $("pasted").value = "";
  try {
    if (file.size > 200_000_000) throw new DatasetError(`${file.name} is ${size(file.size)}; choose a file of at most 200 MB, or a sample of it.`);
    take(decode(new Uint8Array(await file.arrayBuffer())), file.name);
  } catch (error) {
    if (!(error instanceof DatasetError)) throw error;
    state.dataset = null;
    $("understood").hidden = true;
    show("dataset-problem", error.message);
    sayWhatIsSent();
  }
}

// Asking --------------------------------------------------------------------------------------------------------

const FIELDS = { base_model: "base-model", hardware: "hardware", budget_s: "budget", dataset: "pasted", token: "token" };

function show(id, text) {
  const node = $(id);
  node.hidden = text === null;
  node.textContent = text ?? "";
  const field = FIELDS[id.replace(/-problem$/, "")];
  if (field) $(field).setAttribute("aria-invalid", text === null ? "false" : "true");
}

function clearProblems() {
  for (const field of ["base_model", "hardware", "budget_s", "dataset", "form", "token"]) show(`${field}-problem`, null);
}

/** Puts each reason of a problem document beside the field that it names; what is left over goes below the button. */
function showProblem(problem) {
  let placed = null;
  const byField = new Map();
  for (const { field, reason } of problem.errors) {
    const key = field.startsWith("header.Authorization") ? "token" : field.split(".")[0];
    if (!(key in FIELDS)) continue;
    const row = /^dataset\.records\.(\d+)/.exec(field);
    const text = row ? `Row ${Number(row[1]) + 1} ${reason}` : reason;
    byField.set(key, [...(byField.get(key) ?? []), text]);
  }
  if (problem.status === 401) {
    $("token-fields").hidden = false;
    byField.set("token", [problem.detail]);
  }
  if (problem.status === 413) byField.set("dataset", [problem.detail]);
  for (const [key, texts] of byField) {
    show(`${key}-problem`, sentence(texts.slice(0, 3).join("; ")));
    placed ??= FIELDS[key];
  }
  if (!placed) show("form-problem", problem.request_id ? `${problem.detail} (request ${problem.request_id})` : problem.detail);
  $(placed ?? "go").focus();
}

async function recommend() {
  clearProblems();
  if (!state.dataset) {
    take($("pasted").value, "Pasted text");
    if (!state.dataset) return $("pasted").focus();
  }
  const minutes = $("budget").value.trim().replace(",", ".");
  if (minutes && !(Number(minutes) > 0)) {
    show("budget_s-problem", `“${$("budget").value}” is no number of minutes. Give one such as 10, or leave it empty.`);
    return $("budget").focus();
  }
  const button = $("go");
  if (button.getAttribute("aria-busy") === "true") return undefined;
  button.setAttribute("aria-busy", "true");
  button.textContent = "Predicting …";
  try {
    state.answer = await ask("/v1/recommendations", JSON.stringify({
      dataset: { records: state.dataset.rows },
      ...($("base-model").value && { base_model: $("base-model").value }),
      ...($("hardware").value && { hardware: $("hardware").value }),
      ...(minutes && { budget_s: Number(minutes) * 60 }),
      top_k: Number($("top-k").value),
      front: true,
    }));
    state.chosen = 0;
    renderResults();
    $("results").focus({ preventScroll: true });
    $("results").scrollIntoView({ block: matchMedia("(max-width: 56rem)").matches ? "start" : "nearest" });
  } catch (problem) {
    if (problem instanceof Error) throw problem;
    showProblem(problem);
  } finally {
    button.setAttribute("aria-busy", "false");
    button.textContent = "Recommend pipelines";
  }
  return undefined;
}

// The results ---------------------------------------------------------------------------------------------------

function renderResults() {
  const { answer } = state;
  const items = answer.recommendations;
  const splits = answer.task?.splits;
  const lead = splits
    ? `For ${state.dataset.name}: ${splits.train.toLocaleString("en")} rows would train ${answer.base_model.name}, ${splits.validation.toLocaleString("en")} choose, ${splits.test.toLocaleString("en")} test.`
    : `For ${state.dataset.name} and ${answer.base_model.name}.`;
  $("results").replaceChildren(
    make("h2", {}, items.length ? "Recommended pipelines" : "No pipeline fits the budget"),
    make("p", { class: "lead" }, lead),
    answer.warnings.length ? make("ul", { class: "warnings" }, ...answer.warnings.map((text) => make("li", {}, sentence(text)))) : "",
    ...(items.length ? [make("figure", { class: "chart arrived", id: "chart" }), make("figure", { class: "chart arrived", id: "trade" }), make("ol", { class: "cards" }, ...items.map(card))] : []),
    make("p", { class: "foot" }, `Selector ${answer.selector.name} ${answer.selector.version} · request ${answer.request_id}. `,
      "A score is the share of the base model’s zero-shot loss that finetuning removes, on rows it was not trained on; intervals cover 80 %."),
  );
  if (items.length) choose(0);
}

function choose(index) {
  state.chosen = index;
  const items = state.answer.recommendations;
  const figure = $("chart");
  const width = Math.max(300, Math.round(figure.clientWidth - 36));
  figure.replaceChildren(
    make("figcaption", {}, make("b", {}, `Predicted learning curve of pipeline ${index + 1}`), " with its 80 % interval; the others by their number."),
    curves(items, index, width),
    curveTable(items),
  );
  const front = state.answer.front;
  $("trade").replaceChildren(
    make("figcaption", {}, make("b", {}, "Predicted score against cost"), ". The line joins the pipelines that no cheaper one beats; the numbers are those recommended."),
    trade(front, items, index, width, duration),
    frontTable(front),
  );
  document.querySelectorAll(".card").forEach((node, at) => {
    node.classList.toggle("chosen", at === index);
    node.querySelector("[aria-pressed]").setAttribute("aria-pressed", String(at === index));
  });
}

function curveTable(items) {
  const steps = items[0].curve.map((_, index) => `${Math.round(((index + 1) / items[0].curve.length) * 100)} %`);
  return make("details", {}, make("summary", {}, "The curves as a table"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Predicted scores" },
    make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Pipeline"), ...steps.map((step) => make("th", { scope: "col", class: "number" }, step)))),
      make("tbody", {}, ...items.map((item, index) => make("tr", {}, make("th", { scope: "row" }, String(index + 1)),
        ...item.curve.map((score) => make("td", { class: "number" }, score.toFixed(3)))))))));
}

function frontTable(front) {
  const head = ["Time", "Cost", "Score", "Pipeline"].map((name, at) => make("th", { scope: "col", class: at < 3 ? "number" : null }, name));
  const rows = front.map((one) => make("tr", {}, ...[duration(one.cost_s), money(one.cost_usd), one.score.toFixed(3)].map((text) => make("td", { class: "number" }, text)),
    make("td", {}, title(one.pipeline.values), " ", make("button", { type: "button", class: "plain", onclick: (event) => copy(event.currentTarget, yaml(one.pipeline), "the YAML") }, "Copy as YAML"))));
  return make("details", {}, make("summary", {}, "The line as a table"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Pipelines that no cheaper one beats" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))));
}

function card(item, index) {
  const values = item.pipeline.values;
  return make("li", { class: "card" },
    make("div", { class: "card-head" },
      make("span", { class: "place", "aria-label": `Place ${index + 1}` }, String(index + 1)),
      make("h3", {}, title(values), item.label ? make("small", {}, item.label === "default" ? "the published default" : item.label.replace("-", " ")) : null),
      make("span", { class: "score", "aria-label": `Predicted score ${item.score.toFixed(2)}` }, item.score.toFixed(2)),
      make("p", { class: "settings" }, settings(item))),
    make("dl", { class: "facts" },
      make("div", {}, make("dt", {}, `Score in four of five cases: ${item.score_low.toFixed(2)} to ${item.score_high.toFixed(2)}`), make("dd", {}, interval(item))),
      make("div", {}, make("dt", {}, "Time"), make("dd", {}, duration(item.cost_s))),
      make("div", {}, make("dt", {}, "Cost"), make("dd", {}, money(item.cost_usd)))),
    make("div", { class: "actions" },
      make("button", { type: "button", "aria-pressed": "false", onclick: () => choose(index) }, "Show its curve"),
      make("div", { class: "copies", role: "group", "aria-label": `Copy pipeline ${index + 1} as` },
        make("span", { "aria-hidden": "true" }, "Copy as"),
        copyButton("YAML", () => yaml(item.pipeline)),
        copyButton("Command", () => command(item.pipeline, dataFile(), state.answer.base_model.name)),
        copyButton("Ray job", () => rayJob(item.pipeline, dataFile(), state.answer.base_model.name)),
        ...Object.entries(TOOLS).map(([format, [name]]) => make("button", { type: "button", onclick: (event) => showExport(event.currentTarget, item, format) }, name)))),
    make("details", {}, make("summary", {}, "All settings"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `All settings of pipeline ${index + 1}` }, make("table", {}, make("tbody", {},
      ...Object.entries(values).map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value))))))))
  );
}

const METHODS = { lora: "LoRA", rslora: "rsLoRA", dora: "DoRA", ia3: "IA³" };

function title(values) {
  const method = METHODS[values.peft_method] ?? values.peft_method ?? "Pipeline";
  return values.lora_rank === undefined ? method : `${method}, rank ${values.lora_rank}`;
}

function settings(item) {
  const { target_modules: targets, adapted_layers: layers, lr_schedule: schedule, batch_size: batch, loss_on: loss } = item.pipeline.values;
  const where = { attention: "attention", mlp: "MLP", all: "all linear modules" }[targets] ?? targets;
  const which = { all: "", lower_half: " of the lower half", upper_half: " of the upper half" }[layers] ?? "";
  return [
    where && `${where}${which}`,
    item.learning_rate !== null && `learning rate ${item.learning_rate.toExponential(1).replace("e-", "e−")}${schedule ? `, ${schedule}` : ""}`,
    batch && `batch ${batch}`,
    loss && (loss === "full" ? "loss on the full text" : "loss on the answer"),
  ].filter(Boolean).join(" · ");
}

function dataFile() {
  return state.dataset.name === "Pasted text" ? "data.jsonl" : state.dataset.name;
}

function copyButton(label, text) {
  return make("button", { type: "button", onclick: (event) => copy(event.currentTarget, text(), label) }, label);
}

async function copy(button, text, what) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    if (label === "Copied") return;
    button.textContent = "Copied";
    $("said").textContent = `Copied: ${what}.`;
    setTimeout(() => { button.textContent = label; }, 1600);
  } catch { // over plain HTTP from another machine there is no clipboard: show it, selected
    const place = button.closest(".actions, .scroll, .file");
    let area = place.parentElement.querySelector("textarea");
    if (!area) place.after(area = make("textarea", { rows: "8", readonly: true, "aria-label": what }));
    area.value = text;
    area.focus();
    area.select();
  }
}

/** Files for another trainer, below the pipeline: the one that matters is copied at once. */
async function showExport(button, item, format) {
  const [name, main] = TOOLS[format];
  const cardNode = button.closest(".card");
  let panel = cardNode.querySelector(".export");
  if (!panel) cardNode.querySelector(".actions").after(panel = make("section", { class: "export", "aria-live": "polite" }));
  button.setAttribute("aria-busy", "true");
  try {
    const found = await ask("/v1/exports", JSON.stringify(exportQuestion(item.pipeline, format, state.answer, state.dataset.name)));
    panel.setAttribute("aria-label", `For ${name}`);
    panel.replaceChildren(...exported(found, name, main));
    await copy(panel.querySelector("button"), found.files[main], main);
  } catch (problem) {
    if (problem instanceof Error) throw problem;
    panel.replaceChildren(make("p", { class: "problem" }, sentence(problem.detail)));
  } finally {
    button.setAttribute("aria-busy", "false");
  }
}

function exported(found, name, main) {
  const files = Object.entries(found.files).sort(([a], [b]) => (b === main) - (a === main));
  const data = Object.entries(found.data).map(([path, line]) => make("li", {}, make("code", {}, path), ", a row a line: ", make("code", {}, line)));
  const said = [...found.not_carried.map((one) => `${one.setting} is not carried: ${one.why}.`), ...found.notes];
  return [
    make("h4", {}, `For ${name}`),
    ...files.map(([path, text]) => make("details", { class: "file" }, make("summary", {}, path), make("pre", { tabindex: "0" }, text))),
    make("p", { class: "actions file" }, ...files.map(([path, text]) => make("button", { type: "button", onclick: (event) => copy(event.currentTarget, text, path) }, `Copy ${path}`))),
    make("p", { class: "hint" }, "Your rows are not in it. Put them beside these files:"), make("ul", { class: "hint" }, ...data),
    make("p", { class: "hint" }, "Then run:"), make("pre", { tabindex: "0" }, [found.install, found.command].filter(Boolean).join("\n")),
    make("details", {}, make("summary", {}, "What differs there"), make("ul", { class: "hint" }, ...said.map((text) => make("li", {}, text)))),
  ];
}

// Numbers for people --------------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!)]$/.test(text) ? "" : "."}`;
}

function money(usd) {
  if (usd === null) return "price unknown";
  return usd < 0.01 ? "under $0.01" : `$${usd.toFixed(2)}`;
}

function parameters(count) {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} M`;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// Wiring --------------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => { event.preventDefault(); recommend(); });
$("file").addEventListener("change", (event) => { takeFile(event.target.files[0]); event.target.value = ""; });
$("pasted").addEventListener("input", () => {
  clearTimeout(state.pasteTimer);
  state.dataset = null;
  state.pasteTimer = setTimeout(() => take($("pasted").value, "Pasted text"), 250);
});
$("example").addEventListener("click", async () => {
  $("pasted").value = "";
  take(await (await fetch("/page/example.jsonl")).text(), "musical-keys.jsonl");
});
$("token").addEventListener("change", loadSelector);
for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (kind === "drop") takeFile(event.dataTransfer.files[0]);
  });
}
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (state.answer?.recommendations.length) choose(state.chosen); }, 150);
});
loadSelector();
