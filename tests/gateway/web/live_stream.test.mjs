import assert from "node:assert/strict";
import { test } from "node:test";

import {
  CONNECT_TIMEOUT_MS,
  DEAD_AFTER_MS,
  LiveStream,
  MAX_KEPT_S,
  PING_INTERVAL_MS,
} from "../../../gateway/web/live_stream.js";
import { FakeSocket, FakeTime, packed, ramp, RATE_HZ, STARTED } from "./rig.mjs";

const BLOCK = RATE_HZ / 50;
const COUNTERS = { audio_received: 0, audio_decoded: 0 };

/** A stream, its sockets in the order they were opened, and what it told. */
class Rig {
  sockets = [];
  phases = [];
  messages = [];
  losses = [];
  roundTrips = [];
  time = new FakeTime();
  stream = new LiveStream(
    RATE_HZ,
    {
      openSocket: () => {
        this.sockets.push(new FakeSocket());
        return this.socket;
      },
      now: () => this.time.now_ms,
      schedule: this.time.schedule,
      random: () => 0,
    },
    {
      onMessage: (message, base_s) => this.messages.push([message.type, base_s]),
      onState: (state) => this.phases.push(state.end ? `${state.phase}: ${state.end.code}` : state.phase),
      onLoss: (start_s, end_s) => this.losses.push([start_s, end_s]),
      onRoundTrip: (ms) => this.roundTrips.push(ms),
    },
  );
  said = 0;

  get socket() {
    return this.sockets[this.sockets.length - 1];
  }

  speak(blocks = 1) {
    for (let i = 0; i < blocks; i++) {
      this.stream.push(ramp(this.said, BLOCK));
      this.said += BLOCK;
    }
  }

  admit() {
    this.socket.open();
    this.socket.say(STARTED);
  }

  final(end_s, type = 0x46) {
    const end_sample = end_s * 16_000;
    this.socket.say({ type, utterance: 0, start_sample: 0, end_sample, text: "a", ...COUNTERS });
  }

  live() {
    this.stream.open({ token: "t" });
    this.admit();
    return this;
  }
}

test("hello has the format, and audio waits for started", () => {
  const rig = new Rig();
  rig.stream.open({ token: "t", language: "en" });
  rig.speak(2);
  rig.socket.open();
  assert.deepEqual(rig.socket.json(0), {
    token: "t",
    language: "en",
    encoding: "pcm_s16le",
    sample_rate_hz: RATE_HZ,
    resumable: true,
  });
  assert.deepEqual(rig.socket.samples, []);
  rig.socket.say(STARTED);
  rig.speak();
  assert.deepEqual(rig.socket.samples, [...ramp(0, 3 * BLOCK)]);
  assert.deepEqual(rig.phases, ["connecting", "live"]);
});

test("finish sends the rest, says bye, and is idle after the last text", () => {
  const rig = new Rig().live();
  rig.speak(3);
  rig.stream.finish();
  assert.equal(rig.socket.types.at(-1), 0x05);
  rig.final(0.06);
  rig.socket.say({ type: 0x48, reason: "client" });
  assert.deepEqual(rig.phases, ["connecting", "live", "finishing", "idle"]);
  assert.deepEqual([rig.stream.kept_s, rig.time.numTimers], [0, 0]);
});

test("of a session that the server ended behind our bye, what it did not take is said again", () => {
  const rig = new Rig().live();
  rig.speak(100); // 2 s
  rig.stream.finish();
  rig.final(1);
  rig.socket.say({ type: 0x48, reason: "draining", client_samples: RATE_HZ });
  assert.deepEqual(rig.losses, []);
  assert.equal(rig.sockets.length, 2);
  rig.admit();
  assert.deepEqual(rig.socket.samples, [...ramp(RATE_HZ, RATE_HZ)]);
});

test("finish before started still gets everything its text", () => {
  const rig = new Rig();
  rig.stream.open({});
  rig.speak(2);
  rig.stream.finish();
  rig.admit();
  assert.deepEqual(rig.socket.types, [0x01, 0x02, 0x02, 0x05]);
  assert.equal(rig.phases.at(-1), "finishing");
});

test("finish without any session and without rest is idle at once", () => {
  const rig = new Rig().live();
  rig.speak(50);
  rig.final(1);
  rig.socket.break();
  assert.equal(rig.phases.at(-1), "waiting: lost");
  rig.stream.finish();
  assert.deepEqual([rig.phases.at(-1), rig.time.numTimers], ["idle", 0]);
});

test("going on while the last texts are due opens a session behind them", () => {
  const rig = new Rig().live();
  rig.speak(1);
  rig.stream.finish();
  rig.stream.open({});
  rig.speak(1);
  assert.equal(rig.phases.at(-1), "live");
  rig.socket.say({ type: 0x48, reason: "client" });
  rig.admit();
  assert.deepEqual(rig.socket.audio, [{ offset: 0, pcm: [...ramp(BLOCK, BLOCK)] }]);
  assert.deepEqual(rig.messages.at(-1), ["started", 0.02]);
  assert.deepEqual(rig.losses, []);
});

test("after a lost connection all audio without text is sent again, from where finals ended", () => {
  const rig = new Rig().live();
  rig.speak(50);
  rig.final(0.4);
  rig.final(0.5, 0x44); // non-speech settles audio as well
  rig.socket.break();
  assert.equal(rig.phases.at(-1), "waiting: lost");
  rig.speak(5);
  rig.time.pass(500);
  assert.equal(rig.sockets.length, 2);
  rig.admit();
  assert.deepEqual(rig.socket.samples, [...ramp(RATE_HZ / 2, 30 * BLOCK)]);
  assert.equal(rig.socket.audio[0].offset, 0);
  assert.deepEqual(rig.messages.at(-1), ["started", 0.5]);
  rig.final(0.1);
  assert.deepEqual(rig.messages.at(-1), ["final", 0.5]);
  assert.deepEqual(rig.losses, []);
  assert.equal(rig.phases.at(-1), "live");
});

test("more than it can keep is named as lost", () => {
  const rig = new Rig().live();
  rig.speak(50);
  rig.final(1);
  rig.socket.break();
  rig.time.pass(500);
  rig.speak(50 * (MAX_KEPT_S + 10));
  assert.ok(rig.stream.kept_s <= MAX_KEPT_S);
  rig.admit();
  assert.deepEqual(rig.losses, [[1, 11]]);
  assert.equal(rig.stream.captured_s, MAX_KEPT_S + 11);
});

test("retries wait longer and longer, and as long as the server asks", () => {
  const rig = new Rig();
  rig.stream.open({});
  const delays = [];
  for (let i = 0; i < 7; i++) {
    rig.socket.break();
    delays.push(rig.stream.state.retry_at_ms - rig.time.now_ms);
    rig.time.pass(delays.at(-1));
  }
  assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  rig.socket.open();
  const full = { type: 0x49, code: "at_capacity", message: "", retryable: true };
  rig.socket.say({ ...full, retry_after_ms: 60_000 });
  assert.equal(rig.stream.state.retry_at_ms - rig.time.now_ms, 60_000);
  assert.equal(rig.phases.at(-1), "waiting: at_capacity");
});

test("a server that admits and then is full is not asked faster", () => {
  const rig = new Rig();
  rig.stream.open({});
  for (const delay_ms of [500, 1000, 2000]) {
    rig.admit();
    rig.socket.say({ type: 0x49, code: "at_capacity", retryable: true });
    assert.equal(rig.stream.state.retry_at_ms - rig.time.now_ms, delay_ms);
    rig.time.pass(delay_ms);
  }
  rig.admit();
  assert.equal(rig.phases.at(-1), "waiting: at_capacity");
  rig.socket.say({ type: 0x41, payload: packed(1, 1, 0) });
  assert.equal(rig.phases.at(-1), "live");
});

test("retry connects at once", () => {
  const rig = new Rig();
  rig.stream.open({});
  rig.socket.break();
  rig.stream.retry();
  assert.equal(rig.sockets.length, 2);
  rig.stream.retry(); // under way already
  assert.equal(rig.sockets.length, 2);
});

test("retry connects for nobody who neither speaks nor waits for texts", () => {
  const rig = new Rig();
  rig.stream.retry();
  rig.live();
  rig.stream.finish();
  rig.socket.say({ type: 0x48, reason: "client" });
  rig.stream.retry();
  assert.deepEqual([rig.sockets.length, rig.phases.at(-1)], [1, "idle"]);
  rig.stream.open({});
  rig.speak(1);
  rig.socket.open();
  rig.socket.say({ type: 0x49, code: "unauthorized", message: "no" });
  rig.stream.retry();
  assert.deepEqual([rig.sockets.length, rig.phases.at(-1)], [2, "refused: unauthorized"]);
});

test("retry connects for texts that are due", () => {
  const rig = new Rig().live();
  rig.speak(1);
  rig.socket.break();
  rig.stream.finish();
  rig.stream.retry();
  assert.equal(rig.sockets.length, 2);
});

test("a refusal ends it and names what gets no text", () => {
  const rig = new Rig();
  rig.stream.open({});
  rig.speak(50);
  rig.socket.open();
  rig.socket.say({ type: 0x49, code: "unauthorized", message: "no" });
  assert.equal(rig.phases.at(-1), "refused: unauthorized");
  assert.deepEqual(rig.losses, [[0, 1]]);
  rig.stream.open({ token: "better" });
  rig.admit();
  rig.speak(1);
  assert.deepEqual(rig.socket.audio, [{ offset: 0, pcm: [...ramp(RATE_HZ, BLOCK)] }]);
  assert.equal(rig.phases.at(-1), "live");
});

test("a refusal of nothing is no refusal", () => {
  const rig = new Rig();
  rig.stream.open({});
  rig.stream.finish();
  rig.socket.open();
  rig.socket.say({ type: 0x49, code: "unauthorized", message: "no" });
  assert.deepEqual([rig.phases.at(-1), rig.losses], ["idle", []]);
});

test("paused without a connection, what was said still gets its text later", () => {
  const rig = new Rig().live();
  rig.speak(10);
  rig.socket.break();
  rig.stream.finish();
  assert.equal(rig.phases.at(-1), "waiting: lost");
  rig.time.pass(500);
  rig.admit();
  assert.deepEqual(rig.socket.types.at(-1), 0x05);
  assert.equal(rig.socket.samples.length, 10 * BLOCK);
});

test("a network that is behind gets audio when it has caught up", () => {
  const rig = new Rig().live();
  rig.socket.bufferedAmount = 1 << 20;
  rig.speak(3);
  assert.equal(rig.socket.samples.length, 0);
  rig.stream.finish();
  rig.time.pass(100);
  assert.equal(rig.socket.types.includes(0x05), false);
  rig.socket.bufferedAmount = 0;
  rig.time.pass(100);
  assert.equal(rig.socket.samples.length, 3 * BLOCK);
  assert.equal(rig.socket.types.at(-1), 0x05);
});

test("a server so slow that audio to be sent is gone is left, and the loss named", () => {
  const rig = new Rig().live();
  rig.socket.bufferedAmount = 1 << 20;
  rig.speak(50 * (MAX_KEPT_S + 1));
  assert.equal(rig.phases.at(-1), "waiting: lost");
  rig.time.pass(500);
  rig.admit();
  assert.equal(rig.losses.length, 1);
});

test("pings measure the round trip", () => {
  const rig = new Rig().live();
  rig.time.pass(PING_INTERVAL_MS);
  const { type, payload } = rig.socket.frames.at(-1);
  assert.equal(type, 0x04);
  rig.time.pass(30);
  rig.socket.say({ type: 0x4a, payload });
  assert.deepEqual(rig.roundTrips, [30]);
});

test("a server that falls silent is left, one that talks is not", () => {
  const silent = new Rig().live();
  silent.speak(1);
  silent.time.pass(PING_INTERVAL_MS + DEAD_AFTER_MS + 2 * PING_INTERVAL_MS);
  assert.ok(silent.sockets.length > 1);
  const talking = new Rig().live();
  for (let i = 0; i < 20; i++) {
    talking.time.pass(DEAD_AFTER_MS / 4);
    talking.socket.say({ type: 0x41, payload: packed(i, i, i) });
  }
  assert.equal(talking.sockets.length, 1);
});

test("a connection that does not open is given up", () => {
  const rig = new Rig();
  rig.stream.open({});
  rig.time.pass(CONNECT_TIMEOUT_MS);
  assert.equal(rig.phases.at(-1), "waiting: lost");
});

test("the browser may say that the network is gone", () => {
  const rig = new Rig();
  rig.stream.drop();
  rig.live();
  rig.speak(1);
  rig.stream.drop();
  assert.equal(rig.phases.at(-1), "waiting: lost");
});
