import assert from "node:assert/strict";
import { test } from "node:test";

import { PcmBlocks } from "../../../gateway/web/worklet.js";

test("samples of any number become blocks of one size", () => {
  const blocks = [];
  const collector = new PcmBlocks(3, (pcm, peak) => blocks.push([[...pcm], peak]));
  for (const count of [1, 4, 0, 2]) {
    collector.push(new Float32Array(count).fill(0.5));
  }
  assert.deepEqual(blocks, [
    [[16384, 16384, 16384], 0.5],
    [[16384, 16384, 16384], 0.5],
  ]);
  collector.flush();
  assert.deepEqual(blocks.at(-1), [[16384], 0.5]);
  collector.flush();
  assert.equal(blocks.length, 3);
});

test("too loud is clipped, and the ends of the range are reached", () => {
  const blocks = [];
  new PcmBlocks(5, (pcm) => blocks.push([...pcm])).push(Float32Array.of(1, -1, 7, -7, 1e-6));
  assert.deepEqual(blocks, [[32767, -32768, 32767, -32768, 0]]);
});

test("the peak is each block's own", () => {
  const peaks = [];
  new PcmBlocks(1, (_, peak) => peaks.push(peak)).push(Float32Array.of(0.5, -0.25));
  assert.deepEqual(peaks, [0.5, 0.25]);
});
