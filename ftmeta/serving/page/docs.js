// Renders /openapi.json: routes, fields, examples. No other host is involved.

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const pretty = (value) => make("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

function fields(schema, all, prefix = "") {
  const resolved = resolve(schema, all);
  return Object.entries(resolved.properties ?? {}).flatMap(([name, property]) => {
    const inner = resolve(property, all);
    const needed = (resolved.required ?? []).includes(name) ? "required" : "";
    const row = make("tr", {}, make("th", { scope: "row" }, make("code", {}, prefix + name)), make("td", {}, kind(property, all)),
      make("td", {}, [needed, property.description ?? inner.description ?? ""].filter(Boolean).join("; ")));
    const items = inner.type === "array" && inner.items ? resolve(inner.items, all) : {};
    return [row, ...(inner.properties ? fields(inner, all, `${prefix}${name}.`) : []), ...(items.properties ? fields(items, all, `${prefix}${name}[].`) : [])];
  });
}

function resolve(schema, all) {
  const real = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
  return real.$ref ? all[real.$ref.split("/").pop()] : real;
}

function kind(schema, all) {
  const real = resolve(schema, all);
  const limits = [
    real.exclusiveMinimum !== undefined && `above ${real.exclusiveMinimum}`,
    real.minimum !== undefined && `from ${real.minimum}`,
    real.maximum !== undefined && `to ${real.maximum.toLocaleString("en")}`,
    real.maxItems !== undefined && `at most ${real.maxItems.toLocaleString("en")}`,
  ].filter(Boolean).join(" ");
  return `${real.type ?? "any"}${limits ? `, ${limits}` : ""}`;
}

function example(content) {
  const media = Object.values(content ?? {})[0];
  if (!media) return [];
  const named = Object.values(media.examples ?? {});
  if (media.example !== undefined) named.push({ value: media.example });
  return named.flatMap((one) => [...(one.summary ? [make("p", { class: "hint" }, one.summary)] : []), pretty(one.value)]);
}

function route(path, method, operation, all) {
  const section = make("section", {}, make("h2", {}, make("span", { class: "method" }, method.toUpperCase()), make("code", {}, path)), make("p", {}, operation.description ?? ""));
  const body = operation.requestBody?.content;
  if (body) {
    section.append(make("h3", {}, "Request"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Fields of ${path}` }, make("table", {}, make("tbody", {}, ...fields(Object.values(body)[0].schema, all)))), ...example(body));
  }
  const good = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const shown = good ? example(good[1].content) : [];
  if (shown.length) section.append(make("h3", {}, `Answer, ${good[0]}`), ...shown);
  return section;
}

const spec = await (await fetch("/openapi.json")).json();
document.getElementById("about").prepend(`${spec.info.description} Version ${spec.info.version}. `);
const sections = Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => route(path, method, operation, spec.components.schemas)));
document.getElementById("routes").replaceChildren(...sections);
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
