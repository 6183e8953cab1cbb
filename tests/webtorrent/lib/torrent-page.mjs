// Runs in the page: webtorrent as pages load it, its own bundle.

import WebTorrent from "../node_modules/webtorrent/dist/webtorrent.min.js";

const books = { peers: 0, done: false, warnings: [], errors: [] };
window.read = () => books;

function open() {
  const client = new WebTorrent({ tracker: { rtcConfig: { iceServers: [] } } });
  client.on("error", (error) => books.errors.push(String(error)));
  return client;
}

function watch(torrent) {
  torrent.on("wire", () => (books.peers += 1));
  torrent.on("warning", (warning) => books.warnings.push(String(warning)));
  torrent.on("error", (error) => books.errors.push(String(error)));
}

/** Offers this many bytes. Its magnet link, and what the bytes are. */
window.seed = async ({ tracker, length }) => {
  const bytes = new Uint8Array(length).map((_, at) => (at * 31) ^ (at >> 8));
  const file = new File([bytes], "film.bin");
  const torrent = await new Promise((resolve) => watch(open().seed(file, { announce: [tracker] }, resolve)));
  return { magnet: torrent.magnetURI, infoHash: torrent.infoHash, digest: await digestOf(bytes) };
};

/** Fetches what a magnet link names from whom the tracker knows. What the bytes are. */
window.fetchAll = async ({ magnet }) => {
  const torrent = open().add(magnet);
  watch(torrent);
  await new Promise((resolve) => torrent.on("done", resolve));
  books.done = true;
  return digestOf(await torrent.files[0].arrayBuffer());
};

async function digestOf(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
