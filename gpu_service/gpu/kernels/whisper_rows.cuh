// What the kernels of Whisper's decoder share: rows, their progress and results, and the attention
// of one query. Shapes and types as in whisper_decoder.cu.
#pragma once
#include "common.cuh"

#define POSITIONS 448  // P, at most
#define NUM_TIMES 1501
#define ATTEND_THREADS 128
#define CHOOSE_THREADS 512
#define SPLIT_KEYS 128  // of the audio's positions, a thread each
#define ALWAYS 1        // bits of `suppressed`
#define AT_FIRST 2

// What the host asks of a row, and its prompt.
struct WhisperRow {
    int prompt_length;  // 0: nobody
    int max_tokens;
    int start;  // where <|startoftranscript|> is in the prompt
    int kind;         // RowKind
    int max_initial;  // of the first time, in steps
    float temperature;
    unsigned seed;
    int watched;  // its attention is wanted
    int prompt[POSITIONS];
};

// Without times, with times; which language it is; behind a prompt that ends in text, without times.
enum RowKind { PLAIN, TIMED, LANGUAGE, CONTINUED };
enum RowState { DONE, ACTIVE };

struct WhisperProgress {
    int position;  // of the token that is fed now
    int state;
    int latest;  // the last time that was chosen, or -1
    int unused;
};

// What a row said.
struct WhisperResult {
    int num_tokens;
    int has_ended;
    float no_speech;
    int unused;
    int tokens[POSITIONS];
    float logs[POSITIONS];  // of the tokens, and of the end where it came
};

// Which ids mean what; copied by value from device memory.
struct WhisperIds {
    int size, end, no_speech, no_timestamps;
    int first_language, end_languages;
};

__device__ __forceinline__ int fed_token(
    const WhisperRow& row, const WhisperResult& result, int position) {
    return position < row.prompt_length ? row.prompt[position]
                                        : result.tokens[position - row.prompt_length];
}

// ---- attention of one query ---------------------------------------------------------------------
// A block of ATTEND_THREADS. Bound by reading keys and values once. A thread a key for the scores, a
// thread an element of the head for the sum, in ATTEND_THREADS / E parts of the keys.

__device__ __forceinline__ float score_of(const float* query, const T* key) {
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < HEAD_WIDTH; e += 8) {
        float values[8];
        load8(key + e, values);
        for (int j = 0; j < 8; ++j) sum = fmaf(query[e + j], values[j], sum);
    }
    return sum * rsqrtf((float)HEAD_WIDTH);
}

// Element threadIdx.x % E of the sum of weighted values, whole in the first E threads.
__device__ __forceinline__ float weighted_sum(
    const float* weights, const T* values, long long stride, int num_keys, float* parts) {
    int element = threadIdx.x % HEAD_WIDTH, part = threadIdx.x / HEAD_WIDTH;
    float sum = 0.0f;
    for (int key = part; key < num_keys; key += ATTEND_THREADS / HEAD_WIDTH)
        sum = fmaf(weights[key], to_float(values[key * stride + element]), sum);
    parts[threadIdx.x] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int i = element; i < ATTEND_THREADS; i += HEAD_WIDTH) total += parts[i];
    return total;
}

// Element threadIdx.x of what a query hears of `num_keys` keys, which are 2 D apart with their values
// D behind them; whole in the first E threads. scores has room for all keys.
__device__ __forceinline__ float attend_all(
    const float* query, const T* keys, int num_keys, float* scores, float* parts, float* scratch) {
    float top = -MAX_HALF;
    for (int key = threadIdx.x; key < num_keys; key += ATTEND_THREADS) {
        scores[key] = score_of(query, keys + (long long)key * 2 * WIDTH);
        top = fmaxf(top, scores[key]);
    }
    top = block_max(top, scratch);
    float sum = 0.0f;
    for (int key = threadIdx.x; key < num_keys; key += ATTEND_THREADS) {
        scores[key] = __expf(scores[key] - top);
        sum += scores[key];
    }
    sum = block_sum(sum, scratch);
    return weighted_sum(scores, keys + WIDTH, 2 * WIDTH, num_keys, parts) / sum;
}

// Probability of one token by the model's own logits.
__device__ __forceinline__ float probability_of(
    const float* logits, int token, int size, float* scratch) {
    float top = negative_infinity();
    for (int v = threadIdx.x; v < size; v += blockDim.x) top = fmaxf(top, logits[v]);
    top = block_max(top, scratch);
    float sum = 0.0f;
    for (int v = threadIdx.x; v < size; v += blockDim.x) sum += expf(logits[v] - top);
    return expf(logits[token] - top) / block_sum(sum, scratch);
}
