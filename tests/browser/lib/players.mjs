// Players as any page would have them: hls.js, Shaka and dash.js, and hls.js with Shoal.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const { resolve } = createRequire(import.meta.url);
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const SCRIPTS = {
  "/hls.js": join(dirname(resolve("hls.js")), "hls.min.js"),
  "/shaka.js": resolve("shaka-player"),
  "/dash.js": resolve("dashjs"),
  "/shoal.js": here("../../../player-shim/dist/shoal.iife.js"),
  "/bytes.js": here("page-books.js"),
  "/page.js": here("player-page.js"),
};
const WASM = "/shoal_bg.wasm";
const FILES = { ...SCRIPTS, [WASM]: here(`../../../player-shim/dist${WASM}`) };
const TYPES = { js: "text/javascript", wasm: "application/wasm" };
const PAGE = `<!doctype html><meta charset="utf-8"><title>player</title><video muted playsinline></video>
${Object.keys(SCRIPTS).map((path) => `<script src="${path}"></script>`).join("\n")}`;

/**
 * hls.js 1.7.4 threw this in two of some forty visits to low-latency HLS, and played on: its audio controller
 * (`loadFragment`) asked for the start of a playlist whose first segment a delta update had left out.
 */
const OF_DELTA = "TypeError: Cannot read properties of null (reading 'start')";

/** Serves the page that players run in. */
export async function servePlayers() {
  const server = createServer(async ({ url }, response) => {
    const file = FILES[url];
    response.writeHead(200, { "Content-Type": TYPES[url.split(".").at(-1)] ?? "text/html" });
    response.end(file ? await readFile(file) : PAGE);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const url = `http://127.0.0.1:${server.address().port}`;
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url, stop };
}

/**
 * Opens a page in which `player` ("hls.js", "Shaka" or "dash.js") plays `stream`. `settings` are the
 * player's own (dash.js: with its protection data as `protection`); `shoal` goes to `Shoal.attach` (hls.js only).
 */
export async function openPlayer(browser, page, { player, stream, settings = {}, shoal }) {
  const context = await browser.newContext();
  const opened = await context.newPage();
  const complaints = [];
  let mayThrow = player === "hls.js";
  opened.on("pageerror", (error) => {
    const isKnown = mayThrow && String(error) === OF_DELTA;
    if (isKnown) mayThrow = false;
    else complaints.push(error.stack ?? String(error));
  });
  await opened.goto(`${page.url}/`);
  const withModule = shoal && { wasmUrl: WASM, ...shoal };
  await opened.evaluate((options) => play(options), { player, stream, settings, shoal: withModule });
  return {
    page: opened,
    complaints,
    read: () => opened.evaluate(() => window.read()),
    close: () => context.close(),
  };
}

export const readAll = (viewers) => Promise.all(viewers.map((viewer) => viewer.read()));

/** What a page with Shoal got so far, by its reading, and from whom. */
export const bytesOf = ({ shoal }) => ({ cdn: shoal.bytesCdn, p2p: shoal.bytesP2p });

export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
