// @ts-check
/**
 * Microphone to transcript: what the page and the overlay share.
 *
 * It starts and pauses the microphone, keeps the LiveStream and the LatencyMeter fed, and lets the
 * Transcript grow. It knows no element of a page; app.js and overlay.js show what it reports.
 */

import { LatencyMeter } from "./latency.js";
import { LiveStream } from "./live_stream.js";
import { Microphone, MicrophoneError } from "./microphone.js";
import { SUBPROTOCOL } from "./session.js";
import { Transcript } from "./transcript.js";

/** @typedef {import("./live_stream.js").Phase | "starting"} Phase */

/**
 * `isOn`: the microphone is open. `problem`: a code of problems.js, "" where there is none.
 * @typedef {object} CaptionState
 * @property {Phase} phase
 * @property {boolean} isOn
 * @property {string} problem
 * @property {string} detail the server's own words
 * @property {number} retry_at_ms of performance.now(), while `phase` is "waiting"
 */

/**
 * @typedef {object} CaptionListener
 * @property {() => void} onText the transcript changed
 * @property {(state: CaptionState) => void} onState
 * @property {(peak: number) => void} onLevel for each block, 0 to 1
 * @property {(model: string) => void} onStarted the model that listens
 */

/** The address of the server that this page came from. @returns {string} */
export function streamAddress() {
  const url = new URL("/v1/stream", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

export class Captioner {
  transcript = new Transcript();
  meter = new LatencyMeter();
  #listener;
  /** @type {Microphone | null} */
  #microphone = null;
  /** @type {LiveStream | null} */
  #stream = null;
  #base_s = 0; // of the present stream, in the transcript
  /** The microphone that is being opened; null: none is. @type {{ isWanted: boolean } | null} */
  #opening = null;
  #problem = "";
  #detail = "";

  /** @param {CaptionListener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** Is the microphone open, or about to be? */
  get isOn() {
    return this.#microphone !== null || this.#opening !== null;
  }

  /** Seconds of audio so far. */
  get captured_s() {
    return this.#base_s + (this.#stream?.captured_s ?? 0);
  }

  /** Seconds of audio that wait for their text. */
  get kept_s() {
    return this.#stream?.kept_s ?? 0;
  }

  /** @param {Record<string, unknown>} hello @param {string} device_id "" is the browser's choice */
  async start(hello, device_id = "") {
    if (this.isOn) {
      return;
    }
    const opening = { isWanted: true };
    this.#opening = opening;
    this.#problem = this.#detail = "";
    this.#report();
    try {
      const microphone = await Microphone.open({
        device_id,
        onPcm: (pcm, peak) => opening.isWanted && this.#hear(pcm, peak),
        onEnd: () => opening.isWanted && this.#fail("unplugged"),
      });
      if (!opening.isWanted) {
        await microphone.close();
        return;
      }
      this.#microphone = microphone;
      this.#streamAt(microphone.sample_rate_hz).open(hello);
    } catch (error) {
      if (!(error instanceof MicrophoneError)) {
        throw error;
      }
      if (opening.isWanted) {
        this.#problem = error.code;
      }
    } finally {
      if (this.#opening === opening) {
        this.#opening = null;
      }
      this.#report();
    }
  }

  /**
   * Close the microphone, also one that the browser still asks for; what was said so far still gets
   * its text.
   */
  async pause() {
    if (this.#opening !== null) {
      this.#opening.isWanted = false;
      this.#opening = null;
      this.#report();
    }
    await this.#closeMicrophone();
  }

  async #closeMicrophone() {
    const microphone = this.#microphone;
    if (microphone === null) {
      return;
    }
    await microphone.close();
    this.#microphone = null;
    this.#stream?.finish();
    this.#report();
  }

  /** Connect now instead of later. */
  retry() {
    this.#stream?.retry();
  }

  /** The network is gone: the browser says so. */
  dropConnection() {
    this.#stream?.drop();
  }

  /** The page goes away: the server need not wait for it. */
  leave() {
    this.#stream?.leave();
  }

  /** Forget what was said; times go on. @returns {Transcript} what it was */
  clear() {
    const old = this.transcript;
    this.transcript = new Transcript();
    this.#listener.onText();
    return old;
  }

  /** @param {number} sample_rate_hz @returns {LiveStream} */
  #streamAt(sample_rate_hz) {
    if (this.#stream?.sample_rate_hz === sample_rate_hz) {
      return this.#stream;
    }
    // Another device, another rate: what the old stream still owes comes by its own connection.
    const base_s = this.captured_s;
    const around = {
      openSocket: () => new WebSocket(streamAddress(), SUBPROTOCOL),
      now: () => performance.now(),
      schedule: (/** @type {() => void} */ task, /** @type {number} */ delay_ms) => {
        const timer = setTimeout(task, delay_ms);
        return () => clearTimeout(timer);
      },
      random: Math.random,
    };
    const stream = new LiveStream(sample_rate_hz, around, {
      onMessage: (message, session_s) => this.#take(message, base_s + session_s),
      onState: () => stream === this.#stream && this.#streamChanged(),
      onLoss: (start_s, end_s) => {
        this.transcript.lose(base_s + start_s, base_s + end_s);
        this.#listener.onText();
      },
      onRoundTrip: (rtt_ms) => this.meter.roundTrip(rtt_ms),
    });
    this.#base_s = base_s;
    this.#stream = stream;
    return stream;
  }

  /** @param {Int16Array} pcm @param {number} peak */
  #hear(pcm, peak) {
    if (this.#stream === null) {
      return; // the first blocks may come while the microphone is being opened
    }
    this.#stream.push(pcm);
    this.meter.mark(this.captured_s, performance.now());
    this.#listener.onLevel(peak);
  }

  /** @param {import("./frames.js").ServerMessage} message @param {number} base_s */
  #take(message, base_s) {
    this.meter.read(message, base_s, performance.now());
    if (message.type === "started") {
      this.#listener.onStarted(String(message.model));
    } else if (this.transcript.add(message, base_s)) {
      this.#listener.onText();
    }
  }

  #streamChanged() {
    if (this.#stream?.state.phase === "refused") {
      const { end } = this.#stream.state;
      this.#fail(end?.code ?? "internal", end?.message);
    } else {
      this.#report();
    }
  }

  /** @param {string} problem @param {string} [detail] */
  #fail(problem, detail = "") {
    this.#problem = problem;
    this.#detail = detail;
    this.#report();
    void this.#closeMicrophone();
  }

  #report() {
    const { phase, end, retry_at_ms } = this.#stream?.state ?? {
      phase: /** @type {Phase} */ ("idle"),
      end: null,
      retry_at_ms: 0,
    };
    this.#listener.onState({
      phase: this.#opening === null ? phase : "starting",
      isOn: this.isOn,
      problem: this.#problem || end?.code || "",
      detail: this.#detail || end?.message || "",
      retry_at_ms,
    });
  }
}
