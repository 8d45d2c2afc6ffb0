// A pipeline as something to run elsewhere: a file, a command, a Ray job; and what to ask the service for the rest.

/** What the service writes files for, by the name of the format: [as people call it, the file that matters]. */
export const TOOLS = { trl: ["trl", "train.py"], "llama-factory": ["LLaMA-Factory", "config.yaml"], axolotl: ["axolotl", "config.yaml"] };

/** As `ftmeta finetune --pipeline` reads it. */
export function yaml(pipeline) {
  const text = (value) => (typeof value === "number" || /^[a-z][a-z0-9_]{3,}$/.test(value) && !/^(true|false|null)$/.test(value) ? String(value) : JSON.stringify(value));
  const lines = Object.entries(pipeline.values).map(([name, value]) => `  ${name}: ${text(value)}`);
  return [`space: ${pipeline.space}`, "hyperparameters:", ...lines, ""].join("\n");
}

/** For a shell in the folder of the dataset's file. */
export function command(pipeline, data, baseModel) {
  return `${written("pipeline.yaml", yaml(pipeline))}ftmeta finetune ${quoted(data)} --base-model ${quoted(baseModel)} --pipeline pipeline.yaml\n`;
}

/** For a shell in ftmeta's repository, with the dataset's file in it: the folder travels with the job. */
export function rayJob(pipeline, data, baseModel) {
  const job = ["data", "base_model"].map((name, at) => `${name}: ${JSON.stringify([data, baseModel][at])}`);
  const config = [...job, "pipeline: pipeline.yaml", ""].join("\n");
  return written("pipeline.yaml", yaml(pipeline)) + written("finetune.yaml", config) +
    "ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python -m jobs.finetune --config finetune.yaml\n";
}

/** The body of POST /v1/exports. */
export function exportQuestion(pipeline, format, answer, name) {
  return { pipeline, format, base_model: answer.base_model.name, name: name.slice(0, 100), splits: answer.task.splits };
}

function written(file, text) {
  return `cat > ${file} <<'YAML'\n${text}YAML\n`;
}

function quoted(word) {
  return /^[A-Za-z0-9._\/-]+$/.test(word) && !word.startsWith("-") ? word : `'./${word.replaceAll("'", "'\\''")}'`;
}
