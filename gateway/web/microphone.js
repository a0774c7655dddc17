// @ts-check
/**
 * The microphone by AudioWorklet, at the browser's own rate, as 20 ms blocks of 16-bit PCM.
 *
 * It knows nothing of captions. What can go wrong comes out as a MicrophoneError, whose code
 * problems.js explains. captioner.js opens and closes it.
 */

const FLUSH_TIMEOUT_MS = 200;
const RUN_TIMEOUT_MS = 1_500; // a context that may run does so in some ms

/**
 * "insecure": the page did not come over https or from this machine. "no_media", "no_worklet": the
 * browser can not. "denied": no permission. "missing": no such device. "busy": the device does not
 * start. "stale": the server has another version of this page. "unreachable": it does not answer.
 * "gesture": the browser wants a click on the page before it lets it listen.
 * @typedef {"insecure" | "no_media" | "no_worklet" | "denied" | "missing" | "busy" | "stale" | "unreachable" | "gesture"} MicrophoneCode
 */

export class MicrophoneError extends Error {
  /** @param {MicrophoneCode} code @param {unknown} [cause] */
  constructor(code, cause) {
    super(code, { cause });
    this.code = code;
  }
}

/** @type {Record<string, MicrophoneCode>} */
const CODES = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
};

/** Why there can be no microphone here, before asking for one. @returns {MicrophoneCode | null} */
export function microphoneObstacle() {
  if (!globalThis.isSecureContext) {
    return "insecure";
  }
  if (!navigator.mediaDevices?.getUserMedia) {
    return "no_media";
  }
  return "AudioWorkletNode" in globalThis ? null : "no_worklet";
}

/**
 * The microphones by name, once the browser may tell.
 * @returns {Promise<{ id: string, label: string }[]>}
 */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId && device.label)
    .map((device) => ({ id: device.deviceId, label: device.label }));
}

/**
 * The id of the first microphone whose name contains `part`; "" when there is none.
 * @param {string} part
 * @returns {Promise<string>}
 */
export async function findMicrophone(part) {
  const wanted = part.toLowerCase();
  if (wanted === "" || microphoneObstacle() !== null) {
    return "";
  }
  // Names are told only to a page that has, or had, a microphone.
  stopTracks(await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => null));
  const found = (await listMicrophones()).find(({ label }) => label.toLowerCase().includes(wanted));
  return found?.id ?? "";
}

/** One open microphone. */
export class Microphone {
  #context;
  #stream;
  #node;
  /** @type {Promise<void> | null} */
  #closing = null;

  /**
   * Ask for it and start. Throws MicrophoneError.
   * @param {{ device_id: string, onPcm: (pcm: Int16Array, peak: number) => void, onEnd: () => void }} options
   *   `device_id`: "" and one that is gone: the browser chooses. `onEnd`: it went away by itself.
   * @returns {Promise<Microphone>}
   */
  static async open({ device_id, onPcm, onEnd }) {
    const obstacle = microphoneObstacle();
    if (obstacle !== null) {
      throw new MicrophoneError(obstacle);
    }
    const stream = await openStream(device_id);
    // Not before: a page that listens may start audio by itself, any other only in a click.
    /** @type {AudioContext | null} */
    let context = null;
    try {
      context = new AudioContext({ latencyHint: "interactive" });
      await loadWorklet(context);
      await run(context);
      return new Microphone(context, stream, onPcm, onEnd);
    } catch (error) {
      stopTracks(stream);
      await context?.close();
      throw error instanceof MicrophoneError ? error : new MicrophoneError("busy", error);
    }
  }

  /**
   * @param {AudioContext} context
   * @param {MediaStream} stream
   * @param {(pcm: Int16Array, peak: number) => void} onPcm
   * @param {() => void} onEnd
   */
  constructor(context, stream, onPcm, onEnd) {
    this.#context = context;
    this.#stream = stream;
    this.#node = new AudioWorkletNode(context, "earwire-capture", {
      channelCount: 1,
      channelCountMode: "explicit",
    });
    this.#node.port.onmessage = ({ data }) => data.pcm && onPcm(data.pcm, data.peak);
    context.createMediaStreamSource(stream).connect(this.#node);
    this.#node.connect(context.destination); // its output is silence; some browsers run it only so
    for (const track of stream.getAudioTracks()) {
      track.onended = () => this.#closing ?? onEnd();
    }
  }

  get sample_rate_hz() {
    return this.#context.sampleRate;
  }

  /** Let it go; the last block comes before this resolves. */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    const { port } = this.#node;
    const onBlock = port.onmessage;
    await new Promise((resolve) => {
      setTimeout(resolve, FLUSH_TIMEOUT_MS); // a context that is suspended answers nothing
      port.onmessage = (event) => {
        onBlock?.call(port, event);
        if (event.data.flushed) {
          resolve(null);
        }
      };
      port.postMessage("flush");
    });
    port.onmessage = null;
    stopTracks(this.#stream);
    await this.#context.close();
  }
}

/** @param {string} device_id @returns {Promise<MediaStream>} */
async function openStream(device_id) {
  const audio = {
    channelCount: 1,
    // The model was trained on rooms: cleaning the sound up costs it words.
    echoCancellation: false,
    noiseSuppression: false,
    autoGainControl: true,
    ...(device_id && { deviceId: { ideal: device_id } }),
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new MicrophoneError(CODES[error instanceof Error ? error.name : ""] ?? "busy", error);
  }
}

/** @param {AudioContext} context */
async function loadWorklet(context) {
  const url = new URL("./worklet.js", import.meta.url);
  try {
    await context.audioWorklet.addModule(url);
  } catch {
    const answer = await fetch(url, { method: "HEAD" }).catch(() => null);
    throw new MicrophoneError(answer?.status === 404 ? "stale" : "unreachable");
  }
}

/** @param {AudioContext} context */
async function run(context) {
  const late = new Promise((resolve) => setTimeout(resolve, RUN_TIMEOUT_MS));
  await Promise.race([context.resume(), late]);
  if (context.state !== "running") {
    throw new MicrophoneError("gesture");
  }
}

/** @param {MediaStream | null} stream */
function stopTracks(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}
