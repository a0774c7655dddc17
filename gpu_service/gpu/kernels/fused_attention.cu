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
// Bound by shared memory: every fragment of K, P and V is read by each warp, 256 bytes a product.
#include "encoder.cuh"
#include "attention_tiles.cuh"

#define BAND 80             // positions of a warp's queries and a step's keys, in columns of 8
#define BAND_STRIDE 88      // floats: 24 banks a row keep stores of 4 rows apart

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
        multiply_rows<BAND / 16>(sums, &queries, ring, first + column, group, pair);
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
    float sums[1][CHUNKS][4] = {};
    float top[2] = {NEGATIVE, NEGATIVE}, total[2] = {0.0f, 0.0f};

    for (int key = 0; key < num_real && first_query < num_real; key += TILE) {
        __syncthreads();
        const __half* row = queries + (long long)key * 3 * WIDTH;
        load_rows(row + WIDTH, 3 * WIDTH, 0, num_real - key, keys, 0);
        Values fresh;
        fresh.load(row + 2 * WIDTH, num_real - key);
        fresh.store(values);
        for (int part = key == 0 ? 0 : TILE; part < RING; part += TILE) {
            int position = first_position + key + part;
            load_rows(table + (long long)position * WIDTH, WIDTH, -position,
                      2 * max_frames - position, ring, (key + part) & (RING - 1));
        }
        __syncthreads();
        if (!is_busy) continue;
        int num_keys = num_real - key;
        float scores[1][TILE / 8][4];
        position_scores(
            scores[0], with_v, ring, key + TILE - 16 * (warp + 1), num_keys, band, group, pair);
        multiply_rows<TILE / 16>(scores[0], &with_u, keys, 0, group, pair);
        if (num_keys > TILE / 2)
            multiply_rows<TILE / 16>(
                scores[0] + TILE / 16, &with_u, keys, TILE / 2, group, pair);
        softmax_step(scores[0], num_keys, pair, top, total, sums[0]);
        add_values(sums, scores, values, num_keys, group, pair);
    }

    store_heard(
        sums[0], total, heard + first_row * WIDTH + column, query, num_frames, num_real, pair);
}
