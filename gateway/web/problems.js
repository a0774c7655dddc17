// @ts-check
/**
 * What went wrong, in words for the person in front of the page, and what can be done about it.
 *
 * Pure: codes in (of the microphone, of the protocol, of a connection's end, of a file), texts out.
 */

/**
 * @typedef {object} Problem
 * @property {string} title
 * @property {string} text
 * @property {"error" | "wait"} kind "wait": it is being tried again without anybody's help
 * @property {"" | "start" | "retry" | "reload" | "token" | "any_language" | "any_model"} action
 */

/**
 * @typedef {object} Circumstances
 * @property {string} [detail] the server's own words
 * @property {number} [retry_in_s] until the next attempt
 * @property {number} [kept_s] audio that waits for its text
 * @property {boolean} [hasToken] one was given
 * @property {string} [origin] where the page came from
 */

/** @type {Record<string, [title: string, text: string, action?: Problem["action"]]>} */
const ERRORS = {
  no_media: [
    "This browser has no microphone access",
    "Try a current Firefox, Chrome, Edge or Safari. You can still transcribe files here.",
  ],
  no_worklet: [
    "This browser is too old for live captions",
    "It has no AudioWorklet. Try a current Firefox, Chrome, Edge or Safari. You can still transcribe files here.",
  ],
  denied: [
    "The microphone is blocked",
    "Allow the microphone for this page: the icon beside the address, or your browser’s settings. Then try again.",
    "start",
  ],
  missing: ["No microphone found", "Connect one, or choose another, and try again.", "start"],
  busy: [
    "The microphone does not start",
    "Another program may be using it. Close that, and try again.",
    "start",
  ],
  gesture: ["Click the page once", "The browser lets a page listen only after a click.", "start"],
  unplugged: ["The microphone was disconnected", "Your text is kept. Connect it and go on.", "start"],
  stale: [
    "This page is out of date",
    "The server has a newer version of it. Save your text, then load the page again.",
    "reload",
  ],
  unreachable: ["The server does not answer", "It may be restarting. Try again in a moment.", "start"],
  bad_server: [
    "This is not an Earwire server",
    "Something else answered, perhaps a proxy that does not pass WebSockets on.",
    "start",
  ],
  unknown_language: ["The server does not know this language", "", "any_language"],
  unknown_model: ["The server does not have this model", "", "any_model"],
  too_large: ["The file is too large", ""],
  bad_audio: ["No sound found in this file", "It may be damaged, or no audio or video at all."],
  file_failed: ["The file could not be transcribed", ""],
};

/** Codes after which everything goes on by itself. @type {Record<string, [title: string, text: string]>} */
const WAITS = {
  lost: ["Connection lost", ""],
  at_capacity: ["The server is full", "All its places are taken."],
  rate_limited: ["Too many sessions", "Your token has no place left at the moment."],
  draining: ["The server is restarting", ""],
  service_lost: ["Speech recognition is restarting", ""],
};

/**
 * The words for a code.
 * @param {string} code
 * @param {Circumstances} [around]
 * @returns {Problem}
 */
export function problemOf(code, around = {}) {
  if (code === "insecure") {
    return insecure(around.origin ?? "");
  }
  if (code === "unauthorized") {
    return unauthorized(around.hasToken ?? false);
  }
  if (around.retry_in_s !== undefined) {
    const [title, text] = WAITS[code] ?? ["The server had a problem", around.detail ?? ""];
    return { title, text: join(text, waitText(around)), kind: "wait", action: "retry" };
  }
  const [title, text, action = ""] = ERRORS[code] ??
    WAITS[code] ?? ["The server ended the captions", "", "start"];
  return { title, text: join(text, sentence(around.detail ?? "")), kind: "error", action };
}

/** @param {string} origin @returns {Problem} */
function insecure(origin) {
  const text =
    "Browsers give a page the microphone only over https, or on the machine itself at http://localhost. " +
    `This page came from ${origin}. Whoever runs the server can start it with --tls-cert and --tls-key. ` +
    "You can still transcribe files here.";
  return { title: "The microphone needs a secure page", text, kind: "error", action: "" };
}

/** @param {boolean} hasToken @returns {Problem} */
function unauthorized(hasToken) {
  return {
    title: hasToken ? "The server did not accept this token" : "This server asks for a token",
    text: "Whoever runs the server can give you one. It is kept until you close this tab.",
    kind: "error",
    action: "token",
  };
}

/** @param {Circumstances} around @returns {string} */
function waitText({ retry_in_s = 0, kept_s = 0 }) {
  const seconds = Math.ceil(retry_in_s);
  const when = seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…";
  return kept_s >= 1 ? `${when} The last ${Math.floor(kept_s)} s you said are kept.` : when;
}

/** @param {string} first @param {string} second */
function join(first, second) {
  return [first, second].filter(Boolean).join(" ");
}

/** The server's words as a sentence. @param {string} detail */
function sentence(detail) {
  const text = detail.trim();
  if (!text) {
    return "";
  }
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
