// The streaming encoder's attention by tensor cores, for half and heads whose width is a
// multiple of 64. See increments.cuh.
//
// Bound by reading keys and values: 134 MB a layer for 256 sessions with 128 frames each, 45 us at
// 3 TB/s. Heads come last in the grid, so that blocks beside each other share the positions of one
// head (38 KB) in the L1 cache, where keys and values, read once, are the first to go.
//
// Nothing but the queries is staged: a lane's 16-byte loads of a row are the fragments
// themselves. A product does not mind in which order its columns come, if both factors have the
// same order. So for queries by keys, lane 4 g + c takes elements 32 s + 8 c .. + 7 of row g,
// and these eight are its share of two products (16, 16) x (16, 8): the first four of one, the
// last four of the next. For weights by values, a lane takes elements 64 s + 8 g .. + 7 of four
// keys, and column g of the t-th of eight products is element 64 s + 8 g + t. Each warp goes
// through every fourth block of 16 keys with a softmax of its own (maximum, sum and output so
// far, as in FlashAttention); at the end the four are put together in a fixed order.

// Half, whatever the rest of the encoder is.
#undef STORAGE_HALF
#define STORAGE_HALF 1

#include "encoder.cuh"
#include "increments.cuh"

static_assert(HEAD_WIDTH % 64 == 0, "a lane takes whole loads of a row");

constexpr int CHUNKS = HEAD_WIDTH / 32;       // 16-byte loads of a lane for one row
constexpr int STEPS = HEAD_WIDTH / 16;        // products of 16 columns
constexpr int VALUE_CHUNKS = HEAD_WIDTH / 64;
constexpr int OUT_TILES = HEAD_WIDTH / 8;
constexpr int OUT_STRIDE = HEAD_WIDTH + 8;    // of a row of partial outputs: no bank conflicts
constexpr int KEY_BLOCK = 16;
constexpr int WARPS_STRIDE = KEY_BLOCK * NUM_WARPS;

struct Lane {
    int group, pair;  // lane = 4 * group + pair
};

__device__ __forceinline__ uint4 load_row_part(const T* row, int column) {
    return *reinterpret_cast<const uint4*>(row + column);
}

// Keys and values: read once, so they need not push anything out of the caches.
__device__ __forceinline__ uint4 load_once(const T* row, int column) {
    return __ldcs(reinterpret_cast<const uint4*>(row + column));
}

// Queries with a bias, as A fragments in shared memory: (STEPS, 32 lanes) of 16 bytes.
__device__ __forceinline__ void stage_fragments(
    uint4* fragments, const T* rows, const float* bias, int first_query, int num_frames, Lane lane
) {
    for (int chunk = threadIdx.x / 32; chunk < CHUNKS; chunk += NUM_WARPS) {
        const int column = 32 * chunk + 8 * lane.pair;
        unsigned words[2][4];  // of rows group and group + 8
        #pragma unroll
        for (int half = 0; half < 2; ++half) {
            // A query that is not there repeats the last one; nobody reads what comes of it.
            const int query = min(first_query + lane.group + 8 * half, num_frames - 1);
            float x[8];
            load8(rows + query * 3 * WIDTH + column, x);
            #pragma unroll
            for (int k = 0; k < 8; ++k) x[k] += bias[column + k];
            #pragma unroll
            for (int k = 0; k < 4; ++k) {
                words[half][k] =
                    pack_halves(saturated_half(x[2 * k]), saturated_half(x[2 * k + 1]));
            }
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            fragments[(2 * chunk + i) * 32 + threadIdx.x % 32] = make_uint4(
                words[0][2 * i], words[1][2 * i], words[0][2 * i + 1], words[1][2 * i + 1]
            );
        }
    }
}

// Adds 16 queries by 8 rows: `row` is the lane's share of row `group`.
__device__ __forceinline__ void multiply_rows(
    float (&sums)[4], const uint4* fragments, const uint4 (&row)[CHUNKS]
) {
    #pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 packed = fragments[(2 * chunk + i) * 32 + threadIdx.x % 32];
            const unsigned a[4] = {packed.x, packed.y, packed.z, packed.w};
            const unsigned b[2] = {
                i == 0 ? row[chunk].x : row[chunk].z, i == 0 ? row[chunk].y : row[chunk].w
            };
            mma_m16n8k16(sums, a, b);
        }
    }
}

__device__ __forceinline__ unsigned word_of(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// Element t of two rows of 8 halves, in one word.
__device__ __forceinline__ unsigned pair_of(const uint4& first, const uint4& second, int t) {
    const unsigned a = word_of(first, t / 2), b = word_of(second, t / 2);
    return t % 2 == 0 ? (a & 0xffffu) | (b << 16) : (a >> 16) | (b & 0xffff0000u);
}

// What a warp knows of 16 queries; a lane holds rows group (0) and group + 8 (1).
struct Partial {
    float largest[2], sum[2];
    float out[OUT_TILES][4];
};

// A lane's share of 16 keys.
__device__ __forceinline__ void load_keys(
    uint4 (&key_rows)[2][CHUNKS], const Session& session, int first_key, Lane lane
) {
    #pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
        const int key = min(first_key + 8 * tile + lane.group, session.num_keys - 1);
        const T* row = session.key(key);
        #pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            key_rows[tile][chunk] = load_once(row, 32 * chunk + 8 * lane.pair);
        }
    }
}

// One block of 16 keys from `first_key` on. `key_rows` has them; afterwards it has the warp's next.
__device__ __forceinline__ void attend(
    Partial& partial, uint4 (&key_rows)[2][CHUNKS], const Session& session, const uint4* fragments,
    const float* by_position, int num_columns, int first_key, float scale, Lane lane
) {
    const int last_key = session.num_keys - 1;
    uint4 value_rows[4][VALUE_CHUNKS];
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int key = first_key + 2 * lane.pair + i % 2 + i / 2 * 8;
        const T* row = session.value(min(key, last_key));
        #pragma unroll
        for (int chunk = 0; chunk < VALUE_CHUNKS; ++chunk) {
            value_rows[i][chunk] = load_once(row, 64 * chunk + 8 * lane.group);
        }
    }

    float scores[2][4] = {};
    float largest[2] = {partial.largest[0], partial.largest[1]};
    #pragma unroll
    for (int tile = 0; tile < 2; ++tile) multiply_rows(scores[tile], fragments, key_rows[tile]);
    load_keys(key_rows, session, first_key + WARPS_STRIDE, lane);
    #pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int query = lane.group + i / 2 * 8;
            const int key = first_key + 8 * tile + 2 * lane.pair + i % 2;
            const float shifted = by_position[query * num_columns + TILE - 1 - query + key];
            const bool is_real = key <= last_key;
            scores[tile][i] = is_real ? (scores[tile][i] + shifted) * scale : negative_infinity();
            largest[i / 2] = fmaxf(largest[i / 2], scores[tile][i]);
        }
    }
    float factors[2];
    #pragma unroll
    for (int half = 0; half < 2; ++half) {
        // The four lanes of a group have the row between them. The first key is always real.
        largest[half] = fmaxf(largest[half], __shfl_xor_sync(ALL_LANES, largest[half], 1));
        largest[half] = fmaxf(largest[half], __shfl_xor_sync(ALL_LANES, largest[half], 2));
        factors[half] = exp2f(partial.largest[half] - largest[half]);
        partial.largest[half] = largest[half];
        partial.sum[half] *= factors[half];
    }
    unsigned weights[4];
    #pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
        #pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float low = exp2f(scores[tile][2 * half] - largest[half]);
            const float high = exp2f(scores[tile][2 * half + 1] - largest[half]);
            partial.sum[half] += low + high;
            weights[2 * tile + half] = pack_halves(__float2half_rn(low), __float2half_rn(high));
        }
    }
    #pragma unroll
    for (int tile = 0; tile < OUT_TILES; ++tile) {
        float (&out)[4] = partial.out[tile];
        #pragma unroll
        for (int i = 0; i < 4; ++i) out[i] *= factors[i / 2];
        const int chunk = tile / 8, t = tile % 8;
        const unsigned b[2] = {
            pair_of(value_rows[0][chunk], value_rows[1][chunk], t),
            pair_of(value_rows[2][chunk], value_rows[3][chunk], t)
        };
        mma_m16n8k16(out, weights, b);
    }
}

// Of one warp, to shared memory: (16, OUT_STRIDE) outputs in the order of the fragments, then 16
// maxima and 16 sums.
constexpr int PARTIAL_FLOATS = TILE * OUT_STRIDE + 2 * TILE;

__device__ __forceinline__ void store_partial(float* target, const Partial& partial, Lane lane) {
    #pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = lane.group + 8 * half;
        // The lanes of a group have each summed their own keys.
        float sum = partial.sum[half];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (lane.pair == 0) {
            target[TILE * OUT_STRIDE + row] = partial.largest[half];
            target[TILE * OUT_STRIDE + TILE + row] = sum;
        }
        #pragma unroll
        for (int tile = 0; tile < OUT_TILES; ++tile) {
            float* at = target + row * OUT_STRIDE + 8 * tile + 2 * lane.pair;
            at[0] = partial.out[tile][2 * half];
            at[1] = partial.out[tile][2 * half + 1];
        }
    }
}

// Puts the warps' parts of each output together, and stores those of real queries.
__device__ __forceinline__ void store_heard(
    T* out, const float* partials, int first_query, int num_frames
) {
    constexpr int ROW_VECTORS = HEAD_WIDTH / 8;
    for (int item = threadIdx.x; item < TILE * ROW_VECTORS; item += THREADS) {
        const int row = item / ROW_VECTORS, vector = item % ROW_VECTORS;
        if (first_query + row >= num_frames) continue;
        const float* states = partials + TILE * OUT_STRIDE + row;
        float largest = negative_infinity();
        #pragma unroll
        for (int warp = 0; warp < NUM_WARPS; ++warp) {
            largest = fmaxf(largest, states[warp * PARTIAL_FLOATS]);
        }
        float sum = 0.0f, total[8] = {};
        #pragma unroll
        for (int warp = 0; warp < NUM_WARPS; ++warp) {
            const float* state = states + warp * PARTIAL_FLOATS;
            const float factor = exp2f(state[0] - largest);
            sum = fmaf(factor, state[TILE], sum);
            const float* from = partials + warp * PARTIAL_FLOATS + row * OUT_STRIDE
                + vector / 8 * 64 + vector % 8;
            #pragma unroll
            for (int t = 0; t < 8; ++t) total[t] = fmaf(factor, from[8 * t], total[t]);
        }
        #pragma unroll
        for (int t = 0; t < 8; ++t) total[t] /= sum;
        store8(out + (first_query + row) * WIDTH + 8 * vector, total);
    }
}

// Shared memory: both kinds of fragments, then by_position (16, num_columns), or the four warps'
// parts where these are more.
extern "C" __global__ void __launch_bounds__(128, 3) increment_attention_mma(
    const int* steps, const T* qkv, const float* bias_u, const float* bias_v, const T* positions,
    T* keys, T* values, T* heard, int bucket_frames, int layer, int num_layers, int ring_rows,
    int max_frames, int num_columns
) {
    DYNAMIC_SHARED(uint4, fragments_u);
    uint4* fragments_v = fragments_u + STEPS * 32;
    float* by_position = reinterpret_cast<float*>(fragments_v + STEPS * 32);
    const int warp = threadIdx.x / 32;
    const Lane lane = {static_cast<int>(threadIdx.x % 32) / 4, static_cast<int>(threadIdx.x) % 4};
    const Session session =
        session_of(steps, qkv, keys, values, bucket_frames, layer, num_layers, ring_rows);
    const int num_frames = session.num_frames;
    const int head_column = blockIdx.y * HEAD_WIDTH;
    T* out = heard + static_cast<long long>(blockIdx.x) * bucket_frames * WIDTH + head_column;
    clear_padding(out, num_frames, bucket_frames);
    const float scale = LOG2_E * rsqrtf(static_cast<float>(HEAD_WIDTH));

    for (int first_query = 0; first_query < num_frames; first_query += TILE) {
        uint4 key_rows[2][CHUNKS];  // on their way while the positions are done
        load_keys(key_rows, session, KEY_BLOCK * warp, lane);
        const T* rows = session.new_rows;
        stage_fragments(fragments_u, rows, bias_u + head_column, first_query, num_frames, lane);
        stage_fragments(fragments_v, rows, bias_v + head_column, first_query, num_frames, lane);
        __syncthreads();
        const int used_columns = session.num_keys + TILE - 1;
        for (int first = 8 * warp; first < used_columns; first += 8 * NUM_WARPS) {
            const T* row = head_column + position_row(
                positions, first_query, session.num_cached, first + lane.group, max_frames
            );
            uint4 parts[CHUNKS];
            #pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                parts[chunk] = load_row_part(row, 32 * chunk + 8 * lane.pair);
            }
            float sums[4] = {};
            multiply_rows(sums, fragments_v, parts);
            #pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int query = lane.group + i / 2 * 8;
                by_position[query * num_columns + first + 2 * lane.pair + i % 2] = sums[i];
            }
        }
        __syncthreads();
        Partial partial = {};
        partial.largest[0] = partial.largest[1] = negative_infinity();
        for (int first = KEY_BLOCK * warp; first < session.num_keys; first += WARPS_STRIDE) {
            attend(
                partial, key_rows, session, fragments_u, by_position, num_columns, first, scale,
                lane
            );
        }
        __syncthreads();  // by_position is read; its place is taken
        store_partial(by_position + warp * PARTIAL_FLOATS, partial, lane);
        __syncthreads();
        store_heard(out, by_position, first_query, num_frames);
        __syncthreads();
    }
    commit(session);
}
