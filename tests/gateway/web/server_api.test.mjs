import assert from "node:assert/strict";
import { test } from "node:test";

import { answerOf, ApiError } from "../../../gateway/web/server_api.js";

const error = (code, message = "why") => JSON.stringify({ error: { message, code } });

test("a good answer is its JSON", () => {
  assert.deepEqual(answerOf(200, '{"text":"a"}'), { text: "a" });
  assert.throws(() => answerOf(200, "<html>"), { code: "file_failed" });
});

for (const [status, body, code] of [
  [401, error("unauthorized"), "unauthorized"],
  [413, error("too_large"), "too_large"],
  [429, error("rate_limited"), "rate_limited"],
  [503, error("at_capacity"), "at_capacity"],
  [400, error("invalid_file_format"), "bad_audio"],
  [404, error("model_not_found"), "unknown_model"],
  [400, error("other"), "file_failed"],
  [502, "<h1>Bad gateway</h1>", "file_failed"],
]) {
  test(`${status} ${code}`, () => {
    assert.throws(() => answerOf(status, body), (thrown) => {
      assert.ok(thrown instanceof ApiError);
      assert.equal(thrown.code, code);
      assert.equal(thrown.message, body.startsWith("{") ? "why" : `HTTP status ${status}`);
      return true;
    });
  });
}
