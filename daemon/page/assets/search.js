// Search for pods and Services, and what a Service leads to.

import { ask, byId, el } from "./dom.js";

const patience = 250; // milliseconds after a key
let turn = 0, timer;

/** start listens to the search field. chosen(address, port, protocol) is called for what is to be traced to, from(address) for what from. */
export function start(chosen, from) {
  const search = () => run(byId("search").value, chosen, from);
  byId("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, patience); });
  search();
}

async function run(text, chosen, from) {
  const mine = ++turn;
  let rows;
  try {
    const { found, more, unknown } = await ask("search", { q: text });
    rows = found.map((f) => row(f, chosen, from));
    if (!found.length) rows.push(el("li", { class: "quiet" }, "Nothing of that name or address is known here."));
    if (more) rows.push(el("li", { class: "quiet" }, "There are more: type more of the name."));
    for (const u of unknown ?? []) rows.push(el("li", { class: "error" }, u));
  } catch (error) {
    rows = [el("li", { class: "error" }, error.message)];
  }
  if (mine === turn) byId("found").replaceChildren(...rows);
}

function row(f, chosen, from) {
  const button = (text, label, act) => el("button", { type: "button", class: "small", "aria-label": label, onclick: act }, text);
  const pod = f.kind === "pod";
  return el("li", { "data-kind": f.kind, "data-name": f.name }, el("span", { class: "kind" }, pod ? "pod" : "Service"), el("b", {}, f.name),
    el("span", { class: "mono quiet" }, f.addresses.slice(0, 3).join(", ")), pod ? el("span", { class: "quiet" }, `on ${f.node}`) : "",
    pod && f.local ? button("from", `trace from ${f.name}`, () => from(f.addresses[0])) : "",
    pod ? button("to", `trace to ${f.name}`, () => chosen(f.addresses[0])) : button("endpoints", `endpoints of ${f.name}`, () => detail(f.name, chosen)));
}

async function detail(name, chosen) {
  const box = byId("detail");
  box.hidden = false;
  try {
    const { services } = await ask("services", { name });
    const rows = services.flatMap((s) => s.frontends).flatMap((f) => {
      const endpoints = [...new Map((f.slots ?? []).filter((s) => s.endpoint).map((s) => [s.endpoint, s])).values()];
      return [el("li", {}, el("span", { class: "kind" }, f.kind), el("span", { class: "mono" }, `${f.address} port ${f.port}/${f.protocol}`),
        el("span", { class: "quiet" }, `${endpoints.length} endpoints, ${f.scheduler}, ${f.hits} connections`)),
        ...endpoints.slice(0, 20).map((s) => el("li", {}, el("span", { class: "kind" }), el("span", { class: "mono" }, s.endpoint),
          el("span", { class: "quiet" }, s.local ? "on this node" : ""), el("button", { type: "button", class: "small", onclick: () => {
            const cut = s.endpoint.lastIndexOf(":");
            chosen(s.endpoint.slice(0, cut).replace(/[[\]]/g, ""), s.endpoint.slice(cut + 1), f.protocol);
          } }, "to")))];
    });
    box.replaceChildren(el("h3", { class: "mono" }, name), el("ul", { class: "rows" }, ...rows));
  } catch (error) {
    box.replaceChildren(el("p", { class: "error" }, error.message));
  }
}
