// @ts-check
/**
 * The native protocol's frames, as docs/PROTOCOL.md lays them out: bytes to messages and back.
 *
 * Pure: it knows no socket and no session. session.js is its only caller.
 *
 *     0 magic "EW" | 2 version | 3 type | 4 flags u16 | 6 reserved u16
 *     8 payload length u32     | 12 sequence u32      | 16 payload
 */

export const HEADER_BYTES = 16;
export const MAX_PAYLOAD_BYTES = 1 << 20; // of one message of the server
export const MAX_AUDIO_BYTES = 256 * 1024; // PCM of one audio message

const MAGIC = 0x5745; // "EW", little-endian
const VERSION = 0x10; // 1.0
const AUDIO_PREFIX_BYTES = 8;

/** Type bytes of the messages that a page sends. */
export const ClientType = Object.freeze({
  hello: 0x01,
  audio: 0x02,
  ping: 0x04,
  bye: 0x05,
  resume: 0x06,
  ack: 0x07,
});

/** Names of the server's messages by type byte; others are skipped. */
const SERVER_TYPES = new Map([
  [0x40, "started"],
  [0x41, "watermark"],
  [0x42, "speech_started"],
  [0x43, "speech_stopped"],
  [0x44, "non_speech"],
  [0x45, "partial"],
  [0x46, "final"],
  [0x47, "overflow"],
  [0x48, "closed"],
  [0x49, "error"],
  [0x4a, "pong"],
  [0x4b, "latency"],
  [0x4c, "end_of_turn"],
  [0x4d, "resumed"],
]);

/** The messages of the server that both ends of a resumable session count. */
export const NUMBERED = new Set([
  "speech_started",
  "speech_stopped",
  "non_speech",
  "final",
  "overflow",
  "end_of_turn",
  "error",
  "closed",
]);

/**
 * One message of the server: its name, and its fields as they travel.
 * @typedef {{ type: string } & Record<string, any>} ServerMessage
 */

/** The peer sent what is not this protocol. */
export class FrameError extends Error {}

/** Builds the frames of one direction of one connection, which it numbers. */
export class FrameEncoder {
  #sequence = 0;

  /**
   * A message whose payload is JSON.
   * @param {number} type
   * @param {object} fields
   * @returns {ArrayBuffer}
   */
  json(type, fields) {
    const payload = new TextEncoder().encode(JSON.stringify(fields));
    const frame = this.#frame(type, payload.length);
    new Uint8Array(frame, HEADER_BYTES).set(payload);
    return frame;
  }

  /**
   * Samples that begin at `clientOffset`, in samples of this session.
   * @param {number} clientOffset
   * @param {Int16Array} pcm
   * @returns {ArrayBuffer}
   */
  audio(clientOffset, pcm) {
    const frame = this.#frame(ClientType.audio, AUDIO_PREFIX_BYTES + pcm.byteLength);
    const view = new DataView(frame);
    view.setBigUint64(HEADER_BYTES, BigInt(clientOffset), true);
    const samplesAt = HEADER_BYTES + AUDIO_PREFIX_BYTES;
    for (let i = 0; i < pcm.length; i++) {
      view.setInt16(samplesAt + 2 * i, pcm[i], true);
    }
    return frame;
  }

  /**
   * A question for the server's life; `nonce` comes back in its pong.
   * @param {number} nonce
   * @returns {ArrayBuffer}
   */
  ping(nonce) {
    return this.#integer(ClientType.ping, nonce);
  }

  /**
   * So many numbered messages of the session are here.
   * @param {number} count
   * @returns {ArrayBuffer}
   */
  ack(count) {
    return this.#integer(ClientType.ack, count);
  }

  /** @param {number} type @param {number} value @returns {ArrayBuffer} */
  #integer(type, value) {
    const frame = this.#frame(type, 8);
    new DataView(frame).setBigUint64(HEADER_BYTES, BigInt(value), true);
    return frame;
  }

  /** @param {number} type @param {number} payloadBytes @returns {ArrayBuffer} */
  #frame(type, payloadBytes) {
    const frame = new ArrayBuffer(HEADER_BYTES + payloadBytes);
    const view = new DataView(frame);
    view.setUint16(0, MAGIC, true);
    view.setUint8(2, VERSION);
    view.setUint8(3, type);
    view.setUint32(8, payloadBytes, true);
    view.setUint32(12, this.#sequence, true);
    this.#sequence = (this.#sequence + 1) >>> 0;
    return frame;
  }
}

/** Cuts the server's byte stream, however it was split, into messages. */
export class FrameDecoder {
  #rest = new Uint8Array(0);
  #sequence = 0;

  /**
   * The messages that `data` completes. Throws FrameError for what is not this protocol.
   * @param {ArrayBuffer | Uint8Array} data
   * @returns {ServerMessage[]}
   */
  push(data) {
    const bytes = join(this.#rest, data instanceof Uint8Array ? data : new Uint8Array(data));
    const messages = [];
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const header = new DataView(bytes.buffer, bytes.byteOffset + at, HEADER_BYTES);
      const end = at + HEADER_BYTES + this.#payloadBytes(header);
      if (end > bytes.length) {
        break;
      }
      this.#sequence = (this.#sequence + 1) >>> 0;
      const message = decode(header.getUint8(3), bytes.subarray(at + HEADER_BYTES, end));
      if (message !== null) {
        messages.push(message);
      }
      at = end;
    }
    this.#rest = bytes.slice(at);
    return messages;
  }

  /** @param {DataView} header @returns {number} */
  #payloadBytes(header) {
    if (header.getUint16(0, true) !== MAGIC || header.getUint8(2) >> 4 !== VERSION >> 4) {
      throw new FrameError("the server does not speak version 1 of the Earwire protocol");
    }
    if (header.getUint32(12, true) !== this.#sequence) {
      throw new FrameError("a frame of the server was lost or repeated");
    }
    const length = header.getUint32(8, true);
    if (length > MAX_PAYLOAD_BYTES) {
      throw new FrameError(`the server announced a message of ${length} bytes`);
    }
    return length;
  }
}

/** @param {number} type @param {Uint8Array} payload @returns {ServerMessage | null} */
function decode(type, payload) {
  const name = SERVER_TYPES.get(type);
  if (name === undefined) {
    return null; // of a newer minor version
  }
  try {
    if (name === "watermark") {
      const [client_samples, audio_received, audio_decoded] = integers(payload, 3);
      return { type: name, client_samples, audio_received, audio_decoded };
    }
    if (name === "pong") {
      return { type: name, nonce: integers(payload, 1)[0] };
    }
    return { ...JSON.parse(new TextDecoder().decode(payload)), type: name };
  } catch (error) {
    throw new FrameError(`a ${name} of the server can not be read: ${error}`);
  }
}

/** @param {Uint8Array} payload @param {number} count @returns {number[]} */
function integers(payload, count) {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return Array.from({ length: count }, (_, i) => Number(view.getBigUint64(8 * i, true)));
}

/** @param {Uint8Array} first @param {Uint8Array} second @returns {Uint8Array} */
function join(first, second) {
  if (first.length === 0) {
    return second;
  }
  const joined = new Uint8Array(first.length + second.length);
  joined.set(first);
  joined.set(second, first.length);
  return joined;
}
