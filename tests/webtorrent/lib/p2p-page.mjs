// Runs in the page: hls.js with p2p-media-loader, as any page of theirs has it.

import Hls from "hls.js";
import { HlsJsP2PEngine } from "../node_modules/p2p-media-loader-hlsjs/dist/p2p-media-loader-hlsjs.es.min.js";

const renditionOf = (url) => new URL(url).pathname.split("/").at(-2);
const nameOf = (level) => level && renditionOf(level.url[0] ?? level.uri);

window.play = ({ stream, tracker }) => {
  const video = document.querySelector("video");
  const books = { down: {}, up: 0, peers: 0, shared: {}, warnings: [], errors: [] };
  const HlsWithP2P = HlsJsP2PEngine.injectMixin(Hls);
  const hls = new HlsWithP2P({
    // Far enough behind the live edge that segments may come from peers before they are urgent.
    liveSyncDurationCount: 7,
    p2p: {
      core: {
        highDemandTimeWindow: 4,
        httpDownloadTimeWindow: 30,
        p2pDownloadTimeWindow: 30,
        announceTrackers: [tracker],
        rtcConfig: { iceServers: [] },
        swarmId: "shoal-test",
      },
      onHlsJsCreated: ({ p2pEngine }) => {
        p2pEngine.addEventListener("onChunkDownloaded", (bytes, source) => {
          books.down[source] = (books.down[source] ?? 0) + bytes;
        });
        p2pEngine.addEventListener("onChunkUploaded", (bytes) => (books.up += bytes));
        p2pEngine.addEventListener("onSegmentLoaded", ({ segmentUrl, downloadSource }) => {
          const name = renditionOf(segmentUrl);
          if (downloadSource === "p2p") books.shared[name] = (books.shared[name] ?? 0) + 1;
        });
        p2pEngine.addEventListener("onPeerConnect", () => (books.peers += 1));
        p2pEngine.addEventListener("onTrackerWarning", ({ warning }) => books.warnings.push(String(warning)));
        p2pEngine.addEventListener("onTrackerError", ({ error }) => books.errors.push(String(error)));
      },
    },
  });
  hls.on(Hls.Events.ERROR, (_, error) => error.fatal && books.errors.push(`${error.type} ${error.details}`));
  hls.loadSource(stream);
  hls.attachMedia(video);
  video.play().catch(() => {});
  window.read = () => ({ ...books, time: video.currentTime, plays: nameOf(hls.levels[hls.currentLevel]) });
  window.renditions = () => hls.levels.map(nameOf);
  window.change = (name) => (hls.nextLevel = hls.levels.findIndex((level) => nameOf(level) === name));
};
