// Audio to log-mel rows in device slots, with the running mean and deviation of each band.
//
// Same arithmetic as gpu_service/cpu/parakeet_features.py: pre-emphasis in single precision,
// window, FFT and power in double (in single precision, quiet bands beside loud ones lose
// digits), mel bands and logarithm in single, sums of rows in double and in row order. A row
// depends on its own 401 samples alone, so the same audio gives the same bits in whatever pieces
// it comes.
//
// Shapes: S slots, n samples at 16 kHz, R rows of 10 ms, 128 bands.

#include "audio_items.cuh"

constexpr int NUM_BANDS = 128;
constexpr int POINTS = 256;         // complex points: an FFT of 512 real samples, packed in pairs
constexpr float LOG_GUARD = 5.9604644775390625e-8f;  // 2^-24
constexpr double DEVIATION_GUARD = 1e-5;

// ---- gather_audio -------------------------------------------------------------------------------
// A segment: COUNT samples of int16 at ADDRESS go to audio + TARGET. audio (S, max_samples).
// Grid (tiles of 4,096 samples, segments), 256 threads. The host's memory is read over PCIe, and
// that is the bound: whole aligned 16-byte words, two in flight for each thread, by way of shared
// memory, because source and target rarely have the same alignment.

constexpr int GATHER_THREADS = 256;
constexpr int WORD_SAMPLES = 8;
constexpr int WORDS_A_THREAD = 2;
constexpr int TILE_WORDS = GATHER_THREADS * WORDS_A_THREAD;

__device__ __forceinline__ uint4 samples_at(const short* source, long long first, long long count) {
    const bool is_whole = first >= 0 && first + WORD_SAMPLES <= count;
    if (is_whole) return *reinterpret_cast<const uint4*>(source + first);
    unsigned words[4] = {0, 0, 0, 0};
    #pragma unroll
    for (int i = 0; i < WORD_SAMPLES; ++i) {
        const bool is_there = first + i >= 0 && first + i < count;
        const unsigned sample = is_there ? static_cast<unsigned short>(source[first + i]) : 0;
        words[i / 2] |= sample << (16 * (i % 2));
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

extern "C" __global__ void gather_audio(const long long* segments, short* audio) {
    __shared__ uint4 tile[TILE_WORDS];
    const long long* segment = segments + FIELDS * blockIdx.y;
    const long long address = segment[ADDRESS], count = segment[COUNT];
    const short* source = reinterpret_cast<const short*>(address);
    short* target = audio + segment[TARGET];
    // Words lie at multiples of 16 bytes: the first one may begin before the segment.
    const int head = static_cast<int>(address % 16) / 2;
    const long long first = static_cast<long long>(blockIdx.x) * TILE_WORDS * WORD_SAMPLES - head;
    if (first >= count) return;
    #pragma unroll
    for (int i = 0; i < WORDS_A_THREAD; ++i) {
        const int word = threadIdx.x + i * GATHER_THREADS;
        const long long at = first + static_cast<long long>(word) * WORD_SAMPLES;
        if (at < count) tile[word] = samples_at(source, at, count);
    }
    __syncthreads();
    const short* samples = reinterpret_cast<const short*>(tile);
    for (int i = threadIdx.x; i < TILE_WORDS * WORD_SAMPLES; i += GATHER_THREADS) {
        if (first + i >= 0 && first + i < count) target[first + i] = samples[i];
    }
}

// ---- log_mel_rows -------------------------------------------------------------------------------
// Rows FIRST_ROW .. NUM_ROWS of each item into mel (S, R, 128) float32; zeros stand for samples
// before and behind the audio. Grid (groups of 8 rows, items), 128 threads: 16 a row. The FFT of
// 256 points is two rounds of 16 FFTs of 16 points, each in the registers of one thread. About
// 12,000 operations in double a row and 20 KB through shared memory: bound by the double units,
// 0.2 ms for 204,800 rows on an H100.

constexpr int ROW_THREADS = 16;
constexpr int BLOCK_ROWS = 8;
constexpr int ROW_BLOCK_THREADS = ROW_THREADS * BLOCK_ROWS;
constexpr int BLOCK_SAMPLES = HOP * (BLOCK_ROWS - 1) + WINDOW + 16;  // + what the last pairs touch
constexpr int EXCHANGE_POINTS = POINTS + POINTS / ROW_THREADS;       // padded: no bank conflicts

struct Complex {
    double re, im;
};

__device__ __forceinline__ Complex operator+(Complex a, Complex b) {
    return {a.re + b.re, a.im + b.im};
}
__device__ __forceinline__ Complex operator-(Complex a, Complex b) {
    return {a.re - b.re, a.im - b.im};
}
__device__ __forceinline__ Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

__device__ __forceinline__ void fft4(Complex& a, Complex& b, Complex& c, Complex& d) {
    const Complex even = a + c, odd = a - c, sum = b + d, difference = b - d;
    const Complex turned = {difference.im, -difference.re};  // times -i
    a = even + sum;
    b = odd + turned;
    c = even - sum;
    d = odd - turned;
}

// exp(-2 pi i m / 16) for the m that fft16 needs.
template <int M>
__device__ __forceinline__ Complex turned_by(Complex x) {
    constexpr double COS = 0.92387953251128675613, SIN = 0.38268343236508977173;
    constexpr double HALF = 0.70710678118654752440;
    if (M == 1) return x * Complex{COS, -SIN};
    if (M == 2) return x * Complex{HALF, -HALF};
    if (M == 3) return x * Complex{SIN, -COS};
    if (M == 4) return {x.im, -x.re};
    if (M == 6) return x * Complex{-HALF, -HALF};
    return x * Complex{-COS, SIN};  // 9
}

// In place. Point k of the result lies at place16(k).
__device__ __forceinline__ constexpr int place16(int k) {
    return 4 * (k % 4) + k / 4;
}

__device__ __forceinline__ void fft16(Complex (&x)[16]) {
    #pragma unroll
    for (int i = 0; i < 4; ++i) fft4(x[i], x[4 + i], x[8 + i], x[12 + i]);
    x[5] = turned_by<1>(x[5]);
    x[6] = turned_by<2>(x[6]);
    x[7] = turned_by<3>(x[7]);
    x[9] = turned_by<2>(x[9]);
    x[10] = turned_by<4>(x[10]);
    x[11] = turned_by<6>(x[11]);
    x[13] = turned_by<3>(x[13]);
    x[14] = turned_by<6>(x[14]);
    x[15] = turned_by<9>(x[15]);
    #pragma unroll
    for (int i = 0; i < 16; i += 4) fft4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

// Sample `index` less 0.97 of the one before; nothing before the audio, nothing behind it.
__device__ __forceinline__ float emphasised_at(const short* audio, int index, int count) {
    const float before = sample_at(audio, index - 1, count);
    const float sample = sample_at(audio, index, count);
    return index < count ? __fsub_rn(sample, __fmul_rn(0.97f, before)) : 0.0f;
}

// The spectrum of 512 real samples, packed in pairs, as 16 threads hold it: thread t has points
// t + 16 j of the input, and t + 16 j of the output at place16(j).
__device__ __forceinline__ void fft256(
    Complex (&x)[16], Complex* exchange, const double2* turns, int thread
) {
    fft16(x);
    #pragma unroll
    for (int k = 0; k < 16; ++k) {
        const double2 turn = turns[16 * k + thread];  // exp(-2 pi i k thread / 256)
        exchange[17 * k + thread] = x[place16(k)] * Complex{turn.x, turn.y};
    }
    __syncwarp();
    #pragma unroll
    for (int j = 0; j < 16; ++j) x[j] = exchange[17 * thread + j];
    fft16(x);
}

// What the even and odd samples' spectra give: power (257,) of the real spectrum, four times that
// in x, so that no halves are taken on the way.
__device__ __forceinline__ void store_powers(
    const Complex (&x)[16], float* power, const double2* half_turns, int thread
) {
    const int partner = (16 - thread) % 16 + (threadIdx.x & 16);
    #pragma unroll
    for (int j = 0; j < 16; ++j) {
        const Complex point = x[place16(j)];
        const Complex opposite = x[place16(15 - j)];  // of 256 - k, in the partner's registers
        const Complex own = x[place16((16 - j) % 16)];  // thread 0 is its own partner
        const double re = __shfl_sync(0xffffffffu, opposite.re, partner);
        const double im = __shfl_sync(0xffffffffu, opposite.im, partner);
        const Complex mirrored = {thread ? re : own.re, thread ? -im : -own.im};
        const Complex even = point + mirrored, odd = point - mirrored;
        const double2 turn = half_turns[thread + 16 * j];  // cos, sin of 2 pi k / 512
        const double real = even.re - turn.y * odd.re + turn.x * odd.im;
        const double imaginary = even.im - turn.y * odd.im - turn.x * odd.re;
        power[thread + 16 * j] = static_cast<float>(0.25 * (real * real + imaginary * imaginary));
    }
    if (thread == 0) {
        const double last = x[0].re - x[0].im;
        power[POINTS] = static_cast<float>(last * last);
    }
}

// `window` (416,) with zeros at the end; `turns`, `half_turns` (256,) complex, see above; band b is
// bins first_bins[b] .. with weights entries[b] .. entries[b + 1] of `weights`.
extern "C" __global__ void __launch_bounds__(128) log_mel_rows(
    const long long* items, const short* audio, const double* window, const double2* turns,
    const double2* half_turns, const int* first_bins, const int* entries, const float* weights,
    float* mel, int max_samples, int max_rows
) {
    __shared__ float emphasised[BLOCK_SAMPLES];
    __shared__ Complex exchange[BLOCK_ROWS * EXCHANGE_POINTS];
    const long long* item = items + FIELDS * blockIdx.y;
    const int num_rows = static_cast<int>(item[NUM_ROWS]);
    const int num_samples = static_cast<int>(item[NUM_SAMPLES]);
    const int block_row = static_cast<int>(item[FIRST_ROW]) + BLOCK_ROWS * blockIdx.x;
    if (block_row >= num_rows) return;
    const long long slot = item[SLOT];
    const short* slot_audio = audio + slot * max_samples;
    const int first_sample = HOP * block_row - BEFORE;
    for (int i = threadIdx.x; i < BLOCK_SAMPLES; i += ROW_BLOCK_THREADS) {
        emphasised[i] = emphasised_at(slot_audio, first_sample + i, num_samples);
    }
    __syncthreads();

    const int thread = threadIdx.x % ROW_THREADS, row_in_block = threadIdx.x / ROW_THREADS;
    Complex x[16];
    #pragma unroll
    for (int j = 0; j < 16; ++j) {
        if (32 * j >= WINDOW) {
            x[j] = {0.0, 0.0};
            continue;
        }
        const int at = 32 * j + 2 * thread;
        const float* pair = emphasised + HOP * row_in_block + at;
        x[j] = {pair[0] * window[at], pair[1] * window[at + 1]};
    }
    Complex* row_exchange = exchange + row_in_block * EXCHANGE_POINTS;
    fft256(x, row_exchange, turns, thread);
    __syncwarp();  // the powers go where the points were
    float* power = reinterpret_cast<float*>(row_exchange);
    store_powers(x, power, half_turns, thread);
    __syncwarp();

    const int row = block_row + row_in_block;
    if (row >= num_rows) return;
    float* out = mel + (slot * max_rows + row) * NUM_BANDS;
    for (int band = thread; band < NUM_BANDS; band += ROW_THREADS) {
        const int begin = entries[band], end = entries[band + 1];
        const float* bins = power + first_bins[band] - begin;
        float sum = 0.0f;
        for (int entry = begin; entry < end; ++entry) {
            sum = __fadd_rn(sum, __fmul_rn(bins[entry], weights[entry]));
        }
        out[band] = logf(sum + LOG_GUARD);
    }
}

// ---- running_statistics -------------------------------------------------------------------------
// Adds rows FIRST_ROW .. CERTAIN_ROWS of each item to sums (S, 2, 128) float64: of values, and of
// their squares; then mean and scale (S, 128) float32 over all NUM_ROWS, the uncertain last one
// included. Grid (items), a thread a band. Bound by latency: rows are added one after the other, 32
// of them loaded at once: 0.03 ms for 1,600 rows on an H100.

constexpr int ROWS_AT_ONCE = 32;

struct Sums {
    double total, squares;
    __device__ __forceinline__ void add(float value) {
        const double wide = value;
        total += wide;
        squares += wide * wide;  // the square is exact: fused or not, the sum is the same
    }
};

extern "C" __global__ void __launch_bounds__(128) running_statistics(
    const long long* items, const float* mel, double* sums, float* mean, float* scale, int max_rows
) {
    const long long* item = items + FIELDS * blockIdx.x;
    const int num_rows = static_cast<int>(item[NUM_ROWS]);
    const int num_certain = static_cast<int>(item[CERTAIN_ROWS]);
    const int band = threadIdx.x;
    const long long slot = item[SLOT];
    if (num_rows == 0) return;
    const float* column = mel + slot * max_rows * NUM_BANDS + band;
    double* slot_sums = sums + slot * 2 * NUM_BANDS + band;
    int row = static_cast<int>(item[FIRST_ROW]);
    Sums so_far = {0.0, 0.0};
    if (row > 0) so_far = {slot_sums[0], slot_sums[NUM_BANDS]};
    for (; row + ROWS_AT_ONCE <= num_certain; row += ROWS_AT_ONCE) {
        float values[ROWS_AT_ONCE];
        #pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i) values[i] = column[(row + i) * NUM_BANDS];
        #pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i) so_far.add(values[i]);
    }
    for (; row < num_certain; ++row) so_far.add(column[row * NUM_BANDS]);
    slot_sums[0] = so_far.total;
    slot_sums[NUM_BANDS] = so_far.squares;

    for (; row < num_rows; ++row) so_far.add(column[row * NUM_BANDS]);
    const double average = so_far.total / num_rows;
    const double spread = __dsub_rn(so_far.squares, __dmul_rn(average, so_far.total));
    // Rounding may leave a little less than nothing of a band that never changes.
    const double deviation = num_rows > 1 && spread > 0.0 ? sqrt(spread / (num_rows - 1)) : 0.0;
    mean[slot * NUM_BANDS + band] = static_cast<float>(average);
    scale[slot * NUM_BANDS + band] = static_cast<float>(deviation + DEVIATION_GUARD);
}
