// Tiles of fused attention, in half: a warp has 16 queries, or M times as many, and takes 64 keys a
// step, with a running maximum and sum (as FlashAttention does). Shared by fused_attention.cu, whose
// scores know positions, and whisper_attention.cu, whose scores do not.
//
// Fragments are those of mma_m16n8k16 (common.cuh). Which of the 16 inner elements is which does
// not matter as long as both operands agree, so a lane takes 8 neighbours at once, for two
// products: of elements 8 pair ... 8 pair + 7 the first four are its inner indices of the first
// product (2 pair, 2 pair + 1, 2 pair + 8, 2 pair + 9), the last four those of the second. The same
// freedom with the columns of the result: column g of product r of four is element 4 g + r of 32.
//
// WIDTH D and HEAD_WIDTH E, a multiple of 32, are constants of the source that includes it.
#pragma once

#include "common.cuh"

#define WARPS 4
#define TILE 64             // keys of a step, and queries of a block of fused_attention.cu
#define RING (2 * TILE)     // rows that shared memory of rows has at most
#define VALUE_STRIDE (HEAD_WIDTH + 8)  // words: 8 banks a row keep reads of 4 rows apart
#define CHUNKS (HEAD_WIDTH / 8)        // 16-byte pieces of a row
#define SLICES (HEAD_WIDTH / 32)
#define NEGATIVE -1e30f
#define LOG2_E 1.4426950409f

// Where piece `chunk` of a row lies: every second row uses the other half of the banks.
__device__ __forceinline__ int piece(int row, int chunk) {
    return row * CHUNKS + (CHUNKS % 8 == 0 ? chunk ^ ((row & 1) << 2) : chunk);
}

// The A fragments of 16 rows of q plus a bias, or none: fragments[2 s], [2 s + 1] for elements 32 s
__device__ __forceinline__ void load_queries(
    const __half* q, int num_rows, int row, int pair, const float* bias,
    unsigned (&fragments)[2 * SLICES][4]) {
#pragma unroll
    for (int s = 0; s < SLICES; ++s) {
        float b[8] = {};
        if (bias != nullptr) load8(bias + 32 * s + 8 * pair, b);
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

// sums[m][t] += queries[m] . rows^T, for M times 16 queries and N columns of 8 rows from `first` on in
// shared memory; sums[m] are TILE / 8 apart. Products with the same sums are at least N apart, so that
// one need not wait for the other.
template <int N, int M = 1>
__device__ __forceinline__ void multiply_rows(
    float (*sums)[4], const unsigned (*queries)[2 * SLICES][4], const uint4* rows, int first,
    int group, int pair) {
#pragma unroll
    for (int s = 0; s < SLICES; ++s) {
        uint4 b[N];
#pragma unroll
        for (int t = 0; t < N; ++t)
            b[t] = rows[piece((first + 8 * t + group) & (RING - 1), 4 * s + pair)];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int t = 0; t < N; ++t)
                mma_m16n8k16(sums[m * (TILE / 8) + t], queries[m][2 * s], {b[t].x, b[t].y});
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int t = 0; t < N; ++t)
                mma_m16n8k16(sums[m * (TILE / 8) + t], queries[m][2 * s + 1], {b[t].z, b[t].w});
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

// 64 rows of values, which become (32, E) words of two: rows 2 m and 2 m + 1 of one element. They are
// loaded in one place and stored in another, so that something can be done meanwhile.
struct Values {
    static constexpr int PIECES = TILE / 2 * CHUNKS / (32 * WARPS);  // of a thread
    uint4 even[PIECES], odd[PIECES];

    static __device__ __forceinline__ int pair_of(int i) {
        return (i * 32 * WARPS + threadIdx.x) / CHUNKS;
    }
    static __device__ __forceinline__ int column_of(int i) {
        return (i * 32 * WARPS + threadIdx.x) % CHUNKS * 8;
    }

    // Zeros from row num_rows on.
    __device__ __forceinline__ void load(const __half* from, int num_rows) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            int row = 2 * pair_of(i);
            const __half* start = from + (long long)row * 3 * WIDTH + column_of(i);
            even[i] = odd[i] = make_uint4(0, 0, 0, 0);
            if (row < num_rows) even[i] = *(const uint4*)start;
            if (row + 1 < num_rows) odd[i] = *(const uint4*)(start + 3 * WIDTH);
        }
    }

    __device__ __forceinline__ void store(unsigned* to) const {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const uint4 x = even[i], y = odd[i];
            uint4* target = (uint4*)(to + pair_of(i) * VALUE_STRIDE + column_of(i));
            target[0] = make_uint4(
                (x.x & 0xffffu) | y.x << 16, x.x >> 16 | (y.x & 0xffff0000u),
                (x.y & 0xffffu) | y.y << 16, x.y >> 16 | (y.y & 0xffff0000u));
            target[1] = make_uint4(
                (x.z & 0xffffu) | y.z << 16, x.z >> 16 | (y.z & 0xffff0000u),
                (x.w & 0xffffu) | y.w << 16, x.w >> 16 | (y.w & 0xffff0000u));
        }
    }
};

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
    const float scale = LOG2_E * rsqrtf((float)HEAD_WIDTH);  // exp(x / sqrt(E)) = exp2(scale x)
    float highest[2] = {top[0], top[1]}, sum[2] = {0.0f, 0.0f}, lowered[2];
    if (num_keys < TILE) {
#pragma unroll
        for (int t = 0; t < TILE / 8; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (8 * t + 2 * pair + i % 2 >= num_keys) scores[t][i] = NEGATIVE;
    }
#pragma unroll
    for (int t = 0; t < TILE / 8; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) highest[i / 2] = fmaxf(highest[i / 2], scores[t][i]);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        highest[row] = quad_max(highest[row]);
        float factor = exp2_of((top[row] - highest[row]) * scale);
        top[row] = highest[row];
        lowered[row] = -highest[row] * scale;
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
            scores[t][i] = exp2_of(fmaf(scores[t][i], scale, lowered[i / 2]));
            sum[i / 2] += scores[t][i];
        }
    for (int row = 0; row < 2; ++row) total[row] += sum[row];  // of this lane's keys
}

// heard[m] += weights[m] . values, of the first num_keys keys, for M times 16 queries.
template <int M>
__device__ __forceinline__ void add_values(
    float (&heard)[M][CHUNKS][4], const float (&weights)[M][TILE / 8][4], const unsigned* values,
    int num_keys, int group, int pair) {
#pragma unroll
    for (int t = 0; t < TILE / 16; ++t) {
        if (16 * t >= num_keys) break;
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&w)[4] = weights[m][2 * t + i / 2];
                a[m][i] = pack_halves(
                    __float2half_rn(w[2 * (i % 2)]), __float2half_rn(w[2 * (i % 2) + 1]));
            }
#pragma unroll
        for (int s = 0; s < SLICES; ++s) {
            const unsigned* at = values + (8 * t + pair) * VALUE_STRIDE + 32 * s + 4 * group;
            uint4 low = *(const uint4*)at;
            uint4 high = *(const uint4*)(at + 4 * VALUE_STRIDE);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma_m16n8k16(heard[m][4 * s], a[m], {low.x, high.x});
                mma_m16n8k16(heard[m][4 * s + 1], a[m], {low.y, high.y});
                mma_m16n8k16(heard[m][4 * s + 2], a[m], {low.z, high.z});
                mma_m16n8k16(heard[m][4 * s + 3], a[m], {low.w, high.w});
            }
        }
    }
}

// The block's answer: rows of sums over totals, `to` being row 0 of this head; zeros for frames of
// the batch row that are not real.
__device__ __forceinline__ void store_heard(
    const float (&sums)[CHUNKS][4], const float (&total)[2], __half* to, int query, int num_frames,
    int num_real, int pair) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float inverse = __fdividef(1.0f, quad_sum(total[half]));
        int frame = query + 8 * half;
        if (frame >= num_frames) continue;
        __half* row = to + (long long)frame * WIDTH + 8 * pair;
#pragma unroll
        for (int s = 0; s < SLICES; ++s) {
            float x[8];
#pragma unroll
            for (int i = 0; i < 8; ++i)
                x[i] = frame < num_real ? sums[4 * s + i % 4][2 * half + i / 4] * inverse : 0.0f;
            store8(row + 32 * s, x);
        }
    }
}
