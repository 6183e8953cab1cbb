// An origin of low-latency HLS that holds no request back: it lists parts, and answers with what is there.

import { createServer } from "node:http";

/** What is not there after this time is not there yet. */
const THERE_MS_MAX = 150;
const FOR_HELD_BACK = /CAN-BLOCK-RELOAD=YES,?|CAN-SKIP-UNTIL=[\d.]+,?/g;

/** Passes on what `shoal publish --ll-hls` at `url` has, and notes what such an origin should not be asked: with directives, and for parts that it has not listed. */
export async function startSimpleOrigin(url) {
  const misled = [];
  const asked = new Set();
  const server = createServer(async (request, response) => {
    const { pathname, search } = new URL(request.url, url);
    // A proxy learns from the first answer what the playlist is like.
    if (asked.has(pathname) && search.includes("_HLS_")) misled.push(request.url);
    asked.add(pathname);
    const answer = await fetch(url + pathname, { signal: AbortSignal.timeout(THERE_MS_MAX) })
      .then(async (got) => ({ status: got.status, type: got.headers.get("content-type"), body: Buffer.from(await got.arrayBuffer()) }))
      .catch(() => ({ status: 404, type: "text/plain", body: Buffer.alloc(0) }));
    if (answer.status !== 200 && pathname.includes("/part-")) misled.push(`${answer.status} ${request.url}`);
    const isPlaylist = pathname.endsWith(".m3u8");
    response.writeHead(answer.status, { "Content-Type": answer.type, "Cache-Control": isPlaylist ? "no-cache" : "max-age=60" });
    response.end(isPlaylist ? withoutHolding(answer.body.toString()) : answer.body);
  });
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
