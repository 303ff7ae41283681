// The page: what is asked how often, and where it goes.

import { ask, byId, clock, el, repeat } from "./dom.js";
import { read } from "./cluster.js";
import * as graph from "./graph.js";
import * as search from "./search.js";
import * as trace from "./trace.js";

const dropsKept = 200;
const manyPeers = 500, manyPause = 5000; // beyond so many an answer is large
let seen = "", drops = [], last = 0, pause = 0, table = () => {};

function health(text, level) {
  const chip = byId("health");
  chip.textContent = text;
  chip.className = `chip ${level}`;
}

async function loadCluster() {
  try {
    const data = await ask("cluster");
    const cluster = read(data);
    last = Date.now();
    pause = data.peers.length > manyPeers ? manyPause : 0;
    graph.draw(cluster);
    table = () => graph.table(data, cluster);
    table();
    const of = (level) => cluster.edges.filter((e) => e.level === level).length;
    byId("counts").textContent = `${cluster.nodes.length} nodes, ${of("bad")} ways down, ${of("warn")} with loss or slow`;
    document.title = `Twill: ${data.node}`;
    if (data.ready) health("ready", "good");
  } catch (error) {
    health("no answer from twilld", "bad");
  }
  byId("age").textContent = last ? `as of ${clock(last)}` : "";
  return pause;
}

async function loadStatus() {
  try {
    const s = await ask("status");
    byId("whose").textContent = `${s.node} · ${s.backend} · ${s.version} · ${s.subnets.join(", ")} · ${s.pods} ${s.pods === 1 ? "pod" : "pods"} · ${s.datastore.kind}`;
    if (s.notReady?.length) health(`not ready: ${s.notReady[0]}`, "bad");
  } catch { /* loadCluster says so */ }
}

async function loadDrops() {
  try {
    const fresh = await ask("drops", seen ? { after: seen } : {});
    if (fresh.length) seen = fresh[0].time;
    drops = fresh.concat(drops).slice(0, dropsKept);
    byId("drops-note").textContent = drops.length ? "by policies on this node, the newest first" : "none since the daemon started";
    if (fresh.length) byId("drops").tBodies[0].replaceChildren(...drops.map(dropRow));
  } catch (error) {
    byId("drops-note").textContent = error.message;
  }
}

function dropRow(d) {
  const end = (pod, address) => (pod ? `${pod} ${address}` : address);
  return el("tr", {}, el("td", {}, clock(d.time)), el("td", {}, d.direction), el("td", {}, end(d.pod, d.podAddress)),
    el("td", {}, end(d.peer, d.peerAddress)), el("td", {}, `${d.port || ""} ${d.protocol}`), el("td", {}, [d.reason, (d.policies ?? []).join(", ")].filter(Boolean).join(" — ")));
}

byId("table-box").addEventListener("toggle", () => table());
search.start(trace.setTo, trace.setFrom);
trace.start();
repeat(1000, loadCluster);
repeat(2000, loadDrops);
repeat(5000, loadStatus);
repeat(5000, trace.loadPods);
