// Audio to Whisper's log-mel rows in device slots, and the floor that clamps them.
//
// Same formula as gpu_service/cpu/log_mel.py: periodic Hann window, both ends of the 30 s window
// reflected, power, mel bands, log10 of at least 1e-10. All in single precision, as the model was
// trained: what is 80 dB below the loudest is clamped anyway. A row depends on its own 400 samples
// alone, so the same audio gives the same bits in whatever pieces it comes. The clamp does not: it
// follows the loudest band so far, so rows are kept as they are and who reads them clamps them.
//
// Shapes: S slots of a window of 480,000 samples at 16 kHz, R = 3,000 rows of 10 ms, M bands.

#include "audio_items.cuh"

#ifndef MEL_BANDS
#define MEL_BANDS 128
#endif

constexpr int WINDOW_SAMPLES = 480000;
constexpr int WINDOW_ROWS = 3000;
constexpr float QUIETEST = 1e-10f;
constexpr float QUIETEST_LOG = -10.0f;
constexpr float RANGE = 8.0f;  // of logarithms below the loudest

// Sample `index` of a 30 s window of `count` samples and zeros behind them, reflected at its ends.
__device__ __forceinline__ float reflected_at(const short* audio, int index, int count) {
    if (index < 0) index = -index;
    if (index >= WINDOW_SAMPLES) index = 2 * WINDOW_SAMPLES - 2 - index;
    return sample_at(audio, index, count);
}

// ---- window_rows --------------------------------------------------------------------------------
// Rows FIRST_ROW .. NUM_ROWS of each item into mel (S, R, M) float32.
// A spectrum of 400 samples has 201 bins, and 400 = 16 * 25 is no power of two: the sums are taken
// as they stand, but folded twice first. With the window symmetric, bin k needs
//   e(n) = w(n) (x(n) + x(400 - n)) for its cosines and o(n) = w(n) (x(n) - x(400 - n)) for its
// sines, n = 0 .. 200; and with n and 200 - n alike up to a sign that depends on k's parity alone,
//   even k: e(n) + e(200 - n), o(n) - o(200 - n)    odd k: e(n) - e(200 - n), o(n) + o(200 - n)
// n = 0 .. 100. That leaves 200 products a bin, 40,000 a row: 0.24 GFLOP for 30 s, 0.01 % of what the
// encoder does with them.
// Grid (groups of 16 rows, items), 256 threads: in the sums a thread is a bin for all 16 rows, even
// bins in the first four warps and odd ones behind them, so that a warp reads one fold. Bound by
// single precision and by reads of `turns`, 165 KB a block from the L2 cache.

constexpr int BLOCK_ROWS = 16;
constexpr int BLOCK_THREADS = 256;
constexpr int BLOCK_SAMPLES = HOP * (BLOCK_ROWS - 1) + WINDOW;
constexpr int QUARTER = WINDOW / 4;           // 100
constexpr int FOLDED = QUARTER + 1;           // n = 0 .. 100
constexpr int NUM_BINS = WINDOW / 2 + 1;      // 201
constexpr int BIN_THREADS = BLOCK_THREADS / 2;  // of one parity
constexpr int POWER_STRIDE = NUM_BINS + 2;    // odd: rows lie in different banks

enum Fold { EVEN_COSINES, EVEN_SINES, ODD_COSINES, ODD_SINES, NUM_FOLDS };

// `at(n)` of one row, n = 0 .. 100 at folds + n * BLOCK_ROWS, the four folds one behind the other.
__device__ __forceinline__ void fold(const float* x, const float* window, int n, float* folds) {
    const int m = WINDOW / 2 - n;  // the other one
    // w(0) = 0; n = 200 is its own mirror image.
    const float sum = n == 0 ? 0.0f : __fmul_rn(window[n], x[n] + x[WINDOW - n]);
    const float difference = n == 0 ? 0.0f : __fmul_rn(window[n], x[n] - x[WINDOW - n]);
    const float other_sum = m == WINDOW / 2 ? x[m] : __fmul_rn(window[m], x[m] + x[WINDOW - m]);
    const float other_difference =
        m == WINDOW / 2 ? 0.0f : __fmul_rn(window[m], x[m] - x[WINDOW - m]);
    const bool is_middle = n == QUARTER;  // n = 100 is its own other one
    constexpr int STEP = FOLDED * BLOCK_ROWS;
    folds[EVEN_COSINES * STEP] = is_middle ? sum : sum + other_sum;
    folds[EVEN_SINES * STEP] = is_middle ? 0.0f : difference - other_difference;
    folds[ODD_COSINES * STEP] = is_middle ? 0.0f : sum - other_sum;
    folds[ODD_SINES * STEP] = is_middle ? difference : difference + other_difference;
}

// `window` (201,): its first half; `turns` (101, 256): cosine and sine of 2 pi n k / 400 for the bin
// k of each thread; band b is bins first_bins[b] .. with weights entries[b] .. entries[b + 1] of
// `weights`. audio (S, max_samples).
extern "C" __global__ void __launch_bounds__(256) window_rows(
    const long long* items, const short* audio, const float* window, const float2* turns,
    const int* first_bins, const int* entries, const float* weights, float* mel, int max_samples
) {
    __shared__ float samples[BLOCK_SAMPLES];
    __shared__ float4 shared_folds[NUM_FOLDS * FOLDED * BLOCK_ROWS / 4];
    float* folds = reinterpret_cast<float*>(shared_folds);
    const long long* item = items + FIELDS * blockIdx.y;
    const int num_rows = static_cast<int>(item[NUM_ROWS]);
    const int num_samples = static_cast<int>(item[NUM_SAMPLES]);
    const int block_row = static_cast<int>(item[FIRST_ROW]) + BLOCK_ROWS * blockIdx.x;
    if (block_row >= num_rows) return;
    const long long slot = item[SLOT];
    const short* slot_audio = audio + slot * max_samples;
    const int first_sample = HOP * block_row - BEFORE;
    for (int i = threadIdx.x; i < BLOCK_SAMPLES; i += BLOCK_THREADS)
        samples[i] = reflected_at(slot_audio, first_sample + i, num_samples);
    __syncthreads();
    for (int i = threadIdx.x; i < FOLDED * BLOCK_ROWS; i += BLOCK_THREADS) {
        const int n = i / BLOCK_ROWS, row = i % BLOCK_ROWS;
        fold(samples + HOP * row, window, n, folds + i);
    }
    __syncthreads();

    const int is_odd = threadIdx.x / BIN_THREADS;
    const int bin = 2 * (threadIdx.x % BIN_THREADS) + is_odd;
    const float4* cosines = shared_folds + (2 * is_odd) * FOLDED * BLOCK_ROWS / 4;
    const float4* sines = cosines + FOLDED * BLOCK_ROWS / 4;
    float real[BLOCK_ROWS] = {}, imaginary[BLOCK_ROWS] = {};
    for (int n = 0; n < FOLDED; ++n) {
        const float2 turn = turns[n * BLOCK_THREADS + threadIdx.x];
        #pragma unroll
        for (int i = 0; i < BLOCK_ROWS; i += 4) {
            const float4 c = cosines[(n * BLOCK_ROWS + i) / 4], s = sines[(n * BLOCK_ROWS + i) / 4];
            real[i] = fmaf(c.x, turn.x, real[i]);
            real[i + 1] = fmaf(c.y, turn.x, real[i + 1]);
            real[i + 2] = fmaf(c.z, turn.x, real[i + 2]);
            real[i + 3] = fmaf(c.w, turn.x, real[i + 3]);
            imaginary[i] = fmaf(s.x, turn.y, imaginary[i]);
            imaginary[i + 1] = fmaf(s.y, turn.y, imaginary[i + 1]);
            imaginary[i + 2] = fmaf(s.z, turn.y, imaginary[i + 2]);
            imaginary[i + 3] = fmaf(s.w, turn.y, imaginary[i + 3]);
        }
    }
    __syncthreads();  // the powers go where the folds were
    float* power = folds;
    if (bin < NUM_BINS) {
        #pragma unroll
        for (int row = 0; row < BLOCK_ROWS; ++row)
            power[row * POWER_STRIDE + bin] =
                fmaf(real[row], real[row], __fmul_rn(imaginary[row], imaginary[row]));
    }
    __syncthreads();

    for (int i = threadIdx.x; i < BLOCK_ROWS * MEL_BANDS; i += BLOCK_THREADS) {
        const int row = i / MEL_BANDS, band = i % MEL_BANDS;
        if (block_row + row >= num_rows) break;
        const int begin = entries[band], end = entries[band + 1];
        const float* bins = power + row * POWER_STRIDE + first_bins[band] - begin;
        float sum = 0.0f;
        for (int entry = begin; entry < end; ++entry)
            sum = __fadd_rn(sum, __fmul_rn(bins[entry], weights[entry]));
        const long long at = (slot * WINDOW_ROWS + block_row + row) * MEL_BANDS + band;
        mel[at] = log10f(fmaxf(sum, QUIETEST));
    }
}

// ---- window_floor -------------------------------------------------------------------------------
// The loudest value of each item's certain rows is carried on in top (S,), from FIRST_ROW 0 on
// anew; floor (S,) is 8 below it and the rows that are not certain yet, and below silence at least.
// A maximum is exact in any order. Grid (items), 256 threads. Reads each new row once: 1.5 MB for
// 30 s at once by one block, a few rows otherwise.

__device__ __forceinline__ float loudest(const float* slot_mel, int first_row, int end_row) {
    float top = QUIETEST_LOG;
    const int end = end_row * MEL_BANDS;
    for (int i = first_row * MEL_BANDS + threadIdx.x; i < end; i += blockDim.x)
        top = fmaxf(top, slot_mel[i]);
    return top;
}

extern "C" __global__ void __launch_bounds__(256) window_floor(
    const long long* items, const float* mel, float* top, float* floor
) {
    __shared__ float scratch[BLOCK_THREADS / 32];
    const long long* item = items + FIELDS * blockIdx.x;
    const int first_row = static_cast<int>(item[FIRST_ROW]);
    const int num_certain = static_cast<int>(item[CERTAIN_ROWS]);
    const int num_rows = static_cast<int>(item[NUM_ROWS]);
    const long long slot = item[SLOT];
    const float* slot_mel = mel + slot * WINDOW_ROWS * MEL_BANDS;
    float certain = block_max(loudest(slot_mel, first_row, num_certain), scratch);
    const float rest = block_max(loudest(slot_mel, num_certain, num_rows), scratch);
    if (threadIdx.x > 0) return;
    if (first_row > 0) certain = fmaxf(certain, top[slot]);
    top[slot] = certain;
    floor[slot] = fmaxf(certain, rest) - RANGE;
}
