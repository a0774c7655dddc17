// Attention of Whisper's encoder in one kernel: every position hears all of its window. Half only; E
// is a multiple of 32 (it is 64 in every model).
//
//   heard_i = sum_j softmax_j (q_i k_j / sqrt(E)) v_j
//
// A block has 64 queries of one head of one window, a warp 16 of them, and walks over the keys, 64
// at a time (attention_tiles.cuh). Bound by shared memory, as fused_attention.cu is.
// WIDTH D, HEAD_WIDTH E.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif
#include "attention_tiles.cuh"

// qkv (B N, 3 D) -> heard (B N, D). Grid: (N / 64, H, B), block: 128.
extern "C" __global__ void __launch_bounds__(128, 4) hear_window(
    const __half* qkv, __half* heard, int num_positions) {
    __shared__ uint4 keys[TILE * CHUNKS];
    __shared__ uint4 shared_values[TILE / 2 * VALUE_STRIDE / 4];
    unsigned* values = (unsigned*)shared_values;
    int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    int first_query = blockIdx.x * TILE, column = blockIdx.y * HEAD_WIDTH;
    int query = first_query + 16 * warp + group;
    bool is_busy = first_query + 16 * warp < num_positions;
    long long first_row = (long long)blockIdx.z * num_positions;
    const __half* queries = qkv + first_row * 3 * WIDTH + column;

    unsigned fragments[2 * SLICES][4];
    load_queries(queries, num_positions, query, pair, nullptr, fragments);
    float sums[CHUNKS][4] = {};
    float top[2] = {NEGATIVE, NEGATIVE}, total[2] = {0.0f, 0.0f};
    for (int key = 0; key < num_positions; key += TILE) {
        __syncthreads();
        const __half* row = queries + (long long)key * 3 * WIDTH;
        load_rows(row + WIDTH, 3 * WIDTH, 0, num_positions - key, keys, 0);
        load_values(row + 2 * WIDTH, num_positions - key, values);
        __syncthreads();
        if (!is_busy) continue;
        float scores[TILE / 8][4] = {};
        multiply_rows<TILE / 8>(scores, fragments, keys, 0, group, pair);
        softmax_step(scores, num_positions - key, pair, top, total, sums);
        add_values(sums, scores, values, num_positions - key, group, pair);
    }
    store_heard(
        sums, total, heard + first_row * WIDTH + column, query, num_positions, num_positions, pair);
}
