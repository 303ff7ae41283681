// What nodes there are and how they reach each other: the daemon's measurements as nodes and edges. No DOM here.

const slowTimes = 4; // a round trip is slow that takes this many times as long as the cluster's median,
const slowLeast = 5e6; // and this many nanoseconds at least
const lossBad = 0.5;

const ranks = { none: 0, good: 1, warn: 2, bad: 3 };
export const worse = (a, b) => (ranks[a] >= ranks[b] ? a : b);

/** classOf says how good an edge is: good, warn, bad, or none as long as nothing is known. */
export function classOf({ state, loss, rtt }, median) {
  if (state === "down" || loss >= lossBad && state === "up") return "bad";
  if (state !== "up") return "none";
  return loss > 0 || rtt > Math.max(slowLeast, slowTimes * median) ? "warn" : "good";
}

const familyOf = (address) => (address.includes(":") ? "IPv6" : "IPv4");

function middle(values) {
  const sorted = values.filter((v) => v > 0).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
}

/** read makes nodes and edges of what /data/cluster answers. A node has one entry for each address family, an edge the worse of these, and which that is where there are both. */
export function read(data) {
  const self = { key: "self", name: data.node, self: true, addresses: data.addresses, underlay: "" };
  const nodes = new Map([["self", self]]);
  const at = new Map(data.addresses.map((a) => [a, "self"]));
  for (const p of data.peers) {
    const node = nodes.get(p.key) ?? { key: p.key, name: "", addresses: [], underlay: p.underlay ?? "", peers: [] };
    node.name ||= p.node ?? "";
    node.addresses.push(p.address);
    node.peers.push(p);
    nodes.set(p.key, node);
    at.set(p.address, p.key);
  }
  for (const n of nodes.values()) n.name ||= n.underlay || n.addresses[0] || n.key;

  const median = middle(data.peers.map((p) => p.rttNs));
  const dual = new Set(data.peers.map((p) => familyOf(p.address))).size > 1;
  const edges = new Map();
  const add = (from, to, figures, far) => {
    const id = [from, to].sort().join(" ");
    const level = classOf(figures, median);
    const old = edges.get(id);
    if (old && (ranks[old.level] > ranks[level] || ranks[old.level] === ranks[level] && !old.far)) return;
    edges.set(id, { id, from, to, level, far: far && (old?.far ?? true), ...figures, family: dual ? figures.family : "" });
  };
  const sessions = new Map((data.sessions ?? []).map((s) => [s.address, s]));
  for (const p of data.peers) {
    add("self", p.key, { state: p.state, loss: p.asked ? p.lost / p.asked : 0, rtt: p.rttNs, family: familyOf(p.address) }, false);
    for (const e of p.edges ?? []) {
      const to = at.get(e.to);
      if (to && to !== "self" && to !== p.key) add(p.key, to, { state: e.state, loss: e.loss, rtt: e.rttNs, family: familyOf(e.to) }, true);
    }
  }
  for (const n of nodes.values()) {
    const session = sessions.get(n.underlay);
    const edge = edges.get([n.key, "self"].sort().join(" "));
    if (session && edge) edge.session = session;
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()], median, bgp: data.backend === "bgp" };
}
