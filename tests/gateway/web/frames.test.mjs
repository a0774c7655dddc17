import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  ClientType,
  FrameDecoder,
  FrameEncoder,
  FrameError,
  MAX_PAYLOAD_BYTES,
} from "../../../gateway/web/frames.js";
import { decodeAll, packed, serverFrame } from "./rig.mjs";

/** A golden frame of tests/fixtures, numbered as the first of its direction. */
function golden(name) {
  const bytes = new Uint8Array(readFileSync(new URL(`../../fixtures/client_${name}.bin`, import.meta.url)));
  new DataView(bytes.buffer).setUint32(12, 0, true);
  return bytes;
}

test("what the page sends is what the protocol's golden frames are", () => {
  const pcm = new Int16Array(golden("audio").slice(24).buffer);
  assert.deepEqual(new Uint8Array(new FrameEncoder().audio(320, pcm)), golden("audio"));
  assert.deepEqual(new Uint8Array(new FrameEncoder().json(ClientType.bye, {})), golden("bye"));
  const hello = JSON.parse(new TextDecoder().decode(golden("hello").slice(16)));
  const frame = new FrameEncoder().json(ClientType.hello, hello);
  assert.deepEqual(new Uint8Array(frame), golden("hello"));
  const resume = JSON.parse(new TextDecoder().decode(golden("resume").slice(16)));
  const again = new FrameEncoder().json(ClientType.resume, resume);
  assert.deepEqual(new Uint8Array(again), golden("resume"));
});

test("a ping carries its nonce, an ack its count", () => {
  assert.deepEqual(new Uint8Array(new FrameEncoder().ping(77)).slice(16), packed(77));
  const ack = new Uint8Array(new FrameEncoder().ack(77));
  assert.deepEqual(ack.slice(16), packed(77));
  assert.deepEqual(ack.slice(0, 16), golden("ack").slice(0, 16));
});

test("frames are numbered, and the number wraps at 32 bits", () => {
  const encoder = new FrameEncoder();
  encoder.ping(1);
  assert.equal(new DataView(encoder.ping(1)).getUint32(12, true), 1);
});

test("every golden message of the server can be read", () => {
  const names = "started speech_started speech_stopped non_speech partial final overflow closed error latency end_of_turn resumed";
  for (const name of names.split(" ")) {
    const [message] = decodeAll(golden(name));
    assert.equal(message.type, name);
    const { type, ...fields } = message;
    assert.deepEqual(fields, JSON.parse(new TextDecoder().decode(golden(name).slice(16))), type);
  }
  const { type, ...watermark } = decodeAll(golden("watermark"))[0];
  assert.equal(type, "watermark");
  assert.deepEqual(Object.keys(watermark), ["client_samples", "audio_received", "audio_decoded"]);
  assert.equal(decodeAll(golden("pong"))[0].type, "pong");
});

test("the stream may be cut anywhere", () => {
  const bytes = [
    ...serverFrame(0x45, { stable: "é", volatile: "" }, 0),
    ...serverFrame(0x4a, packed(9), 1),
    ...serverFrame(0x46, { text: "ü" }, 2),
  ];
  const whole = decodeAll(Uint8Array.from(bytes));
  assert.equal(whole.length, 3);
  const single = new FrameDecoder();
  assert.deepEqual(bytes.flatMap((byte) => single.push(Uint8Array.of(byte))), whole);
  for (let at = 0; at <= bytes.length; at++) {
    const decoder = new FrameDecoder();
    const first = decoder.push(Uint8Array.from(bytes.slice(0, at)).buffer);
    assert.deepEqual([...first, ...decoder.push(Uint8Array.from(bytes.slice(at)).buffer)], whole);
  }
});

test("a field named type does not rename a message", () => {
  assert.equal(decodeAll(serverFrame(0x46, { type: "error", text: "" }, 0))[0].type, "final");
});

test("messages of a newer minor version are skipped", () => {
  assert.deepEqual(decodeAll(serverFrame(0x7f, {}, 0)), []);
});

for (const [what, spoil] of [
  ["another magic", (bytes) => (bytes[0] = 0x48)],
  ["another major version", (bytes) => (bytes[2] = 0x20)],
  ["a number out of turn", (bytes) => (bytes[12] = 1)],
  ["a length over the limit", (bytes) => new DataView(bytes.buffer).setUint32(8, MAX_PAYLOAD_BYTES + 1, true)],
  ["broken JSON", (bytes) => (bytes[16] = 0x7d)],
]) {
  test(`${what} is refused`, () => {
    const bytes = serverFrame(0x46, { text: "a" }, 0);
    spoil(bytes);
    assert.throws(() => decodeAll(bytes), FrameError);
  });
}

test("a packed message that is too short is refused", () => {
  assert.throws(() => decodeAll(serverFrame(0x41, packed(1, 2), 0)), FrameError);
});
