// Attention of whisper_step.cu: what the queries of a step hear of the text and of the audio. A block has
// a head of a row, or a split of its audio; 8 columns of a key and of its value are a lane's, LANES lanes
// a group, a key for each group. The first keys are on their way while the query is waited for.
// B = ROWS, P text positions, N audio positions, D width, H heads, E = D / H, S = SPLITS.
#pragma once
#include "whisper_words.cuh"

constexpr int WARP_GROUPS = 32 / LANES;
constexpr int NUM_GROUPS = NUM_WARPS * WARP_GROUPS;
constexpr int AT_ONCE = NUM_WARPS > 10 ? 4 : 8;  // keys of a group, as registers allow
static_assert(HEAD_WIDTH % 16 == 0, "pairs of columns fill warps, four lanes each");

// A row of the batch, in shared memory.
struct StepRow {
    int position;  // of its token, or -1: it has ended, or there is nobody
    int step;      // behind its prompt
    int is_watched;
};

// Keys [begin, end) of a head with their values D behind them, 2 D apart. Of the text, key 0 is the token
// that is fed now, which comes by words, and the others are as they lie in the cache.
struct Keys {
    const __half* from;
    int begin, end, num_by_words;

    static __device__ __forceinline__ int group() { return threadIdx.x / LANES; }
    // Has this warp one of those from `at` on?
    __device__ __forceinline__ bool reaches(int at) const {
        return begin + at + static_cast<int>(threadIdx.x / 32) * WARP_GROUPS < end;
    }
};

// Of this lane: AT_ONCE keys and their values.
struct KeyParts {
    HalfEight keys[AT_ONCE], values[AT_ONCE];

    // Those `at` behind the first, zeros where there are none.
    __device__ __forceinline__ void load(const Keys& all, int at) {
        const __half* own = all.from + 8 * (threadIdx.x % LANES);
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int key = all.begin + at + i * NUM_GROUPS + Keys::group();
            keys[i].words = values[i].words = make_uint4(0, 0, 0, 0);
            if (key < all.num_by_words || key >= all.end) continue;
            const __half* row = own + static_cast<long long>(key - all.num_by_words) * 2 * WIDTH;
            keys[i] = load_eight(row);
            values[i] = load_eight(row + WIDTH);
        }
    }
};

__device__ __forceinline__ float exp_of(float x) { return exp2_of(x * 1.4426950408889634f); }

// What a warp heard: the largest score of all its groups, then of each group the sum of exp(score - top)
// and of that times values.
struct WarpHeard {
    float top, total;
    float sums[8];

    // keep(key, score) gets each key once.
    template <class Keep>
    __device__ __forceinline__ void add(
        const KeyParts& parts, const Keys& all, int at, const float (&query)[8], Keep keep) {
        float scores[AT_ONCE], new_top = top;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int key = all.begin + at + i * NUM_GROUPS + Keys::group();
            float score = 0.0f, elements[8];
            unpack(parts.keys[i], elements);
#pragma unroll
            for (int j = 0; j < 8; ++j) score = fmaf(query[j], elements[j], score);
#pragma unroll
            for (int bits = 1; bits < LANES; bits *= 2)
                score += __shfl_xor_sync(ALL_LANES, score, bits);
            if (key < all.end && threadIdx.x % LANES == 0) keep(key, score);
            scores[i] = key < all.end ? score : negative_infinity();
            new_top = fmaxf(new_top, scores[i]);
        }
#pragma unroll
        for (int bits = LANES; bits < 32; bits *= 2)
            new_top = fmaxf(new_top, __shfl_xor_sync(ALL_LANES, new_top, bits));
        const float factor = exp_of(top - new_top);
        top = new_top;
        total *= factor;
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[j] *= factor;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const float weight = exp_of(scores[i] - top);
            total += weight;
            float elements[8];
            unpack(parts.values[i], elements);
#pragma unroll
            for (int j = 0; j < 8; ++j) sums[j] = fmaf(weight, elements[j], sums[j]);
        }
    }

    // Adds up the sums of groups, lanes that differ in BITS and above. COUNT of this lane's are left,
    // then half of them, while there are two; returns which is the first.
    template <int BITS, int COUNT>
    __device__ __forceinline__ int add_groups() {
        if constexpr (BITS == 32) {
            return 0;
        } else if constexpr (COUNT == 1) {
            sums[0] += __shfl_xor_sync(ALL_LANES, sums[0], BITS);
            return add_groups<2 * BITS, 1>();
        } else {
            constexpr int HALF = COUNT / 2;
            const bool is_upper = threadIdx.x & BITS;
#pragma unroll
            for (int j = 0; j < HALF; ++j) {
                const float given = is_upper ? sums[j] : sums[j + HALF];
                const float kept = is_upper ? sums[j + HALF] : sums[j];
                sums[j] = kept + __shfl_xor_sync(ALL_LANES, given, BITS);
            }
            return (is_upper ? HALF : 0) + add_groups<2 * BITS, HALF>();
        }
    }

    // Into this warp's PART_WORDS floats of shared memory.
    __device__ __forceinline__ void leave(float* part) {
        constexpr int LEFT = WARP_GROUPS < 8 ? 8 / WARP_GROUPS : 1;
#pragma unroll
        for (int bits = LANES; bits < 32; bits *= 2)
            total += __shfl_xor_sync(ALL_LANES, total, bits);
        const int first = 8 * (threadIdx.x % LANES) + add_groups<LANES, 8>();
#pragma unroll
        for (int j = 0; j < LEFT; ++j) part[first + j] = sums[j];
        if (threadIdx.x % 32 == 0) {
            part[HEAD_WIDTH] = top;
            part[HEAD_WIDTH + 1] = total;
        }
    }
};

__device__ __forceinline__ unsigned halves_of(float first, float second) {
    return pack_halves(saturated_half(first), saturated_half(second));
}

// A head of a row, or a split of it: what a block hears at a time.
struct HeardItem {
    int b, head, split;

    static __device__ __forceinline__ int count(bool is_text) {
        return ROWS * NUM_HEADS * (is_text ? 1 : SPLITS);
    }
    static __device__ __forceinline__ HeardItem at(bool is_text, int place) {
        const int whole = is_text ? place : place / SPLITS;
        return {whole / NUM_HEADS, whole % NUM_HEADS, is_text ? 0 : place % SPLITS};
    }
};

// What attention works on.
struct Attention {
    const StepRow* rows;
    Words words;
    T* kept;         // (B, POSITIONS, A, N)
    float* scratch;  // PART_WORDS of each warp
    int num_positions, num_aligned, max_positions;

    // The first key of a split.
    __device__ __forceinline__ int split_at(int split) const {
        return num_positions * split / SPLITS;
    }

    // Of rows that have ended none.
    __device__ __forceinline__ Keys keys_of(
        const StepLayer& layer, bool is_text, const HeardItem& item) const {
        const int position = rows[item.b].position;
        const long long before =
            static_cast<long long>(item.b) * (is_text ? max_positions : num_positions);
        Keys keys;
        keys.from =
            (is_text ? layer.cache : layer.cross) + before * 2 * WIDTH + item.head * HEAD_WIDTH;
        keys.begin = is_text ? 0 : split_at(item.split);
        keys.end = is_text ? position + 1 : position < 0 ? 0 : split_at(item.split + 1);
        keys.num_by_words = is_text;
        return keys;
    }

    // Brings this block's keys and values of a layer into L2.
    __device__ __forceinline__ void fetch(const StepLayer& layer) const {
#pragma unroll 1
        for (int is_text = 0; is_text < 2; ++is_text) {
#pragma unroll 1
            for (int i = blockIdx.x; i < HeardItem::count(is_text); i += gridDim.x) {
                const Keys keys = keys_of(layer, is_text, HeardItem::at(is_text, i));
                constexpr int NEAR = 32, PARTS = (HEAD_WIDTH + NEAR - 1) / NEAR;  // halves, of a row
                const int end = 2 * PARTS * (keys.end - keys.num_by_words);
#pragma unroll 1
                for (int part = 2 * PARTS * keys.begin + threadIdx.x; part < end; part += THREADS)
                    prefetch_near(
                        keys.from + static_cast<long long>(part / PARTS) * WIDTH + part % PARTS * NEAR);
            }
        }
    }

    // This lane's 8 columns of queries, or of the keys or values D and 2 D behind them.
    __device__ __forceinline__ uint4 await_columns(int b, int column, unsigned flag) const {
        const Word* from =
            words.own().queries() + b * QUERY_WORDS +
            (column + 8 * static_cast<int>(threadIdx.x % LANES)) / 2;
        uint4 found[2];
        await_words<false>(flag, found, [from](int i) { return from + 2 * i; });
        return make_uint4(found[0].x, found[0].z, found[1].x, found[1].z);
    }

    // words.heard() of queries with this flag.
    __device__ __forceinline__ void hear(const StepLayer& layer, bool is_text, unsigned flag) const {
#pragma unroll 1
        for (int i = blockIdx.x; i < HeardItem::count(is_text); i += gridDim.x) {
            const HeardItem item = HeardItem::at(is_text, i);
            const Keys all = keys_of(layer, is_text, item);
            WarpHeard heard = {-MAX_HALF, 0.0f, {}};
            if (all.reaches(0)) listen(layer, all, item, flag, heard);
            if (i != blockIdx.x) __syncthreads();  // the last item's parts are read
            heard.leave(scratch + threadIdx.x / 32 * PART_WORDS);
            __syncthreads();
            const int place = item.b * NUM_HEADS + item.head;
            join_warps(is_text || SPLITS == 1, place, item.split, flag);
            if (SPLITS > 1 && !is_text && item.split == 0) join_splits(place, flag);
        }
    }

    __device__ __forceinline__ void listen(
        const StepLayer& layer, const Keys& all, const HeardItem& item, unsigned flag,
        WarpHeard& heard) const {
        const bool is_text = all.num_by_words > 0;
        const int b = item.b, head = item.head;
        const StepRow row = rows[b];
        const int place = !is_text && row.is_watched ? layer.aligned[head] : -1;
        const long long line = static_cast<long long>(b) * POSITIONS + row.step;
        T* scores = kept + (line * num_aligned + place) * num_positions;
        const auto keep = [=](int key, float score) {
            if (place >= 0) scores[key] = to_storage(score);
        };
        KeyParts parts;
        parts.load(all, 0);
        float query[8];
        const HalfEight asked = {await_columns(b, head * HEAD_WIDTH, flag)};
        unpack(asked, query);
#pragma unroll
        for (int j = 0; j < 8; ++j) query[j] *= rsqrtf(static_cast<float>(HEAD_WIDTH));
        if (is_text && Keys::group() == 0) {
            parts.keys[0].words = await_columns(b, WIDTH + head * HEAD_WIDTH, flag);
            parts.values[0].words = await_columns(b, 2 * WIDTH + head * HEAD_WIDTH, flag);
        }
#pragma unroll 1
        for (int at = 0;;) {
            heard.add(parts, all, at, query, keep);
            at += AT_ONCE * NUM_GROUPS;
            if (!all.reaches(at)) break;
            parts.load(all, static_cast<int>(opaque(at)));  // else addresses of all are kept
        }
    }

    // What all warps heard of a head of a row: four lanes for two columns. A split is a part of it.
    __device__ __forceinline__ void join_warps(
        bool is_whole, int place, int split, unsigned flag) const {
#pragma unroll 1
        for (int pair = threadIdx.x / 4; pair < HEAD_WIDTH / 2; pair += THREADS / 4) {
            constexpr int NUM = (NUM_WARPS + 3) / 4;
            float top = -MAX_HALF, total = 0.0f, first = 0.0f, second = 0.0f;
            float2 ends[NUM], sums[NUM];
#pragma unroll
            for (int i = 0; i < NUM; ++i) {
                const int warp = i * 4 + threadIdx.x % 4;
                ends[i] = make_float2(-MAX_HALF, 0.0f), sums[i] = make_float2(0.0f, 0.0f);
                if (warp >= NUM_WARPS) continue;
                const float2* part = reinterpret_cast<const float2*>(scratch + warp * PART_WORDS);
                ends[i] = part[HEAD_WIDTH / 2];
                sums[i] = part[pair];
            }
#pragma unroll
            for (int i = 0; i < NUM; ++i) top = fmaxf(top, ends[i].x);
            for (int bits = 1; bits < 4; bits *= 2)
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, bits));
#pragma unroll
            for (int i = 0; i < NUM; ++i) {
                const float factor = exp_of(ends[i].x - top);
                total = fmaf(factor, ends[i].y, total);
                first = fmaf(factor, sums[i].x, first);
                second = fmaf(factor, sums[i].y, second);
            }
            for (int bits = 1; bits < 4; bits *= 2) {
                first += __shfl_xor_sync(ALL_LANES, first, bits);
                second += __shfl_xor_sync(ALL_LANES, second, bits);
                total += __shfl_xor_sync(ALL_LANES, total, bits);
            }
            if (is_whole) {
                store_heard(place, pair, first, second, total, threadIdx.x % 4, flag);
                continue;
            }
            if (threadIdx.x % 4 != 0) continue;
            Word* part = words.parts() + (place * SPLITS + split) * PART_WORDS;
            store_word(part + 2 * pair, __float_as_uint(first), flag);
            store_word(part + 2 * pair + 1, __float_as_uint(second), flag);
            if (pair > 0) continue;
            store_word(part + HEAD_WIDTH, __float_as_uint(top), flag);
            store_word(part + HEAD_WIDTH + 1, __float_as_uint(total), flag);
        }
    }

    // What all splits of a head of a row heard: by the block of the first, a thread for two columns.
    __device__ __forceinline__ void join_splits(int place, unsigned flag) const {
#pragma unroll 1
        for (int pair = threadIdx.x; pair < HEAD_WIDTH / 2; pair += THREADS) {
            const Word* parts = words.parts() + place * SPLITS * PART_WORDS;
            uint4 found[2 * SPLITS];  // the ends of each, then the two columns
            await_words<false>(flag, found, [=](int i) {
                return parts + i % SPLITS * PART_WORDS + (i < SPLITS ? HEAD_WIDTH : 2 * pair);
            });
            float top = -MAX_HALF, total = 0.0f, first = 0.0f, second = 0.0f;
#pragma unroll
            for (int i = 0; i < SPLITS; ++i) top = fmaxf(top, __uint_as_float(found[i].x));
#pragma unroll
            for (int i = 0; i < SPLITS; ++i) {
                const uint4 two = found[SPLITS + i];
                const float factor = exp_of(__uint_as_float(found[i].x) - top);
                total = fmaf(factor, __uint_as_float(found[i].z), total);
                first = fmaf(factor, __uint_as_float(two.x), first);
                second = fmaf(factor, __uint_as_float(two.z), second);
            }
#pragma unroll
            for (int copy = 0; copy < NUM_WORD_COPIES; ++copy)
                store_heard(place, pair, first, second, total, copy, flag);
        }
    }

    // Of a row that has ended, who heard nothing, zeros.
    __device__ __forceinline__ void store_heard(
        int place, int pair, float first, float second, float total, int copy, unsigned flag) const {
        const float scale = total > 0.0f ? 1.0f / total : 0.0f;
        store_word(
            words.copy(copy).heard() + place * (HEAD_WIDTH / 2) + pair,
            halves_of(first * scale, second * scale), flag);
    }
};
