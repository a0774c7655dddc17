// What the kernels of Whisper's decoder share: rows, their progress and results, and the attention
// of one query. Shapes and types as in whisper_decoder.cu.
#pragma once
#include "common.cuh"

#define POSITIONS 448  // P, at most
#define NUM_TIMES 1501
#define ATTEND_THREADS 128
#define SPLIT_KEYS 128  // of the audio's positions, a block each
#define ALWAYS 1        // bits of `suppressed`
#define AT_FIRST 2

// What the host asks of a row, and its prompt behind that.
struct __align__(16) WhisperAsked {
    int prompt_length;  // 0: nobody
    int max_tokens;
    int start;  // where <|startoftranscript|> is in the prompt
    int kind;         // RowKind
    int max_initial;  // of the first time, in steps
    float temperature;
    unsigned seed;
    int watched;  // its attention is wanted
};

struct WhisperRow : WhisperAsked {
    int prompt[POSITIONS];
};

// Without times, with times; which language it is; behind a prompt that ends in text, without times.
enum RowKind { PLAIN, TIMED, LANGUAGE, CONTINUED };
enum RowState { DONE, ACTIVE };

struct __align__(16) WhisperProgress {
    int position;  // of the token that is fed now
    int state;
    int latest;  // the last time that was chosen, or -1
    int times;   // bits: whether the last token is a time, and the one before; at first both
};

constexpr int TWO_TIMES = 3;

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
struct __align__(8) WhisperIds {
    int size, end, no_speech, no_timestamps;
    int first_language, end_languages;
};

// x (D) of a row = embedding of a token plus its position, by all threads of the block.
__device__ __forceinline__ void embed_row(
    const T* table, const float* positions, int token, int position, X* x) {
    for (int at = 8 * threadIdx.x; at < WIDTH; at += 8 * blockDim.x) {
        float values[8], place[8];
        load8(table + (long long)token * WIDTH + at, values);
        load8(positions + (long long)position * WIDTH + at, place);
        for (int j = 0; j < 8; ++j) values[j] += place[j];
        store8(x + at, values);
    }
}

// ---- attention of one query ---------------------------------------------------------------------
// By a whole block, of warps only. Bound by reading keys and values once: LANES lanes take a key and
// its value together, 16 bytes each in half, and keep what they heard with the largest score so far.

constexpr int LANES = HEAD_WIDTH / 8;

struct Heard {
    float top, total;  // the largest score, and the sum of exp(score - top)
    float sums[8];     // of that times values: this lane's elements of the head
};

// This lane's elements of a query, scaled.
template <class Q>
__device__ __forceinline__ void load_query(const Q* query, float (&to)[8]) {
    load8(query + 8 * (threadIdx.x % LANES), to);
    for (int j = 0; j < 8; ++j) to[j] *= rsqrtf((float)HEAD_WIDTH);
}

__device__ __forceinline__ void nothing_kept(int, float) {}

// What a group of lanes hears of keys [0, num_keys), which are 2 D apart with their values D behind
// them: of AT_ONCE, then of as many behind those of the other groups. keep(key, score) gets each once.
template <int AT_ONCE, class Keep>
__device__ __forceinline__ Heard listen(
    const float (&query)[8], const T* keys, int num_keys, Keep keep) {
    const int num_groups = blockDim.x / LANES, group = threadIdx.x / LANES;
    const T* own = keys + 8 * (threadIdx.x % LANES);
    Heard heard = {-MAX_HALF, 0.0f, {}};
    for (int begin = 0; begin < num_keys; begin += AT_ONCE * num_groups) {
        decltype(load_eight(keys)) parts[AT_ONCE], values[AT_ONCE];
        float scores[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int key = min(begin + i * num_groups + group, num_keys - 1);
            parts[i] = load_eight(own + (long long)key * 2 * WIDTH);
            values[i] = load_eight(own + (long long)key * 2 * WIDTH + WIDTH);
        }
        float top = heard.top;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int key = begin + i * num_groups + group;
            float score = 0.0f, elements[8];
            unpack(parts[i], elements);
            for (int j = 0; j < 8; ++j) score = fmaf(query[j], elements[j], score);
            for (int bits = 1; bits < LANES; bits *= 2)
                score += __shfl_xor_sync(ALL_LANES, score, bits);
            if (key < num_keys && threadIdx.x % LANES == 0) keep(key, score);
            scores[i] = key < num_keys ? score : negative_infinity();
            top = fmaxf(top, scores[i]);
        }
        const float factor = __expf(heard.top - top);
        heard.top = top;
        heard.total *= factor;
        for (int j = 0; j < 8; ++j) heard.sums[j] *= factor;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const float weight = __expf(scores[i] - top);
            heard.total += weight;
            float elements[8];
            unpack(values[i], elements);
            for (int j = 0; j < 8; ++j) heard.sums[j] = fmaf(weight, elements[j], heard.sums[j]);
        }
    }
    return heard;
}

constexpr int HEARD_FLOATS = HEAD_WIDTH + 2;  // an element each, the largest score, the total

// Element `element` of several parts of HEARD_FLOATS, with their top and total: not divided by it yet.
template <int NUM_PARTS>
__device__ __forceinline__ float join_parts(
    const float* parts, int element, float* top, float* total) {
    float highest = -MAX_HALF, value = 0.0f, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < NUM_PARTS; ++i)
        highest = fmaxf(highest, parts[i * HEARD_FLOATS + HEAD_WIDTH]);
#pragma unroll
    for (int i = 0; i < NUM_PARTS; ++i) {
        const float* part = parts + i * HEARD_FLOATS;
        const float factor = __expf(part[HEAD_WIDTH] - highest);
        value = fmaf(factor, part[element], value);
        sum = fmaf(factor, part[HEAD_WIDTH + 1], sum);
    }
    *top = highest;
    *total = sum;
    return value;
}

// What all groups of the block heard: thread e < E returns element e of the sum, with the block's top
// and total. `parts`: HEARD_FLOATS of shared memory for each of its WARPS, free again behind a
// __syncthreads.
template <int WARPS>
__device__ __forceinline__ float join_heard(Heard heard, float* parts, float* top, float* total) {
    for (int bits = LANES; bits < 32; bits *= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, heard.top, bits);
        const float new_top = fmaxf(heard.top, other);
        const float own_factor = __expf(heard.top - new_top), factor = __expf(other - new_top);
        heard.top = new_top;
        heard.total = heard.total * own_factor +
                      __shfl_xor_sync(ALL_LANES, heard.total, bits) * factor;
        for (int j = 0; j < 8; ++j)
            heard.sums[j] = heard.sums[j] * own_factor +
                            __shfl_xor_sync(ALL_LANES, heard.sums[j], bits) * factor;
    }
    float* own = parts + threadIdx.x / 32 * HEARD_FLOATS;
    if (threadIdx.x % 32 < LANES) {
        for (int j = 0; j < 8; ++j) own[8 * (threadIdx.x % 32) + j] = heard.sums[j];
        own[HEAD_WIDTH] = heard.top;
        own[HEAD_WIDTH + 1] = heard.total;
    }
    __syncthreads();
    if (threadIdx.x >= HEAD_WIDTH) return 0.0f;
    return join_parts<WARPS>(parts, threadIdx.x, top, total);
}

// Element threadIdx.x of what a query hears of all its keys, whole in the first E threads of
// ATTEND_THREADS. `parts` as in join_heard().
__device__ __forceinline__ float attend_all(
    const float (&query)[8], const T* keys, int num_keys, float* parts) {
    float top, total;
    const Heard heard = listen<4>(query, keys, num_keys, nothing_kept);
    const float sum = join_heard<ATTEND_THREADS / 32>(heard, parts, &top, &total);
    return sum / total;
}
