// @ts-check
/**
 * The server's HTTP side: its models, and the transcription of a file.
 *
 * Errors come out as ApiError with a code of problems.js. app.js calls it.
 */

export class ApiError extends Error {
  /** @param {string} code @param {string} detail */
  constructor(code, detail) {
    super(detail);
    this.code = code;
  }
}

/** @type {Record<number, string>} */
const BY_STATUS = { 401: "unauthorized", 413: "too_large", 429: "rate_limited", 503: "at_capacity" };
/** Where the status does not tell. @type {Record<string, string>} */
const BY_CODE = { invalid_file_format: "bad_audio", model_not_found: "unknown_model" };

/** @param {string} token @returns {Promise<string[]>} names of the models */
export async function fetchModels(token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
  const response = await fetch("/v1/models", { headers, cache: "no-store" });
  const body = await response.text();
  if (!response.ok) {
    throw errorOf(response.status, body);
  }
  return JSON.parse(body).data.map((/** @type {{ id: string }} */ model) => model.id);
}

/**
 * Have a file transcribed; resolves with the answer's JSON (verbose_json).
 * @param {File} file
 * @param {{ model: string, language: string, token: string }} options
 * @param {(share: number) => void} onUpload how much of the file has left, 0 to 1
 * @param {AbortSignal} signal
 * @returns {Promise<object>}
 */
export function transcribeFile(file, { model, language, token }, onUpload, signal) {
  const form = new FormData();
  form.set("model", model);
  form.set("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  if (language) {
    form.set("language", language);
  }
  form.set("file", file, file.name); // last, so that the server knows what to do with it
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch can not tell how much of a body has left
    request.open("POST", "/v1/audio/transcriptions");
    if (token) {
      request.setRequestHeader("Authorization", `Bearer ${token}`);
    }
    request.upload.onprogress = (event) => onUpload(event.loaded / Math.max(1, event.total));
    request.onload = () => {
      try {
        resolve(answerOf(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    };
    request.onerror = () => reject(new ApiError("file_failed", "the connection broke"));
    request.onabort = () => reject(new ApiError("cancelled", ""));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/**
 * The JSON of a good answer. Throws ApiError for any other.
 * @param {number} status
 * @param {string} body
 * @returns {object}
 */
export function answerOf(status, body) {
  if (status !== 200) {
    throw errorOf(status, body);
  }
  try {
    return JSON.parse(body);
  } catch {
    throw new ApiError("file_failed", "the answer can not be read");
  }
}

/** @param {number} status @param {string} body @returns {ApiError} */
function errorOf(status, body) {
  const code = BY_STATUS[status] ?? "file_failed";
  try {
    const { error } = JSON.parse(body);
    return new ApiError(BY_CODE[error.code] ?? code, String(error.message));
  } catch {
    return new ApiError(code, `HTTP status ${status}`); // not JSON: a proxy's page
  }
}
