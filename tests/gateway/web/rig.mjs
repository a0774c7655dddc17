/** What the tests of the page share: a server on the other end of a fake socket, and hand-made time. */

import { FrameDecoder, HEADER_BYTES } from "../../../gateway/web/frames.js";

export const RATE_HZ = 48_000;
export const STARTED = { type: 0x40, session_id: "s", model: "tiny.en", hop_ms: 320 };
export const WINDOW_MS = 30_000;
export const RESUMABLE = {
  ...STARTED,
  resume_token: "resume-me",
  limits: { resume_window_ms: WINDOW_MS },
};
export const RESUMED = { type: 0x4d, session_id: "s", client_samples: 0, finalizes_received: 0 };

/** A frame of the server. */
export function serverFrame(type, payload, sequence) {
  const body =
    payload instanceof Uint8Array ? payload : new TextEncoder().encode(JSON.stringify(payload));
  const frame = new Uint8Array(HEADER_BYTES + body.length);
  const view = new DataView(frame.buffer);
  view.setUint16(0, 0x5745, true);
  view.setUint8(2, 0x10);
  view.setUint8(3, type);
  view.setUint32(8, body.length, true);
  view.setUint32(12, sequence, true);
  frame.set(body, HEADER_BYTES);
  return frame;
}

/** Three u64, or one. */
export function packed(...values) {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => view.setBigUint64(8 * i, BigInt(value), true));
  return new Uint8Array(view.buffer);
}

/** A WebSocket with the test at its other end. */
export class FakeSocket {
  bufferedAmount = 0;
  isClosed = false;
  frames = []; // { type, payload } that the page sent
  audio = []; // { offset, pcm } of these
  #sequence = 0;

  send(data) {
    const view = new DataView(data);
    const type = view.getUint8(3);
    const payload = new Uint8Array(data, HEADER_BYTES);
    this.frames.push({ type, payload });
    if (type === 0x02) {
      const offset = Number(view.getBigUint64(HEADER_BYTES, true));
      this.audio.push({ offset, pcm: [...new Int16Array(data.slice(HEADER_BYTES + 8))] });
    }
  }

  close() {
    this.isClosed = true;
  }

  open() {
    this.onopen?.({});
  }

  /** Say a message: fields with `type`, or the payload of a packed one. */
  say({ type, payload, ...fields }) {
    this.onmessage?.({ data: serverFrame(type, payload ?? fields, this.#sequence++).buffer });
  }

  /** The network is gone. */
  break() {
    this.onclose?.({});
  }

  get types() {
    return this.frames.map((frame) => frame.type);
  }

  /** Fields of the JSON message number i, or of the last one for -1. */
  json(i) {
    return JSON.parse(new TextDecoder().decode(this.frames.at(i).payload));
  }

  /** The counts of the acks so far. */
  get acks() {
    return this.frames
      .filter(({ type }) => type === 0x07)
      .map(({ payload }) => Number(new DataView(payload.slice().buffer).getBigUint64(0, true)));
  }

  get samples() {
    return this.audio.flatMap(({ pcm }) => pcm);
  }
}

/** A clock and timers that move when a test says so. */
export class FakeTime {
  now_ms = 1000;
  #timers = new Set();

  schedule = (task, delay_ms) => {
    const timer = { task, due_ms: this.now_ms + delay_ms };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  };

  pass(ms) {
    const until_ms = this.now_ms + ms;
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a.due_ms - b.due_ms);
      if (next === undefined || next.due_ms > until_ms) {
        break;
      }
      this.#timers.delete(next);
      this.now_ms = next.due_ms;
      next.task();
    }
    this.now_ms = until_ms;
  }

  get numTimers() {
    return this.#timers.size;
  }
}

/** Decode with a fresh decoder. */
export function decodeAll(bytes) {
  return new FrameDecoder().push(bytes);
}

/** Samples that tell where they came from. */
export function ramp(start, count) {
  return Int16Array.from({ length: count }, (_, i) => (start + i) % 30_000);
}
