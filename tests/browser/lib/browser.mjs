// Chromium, and the page that viewers in it open: hls.js with Shoal, as any page would have it.

import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { launch as launchWith } from "../../lib/chromium.mjs";

export const launch = (more) => launchWith(chromium, more);

/** What a failed test has left open would take the machine from those after it. */
export const closePages = (browser) => Promise.all(browser.contexts().map((context) => context.close()));

/** Runs in the page: plays `stream`, and keeps the books that the tests read. */
function playInPage({ stream, options }) {
  const video = document.querySelector("video");
  const hls = new Hls();
  const shoal = Shoal.attach(hls, { wasmUrl: "/shim/shoal_bg.wasm", ...options });
  const books = { segments: [], errors: [], waits: [], looks: { taken: 0, idle: 0 }, startedAt: 0, openedAt: performance.now() };
  keepBytes(hls, books.segments);
  hls.on(Hls.Events.ERROR, (_, error) => books.errors.push(`${error.type} ${error.details} fatal=${error.fatal}`));
  video.addEventListener("playing", () => (books.startedAt ||= performance.now()));
  video.addEventListener("waiting", () => {
    if (books.startedAt && performance.now() - books.startedAt > 2000) books.waits.push(whereIs(video));
  });
  hls.loadSource(stream);
  hls.attachMedia(video);
  video.play().catch(() => {});
  keepLooks(video, books.looks);
  window.test = {
    hls,
    shoal,
    read: () => ({
      now: performance.now(),
      time: video.currentTime,
      level: hls.currentLevel,
      stats: shoal.getStats(),
      ...books,
      startupMs: books.startedAt ? books.startedAt - books.openedAt : null,
    }),
  };
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>viewer</title><video muted playsinline></video>
<script src="/shim/hls.min.js"></script><script src="/shim/shoal.iife.js"></script>`;

const PAGE_BOOKS = fileURLToPath(new URL("page-books.js", import.meta.url));

/** Opens a viewer; `options` go to `Shoal.attach`. */
export async function openViewer(browser, demo, options = {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  // A document that came over the network: Chromium keeps others from loopback addresses.
  await page.goto(`${demo.url}/demo/config`);
  await page.setContent(PAGE);
  await page.addScriptTag({ path: PAGE_BOOKS });
  const defaults = { tracker: demo.tracker, key: demo.config.key };
  await page.evaluate(playInPage, { stream: demo.stream, options: { ...defaults, ...options } });
  return {
    page,
    complaints,
    read: () => page.evaluate(() => window.test.read()),
    close: () => context.close(),
  };
}
