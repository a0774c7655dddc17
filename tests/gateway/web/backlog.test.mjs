import assert from "node:assert/strict";
import { test } from "node:test";

import { Backlog } from "../../../gateway/web/backlog.js";
import { ramp } from "./rig.mjs";

function filled(maxSamples, ...sizes) {
  const backlog = new Backlog(maxSamples);
  for (const size of sizes) {
    backlog.append(ramp(backlog.end, size));
  }
  return backlog;
}

test("an empty one has nothing to read", () => {
  const backlog = new Backlog(100);
  assert.deepEqual([backlog.start, backlog.end, backlog.read(0, 10)], [0, 0, null]);
});

test("reads begin anywhere and end at a block's end", () => {
  const backlog = filled(1000, 5, 7, 3);
  for (let at = 0; at < backlog.end; at++) {
    const samples = [];
    for (let next = at, pcm; (pcm = backlog.read(next, 4)) !== null; next += pcm.length) {
      assert.ok(pcm.length >= 1 && pcm.length <= 4);
      samples.push(...pcm);
    }
    assert.deepEqual(samples, [...ramp(at, 15 - at)]);
  }
  assert.equal(backlog.read(15, 4), null);
});

test("what is released is gone, whole blocks at a time", () => {
  const backlog = filled(1000, 5, 7, 3);
  backlog.release(6);
  assert.equal(backlog.start, 5);
  assert.deepEqual([...backlog.read(6, 100)], [...ramp(6, 6)]);
  assert.throws(() => backlog.read(4, 1), RangeError);
  backlog.release(99);
  assert.deepEqual([backlog.start, backlog.end], [15, 15]);
});

test("it holds so much, and the oldest goes", () => {
  const backlog = filled(10, 4, 4, 4, 4);
  assert.deepEqual([backlog.start, backlog.end], [4, 16]);
});
