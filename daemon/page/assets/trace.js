// The way of a packet, hop by hop.

import { ask, byId, el, percent, time } from "./dom.js";

const levels = { ok: "good", failed: "bad", suspicious: "warn", "not looked at": "none" };

export async function loadPods() {
  const from = byId("from"), before = from.value;
  try {
    const pods = await ask("trace/pods");
    from.replaceChildren(...pods.map((p) => el("option", { value: p.address }, `${p.name}  ${p.address}`)));
    if (!pods.length) from.append(el("option", { value: "" }, "this node has no pods"));
    if (pods.some((p) => p.address === before)) from.value = before;
  } catch (error) {
    byId("way").replaceChildren(el("p", { class: "error" }, error.message));
  }
}

export function start() {
  byId("trace").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
}

export function setFrom(address) { byId("from").value = address; }

export function setTo(address, port, protocol) {
  byId("to").value = address;
  if (port) byId("port").value = port;
  if (protocol) byId("protocol").value = protocol;
  run();
}

async function run() {
  const way = byId("way");
  try {
    const result = await ask("trace", { pod: byId("from").value, other: byId("to").value.trim(), port: byId("port").value, protocol: byId("protocol").value });
    way.replaceChildren(...draw(result));
  } catch (error) {
    way.replaceChildren(el("p", { class: "error" }, error.message));
  }
}

function draw(result) {
  const hops = result.hops.map((h) => el("li", { class: levels[h.state] ?? "none", "data-hop": h.what, "data-state": h.state },
    el("b", {}, h.what), " ", el("span", { class: "at" }, `${h.node}${h.reply ? ", way back" : ""}${h.state === "ok" ? "" : ` — ${h.state}`}`),
    el("span", { class: "holds mono" }, h.holds), h.reason ? el("span", { class: "reason" }, h.reason) : "",
    h.mend ? el("span", { class: "mend" }, "mend: ", el("code", {}, h.mend)) : ""));
  const m = result.measured;
  if (m) {
    const good = m.state === "up" && !m.lost;
    hops.push(el("li", { class: good ? "good" : m.state === "up" ? "warn" : m.state === "down" ? "bad" : "none", "data-hop": "measured" }, el("b", {}, "measured"), " ",
      el("span", { class: "at" }, `between the nodes, at ${m.address}`),
      el("span", { class: "holds mono" }, m.state === "up" ? `${m.lost} of ${m.asked} lost (${percent(m.lost / m.asked)}), round trip ${time(m.rttNs)}` : m.state)));
  }
  const verdict = result.failure ? el("p", { class: "bad" }, `✕ ${result.failure.what} of ${result.failure.node}: ${result.failure.reason}`)
    : el("p", { class: "good" }, "✓ nothing on this side is amiss");
  return [verdict, el("ol", { class: "path" }, ...hops), result.note ? el("p", { class: "quiet" }, result.note) : ""];
}
