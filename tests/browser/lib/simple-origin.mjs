// An origin of low-latency HLS that holds no request back: it lists parts, and answers with what is there.

import { createServer } from "node:http";

const FOR_HELD_BACK = /CAN-BLOCK-RELOAD=YES,?|CAN-SKIP-UNTIL=[\d.]+,?/g;
const LISTED = /^#EXT-X-PART:.*URI="([^"]+)"/gm;

/** Passes on what `shoal publish --ll-hls` at `url` has, and notes what such an origin should not be asked: with directives, and for parts that it has not listed. */
export async function startSimpleOrigin(url) {
  const misled = [];
  const asked = new Set();
  const listed = new Set();
  async function answer(request, response) {
    const { pathname, search } = new URL(request.url, url);
    const is404 = pathname.includes("/part-") && !listed.has(pathname);
    // A proxy learns from the first answer what the playlist is like.
    if (is404 || (asked.has(pathname) && search.includes("_HLS_"))) misled.push(request.url);
    asked.add(pathname);
    if (is404) return response.writeHead(404).end();
    const got = await fetch(url + pathname);
    if (pathname.includes("/part-") && got.status !== 200) misled.push(`${got.status} ${request.url}`);
    const type = got.headers.get("content-type");
    if (!pathname.endsWith(".m3u8")) {
      response.writeHead(got.status, { "Content-Type": type, "Cache-Control": "max-age=60" });
      return response.end(Buffer.from(await got.arrayBuffer()));
    }
    const playlist = withoutHolding(await got.text());
    for (const [, uri] of playlist.matchAll(LISTED)) listed.add(new URL(uri, url + pathname).pathname);
    response.writeHead(got.status, { "Content-Type": type, "Cache-Control": "no-cache" });
    return response.end(playlist);
  }
  const server = createServer((request, response) => answer(request, response).catch(() => response.destroy()));
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, misled, stop };
}

/** A playlist that says nothing of blocking reloads and delta updates. */
function withoutHolding(playlist) {
  const control = (line) => line.replace(FOR_HELD_BACK, "").replace(/,$/, "");
  return playlist.replace(/^#EXT-X-SERVER-CONTROL:.*$/m, control);
}
