// TLS with a client that is not ours: Chromium, in which hls.js plays through the proxy over HTTP/3 alone, and over
// HTTP/2 alone.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { X509Certificate, createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { overQuic, overTls } from "../lib/chromium.mjs";
import { freePort } from "../lib/programs.mjs";
import { launch } from "./lib/browser.mjs";
import { assertPlayed, eventually, seconds } from "./lib/checks.mjs";
import { startProxy, startSource } from "./lib/edge.mjs";
import { openPlayer, servePlayers } from "./lib/players.mjs";

/** Chromium is told where it is. */
const NAME = "edge.test";
const WATCHED_S = 12;
const RANGE = { from: 100, to: 299 };

let folder;
let source;
let proxy;
let page;
let tls;
let certificate;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "shoal-tls-"));
  certificate = certify();
  source = await startSource(["--hls"]);
  tls = `${NAME}:${await freePort()}`;
  proxy = await startProxy(source.url, () => [
    "[tls]",
    `listen = "127.0.0.1:${tls.split(":")[1]}"`,
    `certificate_file = "${certificate.file}"`,
    `key_file = "${certificate.keyFile}"`,
  ].join("\n"));
  page = await servePlayers();
});
after(async () => {
  page?.stop();
  await proxy?.stop();
  await source?.stop();
  rmSync(folder, { recursive: true });
});

/** A certificate of `NAME` that nobody vouches for. */
function certify() {
  const [file, keyFile] = [join(folder, "certificate.pem"), join(folder, "key.pem")];
  const made = spawnSync("openssl", [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
    "-subj", `/CN=${NAME}`, "-addext", `subjectAltName=DNS:${NAME}`, "-keyout", keyFile, "-out", file,
  ], { encoding: "utf8" });
  assert.equal(made.status, 0, `environment: openssl: ${made.stderr}`);
  const key = new X509Certificate(readFileSync(file)).publicKey.export({ type: "spki", format: "der" });
  return { file, keyFile, keyHash: createHash("sha256").update(key).digest("base64") };
}

/** The answers that a page gets from the proxy from now on, with their protocols. */
async function watchAnswers(viewer) {
  const answers = [];
  const session = await viewer.page.context().newCDPSession(viewer.page);
  session.on("Network.responseReceived", ({ response: { url, status, protocol, headers } }) => {
    if (url.startsWith(`https://${tls}/`)) answers.push({ url, status, protocol, record: headers["shoal-record"] });
  });
  await session.send("Network.enable");
  return answers;
}

async function playOver(protocol, browser) {
  const stream = `https://${tls}/live/main.m3u8`;
  const viewer = await openPlayer(browser, page, { player: "hls.js", stream });
  await eventually("it plays", 20, async () => (await viewer.read()).time > 1);
  await seconds(2);
  const answers = await watchAnswers(viewer);
  const start = await viewer.read();
  await seconds(WATCHED_S);
  const end = await viewer.read();
  const segment = end.requests.findLast((url) => url.includes("/seg-"));
  const part = await viewer.page.evaluate(async ({ segment, range }) => {
    const answer = await fetch(segment, { headers: { range: `bytes=${range.from}-${range.to}` } });
    return { status: answer.status, bytes: [...new Uint8Array(await answer.arrayBuffer())] };
  }, { segment, range: RANGE });
  await viewer.close();

  assertPlayed(start, end, "hls.js");
  assert.deepEqual([end.errors, viewer.complaints], [[], []]);
  const segments = answers.filter(({ url }) => url.includes("/seg-"));
  assert.ok(segments.length >= 2 && answers.length > segments.length, `${answers.length} answers`);
  assert.deepEqual(answers.filter(({ protocol: its }) => its !== protocol), []);
  assert.ok(segments.every(({ record }) => record), "every segment is signed");
  const whole = await fetch(segment.replace(`https://${tls}`, source.url));
  const expected = new Uint8Array(await whole.arrayBuffer()).slice(RANGE.from, RANGE.to + 1);
  assert.deepEqual(part, { status: 206, bytes: [...expected] });
}

for (const [name, protocol, flags] of [["HTTP/3", "h3", overQuic], ["HTTP/2", "h2", overTls]]) {
  test(`hls.js plays over ${name}, with records, and gets the ranges that it asks for`, { timeout: 60_000 }, async (context) => {
    const browser = await launch(flags(tls, certificate.keyHash));
    context.after(() => browser.close());
    await playOver(protocol, browser);
  });
}
