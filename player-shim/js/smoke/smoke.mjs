// Plays a stream in headless Chromium with Shoal attached, and prints what each viewer saw.
//
//   node smoke/smoke.mjs --stream URL [--tracker URL --key KEY] [--rtc false] [--p2p false] [--viewers 2]
//                        [--seconds 20] [--verbose]
//
// Fails if a viewer does not play, or anything of Shoal's throws. CHROMIUM names the browser.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

import { WEBRTC_ON_LOOPBACK, launch } from "../../../tests/lib/chromium.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
const { values } = parseArgs({
  options: {
    stream: { type: "string" },
    tracker: { type: "string" },
    key: { type: "string" },
    rtc: { type: "string", default: "true" },
    p2p: { type: "string", default: "true" },
    viewers: { type: "string", default: "1" },
    seconds: { type: "string", default: "20" },
    verbose: { type: "boolean", default: false },
  },
});
if (!values.stream) {
  console.error("usage: node smoke/smoke.mjs --stream URL [--tracker URL --key KEY]");
  process.exit(2);
}

/** Serves the page, the bundle and hls.js. */
async function serve() {
  const server = createServer(async ({ url }, response) => {
    const path = new URL(url, "http://localhost").pathname;
    const file =
      path === "/hls.js"
        ? join(here, "../node_modules/hls.js/dist/hls.min.js")
        : path.startsWith("/dist/")
          ? join(here, "../..", path)
          : join(here, "page.html");
    const data = await readFile(file).catch(() => null);
    response.writeHead(data ? 200 : 404, { "Content-Type": TYPES[extname(file)] ?? "text/plain" });
    response.end(data);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

const server = await serve();
const browser = await launch(chromium, WEBRTC_ON_LOOPBACK);
let failed = false;
try {
  const { stream, tracker, key } = values;
  const options = { stream, shoal: { tracker, key, rtc: values.rtc !== "false", p2p: values.p2p !== "false" } };
  const address = `http://127.0.0.1:${server.address().port}/#${encodeURIComponent(JSON.stringify(options))}`;
  const pages = [];
  for (let viewer = 0; viewer < Number(values.viewers); viewer++) {
    const page = await browser.newPage();
    page.on("pageerror", (error) => {
      failed = true;
      console.error(`viewer ${viewer} threw: ${error}`);
    });
    if (values.verbose) page.on("console", (line) => console.error(`viewer ${viewer}: ${line.text()}`));
    await page.goto(address);
    pages.push(page);
  }
  await new Promise((resolve) => setTimeout(resolve, Number(values.seconds) * 1000));
  for (const page of pages) {
    const report = await page.evaluate(() => window.report());
    failed ||= !(report.frames > 0) || report.errors.some((error) => error.startsWith("fatal"));
    console.log(JSON.stringify(report));
  }
} finally {
  await browser.close();
  server.close();
}
process.exit(failed ? 1 : 0);
