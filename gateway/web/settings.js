// @ts-check
/**
 * What the person chose, kept in the browser; the token only until the tab is closed.
 *
 * A browser that refuses storage keeps it until the page is left.
 */

const PREFIX = "earwire.";
/** @type {Map<string, string>} */
const written = new Map();

/** @typedef {"language" | "model" | "microphone" | "text_size" | "theme" | "token"} Setting */

/** @param {Setting} name @param {string} [fallback] @returns {string} */
export function readSetting(name, fallback = "") {
  try {
    return written.get(name) ?? storageOf(name).getItem(PREFIX + name) ?? fallback;
  } catch {
    return fallback;
  }
}

/** @param {Setting} name @param {string} value */
export function writeSetting(name, value) {
  written.set(name, value);
  try {
    storageOf(name).setItem(PREFIX + name, value);
  } catch {
    // Private windows may refuse.
  }
}

/** @param {Setting} name @returns {Storage} */
function storageOf(name) {
  return name === "token" ? sessionStorage : localStorage;
}
