// Attention of Whisper's encoder in one kernel: every position hears all of its window. Half only; E
// is 32 or 64 (it is 64 in every model): shared memory has keys and values twice.
//
//   heard_i = sum_j softmax_j (q_i k_j / sqrt(E)) v_j
//
// A block has 128 queries of one head of one window, a warp 32 of them, so that what it reads of keys and
// values in shared memory serves two products. It walks over the keys, 64 at a time
// (attention_tiles.cuh); the next ones are on their way meanwhile. Bound by tensor cores and exp2.
// WIDTH D, HEAD_WIDTH E.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#endif
#include "attention_tiles.cuh"

#define ROW_TILES 2  // of 16 queries, of a warp

// Begins to copy 64 keys; behind the last one it is that one again, which is not looked at.
__device__ __forceinline__ void begin_keys(const __half* from, int num_rows, uint4* to) {
#pragma unroll
    for (int i = 0; i < TILE * CHUNKS / (32 * WARPS); ++i) {
        int at = i * 32 * WARPS + threadIdx.x;
        int row = at / CHUNKS, chunk = at % CHUNKS;
        copy_async<0, 0>(
            reinterpret_cast<unsigned char*>(to + piece(row, chunk)),
            from + (long long)min(row, num_rows - 1) * 3 * WIDTH + 8 * chunk);
    }
}

// qkv (B N, 3 D) -> heard (B N, D). Grid: (N / 128, H, B), block: 128.
extern "C" __global__ void __launch_bounds__(128, 2) hear_window(
    const __half* qkv, __half* heard, int num_positions) {
    __shared__ uint4 keys[2][TILE * CHUNKS];
    __shared__ uint4 shared_values[2][TILE / 2 * VALUE_STRIDE / 4];
    int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    int first_query = 16 * ROW_TILES * (blockIdx.x * WARPS + warp);
    int column = blockIdx.y * HEAD_WIDTH;
    long long first_row = (long long)blockIdx.z * num_positions;
    const __half* queries = qkv + first_row * 3 * WIDTH + column;

    unsigned fragments[ROW_TILES][2 * SLICES][4];
    float sums[ROW_TILES][CHUNKS][4] = {}, top[ROW_TILES][2], total[ROW_TILES][2];
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m) {
        load_queries(
            queries, num_positions, first_query + 16 * m + group, pair, nullptr, fragments[m]);
        top[m][0] = top[m][1] = NEGATIVE;
        total[m][0] = total[m][1] = 0.0f;
    }
    Values fresh;
    begin_keys(queries + WIDTH, num_positions, keys[0]);
    fresh.load(queries + 2 * WIDTH, num_positions);
    fresh.store((unsigned*)shared_values[0]);
    wait_copies();
    __syncthreads();
    for (int key = 0, now = 0; key < num_positions; key += TILE, now ^= 1) {
        const int num_keys = num_positions - key;
        const bool is_last = num_keys <= TILE;
        const __half* next = queries + (long long)(key + TILE) * 3 * WIDTH;
        if (!is_last) {
            begin_keys(next + WIDTH, num_keys - TILE, keys[now ^ 1]);
            fresh.load(next + 2 * WIDTH, num_keys - TILE);
        }
        if (first_query < num_positions) {
            float scores[ROW_TILES][TILE / 8][4] = {};
            multiply_rows<TILE / 16, ROW_TILES>(
                scores[0], fragments, keys[now], 0, group, pair);
            multiply_rows<TILE / 16, ROW_TILES>(
                scores[0] + TILE / 16, fragments, keys[now], TILE / 2, group, pair);
#pragma unroll
            for (int m = 0; m < ROW_TILES; ++m)
                softmax_step(scores[m], num_keys, pair, top[m], total[m], sums[m]);
            add_values(sums, scores, (const unsigned*)shared_values[now], num_keys, group, pair);
        }
        if (is_last) break;
        fresh.store((unsigned*)shared_values[now ^ 1]);
        wait_copies();
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
        store_heard(
            sums[m], total[m], heard + first_row * WIDTH + column, first_query + 16 * m + group,
            num_positions, num_positions, pair);
}
