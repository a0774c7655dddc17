import assert from "node:assert/strict";
import { test } from "node:test";

import { LatencyMeter } from "../../../gateway/web/latency.js";

const NONE = { text_ms: null, final_ms: null, wait_ms: null, engine_ms: null, network_ms: null };

/** A meter whose audio arrived 20 ms at a time at 5000 ms and on. */
function listening(seconds) {
  const meter = new LatencyMeter();
  for (let i = 1; i <= seconds * 50; i++) {
    meter.mark(i * 0.02, 5000 + i * 20);
  }
  return meter;
}
const message = (type, end_s, stages = undefined) => ({
  type,
  start_sample: 0,
  end_sample: end_s * 16_000,
  stages,
});

test("nothing measured is nothing said", () => {
  assert.deepEqual(new LatencyMeter().delays, NONE);
});

test("a partial is as late as its last audio is old", () => {
  const meter = listening(2);
  assert.equal(meter.read(message("partial", 1), 0, 6300), true);
  assert.deepEqual(meter.delays, { ...NONE, text_ms: 300 });
  assert.equal(meter.read(message("partial", 0.5), 1, 6950), true); // of a later session
  assert.equal(meter.delays.text_ms, 450);
});

test("stages of the server are compared only with each other", () => {
  const meter = listening(2);
  meter.read(message("partial", 1, [1e9, 1.001e9, 1.04e9, 1.1e9, 1.2e9]), 0, 6300);
  assert.equal(Math.round(meter.delays.wait_ms), 40);
  assert.equal(Math.round(meter.delays.engine_ms), 60);
  const unknown = listening(2);
  unknown.read(message("partial", 1, [0, 0, 0, 0, 7]), 0, 6300);
  assert.equal(unknown.delays.wait_ms, null);
});

test("finals are counted apart", () => {
  const meter = listening(2);
  meter.read(message("final", 1, [1, 2, 3, 4, 5]), 0, 6800);
  assert.deepEqual(meter.delays, { ...NONE, final_ms: 800 });
});

test("what can not be known is not read", () => {
  const meter = listening(1);
  assert.equal(meter.read(message("watermark", 1), 0, 6000), false);
  assert.equal(meter.read(message("partial", 0), 0, 6000), false); // answers nothing
  assert.equal(meter.read(message("partial", 3), 0, 6000), false); // audio not heard here
  assert.deepEqual(meter.delays, NONE);
});

test("marks are bounded, and audio older than they are is not guessed", () => {
  const meter = listening(300);
  assert.equal(meter.read(message("partial", 1), 0, 400_000), false);
  assert.equal(meter.read(message("partial", 299), 0, 304_200), true);
});

test("medians are over the last readings", () => {
  const meter = new LatencyMeter();
  for (let i = 0; i < 40; i++) {
    meter.roundTrip(i < 15 ? 1000 : i);
  }
  assert.equal(meter.delays.network_ms, 27);
  meter.roundTrip(-1); // clocks of some browsers step back: never less than nothing
  assert.ok(meter.delays.network_ms > 0);
});
