import assert from "node:assert/strict";
import { test } from "node:test";

import { lineOf, MAX_SEGMENTS, Transcript, transcriptOfFile } from "../../../gateway/web/transcript.js";

const partial = (stable, volatile, at = 0) => ({
  type: "partial",
  start_sample: at,
  end_sample: at + 16_000,
  stable,
  volatile,
});
const final = (text, words = undefined, at = 0) => ({
  type: "final",
  start_sample: at,
  end_sample: at + 32_000,
  text,
  words,
});

test("a partial is open until its final", () => {
  const transcript = new Transcript();
  assert.equal(transcript.hasText, false);
  assert.equal(transcript.add(partial("", " hello"), 10), true);
  assert.deepEqual(transcript.open, { start_s: 10, end_s: 11, stable: "", volatile: "hello" });
  assert.equal(transcript.hasText, true);
  assert.equal(transcript.add(final(" Hello there. "), 10), true);
  assert.equal(transcript.open, null);
  assert.deepEqual(transcript.segments, [
    { kind: "text", start_s: 10, end_s: 12, text: "Hello there.", words: [] },
  ]);
});

test("stable and volatile text join with one space, or none where the script has none", () => {
  const transcript = new Transcript();
  for (const [stable, volatile, shown] of [
    ["a", "b", " b"],
    ["a ", "b", "b"],
    ["a", " b", " b"],
    ["a", "", ""],
    ["", "b", "b"],
    ["我们", "去", "去"],
    ["我们。", "OK", "OK"],
    ["สวัสดี", "ครับ", "ครับ"],
    ["𠀀", "𠀁", "𠀁"],
    ["안녕", "하세요", " 하세요"],
    ["café", "naïve", " naïve"],
  ]) {
    transcript.add(partial(stable, volatile), 0);
    assert.equal(transcript.open.volatile, shown);
  }
});

test("a final without text only closes", () => {
  const transcript = new Transcript();
  transcript.add(partial("um", ""), 0);
  transcript.add(final(""), 0);
  assert.deepEqual([transcript.open, transcript.segments], [null, []]);
});

test("other messages change nothing", () => {
  assert.equal(new Transcript().add({ type: "watermark" }, 0), false);
});

test("words have their own times; without any they are spread", () => {
  const transcript = new Transcript();
  transcript.add(final("a b", [[" a", 0, 8000, 1], ["b", 8000, 16_000, 1]]), 1);
  transcript.add(final("c d", [], 32_000), 1);
  transcript.lose(5, 6);
  assert.deepEqual(transcript.timedWords(), [
    [
      { text: "a", start_s: 1, end_s: 1.5 },
      { text: "b", start_s: 1.5, end_s: 2 },
    ],
    [
      { text: "c", start_s: 3, end_s: 4 },
      { text: "d", start_s: 4, end_s: 5 },
    ],
  ]);
});

test("what is lost keeps what was shown of it, as a draft", () => {
  const transcript = new Transcript();
  transcript.add(partial("I was", "saying"), 0);
  transcript.lose(0, 4);
  assert.deepEqual(
    transcript.segments.map(({ kind, start_s, end_s, text }) => [kind, start_s, end_s, text]),
    [
      ["draft", 0, 1, "I was saying"],
      ["gap", 1, 4, ""],
    ],
  );
  transcript.lose(4, 4);
  assert.equal(transcript.segments.length, 2);
  assert.equal(lineOf(transcript.segments[1]), "[3.0 s were lost]");
});

test("plain text has all of it", () => {
  const transcript = new Transcript();
  assert.equal(transcript.plainText(), "");
  transcript.add(final("One."), 0);
  transcript.lose(2, 3);
  transcript.add(partial("Two", ""), 3);
  assert.equal(transcript.plainText(), "One.\n[1.0 s were lost]\nTwo\n");
});

test("it is bounded, and counts what went", () => {
  const transcript = new Transcript();
  for (let i = 0; i < MAX_SEGMENTS + 3; i++) {
    transcript.push({ kind: "text", start_s: i, end_s: i + 1, text: "a", words: [] });
  }
  assert.deepEqual([transcript.segments.length, transcript.numDropped], [MAX_SEGMENTS, 3]);
  assert.equal(transcript.segments[0].start_s, 3);
});

test("a file's words go to the segments they lie in", () => {
  const transcript = transcriptOfFile({
    duration: 4,
    text: "One. Two three.",
    segments: [
      { start: 0, end: 1.5, text: " One. " },
      { start: 2, end: 4, text: "Two three." },
      { start: 4, end: 4, text: " " },
    ],
    words: [
      { word: "One.", start: 0.2, end: 0.9 },
      { word: "Two", start: 2.0, end: 2.5 },
      { word: "three.", start: 2.5, end: 3.5 },
    ],
  });
  assert.deepEqual(transcript.segments.map(({ text }) => text), ["One.", "Two three."]);
  assert.deepEqual(transcript.segments.map(({ words }) => words.length), [1, 2]);
});

test("a file's answer without segments is one, an empty one none", () => {
  const [segment] = transcriptOfFile({ duration: 3, text: "all of it" }).segments;
  assert.deepEqual([segment.start_s, segment.end_s, segment.text], [0, 3, "all of it"]);
  assert.deepEqual(transcriptOfFile({ segments: [] }).segments, []);
});
