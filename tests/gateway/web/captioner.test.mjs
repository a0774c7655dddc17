import assert from "node:assert/strict";
import { test } from "node:test";

import { Captioner } from "../../../gateway/web/captioner.js";
import { FakeSocket, RATE_HZ, STARTED } from "./rig.mjs";

/** What a browser has, as far as the captioner and its microphone use it. */
class Browser {
  requests = []; // { grant, deny } of each question for the microphone
  tracks = []; // of each that was granted
  sockets = [];

  constructor() {
    const browser = this;
    globalThis.isSecureContext = true;
    globalThis.location = { href: "http://localhost/" };
    const navigator = { mediaDevices: { getUserMedia: () => this.#ask() } };
    Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
    globalThis.AudioContext = FakeAudioContext;
    globalThis.AudioWorkletNode = FakeWorkletNode;
    globalThis.WebSocket = class extends FakeSocket {
      constructor() {
        super();
        browser.sockets.push(this);
      }
    };
  }

  #ask() {
    return new Promise((resolve, reject) => {
      const grant = () => resolve(this.#stream());
      const deny = () => reject(Object.assign(new Error(), { name: "NotAllowedError" }));
      this.requests.push({ grant, deny });
    });
  }

  #stream() {
    const track = { isStopped: false, stop: () => (track.isStopped = true) };
    this.tracks.push(track);
    return { getTracks: () => [track], getAudioTracks: () => [track] };
  }
}

class FakeAudioContext {
  sampleRate = RATE_HZ;
  state = "running";
  audioWorklet = { addModule: async () => undefined };
  async resume() {}
  async close() {}
  createMediaStreamSource() {
    return { connect: () => undefined };
  }
}

/** Has one block to say, when it is flushed. */
class FakeWorkletNode {
  port = {
    onmessage: null,
    postMessage() {
      this.onmessage({ data: { pcm: new Int16Array(RATE_HZ / 50), peak: 0.5 } });
      this.onmessage({ data: { flushed: true } });
    },
  };
  connect() {}
}

/** A captioner in a browser, and what it told. */
class Rig {
  browser = new Browser();
  states = [];
  levels = [];
  captioner = new Captioner({
    onText: () => undefined,
    onState: ({ phase, isOn, problem }) => this.states.push([phase, isOn, problem]),
    onLevel: (peak) => this.levels.push(peak),
    onStarted: () => undefined,
  });
}

test("paused while the browser asks for permission: nobody is recorded", async () => {
  const rig = new Rig();
  const started = rig.captioner.start({});
  assert.deepEqual(rig.states.at(-1), ["starting", true, ""]);
  await rig.captioner.pause();
  assert.deepEqual([rig.states.at(-1), rig.captioner.isOn], [["idle", false, ""], false]);
  rig.browser.requests[0].grant();
  await started;
  assert.equal(rig.browser.tracks[0].isStopped, true);
  assert.deepEqual([rig.browser.sockets, rig.levels], [[], []]);
  assert.deepEqual([rig.states.at(-1), rig.captioner.isOn], [["idle", false, ""], false]);
});

test("a permission that is denied once nobody wants it is no problem", async () => {
  const rig = new Rig();
  const started = rig.captioner.start({});
  await rig.captioner.pause();
  rig.browser.requests[0].deny();
  await started;
  assert.deepEqual(rig.states.at(-1), ["idle", false, ""]);
});

test("started again before the first answer: one microphone, the one asked for last", async () => {
  const rig = new Rig();
  const first = rig.captioner.start({ language: "en" });
  await rig.captioner.pause();
  const second = rig.captioner.start({ language: "de" });
  assert.deepEqual(rig.states.at(-1), ["starting", true, ""]);
  rig.browser.requests[1].grant();
  await second;
  rig.browser.requests[0].grant();
  await first;
  assert.deepEqual(rig.browser.tracks.map((track) => track.isStopped), [false, true]);
  assert.deepEqual([rig.levels, rig.captioner.isOn], [[], true]);
  const [socket] = rig.browser.sockets;
  socket.open();
  assert.equal(socket.json(0).language, "de");
  socket.say(STARTED);
  await rig.captioner.pause();
  assert.deepEqual(rig.levels, [0.5]);
  assert.deepEqual(rig.browser.tracks.map((track) => track.isStopped), [true, true]);
  socket.say({ type: 0x48, reason: "client" });
  assert.deepEqual(rig.states.at(-1), ["idle", false, ""]);
});
