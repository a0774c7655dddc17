// @ts-check
/**
 * The overlay's settings from its address. Pure. docs/PAGE.md lists them; values outside a limit
 * are brought to it, and what can not be read is the default.
 */

/**
 * @typedef {object} OverlayOptions
 * @property {number} size_px height of the letters
 * @property {number} lines shown at most
 * @property {"top" | "middle" | "bottom"} position
 * @property {"left" | "center"} align
 * @property {number} width_percent of the window
 * @property {number} box_percent how dark the box behind the text is
 * @property {string} color of the text, as CSS "#rrggbb"
 * @property {number} hide_s silence after which the bar goes; 0: never
 * @property {boolean} drafts show text that is not final yet
 * @property {boolean} messages show what goes wrong
 * @property {string} microphone part of its name, "" for the browser's choice
 * @property {string} language
 * @property {string} model
 * @property {string} token
 */

/**
 * @param {string} query location.search
 * @param {string} fragment location.hash; a token there does not reach any server's log
 * @returns {OverlayOptions}
 */
export function overlayOptions(query, fragment) {
  const values = new URLSearchParams(query);
  const hidden = new URLSearchParams(fragment.replace(/^#/, ""));
  const color = values.get("color") ?? "";
  return {
    size_px: number(values.get("size"), 42, 12, 200),
    lines: Math.round(number(values.get("lines"), 2, 1, 10)),
    position: choice(values.get("position"), ["bottom", "top", "middle"]),
    align: choice(values.get("align"), ["center", "left"]),
    width_percent: number(values.get("width"), 84, 20, 100),
    box_percent: number(values.get("box"), 72, 0, 100),
    color: /^[0-9a-f]{6}$/i.test(color) ? `#${color}` : "#ffffff",
    hide_s: number(values.get("hide"), 8, 0, 3600),
    drafts: values.get("drafts") !== "0",
    messages: values.get("messages") !== "0",
    microphone: values.get("mic") ?? "",
    language: values.get("language") ?? "",
    model: values.get("model") ?? "",
    token: hidden.get("token") ?? values.get("token") ?? "",
  };
}

/** @param {string | null} text @param {number} fallback @param {number} least @param {number} most */
function number(text, fallback, least, most) {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : fallback;
}

/**
 * @template {string} T
 * @param {string | null} text
 * @param {T[]} allowed the first is the default
 * @returns {T}
 */
function choice(text, allowed) {
  return allowed.find((value) => value === text) ?? allowed[0];
}
