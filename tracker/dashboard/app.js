// Which view is seen, and what keeps it fresh.
import { Unauthorized, forgetToken, get, hasToken, setToken } from "/dashboard/api.js";
import { make } from "/dashboard/format.js";
import { Overview } from "/dashboard/overview.js";
import { StreamView } from "/dashboard/stream.js";

const REFRESH_MS = 2000;
const $ = (id) => document.getElementById(id);
const CARDS = {
  overview: ["traffic-card", "streams-card", "nodes-card"],
  stream: ["traffic-card", "mesh-card", "isps-card", "countries-card", "qoe-card", "links-card"],
};

const say = (text) => {
  $("notice").textContent = text;
  $("notice").hidden = !text;
};
const views = { overview: new Overview($, say), stream: new StreamView($, say) };
let turn = 0;

/** The place that the address names. */
function place() {
  const [kind, stream, , node, group, , viewer] = location.hash.replace(/^#\//, "").split("/");
  if (kind !== "stream" || !stream) return { view: "overview" };
  return { view: "stream", stream, node, group: group === undefined ? undefined : Number(group), viewer };
}

async function refresh() {
  const mine = (turn += 1);
  const here = place();
  try {
    const nodes = (await get("nodes")) ?? [];
    if (mine !== turn) return;
    const data = await views[here.view].load(here, nodes);
    if (mine !== turn) return;
    show(here);
    views[here.view].show(here, data, nodes);
    pill("pill-fresh", "ok", "live");
    showNodes(nodes);
    say("");
  } catch (error) {
    if (mine !== turn) return;
    if (error instanceof Unauthorized) return askToken();
    pill("pill-fresh", "bad", "no answer");
    say(`The tracker cannot be read: ${error.message}. Trying again.`);
  } finally {
    if (mine === turn && $("login").hidden) setTimeout(() => mine === turn && refresh(), REFRESH_MS);
  }
}

function show(here) {
  document.body.dataset.view = here.view;
  document.body.toggleAttribute("data-viewer", Boolean(here.viewer));
  $("main").hidden = false;
  $("forget").hidden = !hasToken();
  const shown = new Set(CARDS[here.view]);
  if (here.viewer) shown.add("viewer-card");
  for (const card of document.querySelectorAll("main > .card")) card.hidden = !shown.has(card.id);
  const crumbs = [make("a", { href: "#/" }, "All streams")];
  if (here.stream) crumbs.push(make("a", { href: `#/stream/${here.stream}` }, `stream ${here.stream.slice(0, 8)}`));
  if (here.group !== undefined) crumbs.push(make("span", {}, `group ${here.group}`));
  $("crumbs").replaceChildren(...crumbs.flatMap((crumb, i) => (i ? [" / ", crumb] : [crumb])));
}

function showNodes(nodes) {
  const draining = nodes.filter((node) => node.draining).length;
  const text = nodes.length === 1 ? "1 node" : `${nodes.length} nodes`;
  const why = nodes.find((node) => node.alone_because)?.alone_because;
  $("pill-nodes").title = why ?? "";
  if (why) return pill("pill-nodes", "bad", `${text}, without NATS`);
  pill("pill-nodes", draining ? "wait" : "ok", draining ? `${text}, ${draining} draining` : text);
}

function pill(id, state, text) {
  $(id).dataset.state = state;
  $(id).lastElementChild.textContent = text;
}

function askToken() {
  const wrong = hasToken();
  forgetToken();
  $("main").hidden = true;
  $("login").hidden = false;
  $("forget").hidden = true;
  $("crumbs").replaceChildren();
  pill("pill-fresh", "wait", "token needed");
  say(wrong ? "The tracker does not know this token." : "");
  $("token").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value);
  $("token").value = "";
  $("login").hidden = true;
  refresh();
});
$("forget").addEventListener("click", () => {
  forgetToken();
  turn += 1;
  askToken();
});
addEventListener("hashchange", refresh);
refresh();

// What tests and curious people look at.
window.shoal = { mesh: () => views.stream.mesh.shown };
