// A plain server of files, as any origin may be: it knows ranges and dates, and nothing of media.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";

const TYPES = {
  ".m3u8": "application/vnd.apple.mpegurl",
  ".mpd": "application/dash+xml",
  ".ts": "video/mp2t",
  ".mp4": "video/mp4",
  ".m4s": "video/iso.segment",
};
const RANGE = /^bytes=(\d+)-(\d*)$/;

/** Serves the files of a new folder; `asked` are the paths of the requests so far. */
export async function serveFiles() {
  const folder = mkdtempSync(join(tmpdir(), "shoal-files-"));
  const asked = [];
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://files");
    asked.push(pathname);
    answer(join(folder, pathname), request, response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    asked,
    /** A new folder in it; its place on the disk. */
    add(name) {
      mkdirSync(join(folder, name));
      return join(folder, name);
    },
    read: (path) => readFileSync(join(folder, path)),
    stop() {
      server.close();
      server.closeAllConnections();
      rmSync(folder, { recursive: true });
    },
  };
}

function answer(file, { method, headers }, response) {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat?.isFile()) return response.writeHead(404).end();
  const told = {
    "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
    "Last-Modified": stat.mtime.toUTCString(),
    "Accept-Ranges": "bytes",
  };
  if (headers["if-modified-since"] === told["Last-Modified"]) return response.writeHead(304, told).end();
  const bytes = readFileSync(file);
  const [, from, to] = headers.range?.match(RANGE) ?? [];
  const part = from === undefined ? bytes : bytes.subarray(Number(from), to ? Number(to) + 1 : undefined);
  told["Content-Length"] = part.length;
  if (from !== undefined) told["Content-Range"] = `bytes ${from}-${Number(from) + part.length - 1}/${bytes.length}`;
  response.writeHead(from === undefined ? 200 : 206, told);
  response.end(method === "HEAD" ? undefined : part);
}
