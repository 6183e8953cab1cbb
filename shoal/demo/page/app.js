// The demo's page: ties the player, the demo's server and the pictures together.
import { Audience } from "/audience.js";
import { Chart } from "/chart.js";
import { count, percent, rate, bytes, seconds } from "/format.js";
import { Gauge } from "/gauge.js";
import { MeshView } from "/mesh.js";
import { CDN } from "/palette.js";
import { Player } from "/player.js";
import { Strip } from "/strip.js";
import * as server from "/server.js";

const POLL_MS = 1000;
const $ = (id) => document.getElementById(id);

const gauges = { audience: new Gauge($("gauge-audience")), me: new Gauge($("gauge-me")) };
const strip = new Strip($("strip"));
const chart = new Chart($("chart"));
const mesh = new MeshView($("mesh"), $("mesh-tip"));
const audience = new Audience();
const tab = { id: crypto.randomUUID?.() ?? `${Math.random()}${Date.now()}` };
let player = null;
let trackerUp = null;

start();

async function start() {
  wireButtons();
  const config = await server.config();
  if (!config) {
    veil("The demo does not answer. Is it still running?", true);
    setTimeout(start, 2000);
    return;
  }
  if (config.missing) notice(config.missing);
  for (const id of ["add", "remove", "tracker"]) $(id).disabled = !config.may_control;
  player = new Player($("video"), config, {
    onSegment: (segment) => strip.push(coloured(segment)),
    onPlaying: () => veil(null),
    onTrouble: (text) => veil(text, true),
  });
  $("lines").textContent = player.lines();
  player.start();
  addEventListener("pagehide", () => server.reportTab(tab.id, player.stats(), true));
  poll();
}

async function poll() {
  const me = player.stats();
  await server.reportTab(tab.id, me, false);
  const state = await server.state();
  if (state) {
    const stream = state.audience.stream ?? me.stream;
    const seen = state.tracker_up && stream ? await server.mesh(stream) : null;
    audience.update(state.audience, seen, me.peer, performance.now());
    showAudience(state);
  } else {
    pill("pill-live", "bad", "demo ended");
  }
  showMe(me);
  setTimeout(poll, POLL_MS);
}

function showMe(me) {
  gauges.me.set(me.offload);
  $("latency").textContent = seconds(me.latency_s);
  $("stalls").textContent = me.started ? String(me.stalls) : "–";
  $("level").textContent = me.level || "–";
  $("buffer").textContent = me.started ? seconds(me.buffer_s) : "–";
  const fill = Math.min(1, (me.buffer_s || 0) / Math.max(6, me.latency_s || 0));
  $("buffer-bar").style.transform = `translateX(${(fill - 1) * 100}%)`;
  $("buffer-bar").style.background = me.buffer_s < 1.5 ? "var(--bad)" : me.buffer_s < 3 ? "var(--cdn)" : "";
  showSources(me);
  if (me.started) pill("pill-live", me.stalled ? "bad" : "ok", me.stalled ? "stalled" : "live");
}

function showSources(me) {
  const rows = [{ key: "cdn", name: "CDN", colour: CDN, bytes: me.bytes_cdn }];
  const byIsp = new Map();
  const sum = me.neighbours.reduce((all, one) => all + one.bytes_in, 0);
  for (const { peer, bytes_in } of me.neighbours) {
    const { name, colour } = audience.isp(peer);
    const row = byIsp.get(name) ?? { key: name, name, colour, bytes: 0 };
    // Neighbours' counters hold overhead too: they share out what was verified.
    row.bytes += sum > 0 ? (bytes_in / sum) * me.bytes_p2p : 0;
    byIsp.set(name, row);
  }
  if (me.bytes_p2p > 0 && sum === 0) byIsp.set("", { key: "viewers", name: "viewers", colour: "#2dd4bf", bytes: me.bytes_p2p });
  rows.push(...[...byIsp.values()].filter((row) => row.bytes > 0).sort((a, b) => a.name.localeCompare(b.name)));
  const total = Math.max(1, me.bytes_cdn + me.bytes_p2p);
  const box = $("sources");
  const known = new Map([...box.children].map((row) => [row.dataset.key, row]));
  for (const row of rows) {
    const line = known.get(row.key) ?? box.appendChild(sourceRow(row));
    known.delete(row.key);
    line.querySelector(".rail i").style.cssText = `background:${row.colour};transform:scaleX(${row.bytes / total})`;
    line.querySelector(".bytes").textContent = bytes(row.bytes);
    line.querySelector(".share").textContent = percent(row.bytes / total);
  }
  known.forEach((line) => line.remove());
}

function sourceRow({ key, name }) {
  const line = document.createElement("div");
  line.className = "source";
  line.dataset.key = key;
  line.innerHTML = `<span class="name"></span><span class="rail"><i></i></span><span class="bytes"></span><span class="share"></span>`;
  line.firstChild.textContent = name;
  line.firstChild.title = key === "cdn" ? "from the CDN" : `from viewers at ${name}`;
  return line;
}

function showAudience({ audience: state, tracker_up }) {
  const { bytes_cdn, bytes_p2p } = state.totals;
  const all = bytes_cdn + bytes_p2p;
  gauges.audience.set(all > 0 ? bytes_p2p / all : NaN);
  if (all > 0) {
    $("saved").innerHTML = `<b>${bytes(bytes_p2p)}</b> of ${bytes(all)} did not have to come from the CDN.`;
  }
  const tabs = state.viewers.length - state.native;
  pill("pill-viewers", "ok", `${count(state.viewers.length, "viewer", "viewers")}: ${state.native} native, ${count(tabs, "tab", "tabs")}`);
  showTracker(tracker_up);
  const now = chart.set(state.history);
  $("rate-all").textContent = rate(now?.all);
  $("rate-cdn").textContent = rate(now?.cdn);
  $("rate-p2p").textContent = rate(now?.p2p);
  $("add").disabled ||= state.native >= state.viewers_max;
  mesh.set(audience.viewers, audience.links);
  $("mesh-empty").hidden = audience.viewers.length > 0;
  showLegend(state);
}

function showTracker(up) {
  if (up === trackerUp) return;
  const before = trackerUp;
  trackerUp = up;
  pill("pill-tracker", up ? "ok" : "bad", up ? "tracker" : "tracker is down");
  $("tracker").textContent = up ? "Stop the tracker" : "Restart the tracker";
  $("tracker").classList.toggle("alarm", !up);
  $("mesh-note").textContent = up ? "" : "the tracker is down: links stay, playback goes on";
  if (!up) notice("The tracker is stopped. Viewers keep their links and the CDN is there: nobody should notice.");
  else if (before === false) notice("The tracker is back. Viewers return to it by themselves, a few at a time.", 8000);
}

function showLegend({ viewers }) {
  const sent = viewers.reduce((sum, viewer) => sum + viewer.bytes_up, 0);
  const items = audience.isps().map(({ name, colour, viewers: n, up }) =>
    `<li><i style="background:${colour}"></i>${escape(name)} <b>${n}</b>${sent > 0 ? ` sends ${percent(up / sent)}` : ""}</li>`);
  items.push(`<li><i class="round"></i>browser</li><li><i class="hexagon"></i>native</li>`);
  const html = items.join("");
  if ($("legend").dataset.html !== html) {
    $("legend").dataset.html = html;
    $("legend").innerHTML = html;
  }
}

/** Gives a segment's parts names and colours. */
function coloured(segment) {
  const parts = [{ name: "CDN", colour: CDN, bytes: segment.bytes_cdn }];
  for (const { peer, bytes: from } of segment.sources) {
    const { name, colour } = audience.isp(peer);
    parts.push({ name: `viewer at ${name}`, colour, bytes: from });
  }
  const rest = segment.bytes_p2p - segment.sources.reduce((sum, source) => sum + source.bytes, 0);
  if (rest > 0) parts.push({ name: "viewers", colour: "#2dd4bf", bytes: rest });
  return { title: segment.title, parts };
}

function wireButtons() {
  if (wireButtons.done) return;
  wireButtons.done = true;
  $("open").addEventListener("click", () => open(location.href, "_blank", "noopener"));
  $("add").addEventListener("click", () => flip("native", "add"));
  $("remove").addEventListener("click", () => flip("native", "remove"));
  $("tracker").addEventListener("click", () => flip("tracker", trackerUp ? "stop" : "start"));
  $("p2p").addEventListener("change", () => player?.setP2p($("p2p").checked));
}

async function flip(what, action) {
  const button = { native: action, tracker: "tracker" }[what];
  $(button).disabled = true;
  const error = await server.control(what, action);
  $(button).disabled = false;
  if (error) notice(error, 6000);
}

function pill(id, state, text) {
  const item = $(id);
  if (item.dataset.state !== state) item.dataset.state = state;
  const label = item.querySelector("span");
  if (label.textContent !== text) label.textContent = text;
}

function notice(text, forMs = 0) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  clearTimeout(notice.timer);
  if (forMs > 0) notice.timer = setTimeout(() => { $("notice").hidden = true; }, forMs);
}

/** Over the picture: a text while there is none to see. */
function veil(text, bad = false) {
  $("veil").classList.toggle("off", text === null);
  if (text === null) return;
  $("veil").dataset.kind = bad ? "bad" : "wait";
  $("veil-text").textContent = text;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
