// Attention of whisper_step.cu: what the queries of a step hear of the text and of the audio. A block has
// a head of a row, or a split of its audio, a warp WARP_KEYS keys at once, by tensor cores: of their
// first operand one row is used. The first keys are on their way while the query is waited for.
// B = ROWS, P text positions, N audio positions, D width, H heads, E = D / H, S = SPLITS.
#pragma once
#include "whisper_words.cuh"

constexpr int WARP_KEYS = 32;  // as registers allow
constexpr int BLOCK_KEYS = NUM_WARPS * WARP_KEYS;
static_assert(HEAD_WIDTH == 64, "four lanes have 16 columns each, eight have 8");

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

    // The first of this warp's, of those from `at` on.
    __device__ __forceinline__ int first(int at) const {
        return begin + at + static_cast<int>(threadIdx.x / 32) * WARP_KEYS;
    }
    __device__ __forceinline__ bool reaches(int at) const { return first(at) < end; }

    // 8 columns of a key, or of its value; zeros where they are not in memory.
    __device__ __forceinline__ uint4 load(int key, int column) const {
        if (key < num_by_words || key >= end) return make_uint4(0, 0, 0, 0);
        return load_words(from + static_cast<long long>(key - num_by_words) * 2 * WIDTH + column);
    }
};

// This lane's of a warp's keys and values, as second operands of products; lane = 4 group + pair.
struct KeyParts {
    static constexpr int SETS = WARP_KEYS / 8, VALUES = WARP_KEYS / 4;
    uint4 keys[SETS][2];   // of each 8, key `group`: columns 16 pair ... 16 pair + 15
    uint4 values[VALUES];  // of value_of(i): columns 8 group ... 8 group + 7

    // Of 16 keys, four: as a product takes them, two and two neighbours.
    static __device__ __forceinline__ int value_of(int i) {
        return i / 4 * 16 + i % 4 / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
    }

    __device__ __forceinline__ void load(const Keys& all, int at) {
        const int first = all.first(at), group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
        for (int set = 0; set < SETS; ++set) {
            keys[set][0] = all.load(first + 8 * set + group, 16 * pair);
            keys[set][1] = all.load(first + 8 * set + group, 16 * pair + 8);
        }
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            values[i] = all.load(first + value_of(i), WIDTH + 8 * group);
    }
};

__device__ __forceinline__ float exp_of(float x) { return exp2_of(x * 1.4426950408889634f); }

// What a warp heard, in its first four lanes; the others come along.
struct WarpHeard {
    float top, total;  // the largest score, and this lane's sum of exp(score - top)
    float sums[8][4];  // of that times values: j of columns 16 pair + j, and 16 pair + 8 + j

    __device__ __forceinline__ void begin() {
        top = -MAX_HALF, total = 0.0f;
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i / 4][i % 4] = 0.0f;
    }

    // `query`: this lane's 16 columns, the same in every group of four lanes, of which the first one's scores
    // count. keep(key, score) gets each key once.
    template <class Keep>
    __device__ __forceinline__ void add(
        const KeyParts& parts, const Keys& all, int at, const uint4 (&query)[2], Keep keep) {
        const bool is_first = threadIdx.x % 32 < 4;
        float scores[2 * KeyParts::SETS], new_top = top;
#pragma unroll
        for (int set = 0; set < KeyParts::SETS; ++set) {
            float even[4] = {}, odd[4] = {};
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint4 asked = query[half], keys = parts.keys[set][half];
                const unsigned first_asked[4] = {asked.x, 0, asked.y, 0};
                const unsigned last_asked[4] = {asked.z, 0, asked.w, 0};
                const unsigned first_keys[2] = {keys.x, keys.y}, last_keys[2] = {keys.z, keys.w};
                mma_m16n8k16(even, first_asked, first_keys);
                mma_m16n8k16(odd, last_asked, last_keys);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int key = all.first(at) + 8 * set + threadIdx.x % 4 * 2 + i;
                const float score = (even[i] + odd[i]) * rsqrtf(static_cast<float>(HEAD_WIDTH));
                const bool is_there = is_first && key < all.end;
                if (is_there) keep(key, score);
                scores[2 * set + i] = is_there ? score : negative_infinity();
                new_top = fmaxf(new_top, scores[2 * set + i]);
            }
        }
#pragma unroll
        for (int bits = 1; bits < 4; bits *= 2)
            new_top = fmaxf(new_top, __shfl_xor_sync(ALL_LANES, new_top, bits));
        const float factor = exp_of(top - new_top);
        top = new_top;
        total *= factor;
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[j][0] *= factor, sums[j][1] *= factor;
        unsigned weights[KeyParts::SETS];
#pragma unroll
        for (int set = 0; set < KeyParts::SETS; ++set) {
            const __half low = __float2half_rn(exp_of(scores[2 * set] - top));
            const __half high = __float2half_rn(exp_of(scores[2 * set + 1] - top));
            weights[set] = pack_halves(low, high);
            total += to_float(low) + to_float(high);
        }
#pragma unroll
        for (int i = 0; i < KeyParts::VALUES; i += 4) {
            const unsigned own_weights[4] = {weights[i / 2], 0, weights[i / 2 + 1], 0};
            add_values(&parts.values[i], own_weights);
        }
    }

    // 16 keys' values, of which this lane has four.
    __device__ __forceinline__ void add_values(const uint4* values, const unsigned (&weights)[4]) {
        const unsigned words[4][4] = {
            {values[0].x, values[0].y, values[0].z, values[0].w},
            {values[1].x, values[1].y, values[1].z, values[1].w},
            {values[2].x, values[2].y, values[2].z, values[2].w},
            {values[3].x, values[3].y, values[3].z, values[3].w}};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            const unsigned low[2] = {lows_of(words[0][word], words[1][word]),
                                     lows_of(words[2][word], words[3][word])};
            const unsigned high[2] = {highs_of(words[0][word], words[1][word]),
                                      highs_of(words[2][word], words[3][word])};
            mma_m16n8k16(sums[2 * word], weights, low);
            mma_m16n8k16(sums[2 * word + 1], weights, high);
        }
    }
    static __device__ __forceinline__ unsigned lows_of(unsigned a, unsigned b) {
        return (a & 0xffffu) | b << 16;
    }
    static __device__ __forceinline__ unsigned highs_of(unsigned a, unsigned b) {
        return a >> 16 | (b & 0xffff0000u);
    }

    // Into this warp's PART_WORDS floats of shared memory.
    __device__ __forceinline__ void leave(float* part) {
#pragma unroll
        for (int bits = 1; bits < 4; bits *= 2) total += __shfl_xor_sync(ALL_LANES, total, bits);
        const int lane = threadIdx.x % 32;
        if (lane >= 4) return;
#pragma unroll
        for (int j = 0; j < 16; j += 2)
            *reinterpret_cast<float2*>(part + 16 * lane + j) =
                make_float2(sums[j % 8][j / 8], sums[j % 8 + 1][j / 8]);
        if (lane == 0) *reinterpret_cast<float2*>(part + HEAD_WIDTH) = make_float2(top, total);
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

    // Brings this block's keys and values of the text into L2. Those of the audio come from memory while the
    // query is waited for: asked for earlier, they are in the way of what others wait for.
    __device__ __forceinline__ void fetch_text(const StepLayer& layer) const {
#pragma unroll 1
        for (int i = blockIdx.x; i < HeardItem::count(true); i += gridDim.x) {
            const Keys keys = keys_of(layer, true, HeardItem::at(true, i));
            constexpr int NEAR = 32, PARTS = (HEAD_WIDTH + NEAR - 1) / NEAR;  // halves, of a row
            const int end = 2 * PARTS * (keys.end - keys.num_by_words);
#pragma unroll 1
            for (int part = threadIdx.x; part < end; part += THREADS)
                prefetch_near(
                    keys.from + static_cast<long long>(part / PARTS) * WIDTH + part % PARTS * NEAR);
        }
    }

    // 8 columns, of four words.
    static __device__ __forceinline__ uint4 eight_of(const uint4& low, const uint4& high) {
        return make_uint4(low.x, low.z, high.x, high.z);
    }

    // 16 columns of a head's query for every lane; its newest key and value too, for those lanes of the
    // first warp that have them. All are asked for at once.
    template <bool WITH_NEWEST>
    __device__ __forceinline__ void await_query(
        const HeardItem& item, unsigned flag, uint4 (&query)[2], KeyParts& parts) const {
        const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
        const Word* from = words.own().queries() + item.b * QUERY_WORDS + item.head * (HEAD_WIDTH / 2);
        const Word* own = from + 8 * pair;
        const Word* value = from + WIDTH + 4 * group;
        uint4 found[WITH_NEWEST ? 10 : 4];
        await_words<false>(flag, found, [=](int i) {
            return i < 8 ? own + i / 4 * (WIDTH / 2) + i % 4 * 2 : value + (i - 8) * 2;
        });
        query[0] = eight_of(found[0], found[1]), query[1] = eight_of(found[2], found[3]);
        if constexpr (WITH_NEWEST) {
            if (group == 0) {
                parts.keys[0][0] = eight_of(found[4], found[5]);
                parts.keys[0][1] = eight_of(found[6], found[7]);
            }
            if (pair == 0) parts.values[0] = eight_of(found[8], found[9]);
        }
    }

    // words.heard() of queries with this flag.
    __device__ __forceinline__ void hear(const StepLayer& layer, bool is_text, unsigned flag) const {
#pragma unroll 1
        for (int i = blockIdx.x; i < HeardItem::count(is_text); i += gridDim.x) {
            const HeardItem item = HeardItem::at(is_text, i);
            const Keys all = keys_of(layer, is_text, item);
            WarpHeard heard;
            heard.begin();
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
        const StepRow row = rows[item.b];
        const int place = !is_text && row.is_watched ? layer.aligned[item.head] : -1;
        const long long line = static_cast<long long>(item.b) * POSITIONS + row.step;
        T* scores = kept + (line * num_aligned + place) * num_positions;
        const auto keep = [=](int key, float score) {
            if (place >= 0) scores[key] = to_storage(score);
        };
        KeyParts parts;
        parts.load(all, 0);
        uint4 query[2];
        if (is_text && threadIdx.x < 32)
            await_query<true>(item, flag, query, parts);
        else
            await_query<false>(item, flag, query, parts);
        __syncwarp();
#pragma unroll 1
        for (int at = 0;;) {
            heard.add(parts, all, at, query, keep);
            at += BLOCK_KEYS;
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
