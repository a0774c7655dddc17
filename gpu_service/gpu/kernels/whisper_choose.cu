// The choice of every row's next token, and the x that the next step begins with, in one launch.
//
// Many blocks share a row, and each reads its chunk of the logits once: what its tokens come to,
// text and times apart, it leaves as a Tally each. The block that is the last of its row joins those
// of all chunks, chooses, and embeds what it chose. The row that is the last of all tells whether
// any goes on. Tallies are joined in an order that depends on V alone, whichever block is last.
//
// The rules of choosing are those of gpu_service/decoding/whisper_rules.py, and of sampling those
// of whisper_sampling.py, which are the oracles. Grid: (V / 1024, B), block: 256. Bound by latency:
// of a load of the logits, an atomic, a load of the tallies, and one of the embedding.
//
// B rows, V vocabulary, D width. T and X as in whisper_decoder.cu.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif

#include "whisper_rows.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int AT_ONCE = 4;  // tokens of a thread

// ---- which tokens may come ----------------------------------------------------------------------

// Tokens that may come, as whisper_rules.py's TokenRules says it: but for those that `mask`
// suppresses, text and times of these ranges.
struct Rules {
    int first_time, end_times;
    int mask;  // of `suppressed`
    int text_begin, text_end;  // of the tokens before the times that may come, but no_timestamps
    int time_begin, time_end;
    int no_timestamps;
    // `bits`: those of the token in `suppressed`.
    __device__ __forceinline__ bool allow(int token, unsigned bits) const {
        const bool is_time = token >= first_time;
        const int begin = is_time ? time_begin : text_begin, end = is_time ? time_end : text_end;
        return (token >= begin) & (token < end) & (token != no_timestamps) & !(bits & mask);
    }
};

// Behind `count` tokens.
__device__ __forceinline__ Rules rules_of(
    const WhisperAsked& row, const WhisperProgress& progress, int count, const WhisperIds& ids) {
    Rules rules;
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
    const bool was_time = progress.times & 1, was_pair = progress.times == TWO_TIMES;
    if (progress.latest < 0) return rules;
    rules.time_begin = was_time && !was_pair ? progress.latest : progress.latest + 1;
    if (was_pair)
        rules.time_end = rules.time_begin;
    else if (was_time)
        rules.text_begin = ids.end;
    return rules;
}

// ---- random numbers ----------------------------------------------------------------------------

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

// Not inlined: logarithms of doubles are most of the code, and most rows are greedy.
__device__ __noinline__ float gumbel(unsigned seed, unsigned step, unsigned token) {
    const double uniform = (random_bits(seed, step, token) >> 8) * (1.0 / 16777216.0) +
                           1.0 / 33554432.0;
    return static_cast<float>(-log(-log(uniform)));
}

// ---- tallies ------------------------------------------------------------------------------------

constexpr int NO_TOKEN = 0x7fffffff;  // behind all there are
constexpr float LOWEST = -3.4e38f;

// What some tokens come to.
struct __align__(16) Tally {
    float top, total;  // the largest logit, and the sum of exp(logit - top)
    float key;         // the largest, and the lowest token that has it
    int token;
};

// Kinds of tokens: text that may come, times that may come, and all there are.
enum Kind { TEXT, TIME, ALL, NUM_KINDS };

struct Tallies {
    Tally of[NUM_KINDS];
};

__device__ __forceinline__ Tally no_tally() {
    return {negative_infinity(), 0.0f, negative_infinity(), NO_TOKEN};
}

// A share of a sum by one top in the sum by another: 0 of nothing.
__device__ __forceinline__ float rescaled(const Tally& tally, float top) {
    return tally.total * expf(tally.top - fmaxf(top, LOWEST));
}

// Of two, of which the first has the lower tokens.
__device__ __forceinline__ Tally joined(const Tally& low, const Tally& high) {
    const float top = fmaxf(low.top, high.top);
    const bool is_high = high.key > low.key;
    return {top, rescaled(low, top) + rescaled(high, top), is_high ? high.key : low.key,
            is_high ? high.token : low.token};
}

// Of N of each lane, where lower ones have lower tokens. Every lane gets it.
template <int N>
__device__ __forceinline__ Tally warp_tally(const Tally (&own)[N]) {
    float top = own[0].top, key = own[0].key, total = 0.0f;
    int token = own[0].token;
#pragma unroll
    for (int i = 1; i < N; ++i) {
        top = fmaxf(top, own[i].top);
        if (own[i].key > key) key = own[i].key, token = own[i].token;
    }
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < N; ++i) total += rescaled(own[i], top);
    const float best = warp_max(key);
    token = __reduce_min_sync(ALL_LANES, key == best ? token : NO_TOKEN);
    return {top, warp_sum(total), best, token};
}

// Of N of each thread and kind; of ALL where it is asked for. Every thread gets them. `scratch` is
// free again behind a __syncthreads.
template <int N>
__device__ __forceinline__ Tallies block_tallies(
    const Tally (&own)[NUM_KINDS][N], bool with_all, Tallies (&scratch)[WARPS]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Tallies tallies;
    tallies.of[TEXT] = warp_tally(own[TEXT]);
    tallies.of[TIME] = warp_tally(own[TIME]);
    tallies.of[ALL] = with_all ? warp_tally(own[ALL]) : no_tally();
    if (lane == 0) scratch[warp] = tallies;
    __syncthreads();
    Tally warps[NUM_KINDS][1];
#pragma unroll
    for (int kind = 0; kind < NUM_KINDS; ++kind)
        warps[kind][0] = lane < WARPS ? scratch[lane].of[kind] : no_tally();
    tallies.of[TEXT] = warp_tally(warps[TEXT]);
    tallies.of[TIME] = warp_tally(warps[TIME]);
    if (with_all) tallies.of[ALL] = warp_tally(warps[ALL]);
    return tallies;
}

// ---- choose -------------------------------------------------------------------------------------

// What the kernels below are given.
struct Choosing {
    const float* logits;              // (B, stride)
    const unsigned char* suppressed;  // (stride) bits
    const WhisperRow* rows;           // (B)
    WhisperProgress* progress;        // (B)
    WhisperResult* results;           // (B)
    const WhisperIds* ids;
    Tallies* tallies;   // (B, chunks), of at most as many chunks as a block has threads
    unsigned* arrived;  // (B) chunks that have theirs; zero between launches, as the next
    unsigned* ended;    // rows whose turn is over, and above them how many of these go on
    const T* table;     // (V, D)
    const float* positions;  // (P, D)
    X* x;                    // (B, D)
    int stride;
};

constexpr unsigned GOES_ON = 1u << 16;

// One thread of each row says whether it goes on; the last one tells whether any does.
template <class Tell>
__device__ __forceinline__ void end_turn(unsigned* ended, bool goes_on, Tell tell) {
    const unsigned added = goes_on ? GOES_ON + 1 : 1;
    const unsigned now = atomicAdd(ended, added) + added;
    if (now % GOES_ON < gridDim.y) return;
    atomicExch(ended, 0u);
    tell(now >= GOES_ON);
}

// A row, as all of its blocks find it.
struct Row {
    WhisperProgress progress;
    WhisperAsked asked;
    WhisperIds ids;
    Rules rules;
    int count;      // of tokens that were chosen
    bool is_start;  // it feeds <|startoftranscript|>: all logits say whether nobody speaks
};

// Of a thread's tokens, from `first` on.
__device__ __forceinline__ void token_tallies(
    const Row& row, const float4& four_logits, const uchar4& four_bits, int first,
    Tally (&own)[NUM_KINDS][AT_ONCE]) {
    const float logits[AT_ONCE] = {four_logits.x, four_logits.y, four_logits.z, four_logits.w};
    const unsigned bits[AT_ONCE] = {four_bits.x, four_bits.y, four_bits.z, four_bits.w};
    const float temperature = row.asked.temperature;
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
        const int token = first + i;
        const bool is_there = token < row.ids.size;
        const bool may_come = is_there && row.rules.allow(token, bits[i]);
        const bool is_time = token >= row.rules.first_time;
        float key = logits[i];
        if (temperature > 0.0f && may_come)
            key = __fadd_rn(__fdiv_rn(key, temperature), gumbel(row.asked.seed, row.count, token));
        const bool is_key = key > negative_infinity();  // and no NaN
        const Tally tally = {
            logits[i], 1.0f, is_key ? key : negative_infinity(), is_key ? token : NO_TOKEN};
        own[TEXT][i] = may_come && !is_time ? tally : no_tally();
        own[TIME][i] = may_come && is_time ? tally : no_tally();
        own[ALL][i] = is_there ? tally : no_tally();
    }
}

// Text and times by what they come to: a time, whatever it is, where all together beat every text.
__device__ __forceinline__ Tally choice_of(const Tally& text, const Tally& time) {
    const bool is_time =
        time.top > negative_infinity() && time.top + logf(time.total) > text.top;
    return is_time ? time : joined(text, time);
}

// What the row comes to, by the block that is its last.
template <class Tell>
__device__ __forceinline__ void finish(
    const Choosing& all, const Row& row, const Tallies& tallies, Tell tell) {
    const int b = blockIdx.y;
    const float* logits = all.logits + (long long)b * all.stride;
    const Tally choice = choice_of(tallies.of[TEXT], tallies.of[TIME]);
    // Nothing may come, which no rules of ours say: it ends.
    const bool is_nothing = choice.token >= row.ids.size;
    const bool has_ended = is_nothing || choice.token == row.ids.end;
    const bool goes_on = !has_ended && row.count + 1 < row.asked.max_tokens;
    const float logit = is_nothing ? 0.0f : logits[choice.token];  // on its way while others embed
    if (threadIdx.x == THREADS - 1) end_turn(all.ended, goes_on, tell);
    const int position = row.progress.position + 1;
    X* x = all.x + (long long)b * WIDTH;
    if (goes_on) embed_row(all.table, all.positions, choice.token, position, x);
    if (threadIdx.x > 0) return;
    WhisperResult& result = all.results[b];
    all.arrived[b] = 0;
    if (row.is_start) {
        const Tally& every = tallies.of[ALL];
        result.no_speech = expf(logits[row.ids.no_speech] - every.top) / every.total;
    }
    result.logs[row.count] = is_nothing ? 0.0f : logit - (choice.top + logf(choice.total));
    if (has_ended) {
        result.has_ended = 1;
        all.progress[b].state = DONE;
        return;
    }
    const bool is_time = choice.token >= row.rules.first_time;
    result.tokens[row.count] = choice.token;
    result.num_tokens = row.count + 1;
    all.progress[b] = {position, goes_on ? ACTIVE : DONE,
                       is_time ? choice.token : row.progress.latest,
                       (row.progress.times << 1 | is_time) & TWO_TIMES};
}

// tell(whether any row goes on) is called once in a launch.
template <class Tell>
__device__ __forceinline__ void choose(const Choosing& all, Tell tell) {
    __shared__ Tallies scratch[WARPS];
    __shared__ bool is_last;
    const int b = blockIdx.y, first = (blockIdx.x * THREADS + threadIdx.x) * AT_ONCE;
    float4 logits = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    uchar4 bits = {0, 0, 0, 0};
    if (first < all.stride) {
        const float* from = all.logits + (long long)b * all.stride + first;
        CHECK_ALIGNED(from, 16);
        logits = *reinterpret_cast<const float4*>(from);
        bits = *reinterpret_cast<const uchar4*>(all.suppressed + first);
    }
    Row row = {all.progress[b], all.rows[b], *all.ids};
    // All on their way together: else the compiler loads these behind the branch.
    row.asked.seed = opaque(row.asked.seed);
    row.ids.size = opaque(row.ids.size), row.ids.no_speech = opaque(row.ids.no_speech);
    row.ids.first_language = opaque(row.ids.first_language);
    if (row.progress.state != ACTIVE) {
        if (blockIdx.x == 0 && threadIdx.x == 0) end_turn(all.ended, false, tell);
        return;
    }
    row.count = row.progress.position + 1 - row.asked.prompt_length;
    row.is_start = row.progress.position == row.asked.start;
    row.rules = rules_of(row.asked, row.progress, row.count, row.ids);
    Tally own[NUM_KINDS][AT_ONCE];
    token_tallies(row, logits, bits, first, own);
    const Tallies chunk = block_tallies(own, row.is_start, scratch);
    Tallies* chunks = all.tallies + (long long)b * gridDim.x;
    if (threadIdx.x == 0) {
        chunks[blockIdx.x] = chunk;
        is_last = add_acquire_release(all.arrived + b, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;

    Tally others[NUM_KINDS][1];
#pragma unroll
    for (int kind = 0; kind < NUM_KINDS; ++kind)
        others[kind][0] = threadIdx.x < gridDim.x ? chunks[threadIdx.x].of[kind] : no_tally();
    finish(all, row, block_tallies(others, row.is_start, scratch), tell);
}

// Tells the host whether another step is needed, by a flag in its memory.
extern "C" __global__ void __launch_bounds__(256) whisper_choose(
    const float* logits, const unsigned char* suppressed, const WhisperRow* rows,
    WhisperProgress* progress, WhisperResult* results, const WhisperIds* ids, Tallies* tallies,
    unsigned* arrived, unsigned* ended, const T* table, const float* positions, X* x, int stride,
    int* flag) {
    choose({logits, suppressed, rows, progress, results, ids, tallies, arrived, ended, table,
            positions, x, stride},
           [=](bool is_active) { *flag = is_active; });
}

// Tells the graph.
extern "C" __global__ void __launch_bounds__(256) whisper_choose_loop(
    const float* logits, const unsigned char* suppressed, const WhisperRow* rows,
    WhisperProgress* progress, WhisperResult* results, const WhisperIds* ids, Tallies* tallies,
    unsigned* arrived, unsigned* ended, const T* table, const float* positions, X* x, int stride,
    cudaGraphConditionalHandle loop) {
    choose({logits, suppressed, rows, progress, results, ids, tallies, arrived, ended, table,
            positions, x, stride},
           [=](bool is_active) { set_condition(loop, is_active); });
}
