// The tracker's dashboard, as an operator uses it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startAudience } from "./lib/audience.mjs";
import { launch } from "./lib/browser.mjs";
import { eventually } from "./lib/checks.mjs";
import { TOKEN, startTracker } from "./lib/tracker.mjs";

const STREAM = "5ea1".repeat(8);
const VIEWERS = 250;
/** No answer of the API may be larger, whatever the audience. */
const ANSWER_LEN_MAX = 1 << 20;

let tracker;
let audience;
let browser;

before(async () => {
  tracker = await startTracker();
  audience = await startAudience({ tracker: tracker.socket, stream: STREAM, count: VIEWERS });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await audience?.stop();
  await tracker?.stop();
});

const text = (page, selector) => page.locator(selector).innerText();
const api = (path) => fetch(`${tracker.url}/api/${path}`, { headers: { authorization: `Bearer ${TOKEN}` } });
const mesh = (page) => page.evaluate(() => window.shoal.mesh());

async function open() {
  const page = await (await browser.newContext({ viewport: { width: 1440, height: 1100 } })).newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    const expected = message.text().includes("401");
    if (message.type() === "error" && !expected) complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${tracker.url}/`)) complaints.push(`asks elsewhere: ${request.url()}`);
  });
  page.on("response", async (response) => {
    const body = await response.body().catch(() => Buffer.alloc(0));
    if (body.length > ANSWER_LEN_MAX) complaints.push(`${response.url()} has ${body.length} bytes`);
  });
  await page.goto(`${tracker.url}/dashboard`);
  return { page, complaints };
}

async function enter(page, token) {
  await page.locator("#token").fill(token);
  await page.locator("#login button").click();
}

test("nobody sees anything without the admin token", { timeout: 60_000 }, async () => {
  const { page, complaints } = await open();
  await page.locator("#login").waitFor({ state: "visible" });
  await enter(page, "a guess");
  await page.getByText("does not know this token").waitFor();
  assert.equal(await page.locator("#main").isVisible(), false);
  await enter(page, TOKEN);
  await page.locator("#streams tbody tr").first().waitFor();
  await page.reload();
  await page.locator("#streams tbody tr").first().waitFor();
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0, "it stays in the tab");
  await page.locator("#forget").click();
  await page.locator("#login").waitFor({ state: "visible" });
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test("from all streams down to one viewer, who is kicked", { timeout: 90_000 }, async () => {
  const { page, complaints } = await open();
  await enter(page, TOKEN);
  await eventually("all viewers are counted", 30, async () => (await text(page, "#tiles")).includes(`\n${VIEWERS}\n`));
  await page.locator("#streams tbody tr").first().click();

  await eventually("the groups are drawn", 20, async () => (await mesh(page)).kind === "groups");
  const groups = await (await api(`streams/${STREAM}/groups`)).json();
  assert.equal((await mesh(page)).nodes, groups.groups.length);
  assert.ok((await mesh(page)).lines > 0, "links between groups");
  const shares = await page.locator("#isps .count").allInnerTexts();
  assert.equal(shares.reduce((sum, count) => sum + Number(count), 0), VIEWERS);
  assert.match(await text(page, "#countries"), /Germany/);
  await eventually("the chart has a rate", 30, async () => /Mbit|Gbit/.test(await text(page, "#traffic-legend")));

  const click = async () => {
    const { at } = await mesh(page);
    await page.locator("#mesh").click({ position: { x: at[0], y: at[1] } });
  };
  await click();
  await eventually("one group's viewers are drawn", 20, async () => (await mesh(page)).kind === "group");
  const group = await mesh(page);
  assert.ok(group.nodes > 1 && group.nodes <= 24, `${group.nodes} viewers`);
  assert.ok(group.lines >= group.nodes - 1, `${group.lines} links`);

  await click();
  await page.locator("#neighbours tbody tr").first().waitFor();
  const viewer = page.url().split("/").at(-1);
  const around = await (await api(`viewers/${viewer}`)).json();
  assert.ok((await page.locator("#neighbours tbody tr").count()) > 0 && around.neighbours.length > 0);
  page.on("dialog", (dialog) => dialog.accept());
  await page.locator("#kick").click();
  await eventually("it is gone", 20, async () => (await api(`viewers/${viewer}`)).status === 404);
  assert.deepEqual(complaints, []);
  await page.context().close();
});
