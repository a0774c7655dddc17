// The subsampling's convolutions: 3 x 3 with stride 2 in time and in frequency, three times. The
// pointwise ones between them are products (encoder_subsampling.py).
//
// A convolution pads with zeros, so whatever lies beyond the real rows is zero before each. Output
// row r is centred on input row 2 r and real where that one is. N frames of a batch row take 2 N
// rows in between, and one before them: an increment continues what came before.
// Two channels a thread; channels lie innermost, so that a warp writes 64 of them in one line.
#include "encoder.cuh"

#define PAIRS (CHANNELS / 2)
#define BAND_QUADS (MEL_BANDS / 4)  // bands after the first two convolutions
#define TILE_ROWS 7                 // mel rows around one row of the second convolution
#define TILE_START 4                // where band 0 lies: a whole float4 behind the zero before it

// Weights of a 3 x 3 convolution lie as (9, C): one tap a row.
__device__ __forceinline__ void load_taps(const float* weight, int channel, float2 (&taps)[9]) {
#pragma unroll
    for (int i = 0; i < 9; ++i) taps[i] = *(const float2*)(weight + i * CHANNELS + channel);
}

__device__ __forceinline__ float2 multiply_add(float2 a, float b, float2 c) {
    return make_float2(fmaf(a.x, b, c.x), fmaf(a.y, b, c.y));
}

__device__ __forceinline__ float2 multiply_add(float2 a, float2 b, float2 c) {
    return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y));
}

// The first convolution at one place: 3 mel rows of `window` from row, 3 bands from band; ReLU.
__device__ __forceinline__ float2 first_convolution(
    const float (&window)[TILE_ROWS][5], int row, int band, const float2 (&taps)[9], float2 bias,
    bool real) {
    float2 sum = bias;
#pragma unroll
    for (int i = 0; i < 3; ++i)
#pragma unroll
        for (int j = 0; j < 3; ++j)
            sum = multiply_add(taps[3 * i + j], window[row + i][band + j], sum);
    return real ? make_float2(fmaxf(sum.x, 0.0f), fmaxf(sum.y, 0.0f)) : make_float2(0.0f, 0.0f);
}

// Normalise, first convolution with ReLU, second (depthwise) convolution. What lies between them,
// (B, 4 N, 64, C), would be eight times the result and is never written.
// mel (S, num_stored, 128), mean and scale (S, 128) float -> out (B, 2 N + 1, 32, C).
// A block one output row; grid: (2 N + 1, B, C / 256), block: 128. Bound by arithmetic: 63
// multiply-adds an output, with 7 reads of shared memory for 126 of them.
extern "C" __global__ void __launch_bounds__(128) subsample_first(
    const float* mel, const float* mean, const float* scale, const int* rows,
    const float* first_weight, const float* first_bias, const float* second_weight,
    const float* second_bias, T* out, int num_stored) {
    __shared__ float tile[TILE_ROWS][MEL_BANDS + 2 * TILE_START];
    const int* row = rows + 4 * blockIdx.y;
    int centre = 4 * ((int)blockIdx.x - 1);  // in mel rows from first_row
    if (!is_real(row, centre)) return;       // the next convolution does not read this row
    long long slot = row[0];

    for (int i = threadIdx.x; i < TILE_ROWS * BAND_QUADS; i += blockDim.x) {
        int at = i / BAND_QUADS, band = 4 * (i % BAND_QUADS);
        int offset = centre - 3 + at;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (is_real(row, offset)) {
            x = *(const float4*)(mel + (slot * num_stored + row[1] + offset) * MEL_BANDS + band);
            float4 m = *(const float4*)(mean + slot * MEL_BANDS + band);
            float4 s = *(const float4*)(scale + slot * MEL_BANDS + band);
            x = make_float4((x.x - m.x) / s.x, (x.y - m.y) / s.y, (x.z - m.z) / s.z,
                            (x.w - m.w) / s.w);
        }
        *(float4*)&tile[at][TILE_START + band] = x;
    }
    __syncthreads();

    int pair = blockIdx.z * blockDim.x + threadIdx.x;
    if (pair >= PAIRS) return;
    int channel = 2 * pair;
    float2 first[9], second[9];
    load_taps(first_weight, channel, first);
    load_taps(second_weight, channel, second);
    float2 bias = *(const float2*)(first_bias + channel);
    float2 start = *(const float2*)(second_bias + channel);
    bool real[3];
    for (int t = 0; t < 3; ++t) real[t] = is_real(row, centre - 2 + 2 * t);

    T* target = out + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * BAND_QUADS * CHANNELS;
    float window[TILE_ROWS][5];  // the last band of the step before, and four new ones
    float2 before[3];            // the first convolution's last column of the step before
    for (int i = 0; i < TILE_ROWS; ++i) window[i][4] = 0.0f;
    for (int t = 0; t < 3; ++t) before[t] = make_float2(0.0f, 0.0f);
#pragma unroll 1
    for (int band = 0; band < BAND_QUADS; ++band) {
#pragma unroll
        for (int i = 0; i < TILE_ROWS; ++i) {
            float4 new_bands = *(const float4*)&tile[i][TILE_START + 4 * band];
            window[i][0] = window[i][4];
            window[i][1] = new_bands.x;
            window[i][2] = new_bands.y;
            window[i][3] = new_bands.z;
            window[i][4] = new_bands.w;
        }
        float2 sum = start;
#pragma unroll
        for (int t = 0; t < 3; ++t) {
            float2 middle = first_convolution(window, 2 * t, 0, first, bias, real[t]);
            float2 right = first_convolution(window, 2 * t, 2, first, bias, real[t]);
            sum = multiply_add(second[3 * t], before[t], sum);
            sum = multiply_add(second[3 * t + 1], middle, sum);
            sum = multiply_add(second[3 * t + 2], right, sum);
            before[t] = right;
        }
        store2(target + (long long)band * CHANNELS + channel, sum);
    }
}

// The third (depthwise) convolution: in (B, 2 N + 1, 32, C), after its ReLU, -> out (B, N, 16, C).
// Frames that are not real become zero: later products must find finite numbers there.
// A block one frame; grid: (N, B, C / 256), block: 128. Bound by memory: reads each row once or
// twice (neighbouring blocks share it in the L2 cache), writes a quarter.
extern "C" __global__ void __launch_bounds__(128) subsample_second(
    const T* in, const int* rows, const float* weight, const float* bias, T* out) {
    const int bands = BAND_QUADS / 2;
    int pair = blockIdx.z * blockDim.x + threadIdx.x;
    if (pair >= PAIRS) return;
    int channel = 2 * pair, frame = blockIdx.x;
    const int* row = rows + 4 * blockIdx.y;
    T* target = out + ((long long)blockIdx.y * gridDim.x + frame) * bands * CHANNELS + channel;
    bool is_frame_real = is_real(row, FRAME_ROWS * frame);
    float2 taps[9];
    load_taps(weight, channel, taps);
    float2 start = *(const float2*)(bias + channel);
    const T* source[3];
    bool real[3];
    float2 before[3];
    for (int t = 0; t < 3; ++t) {
        long long at = (long long)blockIdx.y * (2 * gridDim.x + 1) + 2 * frame + t;
        source[t] = in + at * BAND_QUADS * CHANNELS + channel;
        real[t] = is_frame_real && is_real(row, FRAME_ROWS * frame + 4 * (t - 1));
        before[t] = make_float2(0.0f, 0.0f);
    }
#pragma unroll 4
    for (int band = 0; band < bands; ++band) {
        float2 sum = start;
#pragma unroll
        for (int t = 0; t < 3; ++t) {
            float2 middle = make_float2(0.0f, 0.0f), right = middle;
            if (real[t]) {
                middle = load2(source[t] + (2 * band) * CHANNELS);
                right = load2(source[t] + (2 * band + 1) * CHANNELS);
            }
            sum = multiply_add(taps[3 * t], before[t], sum);
            sum = multiply_add(taps[3 * t + 1], middle, sum);
            sum = multiply_add(taps[3 * t + 2], right, sum);
            before[t] = right;
        }
        if (!is_frame_real) sum = make_float2(0.0f, 0.0f);
        store2(target + band * CHANNELS, sum);
    }
}
