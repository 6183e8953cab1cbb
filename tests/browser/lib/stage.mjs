// What the tests of a file play on: servers, the page of players, and a browser, from before the first test until after
// the last.

import { after, afterEach, before } from "node:test";

import { closePages, launch } from "./browser.mjs";
import { openPlayer, servePlayers } from "./players.mjs";

/**
 * Before the tests `start` starts servers, and hands each to its argument, which gives it back; what was started last is
 * stopped first. It begins at once (Node.js 20 does not wait for the rest of the file): what it uses stands above.
 * Returns what opens a page, by the last argument of `openPlayer`. After a test all pages are closed.
 */
export function stage(start = () => {}) {
  const started = [];
  const keep = async (starting) => {
    const one = await starting;
    started.push(one);
    return one;
  };
  let page;
  let browser;
  before(async () => {
    await start(keep);
    page = await keep(servePlayers());
    browser = await launch();
  });
  afterEach(() => closePages(browser));
  after(async () => {
    await browser?.close();
    for (const one of started.reverse()) await one.stop();
  });
  return (options) => openPlayer(browser, page, options);
}
