// Runs in the page: bittorrent-tracker's client alone, as webtorrent has it.

import Client from "bittorrent-tracker/client";

window.join = ({ tracker, infoHash, peerId }) => {
  const books = { updates: [], peers: 0, received: [], warnings: [], errors: [], scrapes: [] };
  const client = new Client({
    infoHash,
    peerId,
    announce: [tracker],
    rtcConfig: { iceServers: [] },
  });
  client.on("update", ({ complete, incomplete }) => books.updates.push({ complete, incomplete }));
  client.on("warning", (warning) => books.warnings.push(String(warning)));
  client.on("error", (error) => books.errors.push(String(error)));
  client.on("scrape", ({ complete, incomplete, downloaded }) => {
    books.scrapes.push({ complete, incomplete, downloaded });
  });
  client.on("peer", (peer) => {
    peer.on("connect", () => {
      books.peers += 1;
      peer.send(`hello from ${peerId}`);
    });
    peer.on("data", (data) => books.received.push(new TextDecoder().decode(data)));
    peer.on("error", () => {});
  });
  client.start();
  window.client = client;
  window.read = () => books;
};
