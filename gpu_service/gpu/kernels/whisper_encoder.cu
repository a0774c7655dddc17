// What Whisper's encoder does between its products: taps of the first convolution, GELU, positions,
// and a softmax for where attention is products. All are bound by memory and read and write every
// element once, in accesses of 16 bytes but for the taps.
//
// B windows of N positions (20 ms) and 2 N mel rows, M bands, D width. T is the storage type, X that
// of the residual stream: T, or float with RESIDUAL_HALF=0. D, M are multiples of 8.
#ifndef WIDTH
#define WIDTH 1280
#endif
#ifndef MEL_BANDS
#define MEL_BANDS 128
#endif

#include "common.cuh"

#define SLOT_ROWS 3000       // of a slot's mel rows
#define SILENCE -10.0f       // the logarithm of what is behind the audio

// A window's value in a row and band: clamped to the slot's floor, and scaled.
// mel (S, 3000, M), floor (S,); window {slot, first row, -, num_rows}.
__device__ __forceinline__ float feature_at(
    const float* mel, const float* floor, const int* window, int row, int band) {
    int slot = window[0], num_real = window[3];
    long long at = (long long)slot * SLOT_ROWS + window[1] + row;
    float value = SILENCE, lowest = SILENCE;
    if (num_real > 0) lowest = floor[slot];
    if (row < num_real) value = mel[at * MEL_BANDS + band];
    return (fmaxf(value, lowest) + 4.0f) / 4.0f;
}

// features (B, 2 N, M): rows of the windows. descriptors (B, 4). Grid: (2 N M / 256, B), block: 256.
extern "C" __global__ void __launch_bounds__(256) window_features(
    const float* mel, const float* floor, const int* descriptors, float* features, int num_rows) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= num_rows * MEL_BANDS) return;
    const int* window = descriptors + 4 * blockIdx.y;
    features[(long long)blockIdx.y * num_rows * MEL_BANDS + at] =
        feature_at(mel, floor, window, at / MEL_BANDS, at % MEL_BANDS);
}

// taps (B, 2 N, 3 M): rows t - 1, t and t + 1 of the window side by side, clamped to the slot's floor
// and scaled; zeros outside of the window. mel (S, 3000, M), floor (S,); descriptors (B, 4):
// {slot, first row, -, num_rows}. Grid: (2 N M / 256, B), block: 256; a thread reads a value and writes it
// to the three rows that have it.
extern "C" __global__ void __launch_bounds__(256) gather_taps(
    const float* mel, const float* floor, const int* descriptors, T* taps, int num_rows) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= num_rows * MEL_BANDS) return;
    int row = at / MEL_BANDS, band = at % MEL_BANDS;
    T out = to_storage(feature_at(mel, floor, descriptors + 4 * blockIdx.y, row, band));
    T* own = taps + ((long long)blockIdx.y * num_rows + row) * 3 * MEL_BANDS + band;
    own[MEL_BANDS] = out;
    if (row > 0)
        own[-MEL_BANDS] = out;  // the last tap of the row before
    else
        own[0] = to_storage(0.0f);
    if (row + 1 < num_rows)
        own[3 * MEL_BANDS] = out;  // the first tap of the next row
    else
        own[2 * MEL_BANDS] = to_storage(0.0f);
}

// GELU in place. A thread 8 values; grid: count / 2048, block: 256.
extern "C" __global__ void __launch_bounds__(256) gelu(T* values, long long count) {
    long long at = 8 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= count) return;
    float x[8];
    load8(values + at, x);
    for (int j = 0; j < 8; ++j) x[j] = gelu_of(x[j]);
    store8(values + at, x);
}

// x (B N, D) = GELU of convolved (B N, D) float, plus positions (N, D).
// A thread 8 values; grid: count / 2048, block: 256.
extern "C" __global__ void __launch_bounds__(256) add_positions(
    const float* convolved, const float* positions, X* x, int num_positions, long long count) {
    long long at = 8 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= count) return;
    float values[8], place[8];
    load8(convolved + at, values);
    load8(positions + at % ((long long)num_positions * WIDTH), place);
    for (int j = 0; j < 8; ++j) values[j] = gelu_of(values[j]) + place[j];
    store8(x + at, values);
}

// Softmax in place over `length` scores of each row times `scale`; rows are `stride` apart and what
// is behind the scores becomes zeros. A warp a row; grid: rows / 4, block: 128.
extern "C" __global__ void __launch_bounds__(128) softmax_window(
    T* scores, int num_rows, int length, int stride, float scale) {
    int lane = threadIdx.x % 32;
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= num_rows) return;
    T* own = scores + (long long)row * stride;
    float top = negative_infinity(), sum = 0.0f;
    for (int i = lane; i < length; i += 32) top = fmaxf(top, to_float(own[i]) * scale);
    top = warp_max(top);
    for (int i = lane; i < length; i += 32) sum += __expf(to_float(own[i]) * scale - top);
    sum = warp_sum(sum);
    for (int i = lane; i < stride; i += 32) {
        float weight = i < length ? __expf(to_float(own[i]) * scale - top) / sum : 0.0f;
        own[i] = to_storage(weight);
    }
}
