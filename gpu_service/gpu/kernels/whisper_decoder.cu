// Whisper's decoder, one token of every row a step.
//
//   fill (whisper_prompt.cu)  begin  embed
//   while any row is active { layers { self  cross  feed forward }  choose (whisper_choose.cu) }
//
// between them products by gemms; of few rows all layers are one kernel (whisper_step.cu). A row
// begins with the last token of its prompt, those before were filled in at once, and goes on with
// what it chooses, a token a step; rows are at different positions and end at different times, and a
// row that has ended costs its products only.
//
// B rows, P text positions, N audio positions, D width, E = 64 of a head. T is the storage type, X
// that of the residual stream: T, or float with RESIDUAL_HALF=0. WIDTH D, HEAD_WIDTH E divides 128.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif

#include "whisper_rows.cuh"

// ---- begin --------------------------------------------------------------------------------------
// One block of 32 threads.

__device__ __forceinline__ void begin_rows(
    const WhisperRow* rows, WhisperProgress* progress, WhisperResult* results, int num_rows) {
    for (int b = threadIdx.x; b < num_rows; b += blockDim.x) {
        bool is_there = rows[b].prompt_length > 0;
        progress[b] = {rows[b].prompt_length - 1, is_there ? ACTIVE : DONE, -1, TWO_TIMES};
        results[b].num_tokens = 0;
        results[b].has_ended = 0;
        if (!is_there || rows[b].start + 1 == rows[b].prompt_length) results[b].no_speech = 0.0f;
    }
}

__device__ __forceinline__ bool is_any_active(const WhisperProgress* progress, int num_rows) {
    int count = 0;
    for (int b = threadIdx.x; b < num_rows; b += blockDim.x) count += progress[b].state == ACTIVE;
    return warp_sum(static_cast<float>(count)) > 0.0f;
}

extern "C" __global__ void whisper_begin(
    const WhisperRow* rows, WhisperProgress* progress, WhisperResult* results, int num_rows) {
    begin_rows(rows, progress, results, num_rows);
}

extern "C" __global__ void whisper_begin_loop(
    const WhisperRow* rows, WhisperProgress* progress, WhisperResult* results, int num_rows,
    cudaGraphConditionalHandle loop) {
    begin_rows(rows, progress, results, num_rows);
    __syncwarp();
    bool is_active = is_any_active(progress, num_rows);
    if (threadIdx.x == 0) set_condition(loop, is_active);
}

// ---- embed --------------------------------------------------------------------------------------
// x (B, D) = embedding of the token that each row begins with plus its position. Those behind are
// embedded where they are chosen. Grid: B, block: 128.

extern "C" __global__ void __launch_bounds__(128) whisper_embed(
    const T* table, const float* positions, const WhisperRow* rows,
    const WhisperProgress* progress, X* x) {
    const int b = blockIdx.x, position = progress[b].position;
    if (progress[b].state != ACTIVE) return;
    embed_row(table, positions, rows[b].prompt[position], position, x + (long long)b * WIDTH);
}

// ---- attention of one query ---------------------------------------------------------------------
// See whisper_rows.cuh.

// The row's new key and value go into cache (B, P, 2 D) at its position, and its query hears all up
// to there. qkv (B, 3 D) -> heard (B, D). Grid: (H, B), block: 128.
extern "C" __global__ void __launch_bounds__(128) whisper_self(
    const T* qkv, const WhisperProgress* progress, T* cache, T* heard, int max_positions) {
    __shared__ float parts[ATTEND_THREADS / 32 * HEARD_FLOATS];
    int b = blockIdx.y, column = blockIdx.x * HEAD_WIDTH;
    if (progress[b].state != ACTIVE) return;
    int num_keys = progress[b].position + 1;
    const T* own = qkv + (long long)b * 3 * WIDTH + column;
    T* keys = cache + (long long)b * max_positions * 2 * WIDTH + column;
    T* newest = keys + (long long)(num_keys - 1) * 2 * WIDTH;
    for (int e = threadIdx.x; e < HEAD_WIDTH; e += ATTEND_THREADS) {
        newest[e] = own[WIDTH + e];
        newest[WIDTH + e] = own[2 * WIDTH + e];
    }
    __syncthreads();
    float query[8];
    load_query(own, query);
    float value = attend_all(query, keys, num_keys, parts);
    if (threadIdx.x < HEAD_WIDTH)
        heard[(long long)b * WIDTH + column + threadIdx.x] = to_storage(value);
}

// A part of the window's keys: parts (B, H, S, E + 2) get the sum, its maximum and its total.
// query (B, D), cross (B, N, 2 D). Grid: (S = N / 128, H, B), block: 128.
//
// Rows that are watched leave the scores of some heads behind: aligned (H) has a head's place among
// those, or -1; attention (B, P, A, N) gets them for the row's step behind its prompt.
extern "C" __global__ void __launch_bounds__(128) whisper_cross(
    const T* query, const T* cross, const WhisperRow* rows, const WhisperProgress* progress,
    float* window_parts, const int* aligned, T* attention, int num_positions, int num_aligned) {
    __shared__ float parts[ATTEND_THREADS / 32 * HEARD_FLOATS];
    int split = blockIdx.x, b = blockIdx.z, column = blockIdx.y * HEAD_WIDTH;
    if (progress[b].state != ACTIVE) return;
    int first = split * SPLIT_KEYS, num_keys = min(num_positions - first, SPLIT_KEYS);
    const T* keys = cross + ((long long)b * num_positions + first) * 2 * WIDTH + column;
    float own_query[8];
    load_query(query + (long long)b * WIDTH + column, own_query);
    const int place = aligned[blockIdx.y], step = progress[b].position + 1 - rows[b].prompt_length;
    const bool is_kept = place >= 0 && rows[b].watched;
    T* scores = attention +
                (((long long)b * POSITIONS + step) * num_aligned + place) * num_positions + first;
    const Heard heard = listen<4>(own_query, keys, num_keys, [=](int key, float score) {
        if (is_kept) scores[key] = to_storage(score);
    });
    float top, total;
    const float value = join_heard<ATTEND_THREADS / 32>(heard, parts, &top, &total);
    float* out = window_parts +
                 ((long long)(b * gridDim.y + blockIdx.y) * gridDim.x + split) * HEARD_FLOATS;
    if (threadIdx.x < HEAD_WIDTH) out[threadIdx.x] = value;
    if (threadIdx.x == 0) {
        out[HEAD_WIDTH] = top;
        out[HEAD_WIDTH + 1] = total;
    }
}

// heard (B, D) of the parts. Grid: (H, B), block: E.
extern "C" __global__ void whisper_join(
    const float* window_parts, const WhisperProgress* progress, T* heard, int num_splits) {
    int b = blockIdx.y;
    if (progress[b].state != ACTIVE) return;
    const float* parts =
        window_parts + (long long)(b * gridDim.x + blockIdx.x) * num_splits * HEARD_FLOATS;
    float top = -MAX_HALF;
    for (int s = 0; s < num_splits; ++s) top = fmaxf(top, parts[s * HEARD_FLOATS + HEAD_WIDTH]);
    float value = 0.0f, total = 0.0f;
    for (int s = 0; s < num_splits; ++s) {
        const float* part = parts + s * HEARD_FLOATS;
        float factor = __expf(part[HEAD_WIDTH] - top);
        value = fmaf(factor, part[threadIdx.x], value);
        total = fmaf(factor, part[HEAD_WIDTH + 1], total);
    }
    long long at = (long long)b * WIDTH + blockIdx.x * HEAD_WIDTH + threadIdx.x;
    heard[at] = to_storage(value / total);
}
