// @ts-check
/**
 * One connection of the native protocol: hello, audio, bye, and how it ended.
 *
 * It knows frames.js and something with a WebSocket's shape; not why it was opened, nor what follows
 * its end. live_stream.js makes one after another.
 */

import { ClientType, FrameDecoder, FrameEncoder, FrameError } from "./frames.js";

export const SUBPROTOCOL = "earwire.v1";
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
 */

export class Session {
  #encoder = new FrameEncoder();
  #decoder = new FrameDecoder();
  #socket;
  #onMessage;
  #onEnd;
  #isOver = false;
  #isByeSaid = false;
  #sentSamples = 0;
  isStarted = false;

  /**
   * @param {Socket} socket just made
   * @param {object} hello fields of the protocol's hello
   * @param {(message: ServerMessage) => void} onMessage for all but error and closed
   * @param {(end: End) => void} onEnd once
   */
  constructor(socket, hello, onMessage, onEnd) {
    this.#socket = socket;
    this.#onMessage = onMessage;
    this.#onEnd = onEnd;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(this.#encoder.json(ClientType.hello, hello));
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = () => this.drop();
  }

  /** May audio be sent now? False too while the network is behind. */
  get canSend() {
    return this.isStarted && !this.#isByeSaid && this.#socket.bufferedAmount < MAX_QUEUED_BYTES;
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

  /** No more audio: the last texts come, then the end. Only once it is started. */
  bye() {
    if (!this.#isByeSaid) {
      this.#isByeSaid = true;
      this.#socket.send(this.#encoder.json(ClientType.bye, {}));
    }
  }

  /** Give the connection up as lost. */
  drop() {
    this.#finish({ code: "lost", message: "", retryable: true, retry_after_ms: 0 });
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
    if (message.type === "error") {
      const { code, retryable = false, retry_after_ms } = message;
      const text = String(message.message ?? "");
      this.#finish({ code, message: text, retryable, retry_after_ms: retry_after_ms ?? 0 });
    } else if (message.type === "closed") {
      const code = this.#isByeSaid ? "closed" : message.reason;
      this.#finish({ code, message: "", retryable: true, retry_after_ms: 0 });
    } else {
      this.isStarted = this.isStarted || message.type === "started";
      this.#onMessage(message);
    }
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
