import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { overlayOptions } from "../../../gateway/web/overlay_options.js";

test("the defaults", () => {
  assert.deepEqual(overlayOptions("", ""), {
    size_px: 42,
    lines: 2,
    position: "bottom",
    align: "center",
    width_percent: 84,
    box_percent: 72,
    color: "#ffffff",
    hide_s: 8,
    drafts: true,
    messages: true,
    microphone: "",
    language: "",
    model: "",
    token: "",
  });
});

test("all of them set", () => {
  const query =
    "?size=60&lines=3&position=top&align=left&width=50&box=0&color=FFcc00&hide=0&drafts=0" +
    "&messages=0&mic=USB%20Mic&language=en&model=tiny.en&token=abc";
  assert.deepEqual(overlayOptions(query, ""), {
    size_px: 60,
    lines: 3,
    position: "top",
    align: "left",
    width_percent: 50,
    box_percent: 0,
    color: "#FFcc00",
    hide_s: 0,
    drafts: false,
    messages: false,
    microphone: "USB Mic",
    language: "en",
    model: "tiny.en",
    token: "abc",
  });
});

test("a token behind # wins", () => {
  assert.equal(overlayOptions("?token=a", "#token=b").token, "b");
});

test("nonsense is the default, too much is brought to the limit", () => {
  const options = overlayOptions("?size=big&lines=99&position=left&color=red;}&width=&hide=-3", "#x");
  assert.deepEqual(
    [options.size_px, options.lines, options.position, options.color, options.width_percent, options.hide_s],
    [42, 10, "bottom", "#ffffff", 84, 0],
  );
});

test("each parameter is in docs/PAGE.md", () => {
  const docs = readFileSync(new URL("../../../docs/PAGE.md", import.meta.url), "utf8");
  const source = readFileSync(new URL("../../../gateway/web/overlay_options.js", import.meta.url), "utf8");
  const names = [...source.matchAll(/values\.get\("(\w+)"\)/g)].map((match) => match[1]);
  assert.ok(names.length > 10);
  for (const name of names) {
    assert.ok(docs.includes(`| \`${name}\` |`), name);
  }
});
