/** The rules themselves are tested in Python; test_page_modules.py compares the two. Here: the edges. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { cuesOf, renderSrt, renderVtt, spreadWords } from "../../../gateway/web/subtitles.js";

test("nothing said, nothing shown", () => {
  assert.deepEqual(cuesOf([[], [{ text: " ", start_s: 0, end_s: 1 }]]), []);
  assert.deepEqual([renderSrt([]), renderVtt([])], ["", "WEBVTT\n\n"]);
});

test("times and markup", () => {
  const cues = [{ start_s: 3661.0005, end_s: 3662.9996, text: "a < b & c" }];
  assert.equal(renderSrt(cues), "1\n01:01:01,001 --> 01:01:03,000\na < b & c\n\n");
  assert.equal(renderVtt(cues), "WEBVTT\n\n01:01:01.001 --> 01:01:03.000\na &lt; b &amp; c\n\n");
});

test("letters count, not UTF-16 units", () => {
  const [first, second] = spreadWords("𝄞𝄞 ab", 0, 6);
  assert.deepEqual([first.end_s, second.start_s, second.end_s], [3, 3, 6]);
});
