// The encoder's elementwise passes: layer norm, SiLU, gate, and the convolution in time.
//
// All are bound by memory: each reads and writes every row once, in accesses of 16 bytes (the
// convolution writes 4 bytes a thread, whole lines a warp). Sums are in float, in a fixed order.
// B * N rows of batch rows one behind the other; other shapes in encoder.cuh.
#include "encoder.cuh"

#define NORM_EPSILON 1e-5f
#define ROW_VECTORS (WIDTH / 8)
#define LANE_VECTORS ((ROW_VECTORS + 31) / 32)  // of a row, in one lane

// A vector of a lane is there: always, where the row is shared evenly.
#define FOR_VECTORS(i, at)                                         \
    _Pragma("unroll") for (int i = 0; i < LANE_VECTORS; ++i)       \
        if (int at = 8 * (lane + 32 * i); ROW_VECTORS % 32 == 0 || at < WIDTH)

// One row in a warp: (x - mean) / sqrt(variance + epsilon) * weight + bias. The second pass over
// the registers costs less than what a variance by sum of squares loses.
__device__ __forceinline__ void normalise_row(
    float (&values)[LANE_VECTORS][8], const float* weight, const float* bias, int lane) {
    float sum = 0.0f;
    FOR_VECTORS(i, at)
        for (int j = 0; j < 8; ++j) sum += values[i][j];
    float mean = warp_sum(sum) / WIDTH;
    float squares = 0.0f;
    FOR_VECTORS(i, at)
        for (int j = 0; j < 8; ++j) {
            values[i][j] -= mean;
            squares = fmaf(values[i][j], values[i][j], squares);
        }
    float scale = rsqrtf(warp_sum(squares) / WIDTH + NORM_EPSILON);
    FOR_VECTORS(i, at) {
        float w[8], b[8];
        load8(weight + at, w);
        load8(bias + at, b);
        for (int j = 0; j < 8; ++j) values[i][j] = fmaf(values[i][j] * scale, w[j], b[j]);
    }
}

template <class E>
__device__ __forceinline__ void load_row(const E* row, int lane, float (&values)[LANE_VECTORS][8]) {
    FOR_VECTORS(i, at) load8(row + at, values[i]);
}

template <class E>
__device__ __forceinline__ void store_row(
    E* row, int lane, const float (&values)[LANE_VECTORS][8]) {
    FOR_VECTORS(i, at) store8(row + at, values[i]);
}

// The row of this warp, where each has one.
__device__ __forceinline__ int warps_row() {
    return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
}

// normed (rows, D) = norm of x (rows, D). A warp a row; grid: rows / 4, block: 128.
extern "C" __global__ void __launch_bounds__(128) normalise(
    const X* x, const float* weight, const float* bias, T* normed, int num_rows) {
    int lane = threadIdx.x % 32, row = warps_row();
    if (row >= num_rows) return;
    long long start = (long long)row * WIDTH;
    float values[LANE_VECTORS][8];
    load_row(x + start, lane, values);
    normalise_row(values, weight, bias, lane);
    store_row(normed + start, lane, values);
}

// The end of a layer and the beginning of the next: x = norm of x, normed = norm of that.
// A warp a row; grid: rows / 4, block: 128.
extern "C" __global__ void __launch_bounds__(128) normalise_twice(
    X* x, const float* weight, const float* bias, const float* next_weight,
    const float* next_bias, T* normed, int num_rows) {
    int lane = threadIdx.x % 32, row = warps_row();
    if (row >= num_rows) return;
    long long start = (long long)row * WIDTH;
    float values[LANE_VECTORS][8];
    load_row(x + start, lane, values);
    normalise_row(values, weight, bias, lane);
    store_row(x + start, lane, values);
    normalise_row(values, next_weight, next_bias, lane);
    store_row(normed + start, lane, values);
}

// x sigmoid(x) in place. A thread 8 values; grid: count / 2048, block: 256.
extern "C" __global__ void __launch_bounds__(256) silu(T* values, long long count) {
    long long at = 8 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= count) return;
    float x[8];
    load8(values + at, x);
    for (int j = 0; j < 8; ++j) {
        x[j] = fmaxf(x[j], -65504.0f);  // a product that became -inf as half would end as NaN
        x[j] *= sigmoid(x[j]);
    }
    store8(values + at, x);
}

// One vector of the gated rows: wide[c] * sigmoid(wide[D + c]).
__device__ __forceinline__ void load_gated(const T* wide_row, int channel, float (&out)[8]) {
    float gate[8];
    load8(wide_row + channel, out);
    load8(wide_row + WIDTH + channel, gate);
    for (int j = 0; j < 8; ++j) out[j] *= sigmoid(gate[j]);
}

#define TILE_FRAMES 32
#define TILE_CHANNELS 64
#define TILE_ROWS (TILE_FRAMES + CONV_KERNEL - 1)
#define THREAD_FRAMES (TILE_FRAMES / 8)

// out (B, N, D) = SiLU(depthwise(gated) + bias) of wide (B, N, 2 D), gated rows being zero for frames
// that are not real; weight (K, D), a tap a row.
// The gate is computed once for a tile of frames and channels, in shared memory; then a warp has 32
// pairs of channels and each thread slides over 4 frames.
// Grid: (D / 64, N / 32, B), block: 256; neighbouring blocks share rows. Reads 2 D (32 + K - 1) / 32
// a frame, the excess from the L2 cache; writes D.
extern "C" __global__ void __launch_bounds__(256) gate_depthwise(
    const T* wide, const int* rows, const float* weight, const float* bias, T* out,
    int num_frames) {
    __shared__ float tile[TILE_ROWS][TILE_CHANNELS];
    int first_channel = blockIdx.x * TILE_CHANNELS;
    int first_frame = blockIdx.y * TILE_FRAMES;
    long long first_row = (long long)blockIdx.z * num_frames;
    int num_real = real_frames(rows + 4 * blockIdx.z, num_frames);

    for (int i = threadIdx.x; i < TILE_ROWS * TILE_CHANNELS / 8; i += blockDim.x) {
        int at = i / (TILE_CHANNELS / 8), channel = 8 * (i % (TILE_CHANNELS / 8));
        int frame = first_frame + at - CONV_KERNEL / 2;
        float values[8] = {};
        if (0 <= frame && frame < num_real && first_channel + channel < WIDTH)
            load_gated(wide + (first_row + frame) * 2 * WIDTH, first_channel + channel, values);
        for (int j = 0; j < 8; j += 4) {
            float4 four = {values[j], values[j + 1], values[j + 2], values[j + 3]};
            *(float4*)&tile[at][channel + j] = four;
        }
    }
    __syncthreads();

    int channel = 2 * (threadIdx.x % 32);
    int start = THREAD_FRAMES * (threadIdx.x / 32);
    if (first_channel + channel >= WIDTH) return;
    const float* taps = weight + first_channel + channel;
    float2 sums[THREAD_FRAMES];
    float2 first = *(const float2*)(bias + first_channel + channel);
    for (int f = 0; f < THREAD_FRAMES; ++f) sums[f] = first;
#pragma unroll
    for (int k = 0; k < CONV_KERNEL; ++k) {
        float2 tap = *(const float2*)(taps + k * WIDTH);
#pragma unroll
        for (int f = 0; f < THREAD_FRAMES; ++f) {
            float2 value = *(const float2*)&tile[start + f + k][channel];
            sums[f].x = fmaf(tap.x, value.x, sums[f].x);
            sums[f].y = fmaf(tap.y, value.y, sums[f].y);
        }
    }
    for (int f = 0; f < THREAD_FRAMES; ++f) {
        int frame = first_frame + start + f;
        if (frame >= num_frames) return;
        float2 value = {sums[f].x * sigmoid(sums[f].x), sums[f].y * sigmoid(sums[f].y)};
        store2(out + (first_row + frame) * WIDTH + first_channel + channel, value);
    }
}
