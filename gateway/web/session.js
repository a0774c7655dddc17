// @ts-check
/**
 * One connection of the native protocol: hello or resume, audio, bye, and how it ended.
 *
 * It knows frames.js and something with a WebSocket's shape; not why it was opened, nor what follows
 * its end. live_stream.js makes one after another.
 */

import { ClientType, FrameDecoder, FrameEncoder, FrameError, NUMBERED } from "./frames.js";

export const SUBPROTOCOL = "earwire.v1";
export const ACK_EVERY_EVENTS = 16;
const MAX_QUEUED_BYTES = 256 * 1024; // in the browser, before more audio waits in the backlog

/** @typedef {import("./frames.js").ServerMessage} ServerMessage */

/**
 * The part of WebSocket that is used.
 * @typedef {object} Socket
 * @property {string} binaryType
 * @property {number} bufferedAmount
 * @property {((event: any) => void) | null} onopen
 * @property {((event: any) => void) | null} onmessage
 * @property {((event: any) => void) | null} onclose
 * @property {(data: ArrayBuffer) => void} send
 * @property {(code?: number) => void} close
 */

/**
 * Why a session ended. `code` is one of the protocol's error codes, or "closed": all that was said
 * is answered; "lost": the connection broke; "bad_server": it is no Earwire server.
 * @typedef {object} End
 * @property {string} code
 * @property {string} message for a person, may be empty
 * @property {boolean} retryable
 * @property {number} retry_after_ms
 * @property {number} [client_samples] that the server took, where it says so
 */

/**
 * What another connection needs to go on with a session.
 * @typedef {object} Claim
 * @property {string} resume_token
 * @property {number} events_received numbered messages, over all connections of the session
 * @property {number} window_ms how long the server waits for us
 * @property {boolean} [is_bye_said]
 */

/**
 * Would the same session serve both hellos? A token says who asks, not for what.
 * @param {Record<string, unknown>} one
 * @param {Record<string, unknown>} other
 * @returns {boolean}
 */
export function asksForSame(one, other) {
  const [first, second] = [one, other].map((hello) => ({ ...hello, token: undefined }));
  return JSON.stringify(first) === JSON.stringify(second);
}

export class Session {
  #encoder = new FrameEncoder();
  #decoder = new FrameDecoder();
  #socket;
  #onMessage;
  #onEnd;
  #isOver = false;
  #isByeSaid = false;
  #isEnding = false; // the server takes no more, whoever ended it
  #sentSamples = 0;
  #acknowledged = 0;
  /** The session may be gone on with like this; null: it may not. @type {Claim | null} */
  claim;
  isStarted = false;

  /**
   * @param {Socket} socket just made
   * @param {Record<string, unknown>} hello fields of the protocol's hello
   * @param {(message: ServerMessage) => void} onMessage for all but error and closed
   * @param {(end: End) => void} onEnd once
   * @param {Claim | null} [claim] go on with this session
   */
  constructor(socket, hello, onMessage, onEnd, claim = null) {
    this.#socket = socket;
    this.#onMessage = onMessage;
    this.#onEnd = onEnd;
    this.claim = claim;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#introduce(hello);
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = () => this.drop();
  }

  /** @param {Record<string, unknown>} hello */
  #introduce(hello) {
    if (this.claim === null) {
      this.#socket.send(this.#encoder.json(ClientType.hello, hello));
      return;
    }
    const { resume_token, events_received } = this.claim;
    const { token = "" } = hello;
    const fields = { token, resume_token, events_received };
    this.#socket.send(this.#encoder.json(ClientType.resume, fields));
  }

  /** May audio be sent now? False too while the network is behind. */
  get canSend() {
    const isOpen = this.isStarted && !this.#isByeSaid && !this.#isEnding;
    return isOpen && this.#socket.bufferedAmount < MAX_QUEUED_BYTES;
  }

  /** Samples that follow the last ones. @param {Int16Array} pcm */
  sendAudio(pcm) {
    this.#socket.send(this.#encoder.audio(this.#sentSamples, pcm));
    this.#sentSamples += pcm.length;
  }

  /** @param {number} nonce */
  ping(nonce) {
    this.#socket.send(this.#encoder.ping(nonce));
  }

  /** Are there messages that the server keeps until it knows that they are here? */
  get hasToAck() {
    return this.claim !== null && this.claim.events_received > this.#acknowledged;
  }

  /** They are. */
  ack() {
    if (this.claim !== null && this.hasToAck) {
      this.#acknowledged = this.claim.events_received;
      this.#socket.send(this.#encoder.ack(this.#acknowledged));
    }
  }

  /** No more audio: the last texts come, then the end. Only once it is started. */
  bye() {
    if (!this.#isByeSaid && !this.#isEnding) {
      this.#isByeSaid = true;
      this.claim = this.claim && { ...this.claim, is_bye_said: true };
      this.#socket.send(this.#encoder.json(ClientType.bye, {}));
    }
  }

  /** Give the connection up as lost. */
  drop() {
    this.#finish({ code: "lost", message: "", retryable: true, retry_after_ms: 0 });
  }

  /** Close the connection; nobody is told. */
  abandon() {
    this.#onEnd = () => undefined;
    this.drop();
  }

  /** @param {ArrayBuffer | string} data */
  #receive(data) {
    try {
      if (typeof data === "string") {
        throw new FrameError("the server sent text where frames are due");
      }
      for (const message of this.#decoder.push(data)) {
        this.#take(message);
      }
    } catch (error) {
      if (!(error instanceof FrameError)) {
        throw error;
      }
      const { message } = error;
      this.#finish({ code: "bad_server", message, retryable: false, retry_after_ms: 0 });
    }
  }

  /** @param {ServerMessage} message */
  #take(message) {
    if (this.#isOver) {
      return;
    }
    this.#count(message);
    if (message.type === "error") {
      const { code, retryable = false, retry_after_ms } = message;
      const text = String(message.message ?? "");
      this.#finish({ code, message: text, retryable, retry_after_ms: retry_after_ms ?? 0 });
    } else if (message.type === "closed") {
      const code = this.#isByeSaid ? "closed" : message.reason;
      const { client_samples } = message;
      this.#finish({ code, message: "", retryable: true, retry_after_ms: 0, client_samples });
    } else {
      this.#begin(message);
      this.#onMessage(message);
    }
  }

  /** An error in answer to resume is none of the session: it is not counted. @param {ServerMessage} message */
  #count(message) {
    if (this.claim === null || !this.isStarted || !NUMBERED.has(message.type)) {
      return;
    }
    this.claim = { ...this.claim, events_received: this.claim.events_received + 1 };
    const isLast = message.type === "closed" || message.type === "error";
    if (isLast || this.claim.events_received - this.#acknowledged >= ACK_EVERY_EVENTS) {
      this.ack();
    }
    this.claim = isLast ? null : this.claim;
  }

  /** The server's first words. @param {ServerMessage} message */
  #begin(message) {
    if (message.type === "started") {
      const { resume_token, limits } = message;
      const window_ms = limits?.resume_window_ms ?? 0;
      this.claim = resume_token ? { resume_token, events_received: 0, window_ms } : null;
    } else if (message.type === "resumed") {
      this.#acknowledged = this.claim?.events_received ?? 0;
      this.#sentSamples = message.client_samples;
      this.#isEnding = message.bye_received ?? false;
      this.#isByeSaid = this.#isEnding && (this.claim?.is_bye_said ?? false);
    } else {
      return;
    }
    this.isStarted = true;
  }

  /** @param {End} end */
  #finish(end) {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#onEnd(end);
  }
}
