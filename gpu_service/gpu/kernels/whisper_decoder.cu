// Whisper's decoder, one token of every row a step, and the choice of the next one.
//
//   fill (whisper_prompt.cu)  begin
//   while any row is active { embed  layers { self  cross  feed forward }  choose  turn }
//
// between them products by gemms; of few rows all layers are one kernel (whisper_step.cu). A row begins with the last token of its prompt, those before were
// filled in at once, and goes on with what it chooses, a token a step; rows are at different
// positions and end at different times, and a row that has ended costs its products only. The rules
// of choosing are those of gpu_service/decoding/whisper_rules.py, and of sampling those of
// whisper_sampling.py, which is the oracle of both.
//
// B rows, P text positions, N audio positions, D width, E = 64 of a head, V vocabulary. T is the
// storage type, X that of the residual stream: T, or float with RESIDUAL_HALF=0. WIDTH D, HEAD_WIDTH
// E divides 128.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif

#include "whisper_rows.cuh"

// ---- begin, turn --------------------------------------------------------------------------------
// One block of 32 threads.

__device__ __forceinline__ void begin_rows(
    const WhisperRow* rows, WhisperProgress* progress, WhisperResult* results, int num_rows) {
    for (int b = threadIdx.x; b < num_rows; b += blockDim.x) {
        bool is_there = rows[b].prompt_length > 0;
        progress[b] = {rows[b].prompt_length - 1, is_there ? ACTIVE : DONE, -1, 0};
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

// Tells the host whether another step is needed, by a flag in its memory.
extern "C" __global__ void whisper_turn(
    const WhisperProgress* progress, int* flag, int num_rows) {
    bool is_active = is_any_active(progress, num_rows);
    if (threadIdx.x == 0) *flag = is_active;
}

// Tells the graph.
extern "C" __global__ void whisper_turn_loop(
    const WhisperProgress* progress, int num_rows, cudaGraphConditionalHandle loop) {
    bool is_active = is_any_active(progress, num_rows);
    if (threadIdx.x == 0) set_condition(loop, is_active);
}

// ---- embed --------------------------------------------------------------------------------------
// x (B, D) = embedding of each row's token plus its position. Grid: B, block: 128.

extern "C" __global__ void __launch_bounds__(128) whisper_embed(
    const T* table, const float* positions, const WhisperRow* rows,
    const WhisperProgress* progress, const WhisperResult* results, X* x) {
    int b = blockIdx.x;
    if (progress[b].state != ACTIVE) return;
    int position = progress[b].position;
    int token = fed_token(rows[b], results[b], position);
    for (int at = 8 * threadIdx.x; at < WIDTH; at += 8 * blockDim.x) {
        float values[8], place[8];
        load8(table + (long long)token * WIDTH + at, values);
        load8(positions + (long long)position * WIDTH + at, place);
        for (int j = 0; j < 8; ++j) values[j] += place[j];
        store8(x + (long long)b * WIDTH + at, values);
    }
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

// ---- choose -------------------------------------------------------------------------------------
// A block a row, 512 threads. Bound by the latency of reading the logits two or three times from L2.

// Tokens that may come, as whisper_rules.py's TokenRules says it: but for those that `mask` suppresses,
// text and times of these ranges.
struct Rules {
    int first_time, end_times;
    int mask;  // of `suppressed`
    int text_begin, text_end;  // of the tokens before the times that may come, but no_timestamps
    int time_begin, time_end;
    int no_timestamps;
    // `bits`: those of the token in `suppressed`.
    __device__ __forceinline__ bool allow(int token, unsigned bits) const {
        if (bits & mask) return false;
        if (token >= first_time) return token >= time_begin && token < time_end;
        return token >= text_begin && token < text_end && token != no_timestamps;
    }
};

// each(token, logit) of every token of [begin, size) that may come, by all threads of the block. Loads
// of many tokens are on their way at once: one after the other they would take most of a step.
template <class Each>
__device__ __forceinline__ void for_allowed(
    const Rules& rules, const float* logits, const unsigned char* suppressed, int begin, int size,
    Each each) {
    constexpr int AT_ONCE = 16;
    for (int first = begin + threadIdx.x; first < size; first += AT_ONCE * blockDim.x) {
        float values[AT_ONCE];
        unsigned bits[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int token = min(first + i * static_cast<int>(blockDim.x), size - 1);
            values[i] = logits[token];
            bits[i] = suppressed[token];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int token = first + i * static_cast<int>(blockDim.x);
            if (token < size && rules.allow(token, bits[i])) each(token, values[i]);
        }
    }
}

__device__ __forceinline__ Rules rules_of(
    const WhisperRow& row, const WhisperProgress& progress, const WhisperResult& result,
    const WhisperIds& ids) {
    Rules rules;
    const int count = result.num_tokens;
    rules.first_time = ids.no_timestamps + 1;
    rules.end_times = rules.first_time + NUM_TIMES;
    rules.mask = ALWAYS | (count == 0 && row.kind != CONTINUED ? AT_FIRST : 0);
    rules.text_begin = 0, rules.text_end = rules.first_time;
    rules.time_begin = rules.first_time, rules.time_end = rules.end_times;
    rules.no_timestamps = row.kind == TIMED ? ids.no_timestamps : -1;
    if (row.kind == LANGUAGE) {
        rules.mask = 0;
        rules.text_begin = ids.first_language, rules.text_end = ids.end_languages;
    }
    if (row.kind != TIMED) {
        rules.time_end = rules.time_begin;
        return rules;
    }
    if (count == 0) {
        rules.text_end = 0;
        const int end = rules.first_time + row.max_initial + 1;
        rules.time_end = end < rules.end_times ? end : rules.end_times;
        return rules;
    }
    const bool was_time = result.tokens[count - 1] >= rules.first_time;
    const bool was_pair =
        was_time && (count < 2 || result.tokens[count - 2] >= rules.first_time);
    if (progress.latest < 0) return rules;
    rules.time_begin = was_time && !was_pair ? progress.latest : progress.latest + 1;
    if (was_pair)
        rules.time_end = rules.time_begin;
    else if (was_time)
        rules.text_begin = ids.end;
    return rules;
}

// Philox 2x32 with 10 rounds: the bits of one token at one step.
__device__ __forceinline__ unsigned random_bits(unsigned seed, unsigned step, unsigned token) {
    unsigned low = step, high = token, key = seed;
    for (int i = 0; i < 10; ++i) {
        const unsigned long long product = static_cast<unsigned long long>(low) * 0xD256D193u;
        low = static_cast<unsigned>(product >> 32) ^ key ^ high;
        high = static_cast<unsigned>(product);
        key += 0x9E3779B9u;
    }
    return low;
}

__device__ __forceinline__ float gumbel(unsigned seed, unsigned step, unsigned token) {
    const double uniform = (random_bits(seed, step, token) >> 8) * (1.0 / 16777216.0) +
                           1.0 / 33554432.0;
    return static_cast<float>(-log(-log(uniform)));
}

// The largest key of the block, of equals that of the lowest token; every thread gets the token.
__device__ __forceinline__ int block_best(float key, int token, float* keys, int* tokens) {
    keys[threadIdx.x] = key;
    tokens[threadIdx.x] = token;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            const int other = threadIdx.x + half;
            const bool is_better =
                keys[other] > keys[threadIdx.x] ||
                (keys[other] == keys[threadIdx.x] && tokens[other] < tokens[threadIdx.x]);
            if (is_better) {
                keys[threadIdx.x] = keys[other];
                tokens[threadIdx.x] = tokens[other];
            }
        }
        __syncthreads();
    }
    const int best = tokens[0];
    __syncthreads();
    return best;
}

// Logits (B, stride) -> the row's next token, or its end.
extern "C" __global__ void __launch_bounds__(512) whisper_choose(
    const float* all_logits, const unsigned char* suppressed, const WhisperRow* rows,
    WhisperProgress* progress, WhisperResult* results, const WhisperIds* all_ids, int stride) {
    __shared__ float keys[CHOOSE_THREADS], scratch[CHOOSE_THREADS / 32];
    __shared__ int tokens[CHOOSE_THREADS];
    const WhisperRow& row = rows[blockIdx.x];
    WhisperProgress& own = progress[blockIdx.x];
    WhisperResult& result = results[blockIdx.x];
    if (own.state != ACTIVE) return;
    const WhisperIds ids = *all_ids;
    const float* logits = all_logits + (long long)blockIdx.x * stride;
    const int position = own.position;
    if (position == row.start) {
        const float share = probability_of(logits, ids.no_speech, ids.size, scratch);
        if (threadIdx.x == 0) result.no_speech = share;
    }
    const Rules rules = rules_of(row, own, result, ids);
    float best_text = negative_infinity(), best_time = best_text;
    for_allowed(rules, logits, suppressed, 0, ids.size, [&](int token, float logit) {
        if (token < rules.first_time)
            best_text = fmaxf(best_text, logit);
        else
            best_time = fmaxf(best_time, logit);
    });
    best_text = block_max(best_text, scratch);
    best_time = block_max(best_time, scratch);
    bool only_time = false;
    if (row.kind == TIMED && best_time > negative_infinity()) {
        float sum = 0.0f;
        for_allowed(rules, logits, suppressed, rules.time_begin, rules.time_end,
                    [&](int, float logit) { sum += expf(logit - best_time); });
        only_time = best_time + logf(block_sum(sum, scratch)) > best_text;
    }
    const float top = only_time ? best_time : fmaxf(best_text, best_time);
    const int begin = only_time ? rules.first_time : 0;
    float sum = 0.0f, best_key = negative_infinity();
    int best = ids.size;
    for_allowed(rules, logits, suppressed, begin, ids.size, [&](int token, float logit) {
        sum += expf(logit - top);
        float key = logit;
        if (row.temperature > 0.0f)
            key = __fadd_rn(__fdiv_rn(key, row.temperature),
                            gumbel(row.seed, result.num_tokens, token));
        if (key > best_key) best_key = key, best = token;
    });
    sum = block_sum(sum, scratch);
    const int token = block_best(best_key, best, keys, tokens);
    if (threadIdx.x > 0) return;
    const int count = result.num_tokens;
    // Nothing may come, which no rules of ours say: it ends.
    const bool has_ended = token == ids.end || token >= ids.size;
    result.logs[count] = token < ids.size ? logits[token] - (top + logf(sum)) : 0.0f;
    if (has_ended) {
        result.has_ended = 1;
        own.state = DONE;
        return;
    }
    result.tokens[count] = token;
    result.num_tokens = count + 1;
    if (token >= rules.first_time) own.latest = token;
    own.position = position + 1;
    if (count + 1 >= row.max_tokens) own.state = DONE;
}
