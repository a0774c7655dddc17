// Attention of whole utterances by matrix products: what lies between them. encoder_attention.py
// says which products; all three kernels are bound by memory.
#include "encoder.cuh"

// with_u = q + u, with_v = q + v, each (B N, D), of qkv (B N, 3 D) and the biases u, v (D,).
// A thread 8 values; grid: B N D / 2048, block: 256.
extern "C" __global__ void __launch_bounds__(256) add_position_biases(
    const T* qkv, const float* u, const float* v, T* with_u, T* with_v, long long num_rows) {
    long long vector = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long row = vector / (WIDTH / 8);
    if (row >= num_rows) return;
    int column = 8 * (int)(vector % (WIDTH / 8));
    float query[8], bias[8], sum[8];
    load8(qkv + row * 3 * WIDTH + column, query);
    load8(u + column, bias);
    for (int j = 0; j < 8; ++j) sum[j] = query[j] + bias[j];
    store8(with_u + row * WIDTH + column, sum);
    load8(v + column, bias);
    for (int j = 0; j < 8; ++j) sum[j] = query[j] + bias[j];
    store8(with_v + row * WIDTH + column, sum);
}

// scores (H, G, N, N), in place: softmax over the real keys of (scores + by_position) / sqrt(E),
// and zeros for the others, in G utterances of the batch. by_position (H, G, N, 2 N) has the scores
// by relative position: query i meets key j in its column N - 1 - i + j (Transformer-XL's shift).
// A warp a row; grid: (N / 4, G, H), block: 128. The row is read twice, the second time from the L1
// cache, so that its length is free.
extern "C" __global__ void __launch_bounds__(128) softmax_scores(
    T* scores, const T* by_position, const int* rows, int num_frames) {
    int lane = threadIdx.x % 32;
    int query = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (query >= num_frames) return;
    int num_real = real_frames(rows + 4 * blockIdx.y, num_frames);
    long long row = ((long long)blockIdx.z * gridDim.y + blockIdx.y) * num_frames + query;
    T* own = scores + row * num_frames;
    const T* position = by_position + row * 2 * num_frames + (num_frames - 1 - query);
    float scale = rsqrtf((float)HEAD_WIDTH);

    float top = -1e30f, sum = 0.0f;  // of this lane's keys
    for (int key = lane; key < num_real; key += 32) {
        float score = (to_float(own[key]) + to_float(position[key])) * scale;
        float higher = fmaxf(top, score);
        sum = sum * __expf(top - higher) + __expf(score - higher);
        top = higher;
    }
    float highest = warp_max(top);
    sum = warp_sum(sum * __expf(top - highest));
    float inverse = 1.0f / sum;  // not used where there is no key
    for (int key = lane; key < num_frames; key += 32) {
        float weight = 0.0f;
        if (key < num_real) {
            float score = (to_float(own[key]) + to_float(position[key])) * scale;
            weight = __expf(score - highest) * inverse;
        }
        own[key] = to_storage(weight);
    }
}
