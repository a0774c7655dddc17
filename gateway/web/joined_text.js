// @ts-check
/**
 * Texts side by side, as protocol/joined_text.py: a space between two of them, but none in scripts
 * that are written without (Thai and Lao, Burmese, CJK punctuation and kana, Han, full width forms).
 */

const UNSPACED =
  "\\u0e00-\\u0eff\\u1000-\\u109f\\uaa60-\\uaa7f\\u3000-\\u30ff\\u31f0-\\u31ff\\u3400-\\u4dbf" +
  "\\u4e00-\\u9fff\\uf900-\\ufaff\\uff00-\\uffef\\u{20000}-\\u{323af}";
const ENDS_WITHOUT = new RegExp(`[\\s${UNSPACED}]$`, "u");
const BEGINS_WITHOUT = new RegExp(`^[\\s${UNSPACED}]`, "u");

/** What belongs between two texts: a space or nothing. @param {string} first @param {string} second */
export function gap(first, second) {
  return first && second && !ENDS_WITHOUT.test(first) && !BEGINS_WITHOUT.test(second) ? " " : "";
}
