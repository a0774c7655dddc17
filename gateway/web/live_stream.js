// @ts-check
/**
 * One microphone's audio over as many connections as it takes: nothing is lost in between.
 *
 * The server's finals and non-speech reports tile a session without gap. What they have not covered
 * yet stays in the backlog. A session whose connection broke is gone on with while the server keeps
 * it; else a new one begins with the backlog. So a broken connection, a full server or a restart
 * costs time and no words, up to MAX_KEPT_S. Past that the oldest audio is given up and named to
 * `onLoss`.
 *
 * It knows no microphone, no page and no clock: sockets and timers are handed to it. app.js and
 * overlay.js own one.
 */

import { Backlog } from "./backlog.js";
import { MAX_AUDIO_BYTES } from "./frames.js";
import { asksForSame, Session } from "./session.js";

export const RING_RATE_HZ = 16_000; // positions of the server count these
export const MAX_KEPT_S = 120; // 11.5 MB at 48 kHz
export const PING_INTERVAL_MS = 4_000;
export const DEAD_AFTER_MS = 12_000; // no word from the server since a ping
export const CONNECT_TIMEOUT_MS = 10_000;
export const ACK_DELAY_MS = 500; // the server wants it within a second
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;
const DRAIN_INTERVAL_MS = 40; // sending what is left once the microphone is silent
const MAX_SEND_SAMPLES = MAX_AUDIO_BYTES / 2;

/** @typedef {import("./session.js").Claim} Claim */
/** @typedef {import("./session.js").End} End */
/** @typedef {import("./session.js").Socket} Socket */
/** @typedef {import("./frames.js").ServerMessage} ServerMessage */

/**
 * "idle": nothing to do. "connecting". "live": audio goes out. "finishing": the last texts are due.
 * "waiting": until `retry_at_ms`, because of `end`. "refused": for good, because of `end`.
 * @typedef {"idle" | "connecting" | "live" | "finishing" | "waiting" | "refused"} Phase
 * @typedef {{ phase: Phase, end: End | null, retry_at_ms: number }} StreamState
 */

/**
 * @typedef {object} Surroundings
 * @property {() => Socket} openSocket
 * @property {() => number} now ms, monotonic
 * @property {(task: () => void, delay_ms: number) => () => void} schedule returns what cancels it
 * @property {() => number} random 0 to 1
 */

/**
 * @typedef {object} Listener
 * @property {(message: ServerMessage, base_s: number) => void} onMessage its positions count from
 *   `base_s` seconds of this stream
 * @property {(state: StreamState) => void} onState
 * @property {(start_s: number, end_s: number) => void} onLoss this audio will have no text
 * @property {(rtt_ms: number) => void} onRoundTrip
 */

export class LiveStream {
  #around;
  #listener;
  #backlog;
  /** @type {Record<string, unknown>} */
  #hello = {};
  /** That of the last session that began. @type {Record<string, unknown>} */
  #startedHello = {};
  /** @type {Session | null} */
  #session = null;
  /** A session without connection, and until when the server keeps it. @type {{ claim: Claim, until_ms: number } | null} */
  #parked = null;
  #base = 0; // where the session began, in samples of the microphone
  #sent = 0; // the next sample to send
  #tiled = 0; // everything before it is in a final or known to be silence
  #isInputOpen = false;
  #attempts = 0; // since something was heard from the server
  /** @type {Map<string, () => void>} what cancels each running timer */
  #timers = new Map();
  #heard_ms = 0; // when the server last said something
  #pinged_ms = 0; // when the unanswered ping left; 0: none is
  /** @type {StreamState} */
  #state = { phase: "idle", end: null, retry_at_ms: 0 };

  /**
   * @param {number} sample_rate_hz of the microphone
   * @param {Surroundings} around
   * @param {Listener} listener
   */
  constructor(sample_rate_hz, around, listener) {
    this.sample_rate_hz = sample_rate_hz;
    this.#around = around;
    this.#listener = listener;
    this.#backlog = new Backlog(MAX_KEPT_S * sample_rate_hz);
  }

  /** @returns {StreamState} */
  get state() {
    return this.#state;
  }

  /** Seconds of audio taken from the microphone. */
  get captured_s() {
    return this.#backlog.end / this.sample_rate_hz;
  }

  /** Seconds of audio that have no text yet. */
  get kept_s() {
    return (this.#backlog.end - Math.max(this.#tiled, this.#backlog.start)) / this.sample_rate_hz;
  }

  /** Audio will come. @param {Record<string, unknown>} hello fields, without the format */
  open(hello) {
    const format = { encoding: "pcm_s16le", sample_rate_hz: this.sample_rate_hz };
    const old = this.#hello;
    this.#hello = { ...hello, ...format, resumable: true };
    this.#isInputOpen = true;
    if (!asksForSame(old, this.#hello)) {
      this.#endSession();
    }
    this.retry();
  }

  /** A session keeps its language and its model: have another one begin behind it. */
  #endSession() {
    if (this.#session?.isStarted) {
      this.#session.bye();
    } else {
      this.#session?.abandon();
      this.#session = null;
    }
  }

  /** No more audio for now: what there is gets its text, then the session ends. */
  finish() {
    this.#isInputOpen = false;
    if (this.#session === null && !this.#hasRest) {
      this.#cancelAll();
      this.#setState("idle");
    } else if (this.#session?.isStarted) {
      this.#setState("finishing");
      this.#pump();
    }
  }

  /** Connect now instead of later, if there is anything to connect for. */
  retry() {
    if (this.#session === null && !this.#isInputOpen && !this.#hasRest) {
      return;
    }
    if (this.#session === null) {
      this.#cancelAll();
      this.#connect();
    } else if (this.#session.isStarted) {
      this.#setState(this.#isInputOpen ? "live" : "finishing");
    }
  }

  /** The next samples. @param {Int16Array} pcm */
  push(pcm) {
    this.#backlog.append(pcm);
    this.#pump();
  }

  /** Nobody will come back: let the server not wait. */
  leave() {
    if (this.#session?.isStarted) {
      this.#session.bye();
    }
  }

  /** The network said that it is gone: do not wait for the time-out. */
  drop() {
    this.#session?.drop();
  }

  get #hasRest() {
    return this.#backlog.end > Math.max(this.#tiled, this.#backlog.start);
  }

  #connect() {
    this.#setState("connecting");
    const isLate = this.#parked !== null && this.#around.now() > this.#parked.until_ms;
    if (isLate || !asksForSame(this.#startedHello, this.#hello)) {
      this.#parked = null;
    }
    const session = new Session(
      this.#around.openSocket(),
      this.#hello,
      (message) => this.#receive(message),
      (end) => this.#ended(end),
      this.#parked?.claim,
    );
    this.#session = session;
    this.#pinged_ms = 0;
    this.#after("connect", CONNECT_TIMEOUT_MS, () => session.drop());
  }

  /** @param {ServerMessage} message */
  #receive(message) {
    this.#heard_ms = this.#around.now();
    if (message.type === "started") {
      this.#begin();
    } else if (message.type === "resumed") {
      this.#goOn(message.client_samples);
      return;
    } else if (message.type === "pong") {
      this.#pinged_ms = 0;
      this.#listener.onRoundTrip(this.#heard_ms - message.nonce);
      return;
    } else if (this.#attempts > 0) {
      this.#attempts = 0; // it is not only there, it takes us
      this.#setState(this.#isInputOpen ? "live" : "finishing");
    }
    this.#listener.onMessage(message, this.#base / this.sample_rate_hz);
    if (message.type === "final" || message.type === "non_speech") {
      this.#tile(message.end_sample);
    }
    if (this.#session?.hasToAck && !this.#timers.has("ack")) {
      this.#after("ack", ACK_DELAY_MS, () => this.#session?.ack());
    }
  }

  /** The server admitted this session: it begins at the first sample without text. */
  #begin() {
    this.#parked = null;
    this.#startedHello = this.#hello;
    this.#base = Math.max(this.#tiled, this.#backlog.start);
    if (this.#base > this.#tiled) {
      this.#listener.onLoss(this.#tiled / this.sample_rate_hz, this.#base / this.sample_rate_hz);
    }
    this.#tiled = this.#sent = this.#base;
    if (this.#attempts === 0) {
      this.#setState(this.#isInputOpen ? "live" : "finishing");
    }
    this.#talk();
  }

  /** The server goes on with the session that was parked. @param {number} clientSamples it has these */
  #goOn(clientSamples) {
    this.#parked = null;
    this.#attempts = 0;
    this.#sent = this.#base + clientSamples;
    this.#setState(this.#isInputOpen ? "live" : "finishing");
    this.#talk();
  }

  #talk() {
    this.#cancel("connect");
    this.#after("ping", PING_INTERVAL_MS, () => this.#ping());
    this.#pump();
  }

  /** @param {number} ringSample everything before it is settled */
  #tile(ringSample) {
    const samples = Math.floor((ringSample * this.sample_rate_hz) / RING_RATE_HZ);
    this.#tiled = Math.max(this.#tiled, this.#base + samples);
    this.#backlog.release(this.#tiled);
  }

  /** Send what may be sent; say bye behind the last of it. */
  #pump() {
    const session = this.#session;
    if (session === null || !session.isStarted) {
      return;
    }
    if (this.#sent < this.#backlog.start) {
      session.drop(); // so far behind that audio to be sent is gone: begin again where it is not
      return;
    }
    while (session.canSend) {
      const pcm = this.#backlog.read(this.#sent, MAX_SEND_SAMPLES);
      if (pcm === null) {
        break;
      }
      session.sendAudio(pcm);
      this.#sent += pcm.length;
    }
    if (this.#isInputOpen) {
      return;
    }
    if (this.#sent === this.#backlog.end) {
      session.bye();
    } else {
      this.#after("drain", DRAIN_INTERVAL_MS, () => this.#pump());
    }
  }

  #ping() {
    const now = this.#around.now();
    if (this.#pinged_ms > 0 && now - Math.max(this.#pinged_ms, this.#heard_ms) > DEAD_AFTER_MS) {
      this.#session?.drop();
      return;
    }
    if (this.#pinged_ms === 0) {
      this.#pinged_ms = Math.round(now);
      this.#session?.ping(this.#pinged_ms);
    }
    this.#after("ping", PING_INTERVAL_MS, () => this.#ping());
  }

  /** @param {End} end */
  #ended(end) {
    const wasParked = this.#parked !== null;
    this.#park(end);
    this.#session = null;
    this.#cancelAll();
    if (end.code === "closed") {
      // Every sample that it took has its text; of a session that the server ended that is not all.
      this.#tiled = Math.min(this.#sent, this.#base + (end.client_samples ?? Infinity));
      this.#backlog.release(this.#tiled);
    }
    if (end.code === "closed" && (this.#isInputOpen || this.#hasRest)) {
      this.#connect(); // it was resumed while the last texts were due
    } else if (end.code === "closed") {
      this.#setState("idle");
    } else if (!this.#isInputOpen && !this.#hasRest) {
      this.#setState("idle"); // nothing is missing
    } else if (wasParked && end.code === "resume_failed") {
      this.#connect(); // the session is gone: another one begins behind the last text
    } else if (end.retryable) {
      this.#wait(end);
    } else {
      this.#refuse(end);
    }
  }

  /** What of the session may be gone on with. @param {End} end */
  #park(end) {
    const claim = this.#session?.claim ?? null;
    const isHere = this.#sent >= this.#backlog.start; // what it would need
    if (claim === null || !isHere || !end.retryable) {
      this.#parked = null;
    } else if (this.#parked === null) {
      this.#parked = { claim, until_ms: this.#around.now() + claim.window_ms };
    }
  }

  /** @param {End} end */
  #wait(end) {
    const backoff_ms = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempts);
    const spread = 1 + this.#around.random() / 2; // clients of one server come back apart
    const delay_ms = Math.max(backoff_ms, end.retry_after_ms) * spread;
    this.#attempts = Math.min(this.#attempts + 1, 16);
    this.#after("retry", delay_ms, () => this.#connect());
    this.#setState("waiting", end, this.#around.now() + delay_ms);
  }

  /** @param {End} end */
  #refuse(end) {
    this.#isInputOpen = false;
    this.#attempts = 0;
    if (this.#hasRest) {
      const end_s = this.#backlog.end / this.sample_rate_hz;
      this.#listener.onLoss(this.#tiled / this.sample_rate_hz, end_s);
    }
    this.#tiled = this.#backlog.end;
    this.#backlog.release(this.#tiled);
    this.#setState("refused", end);
  }

  /** @param {Phase} phase @param {End | null} [end] @param {number} [retry_at_ms] */
  #setState(phase, end = null, retry_at_ms = 0) {
    const isSame = this.#state.phase === phase && this.#state.end === end;
    if (phase === "connecting" && end === null && this.#attempts > 0) {
      return; // still waiting, as far as anybody can tell
    }
    if (!isSame || retry_at_ms > 0) {
      this.#state = { phase, end, retry_at_ms };
      this.#listener.onState(this.#state);
    }
  }

  /** @param {string} name @param {number} delay_ms @param {() => void} task */
  #after(name, delay_ms, task) {
    this.#cancel(name);
    const cancel = this.#around.schedule(() => {
      this.#timers.delete(name);
      task();
    }, delay_ms);
    this.#timers.set(name, cancel);
  }

  /** @param {string} name */
  #cancel(name) {
    this.#timers.get(name)?.();
    this.#timers.delete(name);
  }

  #cancelAll() {
    for (const cancel of this.#timers.values()) {
      cancel();
    }
    this.#timers.clear();
  }
}
