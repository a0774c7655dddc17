// The streaming encoder's convolution: frames of an increment behind the last rows of the ones
// before.
//
// See increments.cuh. K = CONV_KERNEL, N frames of the bucket.

#include "encoder.cuh"
#include "increments.cuh"

constexpr int KERNEL = CONV_KERNEL;
constexpr int HALF_KERNEL = CONV_KERNEL / 2;

// value * sigmoid(gate), rounded as it would be in a cache: so that a frame counts the same whether
// it was committed before or comes with this increment.
__device__ __forceinline__ float2 gated_row(const T* wide, int frame) {
    const T* row = wide + static_cast<long long>(frame) * 2 * WIDTH;
    const float2 value = load2(row), gate = load2(row + WIDTH);
    return make_float2(
        to_float(to_storage(value.x * sigmoid(gate.x))),
        to_float(to_storage(value.y * sigmoid(gate.y)))
    );
}

// GLU, depthwise convolution over time and SiLU: wide (B * N, 2 D) to out (B * N, D). Before the
// first frame lie the K/2 rows of tails (S, layers, K/2, D), at the start of an utterance zeros,
// and zeros lie behind the last real one. Then the rows before the first frame that is not
// committed become the slot's tail. weight (K, D), bias (D,). Grid (D / 256, B), 128 threads
// with 2 channels each, all frames in turn. Bound by the L2 cache: 20 MB for 256 sessions of 10
// frames, about 6 us.
extern "C" __global__ void __launch_bounds__(128) increment_convolution(
    const int* steps, const T* __restrict__ wide, const float* weight, const float* bias, T* tails,
    T* __restrict__ out, int bucket_frames, int layer, int num_layers
) {
    const int channel = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (channel >= WIDTH) return;
    const int* step = steps + STEP_INTS * blockIdx.y;
    const int next_frame = step[NEXT_FRAME], num_frames = step[NUM_FRAMES];
    const int num_commit = step[NUM_COMMIT];
    const long long first = static_cast<long long>(blockIdx.y) * bucket_frames;
    const T* rows = wide + first * 2 * WIDTH + channel;
    T* result = out + first * WIDTH + channel;
    T* tail = tails
        + (static_cast<long long>(step[SLOT]) * num_layers + layer) * HALF_KERNEL * WIDTH + channel;
    const float2 zero = make_float2(0.0f, 0.0f);

    float2 taps[KERNEL], window[KERNEL];
    #pragma unroll
    for (int k = 0; k < KERNEL; ++k) taps[k] = load2(weight + k * WIDTH + channel);
    const float2 offset = load2(bias + channel);
    // One place too late: each frame begins by moving the window on.
    window[0] = zero;
    #pragma unroll
    for (int k = 0; k < HALF_KERNEL; ++k) {
        window[1 + k] = next_frame > 0 ? load2(tail + k * WIDTH) : zero;
        window[1 + HALF_KERNEL + k] = k < num_frames ? gated_row(rows, k) : zero;
    }
    #pragma unroll 4
    for (int frame = 0; frame < num_frames; ++frame) {
        #pragma unroll
        for (int k = 0; k < KERNEL - 1; ++k) window[k] = window[k + 1];
        const int ahead = frame + HALF_KERNEL;
        window[KERNEL - 1] = ahead < num_frames ? gated_row(rows, ahead) : zero;
        float2 sum = offset;
        #pragma unroll
        for (int k = 0; k < KERNEL; ++k) {
            sum.x = fmaf(taps[k].x, window[k].x, sum.x);
            sum.y = fmaf(taps[k].y, window[k].y, sum.y);
        }
        sum = make_float2(sum.x * sigmoid(sum.x), sum.y * sigmoid(sum.y));
        store2(result + static_cast<long long>(frame) * WIDTH, sum);
    }
    for (int frame = num_frames; frame < bucket_frames; ++frame) {
        store2(result + static_cast<long long>(frame) * WIDTH, zero);
    }
    if (num_commit == 0) return;
    for (int k = 0; k < HALF_KERNEL; ++k) {  // upwards: row k is read no more when it is written
        const int from = num_commit + k;
        float2 row = zero;
        if (from >= HALF_KERNEL) row = gated_row(rows, from - HALF_KERNEL);
        else if (next_frame > 0) row = load2(tail + from * WIDTH);
        store2(tail + k * WIDTH, row);
    }
}
