/** Segments of words as JSON on stdin; their SRT and WebVTT, as JSON, on stdout. */

import { readFileSync } from "node:fs";

import { cuesOf, renderSrt, renderVtt, spreadWords } from "../../../gateway/web/subtitles.js";

const transcripts = JSON.parse(readFileSync(0, "utf8"));
const rendered = transcripts.map((segments) => {
  const cues = cuesOf(segments.map((s) => s.words ?? spreadWords(s.text, s.start_s, s.end_s)));
  return [renderSrt(cues), renderVtt(cues)];
});
process.stdout.write(JSON.stringify(rendered));
