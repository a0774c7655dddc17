// The prompts of all rows but for their last tokens, at once: a row of the batch has a place for each
// of M positions, those behind its prompt are nobody's. The layers' products are between, by gemms;
// see whisper_decoder.cu, which goes on behind.
//
// B rows, M positions of each, P text positions, N audio positions, D width, H heads, E of a head.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif

#include "whisper_rows.cuh"

#define NO_SPEECH_THREADS 512

// Whether a position is one of those that are filled here.
__device__ __forceinline__ bool is_filled(const WhisperRow& row, int position) {
    return position + 1 < row.prompt_length;
}

// x (B, M, D) = embedding of each token plus its position; zeros for nobody's.
// Grid: (M, B), block: 128.
extern "C" __global__ void __launch_bounds__(128) prompt_embed(
    const T* table, const float* positions, const WhisperRow* rows, X* x) {
    const int position = blockIdx.x, b = blockIdx.y;
    const bool is_there = is_filled(rows[b], position);
    const int token = is_there ? rows[b].prompt[position] : 0;
    X* own = x + ((long long)b * gridDim.x + position) * WIDTH;
    for (int at = 8 * threadIdx.x; at < WIDTH; at += 8 * blockDim.x) {
        float values[8], place[8];
        load8(table + (long long)token * WIDTH + at, values);
        load8(positions + (long long)position * WIDTH + at, place);
        for (int j = 0; j < 8; ++j) values[j] = is_there ? values[j] + place[j] : 0.0f;
        store8(own + at, values);
    }
}

// Keys and values of qkv (B, M, 3 D) into cache (B, P, 2 D). Grid: (M, B), block: 128.
extern "C" __global__ void __launch_bounds__(128) prompt_keep(
    const T* qkv, const WhisperRow* rows, T* cache, int max_positions) {
    const int position = blockIdx.x, b = blockIdx.y;
    if (!is_filled(rows[b], position)) return;
    const T* own = qkv + ((long long)b * gridDim.x + position) * 3 * WIDTH + WIDTH;
    T* kept = cache + ((long long)b * max_positions + position) * 2 * WIDTH;
    for (int at = threadIdx.x; at < 2 * WIDTH; at += blockDim.x) kept[at] = own[at];
}

// Each position hears those up to itself: qkv (B, M, 3 D), cache -> heard (B, M, D).
// Grid: (H, M, B), block: 128.
extern "C" __global__ void __launch_bounds__(128) prompt_self(
    const T* qkv, const WhisperRow* rows, const T* cache, T* heard, int max_positions) {
    __shared__ float parts[ATTEND_THREADS / 32 * HEARD_FLOATS];
    const int position = blockIdx.y, b = blockIdx.z, column = blockIdx.x * HEAD_WIDTH;
    if (!is_filled(rows[b], position)) return;
    const long long at = (long long)b * gridDim.y + position;
    float query[8];
    load_query(qkv + at * 3 * WIDTH + column, query);
    const T* keys = cache + (long long)b * max_positions * 2 * WIDTH + column;
    const float value = attend_all(query, keys, position + 1, parts);
    if (threadIdx.x < HEAD_WIDTH) heard[at * WIDTH + column + threadIdx.x] = to_storage(value);
}

// Each position hears the window: query (B, M, D), cross (B, N, 2 D) -> heard (B, M, D).
// Grid: (H, M, B), block: 128.
extern "C" __global__ void __launch_bounds__(128) prompt_cross(
    const T* queries, const T* cross, const WhisperRow* rows, T* heard, int num_positions) {
    __shared__ float parts[ATTEND_THREADS / 32 * HEARD_FLOATS];
    const int position = blockIdx.y, b = blockIdx.z, column = blockIdx.x * HEAD_WIDTH;
    if (!is_filled(rows[b], position)) return;
    const long long at = ((long long)b * gridDim.y + position) * WIDTH + column;
    float query[8];
    load_query(queries + at, query);
    const T* keys = cross + (long long)b * num_positions * 2 * WIDTH + column;
    const float value = attend_all(query, keys, num_positions, parts);
    if (threadIdx.x < HEAD_WIDTH) heard[at + threadIdx.x] = to_storage(value);
}

// starts (B, D) = x (B, M, D) at each row's <|startoftranscript|>; zeros where it was not filled.
// Grid: B, block: 128.
extern "C" __global__ void __launch_bounds__(128) prompt_starts(
    const X* x, const WhisperRow* rows, X* starts, int num_places) {
    const int b = blockIdx.x, start = rows[b].start;
    const bool is_there = is_filled(rows[b], start);
    const X* own = x + ((long long)b * num_places + (is_there ? start : 0)) * WIDTH;
    for (int at = 8 * threadIdx.x; at < WIDTH; at += 8 * blockDim.x) {
        float values[8];
        load8(own + at, values);
        for (int j = 0; j < 8; ++j) values[j] = is_there ? values[j] : 0.0f;
        store8(starts + (long long)b * WIDTH + at, values);
    }
}

// Probability of one token by the model's own logits.
__device__ __forceinline__ float probability_of(
    const float* logits, int token, int size, float* scratch) {
    float top = negative_infinity();
#pragma unroll 16
    for (int v = threadIdx.x; v < size; v += blockDim.x) top = fmaxf(top, logits[v]);
    top = block_max(top, scratch);
    float sum = 0.0f;
#pragma unroll 16
    for (int v = threadIdx.x; v < size; v += blockDim.x) sum += expf(logits[v] - top);
    return expf(logits[token] - top) / block_sum(sum, scratch);
}

// Logits (B, stride) behind <|startoftranscript|> -> how probable it is that nobody speaks.
// Grid: B, block: 512.
extern "C" __global__ void __launch_bounds__(512) prompt_no_speech(
    const float* logits, const WhisperRow* rows, WhisperResult* results, const WhisperIds* ids,
    int stride) {
    __shared__ float scratch[NO_SPEECH_THREADS / 32];
    const WhisperRow& row = rows[blockIdx.x];
    if (!is_filled(row, row.start)) return;
    const float* own = logits + (long long)blockIdx.x * stride;
    const float share = probability_of(own, ids->no_speech, ids->size, scratch);
    if (threadIdx.x == 0) results[blockIdx.x].no_speech = share;
}
