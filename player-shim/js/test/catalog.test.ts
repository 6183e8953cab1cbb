import assert from "node:assert/strict";
import { test } from "node:test";
import { Catalog } from "../src/catalog";
import type { Window } from "../src/machine";

/** What a playlist lists: lines as the module writes them. */
function listing(...lines: string[]): Window {
  return {
    track: () => 1,
    stream: () => "",
    target_ms: () => 4000,
    is_ended: () => false,
    segments: () => lines.map((line) => `${line}\n`).join(""),
    parts: () => undefined,
    free: () => {},
  };
}

test("segments are found by their path and range, whatever the host and the arguments", () => {
  const catalog = new Catalog();
  catalog.add(listing("aa 1 4000 0 0 https://a.example/v/seg-1.m4s?x=1", "bb 2 4000 100 50 https://a.example/all.mp4"), 0);
  assert.equal(catalog.nameOf("http://b.example:8080/v/seg-1.m4s#t", 0, 0), "aa");
  assert.equal(catalog.nameOf("https://a.example/all.mp4?y", 100, 50), "bb");
  assert.equal(catalog.nameOf("https://a.example/all.mp4", 0, 0), undefined);
  assert.equal(catalog.find("bb")?.seq, 2);
});

test("names leave out a viewer's token in the path: a new one takes the place of the old one", () => {
  const catalog = new Catalog();
  catalog.add(listing("aa 1 4000 0 0 https://a.example/live/ann/seg-1.m4s"), 0);
  assert.equal(catalog.nameOf("https://a.example/live/ann/seg-1.m4s", 0, 0), "aa");
  catalog.add(listing("aa 1 4000 0 0 https://a.example/live/ben/seg-1.m4s"), 0);
  assert.equal(catalog.nameOf("https://a.example/live/ann/seg-1.m4s", 0, 0), undefined);
  assert.equal(catalog.nameOf("https://a.example/live/ben/seg-1.m4s", 0, 0), "aa");
  catalog.clear();
  assert.equal(catalog.nameOf("https://a.example/live/ben/seg-1.m4s", 0, 0), undefined);
});
