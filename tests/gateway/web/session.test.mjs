import assert from "node:assert/strict";
import { test } from "node:test";

import { ACK_EVERY_EVENTS, Session } from "../../../gateway/web/session.js";
import { FakeSocket, packed, RESUMABLE, RESUMED, serverFrame, STARTED, WINDOW_MS } from "./rig.mjs";

const NON_SPEECH = { type: 0x44, start_sample: 0, end_sample: 1 };
const CLAIM = { resume_token: "resume-me", events_received: 3, window_ms: WINDOW_MS };

function open(hello = { client: "test" }, claim = null) {
  const socket = new FakeSocket();
  const messages = [];
  const ends = [];
  const onMessage = (message) => messages.push(message);
  const session = new Session(socket, hello, onMessage, (end) => ends.push(end), claim);
  return { socket, messages, ends, session };
}

function started() {
  const opened = open();
  opened.socket.open();
  opened.socket.say(STARTED);
  return opened;
}

test("hello comes first, audio only after started", () => {
  const { socket, session, messages } = open();
  assert.equal(socket.binaryType, "arraybuffer");
  socket.open();
  assert.deepEqual(socket.json(0), { client: "test" });
  assert.equal(session.canSend, false);
  socket.say(STARTED);
  assert.equal(session.canSend, true);
  assert.equal(messages[0].type, "started");
});

test("audio carries its offset", () => {
  const { socket, session } = started();
  session.sendAudio(Int16Array.of(1, 2, 3));
  session.sendAudio(Int16Array.of(4));
  assert.deepEqual(socket.audio, [
    { offset: 0, pcm: [1, 2, 3] },
    { offset: 3, pcm: [4] },
  ]);
});

test("no audio into a network that is behind", () => {
  const { socket, session } = started();
  socket.bufferedAmount = 1 << 20;
  assert.equal(session.canSend, false);
});

test("bye is said once, and closed behind it is the end in order", () => {
  const { socket, session, ends } = started();
  session.bye();
  session.bye();
  assert.deepEqual(socket.types, [0x01, 0x05]);
  assert.equal(session.canSend, false);
  socket.say({ type: 0x48, reason: "client" });
  socket.say({ type: 0x48, reason: "client" });
  assert.deepEqual(ends.map((end) => end.code), ["closed"]);
  assert.equal(socket.isClosed, true);
});

test("closed without bye says why", () => {
  const { socket, ends } = started();
  socket.say({ type: 0x48, reason: "draining" });
  assert.deepEqual([ends[0].code, ends[0].retryable], ["draining", true]);
});

test("an error ends it, with the server's words", () => {
  const { socket, messages, ends } = open();
  socket.open();
  socket.say({ type: 0x49, code: "at_capacity", message: "full", retryable: true, retry_after_ms: 2000 });
  socket.break();
  assert.deepEqual(ends, [
    { code: "at_capacity", message: "full", retryable: true, retry_after_ms: 2000 },
  ]);
  assert.deepEqual(messages, []);
});

test("an error's defaults are left out on the wire", () => {
  const { socket, ends } = open();
  socket.open();
  socket.say({ type: 0x49, code: "unauthorized" });
  assert.deepEqual(ends, [
    { code: "unauthorized", message: "", retryable: false, retry_after_ms: 0 },
  ]);
});

test("a broken connection is lost, and may be tried again", () => {
  const { socket, ends } = started();
  socket.break();
  socket.break();
  assert.deepEqual(ends.map((end) => [end.code, end.retryable]), [["lost", true]]);
});

test("nothing counts behind the end, in the same message or later", () => {
  const { socket, ends, messages } = started();
  const frames = [
    serverFrame(0x49, { code: "internal" }, 1),
    serverFrame(0x41, packed(1, 1, 1), 2),
    serverFrame(0x48, { reason: "internal" }, 3),
  ];
  const { onmessage } = socket;
  onmessage({ data: Uint8Array.from(frames.flatMap((frame) => [...frame])).buffer });
  onmessage({ data: "more" });
  assert.deepEqual(ends.map((end) => end.code), ["internal"]);
  assert.equal(messages.length, 1);
});

test("what is no Earwire server is told so", () => {
  const text = open();
  text.socket.onmessage({ data: "hello" });
  assert.equal(text.ends[0].code, "bad_server");
  const noise = open();
  noise.socket.onmessage({ data: new Uint8Array(20).buffer });
  assert.equal(noise.ends[0].code, "bad_server");
});

test("a bug in a listener is not taken for the server's fault", () => {
  const socket = new FakeSocket();
  const fail = () => {
    throw new TypeError("ours");
  };
  new Session(socket, {}, fail, () => assert.fail("it did not end"));
  assert.throws(() => socket.say({ type: 0x41, payload: packed(1, 2, 3) }), TypeError);
});

test("a session of a server that waits may be claimed, with what was received", () => {
  const { socket, session } = open();
  socket.open();
  assert.equal(session.claim, null);
  socket.say(RESUMABLE);
  socket.say(NON_SPEECH);
  socket.say({ type: 0x45, stable: "", volatile: "" }); // partials are not counted
  assert.deepEqual(session.claim, { ...CLAIM, events_received: 1 });
  assert.equal(started().session.claim, null);
});

test("a claim is made in place of hello, and audio goes on where the server stands", () => {
  const { socket, session } = open({ client: "test", token: "secret" }, CLAIM);
  socket.open();
  assert.deepEqual(socket.types, [0x06]);
  assert.deepEqual(socket.json(0), { token: "secret", resume_token: "resume-me", events_received: 3 });
  assert.equal(session.canSend, false);
  socket.say({ ...RESUMED, client_samples: 50 });
  session.sendAudio(Int16Array.of(7));
  assert.deepEqual(socket.audio, [{ offset: 50, pcm: [7] }]);
  socket.say(NON_SPEECH);
  assert.equal(session.claim.events_received, 4);
});

test("a session that the server ends by itself says why", () => {
  const { socket, session, ends } = open({}, CLAIM);
  socket.open();
  socket.say({ ...RESUMED, bye_received: true });
  assert.equal(session.canSend, false);
  session.bye();
  assert.deepEqual(socket.types, [0x06]);
  socket.say({ type: 0x48, reason: "draining" });
  assert.equal(ends[0].code, "draining");
});

test("a bye is part of the claim", () => {
  const { socket, session } = open({}, CLAIM);
  socket.open();
  socket.say(RESUMED);
  session.bye();
  assert.equal(session.claim.is_bye_said, true);
});

test("a server that has bye wants nothing more", () => {
  const { socket, session, ends } = open({}, { ...CLAIM, is_bye_said: true });
  socket.open();
  socket.say({ ...RESUMED, bye_received: true });
  assert.equal(session.canSend, false);
  session.bye();
  assert.deepEqual(socket.types, [0x06]);
  socket.say({ type: 0x48, reason: "client" });
  assert.deepEqual([ends[0].code, socket.acks, session.claim], ["closed", [4], null]);
});

test("events are acknowledged when they are many, or when somebody says so, each once", () => {
  const { socket, session } = open();
  socket.open();
  socket.say(RESUMABLE);
  session.ack();
  for (let i = 0; i < ACK_EVERY_EVENTS; i++) {
    assert.deepEqual(socket.acks, []);
    socket.say(NON_SPEECH);
  }
  assert.deepEqual([socket.acks, session.hasToAck], [[ACK_EVERY_EVENTS], false]);
  socket.say(NON_SPEECH);
  assert.equal(session.hasToAck, true);
  session.ack();
  session.ack();
  assert.deepEqual(socket.acks, [ACK_EVERY_EVENTS, ACK_EVERY_EVENTS + 1]);
});

test("an error of the session is acknowledged and ends it for good", () => {
  const { socket, session } = open();
  socket.open();
  socket.say(RESUMABLE);
  socket.say({ type: 0x49, code: "service_lost", retryable: true });
  assert.deepEqual([socket.acks, session.claim], [[1], null]);
});

test("an error in answer to a claim leaves it as it is", () => {
  const { socket, session } = open({}, CLAIM);
  socket.open();
  socket.say({ type: 0x49, code: "resume_later", retryable: true });
  assert.deepEqual([socket.acks, session.claim], [[], CLAIM]);
});
