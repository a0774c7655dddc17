// @ts-check
/**
 * Languages to choose from, named in the reader's own language.
 *
 * The codes are those of the models that Earwire serves (Whisper, Parakeet); a server whose model
 * knows fewer says so when it is asked.
 */

const CODES = (
  "ar bg bn ca cs da de el en es et eu fa fi fr gl he hi hr hu id is it ja ko lt lv mk ms mt nb nl " +
  "pl pt ro ru sk sl sr sv sw ta th tl tr uk ur vi zh"
).split(" ");

/** @returns {{ code: string, name: string }[]} by name */
export function languageChoices() {
  const names = new Intl.DisplayNames(navigator.languages, { type: "language" });
  return CODES.map((code) => ({ code, name: names.of(code) ?? code })).sort((a, b) =>
    a.name.localeCompare(b.name),
  );
}
