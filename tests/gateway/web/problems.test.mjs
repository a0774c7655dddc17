import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { problemOf } from "../../../gateway/web/problems.js";

test("a page that is not secure says what to do, and where it came from", () => {
  const problem = problemOf("insecure", { origin: "http://192.168.1.5:8080" });
  assert.match(problem.text, /https/);
  assert.match(problem.text, /--tls-cert/);
  assert.match(problem.text, /http:\/\/192\.168\.1\.5:8080/);
  assert.match(problemOf("insecure").title, /secure/);
});

test("a token is asked for, and a wrong one told from none", () => {
  assert.equal(problemOf("unauthorized").action, "token");
  assert.notEqual(problemOf("unauthorized", { hasToken: true }).title, problemOf("unauthorized").title);
});

test("what passes by itself says when, and what is kept", () => {
  const { kind, action, text, title } = problemOf("at_capacity", { retry_in_s: 1.2, kept_s: 12.9 });
  assert.deepEqual([kind, action], ["wait", "retry"]);
  assert.match(title, /full/);
  assert.match(text, /in 2 s\. The last 12 s you said are kept\./);
  assert.equal(problemOf("lost", { retry_in_s: 0 }).text, "Trying again…");
});

test("an unknown passing problem is told in the server's words", () => {
  assert.match(problemOf("internal", { retry_in_s: 3, detail: "Oops." }).text, /^Oops\. Trying/);
  assert.match(problemOf("internal", { retry_in_s: 3 }).text, /^Trying/);
});

test("a refusal adds the server's words, as a sentence", () => {
  const { text, action } = problemOf("unknown_language", { detail: "no model here knows 'de'; there is en" });
  assert.equal(text, "No model here knows 'de'; there is en.");
  assert.equal(action, "any_language");
  assert.equal(problemOf("file_failed", { detail: "What?" }).text, "What?");
});

test("every code of the protocol has words", () => {
  const source = readFileSync(new URL("../../../protocol/errors.py", import.meta.url), "utf8");
  const codes = [...source.matchAll(/^ {4}[A-Z_]+ = "([a-z_]+)"/gm)].map((match) => match[1]);
  assert.ok(codes.length > 20);
  for (const code of codes) {
    const problem = problemOf(code, { detail: "why" });
    assert.ok(problem.title && problem.text, code);
  }
});

test("a code that passes by itself is still told when it does not", () => {
  assert.deepEqual([problemOf("at_capacity").kind, problemOf("at_capacity").action], ["error", ""]);
});
