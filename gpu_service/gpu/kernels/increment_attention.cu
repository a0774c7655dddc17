// The streaming encoder's attention for any sizes: plain, for float. See increments.cuh.

#include "encoder.cuh"
#include "increments.cuh"

// Queries of a tile with a bias, (16, E) float32; rows that are not there are zero.
__device__ __forceinline__ void stage_queries(
    float* staged, const T* rows, const float* bias, int first_query, int num_frames
) {
    for (int i = threadIdx.x; i < TILE * HEAD_WIDTH; i += THREADS) {
        const int query = first_query + i / HEAD_WIDTH, column = i % HEAD_WIDTH;
        const bool is_real = query < num_frames;
        staged[i] = is_real ? to_float(rows[query * 3 * WIDTH + column]) + bias[column] : 0.0f;
    }
}

// All 16 queries by one row of E.
__device__ __forceinline__ void multiply(const float* queries, const T* row, float (&sums)[TILE]) {
    #pragma unroll
    for (int i = 0; i < TILE; ++i) sums[i] = 0.0f;
    for (int column = 0; column < HEAD_WIDTH; column += 8) {
        float values[8];
        load8(row + column, values);
        #pragma unroll
        for (int i = 0; i < TILE; ++i) {
            const float* query = queries + i * HEAD_WIDTH + column;
            #pragma unroll
            for (int k = 0; k < 8; ++k) sums[i] = fmaf(query[k], values[k], sums[i]);
        }
    }
}

// Scores of one query to their exponentials; returns the sum. By one warp.
__device__ __forceinline__ float softmax_weights(float* scores, int num_keys) {
    const int lane = threadIdx.x % 32;
    float largest = negative_infinity();
    for (int j = lane; j < num_keys; j += 32) largest = fmaxf(largest, scores[j]);
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int j = lane; j < num_keys; j += 32) {
        const float weight = exp2f(scores[j] - largest);
        scores[j] = weight;
        sum += weight;
    }
    return warp_sum(sum);
}

// Shared memory: two tiles of queries (16, E), by_position and the scores (16, num_columns), and a
// number for each query.
extern "C" __global__ void __launch_bounds__(128) increment_attention(
    const int* steps, const T* qkv, const float* bias_u, const float* bias_v, const T* positions,
    T* keys, T* values, T* heard, int bucket_frames, int layer, int num_layers, int ring_rows,
    int max_frames, int num_columns
) {
    DYNAMIC_SHARED(float, queries_u);
    float* queries_v = queries_u + TILE * HEAD_WIDTH;
    float* by_position = queries_v + TILE * HEAD_WIDTH;
    float* scores = by_position + TILE * num_columns;
    float* inverse_sums = scores + TILE * num_columns;
    const Session session =
        session_of(steps, qkv, keys, values, bucket_frames, layer, num_layers, ring_rows);
    const int num_frames = session.num_frames, num_keys = session.num_keys;
    const int head_column = blockIdx.y * HEAD_WIDTH;
    T* out = heard + static_cast<long long>(blockIdx.x) * bucket_frames * WIDTH + head_column;
    clear_padding(out, num_frames, bucket_frames);
    const float scale = LOG2_E * rsqrtf(static_cast<float>(HEAD_WIDTH));

    for (int first_query = 0; first_query < num_frames; first_query += TILE) {
        stage_queries(queries_u, session.new_rows, bias_u + head_column, first_query, num_frames);
        stage_queries(queries_v, session.new_rows, bias_v + head_column, first_query, num_frames);
        __syncthreads();
        float sums[TILE];
        for (int m = threadIdx.x; m < num_keys + TILE - 1; m += THREADS) {
            const T* row =
                position_row(positions, first_query, session.num_cached, m, max_frames);
            multiply(queries_v, row + head_column, sums);
            #pragma unroll
            for (int i = 0; i < TILE; ++i) by_position[i * num_columns + m] = sums[i];
        }
        __syncthreads();
        for (int j = threadIdx.x; j < num_keys; j += THREADS) {
            multiply(queries_u, session.key(j), sums);
            #pragma unroll
            for (int i = 0; i < TILE; ++i) {
                const float shifted = by_position[i * num_columns + TILE - 1 - i + j];
                scores[i * num_columns + j] = (sums[i] + shifted) * scale;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x / 32; i < TILE; i += NUM_WARPS) {
            const float sum = softmax_weights(scores + i * num_columns, num_keys);
            if (threadIdx.x % 32 == 0) inverse_sums[i] = 1.0f / sum;
        }
        __syncthreads();
        for (int item = threadIdx.x; item < TILE * HEAD_WIDTH / 8; item += THREADS) {
            const int i = item / (HEAD_WIDTH / 8), column = item % (HEAD_WIDTH / 8) * 8;
            if (first_query + i >= num_frames) continue;
            float total[8] = {};
            for (int j = 0; j < num_keys; ++j) {
                const float weight = scores[i * num_columns + j];
                float row[8];
                load8(session.value(j) + column, row);
                #pragma unroll
                for (int k = 0; k < 8; ++k) total[k] = fmaf(weight, row[k], total[k]);
            }
            #pragma unroll
            for (int k = 0; k < 8; ++k) total[k] *= inverse_sums[i];
            store8(out + (first_query + i) * WIDTH + column, total);
        }
        __syncthreads();
    }
    commit(session);
}
