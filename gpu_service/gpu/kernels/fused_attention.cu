// Attention of whole utterances in one kernel: scores by key and by relative position, softmax and
// the sum of values, with nothing in between in memory. Half only; E is a multiple of 32.
//
//   score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(E),   heard_i = sum_j softmax_j v_j
//
// A block has 64 queries of one head of one utterance, a warp 16 of them, and walks over the real
// keys, 64 at a time, with a running maximum and sum (as FlashAttention does). Relative positions
// of 16 queries to 64 keys are a band of 79 rows of the position table: its scores go to shared
// memory by position, and come back by key as what the scores by key are added to.
//
// Fragments are those of mma_m16n8k16 (common.cuh). Which of the 16 inner elements is which does
// not matter as long as both operands agree, so a lane takes 8 neighbours at once, for two
// products: of elements 8 pair ... 8 pair + 7 the first four are its inner indices of the first
// product (2 pair, 2 pair + 1, 2 pair + 8, 2 pair + 9), the last four those of the second. The same
// freedom with the columns of the result: column g of product r of four is element 4 g + r of 32.
//
// Bound by shared memory: every fragment of K, P and V is read by each warp, 256 bytes a product.
#include "encoder.cuh"

#define WARPS 4
#define TILE 64             // queries of a block, keys of a step
#define BAND 80             // positions of a warp's queries and a step's keys, in columns of 8
#define RING (2 * TILE)     // rows of the position table that a block needs at a step
#define BAND_STRIDE 88      // floats: 24 banks a row keep stores of 4 rows apart
#define VALUE_STRIDE (HEAD_WIDTH + 8)  // words: 8 banks a row keep reads of 4 rows apart
#define CHUNKS (HEAD_WIDTH / 8)        // 16-byte pieces of a row
#define SLICES (HEAD_WIDTH / 32)
#define NEGATIVE -1e30f

// Where piece `chunk` of a row lies: every second row uses the other half of the banks.
__device__ __forceinline__ int piece(int row, int chunk) {
    return row * CHUNKS + (CHUNKS % 8 == 0 ? chunk ^ ((row & 1) << 2) : chunk);
}

// The A fragments of 16 rows of q plus a bias: fragments[2 s], [2 s + 1] for elements 32 s ...
__device__ __forceinline__ void load_queries(
    const __half* q, int num_rows, int row, int pair, const float* bias,
    unsigned (&fragments)[2 * SLICES][4]) {
#pragma unroll
    for (int s = 0; s < SLICES; ++s) {
        float b[8];
        load8(bias + 32 * s + 8 * pair, b);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float x[8] = {};
            if (row + 8 * half < num_rows)
                load8(q + (long long)(row + 8 * half) * 3 * WIDTH + 32 * s + 8 * pair, x);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                fragments[2 * s + i / 2][half + 2 * (i % 2)] = pack_halves(
                    saturated_half(x[2 * i] + b[2 * i]),
                    saturated_half(x[2 * i + 1] + b[2 * i + 1]));
        }
    }
}

// sums[t] += queries . rows^T, for N columns of 8 rows from `first` on in shared memory. Products
// with the same sums are N apart, so that one need not wait for the other.
template <int N>
__device__ __forceinline__ void multiply_rows(
    float (*sums)[4], const unsigned (&queries)[2 * SLICES][4], const uint4* rows, int first,
    int group, int pair) {
#pragma unroll
    for (int s = 0; s < SLICES; ++s) {
        uint4 b[N];
#pragma unroll
        for (int t = 0; t < N; ++t)
            b[t] = rows[piece((first + 8 * t + group) & (RING - 1), 4 * s + pair)];
#pragma unroll
        for (int t = 0; t < N; ++t) mma_m16n8k16(sums[t], queries[2 * s], {b[t].x, b[t].y});
#pragma unroll
        for (int t = 0; t < N; ++t) mma_m16n8k16(sums[t], queries[2 * s + 1], {b[t].z, b[t].w});
    }
}

// Rows [0, 64) of `from`, `stride` elements apart, to rows `slot` + ... of the shared `to`; zeros
// for those outside of [low, high).
__device__ __forceinline__ void load_rows(
    const __half* from, long long stride, int low, int high, uint4* to, int slot) {
#pragma unroll
    for (int i = 0; i < TILE * CHUNKS / (32 * WARPS); ++i) {
        int at = i * 32 * WARPS + threadIdx.x;
        int row = at / CHUNKS, chunk = at % CHUNKS;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (low <= row && row < high) x = *(const uint4*)(from + row * stride + 8 * chunk);
        to[piece(slot + row, chunk)] = x;
    }
}

// 64 rows of values as (32, E) words of two: rows 2 m and 2 m + 1 of one element.
__device__ __forceinline__ void load_values(const __half* from, int num_rows, unsigned* to) {
#pragma unroll
    for (int i = 0; i < TILE / 2 * CHUNKS / (32 * WARPS); ++i) {
        int at = i * 32 * WARPS + threadIdx.x;
        int m = at / CHUNKS, chunk = at % CHUNKS;
        uint4 x = make_uint4(0, 0, 0, 0), y = x;
        const __half* start = from + (long long)(2 * m) * 3 * WIDTH + 8 * chunk;
        if (2 * m < num_rows) x = *(const uint4*)start;
        if (2 * m + 1 < num_rows) y = *(const uint4*)(start + 3 * WIDTH);
        uint4* target = (uint4*)(to + m * VALUE_STRIDE + 8 * chunk);
        target[0] = make_uint4(
            (x.x & 0xffffu) | y.x << 16, x.x >> 16 | (y.x & 0xffff0000u),
            (x.y & 0xffffu) | y.y << 16, x.y >> 16 | (y.y & 0xffff0000u));
        target[1] = make_uint4(
            (x.z & 0xffffu) | y.z << 16, x.z >> 16 | (y.z & 0xffff0000u),
            (x.w & 0xffffu) | y.w << 16, x.w >> 16 | (y.w & 0xffff0000u));
    }
}

// The scores by position of a warp's 16 queries, through `band` in shared memory, as what the
// scores by key start from: scores[t] for keys 8 t ... of the step.
__device__ __forceinline__ void position_scores(
    float (&scores)[TILE / 8][4], const unsigned (&queries)[2 * SLICES][4], const uint4* ring,
    int first, int num_keys, float* band, int group, int pair) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int column = half * BAND / 2;
        if (column >= num_keys + 15) break;
        float sums[BAND / 16][4] = {};
        multiply_rows<BAND / 16>(sums, queries, ring, first + column, group, pair);
#pragma unroll
        for (int t = 0; t < BAND / 16; ++t) {
            float* to = band + group * BAND_STRIDE + column + 8 * t + 2 * pair;
            *(float2*)to = make_float2(sums[t][0], sums[t][1]);
            *(float2*)(to + 8 * BAND_STRIDE) = make_float2(sums[t][2], sums[t][3]);
        }
    }
    __syncwarp();
    // Query i meets key j in column 15 - i + j.
    const float* from = band + group * BAND_STRIDE + 15 - group + 2 * pair;
#pragma unroll
    for (int t = 0; t < TILE / 8; ++t) {
        scores[t][0] = from[8 * t];
        scores[t][1] = from[8 * t + 1];
        scores[t][2] = from[8 * t + 8 * BAND_STRIDE - 8];
        scores[t][3] = from[8 * t + 8 * BAND_STRIDE - 7];
    }
    __syncwarp();
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// One step of the running softmax, for the rows group and group + 8: scores become weights relative
// to the new maximum, and what was summed so far is scaled to it.
__device__ __forceinline__ void softmax_step(
    float (&scores)[TILE / 8][4], int num_keys, int pair, float (&top)[2], float (&total)[2],
    float (&heard)[CHUNKS][4]) {
    float scale = rsqrtf((float)HEAD_WIDTH);
    float highest[2] = {top[0], top[1]}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int t = 0; t < TILE / 8; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            bool is_there = 8 * t + 2 * pair + i % 2 < num_keys;
            scores[t][i] = is_there ? scores[t][i] * scale : NEGATIVE;
            highest[i / 2] = fmaxf(highest[i / 2], scores[t][i]);
        }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        highest[row] = quad_max(highest[row]);
        float factor = __expf(top[row] - highest[row]);
        top[row] = highest[row];
        total[row] *= factor;
#pragma unroll
        for (int n = 0; n < CHUNKS; ++n) {
            heard[n][2 * row] *= factor;
            heard[n][2 * row + 1] *= factor;
        }
    }
#pragma unroll
    for (int t = 0; t < TILE / 8; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            scores[t][i] = __expf(scores[t][i] - highest[i / 2]);
            sum[i / 2] += scores[t][i];
        }
    for (int row = 0; row < 2; ++row) total[row] += sum[row];  // of this lane's keys
}

// heard += weights . values, of the first num_keys keys.
__device__ __forceinline__ void add_values(
    float (&heard)[CHUNKS][4], const float (&weights)[TILE / 8][4], const unsigned* values,
    int num_keys, int group, int pair) {
#pragma unroll
    for (int t = 0; t < TILE / 16; ++t) {
        if (16 * t >= num_keys) break;
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float(&w)[4] = weights[2 * t + i / 2];
            a[i] = pack_halves(
                __float2half_rn(w[2 * (i % 2)]), __float2half_rn(w[2 * (i % 2) + 1]));
        }
#pragma unroll
        for (int s = 0; s < SLICES; ++s) {
            const unsigned* at = values + (8 * t + pair) * VALUE_STRIDE + 32 * s + 4 * group;
            uint4 low = *(const uint4*)at;
            uint4 high = *(const uint4*)(at + 4 * VALUE_STRIDE);
            mma_m16n8k16(heard[4 * s], a, {low.x, high.x});
            mma_m16n8k16(heard[4 * s + 1], a, {low.y, high.y});
            mma_m16n8k16(heard[4 * s + 2], a, {low.z, high.z});
            mma_m16n8k16(heard[4 * s + 3], a, {low.w, high.w});
        }
    }
}

// qkv (B N, 3 D), u and v (D,), positions (2 max_frames, D): row max_frames - 1 - d is distance d
// -> heard (B N, D), zeros for frames that are not real.
// Grid: (N / 64, H, B), block: 128, dynamic shared memory: see fused_attention_bytes() in Python.
extern "C" __global__ void __launch_bounds__(128, 2) attend(
    const __half* qkv, const __half* positions, const float* u, const float* v, const int* rows,
    __half* heard, int num_frames, int max_frames) {
    DYNAMIC_SHARED(uint4, keys);
    uint4* ring = keys + TILE * CHUNKS;
    unsigned* values = (unsigned*)(ring + RING * CHUNKS);
    int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    float* band = (float*)(values + TILE / 2 * VALUE_STRIDE) + warp * 16 * BAND_STRIDE;

    int first_query = blockIdx.x * TILE, column = blockIdx.y * HEAD_WIDTH;
    int num_real = real_frames(rows + 4 * blockIdx.z, num_frames);
    long long first_row = (long long)blockIdx.z * num_frames;
    const __half* queries = qkv + first_row * 3 * WIDTH + column;
    const __half* table = positions + column;
    int query = first_query + 16 * warp + group;
    bool is_busy = first_query + 16 * warp < num_real;  // whether this warp has a real query
    int first_position = max_frames - 1 - (first_query + TILE - 1);  // of the block, at key 0

    unsigned with_u[2 * SLICES][4], with_v[2 * SLICES][4];
    load_queries(queries, num_real, query, pair, u + column, with_u);
    load_queries(queries, num_real, query, pair, v + column, with_v);
    float sums[CHUNKS][4] = {};
    float top[2] = {NEGATIVE, NEGATIVE}, total[2] = {0.0f, 0.0f};

    for (int key = 0; key < num_real && first_query < num_real; key += TILE) {
        __syncthreads();
        const __half* row = queries + (long long)key * 3 * WIDTH;
        load_rows(row + WIDTH, 3 * WIDTH, 0, num_real - key, keys, 0);
        load_values(row + 2 * WIDTH, num_real - key, values);
        for (int part = key == 0 ? 0 : TILE; part < RING; part += TILE) {
            int position = first_position + key + part;
            load_rows(table + (long long)position * WIDTH, WIDTH, -position,
                      2 * max_frames - position, ring, (key + part) & (RING - 1));
        }
        __syncthreads();
        if (!is_busy) continue;
        int num_keys = num_real - key;
        float scores[TILE / 8][4];
        position_scores(
            scores, with_v, ring, key + TILE - 16 * (warp + 1), num_keys, band, group, pair);
        multiply_rows<TILE / 16>(scores, with_u, keys, 0, group, pair);
        if (num_keys > TILE / 2)
            multiply_rows<TILE / 16>(
                scores + TILE / 16, with_u, keys, TILE / 2, group, pair);
        softmax_step(scores, num_keys, pair, top, total, sums);
        add_values(sums, scores, values, num_keys, group, pair);
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float inverse = __fdividef(1.0f, quad_sum(total[half]));
        int frame = query + 8 * half;
        if (frame >= num_frames) continue;
        __half* to = heard + (first_row + frame) * WIDTH + column + 8 * pair;
#pragma unroll
        for (int s = 0; s < SLICES; ++s) {
            float x[8];
#pragma unroll
            for (int i = 0; i < 8; ++i)
                x[i] = frame < num_real ? sums[4 * s + i % 4][2 * half + i / 4] * inverse : 0.0f;
            store8(to + 32 * s, x);
        }
    }
}
