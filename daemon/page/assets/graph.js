// Draws the nodes and edges: as a graph up to so many nodes, beyond as one square a node, the bad ones first.

import { classOf } from "./cluster.js";
import { byId, clock, el, percent, svg, time } from "./dom.js";

const most = 24;
let told = "One square a node, the worst first; point at one.";
const levels = { bad: 0, warn: 1, none: 2, good: 3 };

export function draw(cluster) {
  const box = byId("graph");
  const focused = document.activeElement?.dataset?.node;
  box.replaceChildren(...(cluster.nodes.length <= most ? [graph(cluster)] : grid(cluster)));
  if (focused) box.querySelector(`[data-node="${CSS.escape(focused)}"]`)?.focus();
  byId("bgp-legend").hidden = !cluster.bgp;
}

/** say is an edge in words. */
function say(edge, names) {
  const words = { up: `${percent(edge.loss)} lost, round trip ${time(edge.rtt)}`, down: "does not answer any more", silent: "has not answered so far", unknown: "is being asked" };
  const session = edge.session && edge.session.state !== "Established" ? `; BGP session: ${edge.session.state}` : "";
  const by = edge.family ? ` by ${edge.family}` : "";
  return `${names.get(edge.from)} to ${names.get(edge.to)}${by}: ${words[edge.state] ?? edge.state}${session}`;
}

/** places puts this node into the middle when there are many, and all on a ring when there are few. */
function places(nodes, width, height) {
  const at = new Map();
  const few = nodes.length <= 12;
  const ring = few ? nodes : nodes.filter((n) => !n.self);
  if (!few) at.set("self", [width / 2, height / 2]);
  ring.forEach((n, i) => {
    const angle = ring.length === 2 ? Math.PI * (1 + i) : (2 * Math.PI * i) / ring.length - Math.PI / 2;
    at.set(n.key, [width / 2 + (width / 2 - 95) * Math.cos(angle), height / 2 + (height / 2 - 34) * Math.sin(angle)]);
  });
  return at;
}

function graph({ nodes, edges }) {
  const narrow = byId("graph").clientWidth < 640;
  const [width, height] = narrow ? [460, 380] : [980, nodes.length > 12 ? 520 : 330];
  const at = places(nodes, width, height);
  const ys = [...at.values()].map(([, y]) => y);
  const top = Math.min(...ys) - 32, bottom = Math.max(...ys) + 32;
  const names = new Map(nodes.map((n) => [n.key, n.name]));
  const crowded = nodes.length > 12;
  const lines = [], labels = [];
  for (const e of [...edges].sort((a, b) => levels[b.level] - levels[a.level])) {
    if (crowded && e.far && e.level === "good") continue; // they would hide the others
    const [x1, y1] = at.get(e.from), [x2, y2] = at.get(e.to);
    const d = `M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}`;
    const text = say(e, names);
    lines.push(svg("g", { "data-edge": `${names.get(e.from)} ${names.get(e.to)}`, "data-level": e.level, role: "img", "aria-label": text },
      svg("title", {}, text), svg("path", { d, class: "hit" }), svg("path", { d, class: `edge ${e.level} ${e.far ? "far" : ""}` }),
      e.session && e.session.state !== "Established" ? svg("path", { d, class: "edge session" }) : undefined));
    if (!e.far && !crowded || e.level === "bad" || e.level === "warn") {
      const label = e.state === "up" ? `${time(e.rtt)}${e.loss > 0 ? ` · ${percent(e.loss)} lost` : ""}` : e.state === "down" ? "down" : e.state === "silent" ? "no answer" : "…";
      const part = crowded ? 0.62 : 0.5;
      labels.push(svg("text", { x: (x1 + (x2 - x1) * part).toFixed(1), y: (y1 + (y2 - y1) * part - (Math.abs(y2 - y1) < 60 ? 8 : -4)).toFixed(1), class: `label ${e.level}` }, label));
    }
  }
  const boxes = nodes.map((n) => {
    const [x, y] = at.get(n.key), w = Math.min(170, Math.max(96, Math.max(n.name.length, (n.addresses[0] ?? "").length) * 8 + 18));
    const name = n.name.length > 19 ? `${n.name.slice(0, 18)}…` : n.name;
    return svg("g", { class: `node ${n.self ? "self" : ""}`, "data-node": n.name, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
      svg("title", {}, `${n.name}: ${n.addresses.join(", ")}${n.underlay ? `, underlay ${n.underlay}` : ""}${n.self ? ", this node" : ""}`),
      svg("rect", { x: -w / 2, y: -20, width: w, height: 40, rx: 7 }),
      svg("text", { y: -2 }, name), svg("text", { y: 13, class: "sub" }, n.addresses[0] ?? ""));
  });
  return svg("svg", { viewBox: `0 ${top.toFixed(0)} ${width} ${(bottom - top).toFixed(0)}`, role: "group", "aria-label": "Nodes and how they reach each other" }, ...lines, ...labels, ...boxes);
}

function grid({ nodes, edges }) {
  const names = new Map(nodes.map((n) => [n.key, n.name]));
  const note = el("p", { id: "grid-note", class: "mono", "aria-live": "polite" }, told);
  const own = edges.filter((e) => e.from === "self" || e.to === "self")
    .sort((a, b) => levels[a.level] - levels[b.level] || b.loss - a.loss || b.rtt - a.rtt);
  const cells = own.map((e) => {
    const text = say(e, names), tell = () => note.replaceChildren(told = text);
    return el("button", { class: `cell ${e.level}`, type: "button", "data-level": e.level, "data-node": names.get(e.to === "self" ? e.from : e.to),
      "aria-label": text, title: text, onmouseenter: tell, onfocus: tell });
  });
  const far = edges.filter((e) => e.from !== "self" && e.to !== "self" && (e.level === "bad" || e.level === "warn")).slice(0, 50)
    .map((e) => el("li", { class: `mono ${e.level}` }, say(e, names)));
  return [el("div", { class: "grid" }, ...cells), note, el("ul", { class: "rows" }, ...far)];
}

/** table lists the peers. It costs much with thousands: nothing is made while it is closed. */
export function table(data, cluster) {
  if (!byId("table-box").open) return;
  const names = new Map(cluster.nodes.map((n) => [n.key, n.name]));
  const rows = data.peers.map((p) => {
    const level = classOf({ state: p.state, loss: p.asked ? p.lost / p.asked : 0, rtt: p.rttNs }, cluster.median);
    const state = p.error ? `${p.state} (${p.error})` : p.refused ? `${p.state} (does not measure itself)` : p.state;
    return el("tr", {}, el("td", {}, names.get(p.key)), el("td", {}, p.address), el("td", {}, p.underlay ?? ""), el("td", { class: level }, state),
      el("td", { class: "n" }, p.asked ? percent(p.lost / p.asked) : "–"), el("td", { class: "n" }, time(p.rttNs)), el("td", { class: "n" }, time(p.leastNs)),
      el("td", {}, p.answered ? clock(p.answered) : "never"));
  });
  byId("peers").tBodies[0].replaceChildren(...rows);
}
