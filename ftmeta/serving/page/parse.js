// Reads a dataset in the browser: text in, rows with their columns and warnings out. Nothing here talks to anyone.

export const MAX_BYTES = 20_000_000;
export const MAX_ROWS = 100_000;
const LAYOUTS = [["question", "answer"], ["prompt", "completion"], ["instruction", "output"], ["messages"]];
const EXTRAS = ["input", "split", "fact", "seen_fact"];
const LEAST = 20;

/** A mistake in the dataset, to be shown beside it. */
export class DatasetError extends Error {}

/** Text of a file's bytes. Throws DatasetError unless it is UTF-8. */
export function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new DatasetError("The file is not UTF-8 text. Save it as UTF-8; Parquet files are read by the command line only.");
  }
}

/** What was understood of `text`: {name, format, rows, columns, prompt, answer, warnings, bytes}. Throws DatasetError. */
export function understand(text, name) {
  const trimmed = text.trim();
  if (!trimmed) throw new DatasetError("There are no rows yet. Choose a file, paste rows, or try the example.");
  const { format, table } = readTable(trimmed);
  const columns = [...new Set(table.slice(0, 100).flatMap((row) => Object.keys(row)))];
  const layout = LAYOUTS.find((wanted) => wanted.every((column) => columns.includes(column)));
  if (!layout) {
    const found = columns.slice(0, 8).join(", ") || "none";
    throw new DatasetError(`Columns found: ${found}. Wanted: question and answer, prompt and completion, instruction and output, or messages.`);
  }
  const kept = [...layout, ...EXTRAS.filter((column) => columns.includes(column) && (column !== "input" || layout[0] === "instruction"))];
  const { rows, warnings } = clean(table, layout, kept);
  if (rows.length === 0) throw new DatasetError(`No row has text in ${layout.join(" and ")}.`);
  const bytes = new Blob([JSON.stringify(rows)]).size;
  if (rows.length > MAX_ROWS) throw new DatasetError(`${rows.length.toLocaleString("en")} rows; at most ${MAX_ROWS.toLocaleString("en")} are read. A sample is enough for a recommendation.`);
  if (bytes > MAX_BYTES) throw new DatasetError(`${(bytes / 1e6).toFixed(1)} MB; at most ${MAX_BYTES / 1e6} MB are read. A sample of the rows is enough for a recommendation.`);
  return { name, format, rows, columns, kept, warnings, bytes };
}

/** The prompt and the answer of a row, for people to look at. */
export function promptAndAnswer(row) {
  if (Array.isArray(row.messages)) {
    const texts = row.messages.map((message) => String(message?.content ?? ""));
    return [texts.slice(0, -1).join(" / "), texts.at(-1) ?? ""];
  }
  const layout = LAYOUTS.find(([prompt]) => prompt in row);
  return layout.map((column) => String(row[column] ?? ""));
}

function readTable(text) {
  if (text.startsWith("[")) return { format: "JSON", table: objects(json(text, "The text")) };
  if (text.startsWith("{")) {
    const lines = text.split(/\r?\n/);
    try {
      const whole = JSON.parse(text); // one object: a single row, or a file that holds the rows under one key
      const list = Object.values(whole).find(Array.isArray);
      if (lines.length > 1 || (list && !("messages" in whole))) return { format: "JSON", table: objects(list ?? [whole]) };
    } catch { /* several objects: JSON lines */ }
    const rows = [];
    lines.forEach((line, index) => {
      if (line.trim()) rows.push(json(line, `Line ${index + 1}`));
    });
    return { format: "JSON lines", table: objects(rows) };
  }
  return { format: "CSV", table: readCsv(text) };
}

function json(text, where) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DatasetError(`${where} is not JSON: ${error.message}.`);
  }
}

function objects(rows) {
  const wrong = rows.findIndex((row) => row === null || typeof row !== "object" || Array.isArray(row));
  if (wrong >= 0) throw new DatasetError(`Row ${wrong + 1} is no object with columns.`);
  return rows;
}

/** RFC 4180, with a comma, semicolon or tab between fields: whichever the first line has most of. */
function readCsv(text) {
  const first = text.slice(0, text.indexOf("\n") < 0 ? text.length : text.indexOf("\n"));
  const separator = [",", ";", "\t"].reduce((best, one) => (first.split(one).length > first.split(best).length ? one : best));
  const lines = [];
  let fields = [], field = "", quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') field += c;
      else if (text[i + 1] === '"') { field += '"'; i++; }
      else quoted = false;
    } else if (c === '"' && field === "") quoted = true;
    else if (c === separator) { fields.push(field); field = ""; }
    else if (c === "\n") { fields.push(field.replace(/\r$/, "")); lines.push(fields); fields = []; field = ""; }
    else field += c;
  }
  if (quoted) throw new DatasetError(`A quoted field that starts in or before row ${lines.length} never ends.`);
  lines.push([...fields, field]);
  const [header, ...body] = lines;
  const names = header.map((name) => name.trim());
  return body.filter((line) => line.some(Boolean)).map((line, index) => {
    if (line.length > names.length) throw new DatasetError(`Row ${index + 1} has ${line.length} fields, the header has ${names.length}.`);
    return Object.fromEntries(names.map((name, column) => [name, line[column] ?? ""]));
  });
}

/** Drops rows without text and columns that are not used, and says so. */
function clean(table, layout, kept) {
  const warnings = [], rows = [], empty = [], seen = new Set();
  let repeated = 0;
  table.forEach((row, index) => {
    if (layout.some((column) => row[column] === undefined || row[column] === null || String(row[column]).trim() === "")) {
      empty.push(index + 1);
      return;
    }
    const [prompt] = promptAndAnswer(row);
    if (seen.has(prompt)) repeated++;
    seen.add(prompt);
    rows.push(Object.fromEntries(kept.filter((column) => column in row).map((column) => [column, row[column]])));
  });
  if (empty.length) {
    const places = empty.slice(0, 4).join(", ") + (empty.length > 4 ? " …" : "");
    warnings.push(`${plural(empty.length, "row")} without text in ${layout.join(" or ")} left out (${places}).`);
  }
  if (repeated) warnings.push(`${plural(repeated, "row")} repeat${repeated === 1 ? "s" : ""} an earlier prompt.`);
  if (rows.length < LEAST) warnings.push(`${plural(rows.length, "row")} only; at least ${LEAST} are needed.`);
  return { rows, warnings };
}

export function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}
