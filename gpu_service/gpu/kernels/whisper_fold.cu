// What a layer's norm adds to the product behind it, once for all: with a norm of gain g and shift h,
// W norm(x) + b = scale (W (g x) - mean W g) + W h + b, so whisper_step.cu multiplies before it knows mean
// and scale. Without a norm g and h are zeros.
// Launch: a block for each row, FOLD_THREADS threads. Bound by reading the weights once.
#include "common.cuh"

#define FOLD_THREADS 128

// weights (n, k), gain and shift (k), bias (n) -> folded (n): W h + b, W g.
extern "C" __global__ void __launch_bounds__(FOLD_THREADS) whisper_fold(
    const T* weights, const float* gain, const float* shift, const float* bias, float2* folded, int width) {
    DYNAMIC_SHARED(float, scratch);
    const T* own = weights + static_cast<long long>(blockIdx.x) * width;
    float shifted = 0.0f, gained = 0.0f;
    for (int i = threadIdx.x; i < width; i += FOLD_THREADS) {
        shifted = fmaf(to_float(own[i]), shift[i], shifted);
        gained = fmaf(to_float(own[i]), gain[i], gained);
    }
    shifted = block_sum(shifted, scratch);
    gained = block_sum(gained, scratch);
    if (threadIdx.x == 0) folded[blockIdx.x] = make_float2(shifted + bias[blockIdx.x], gained);
}
