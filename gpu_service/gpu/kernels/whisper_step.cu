// One step of Whisper's decoder for few rows, from x to logits, in one cooperative kernel: what
// whisper_layers.py does by products and kernels of their own, which for few rows take longer to begin
// than to read their weights.
//
// Weights are read once and in an order that never changes, ahead of their use and all the time
// (whisper_stream.cuh). A block has the same share of neighbouring rows of every matrix; a warp multiplies
// 16 of them at once by tensor cores, always the same columns, and waits for just these of the input.
// Blocks have no barrier between them: they wait for data (whisper_words.cuh). So what counts is how long
// it takes from the last word of an input until the block's own are stored. Before it comes whatever needs
// no input: weights in registers, biases, keys; behind it the next copies. A norm is multiplied into the
// product when the product is done (whisper_fold.cu).
// What warps add up to is summed in a fixed order. The residual stream is as float with the block that
// adds to it, and as half in words.
//
// Grid: at most as many blocks as multiprocessors, and half as many as D, so that each has rows of
// each matrix; all at once on the device. Bound by latency: eight times a layer what a block stores must
// come to another, nine times where audio is split.
//
// B = ROWS, P text positions, N audio positions, D width, F feed forward, H heads, E = D / H, V
// vocabulary, L layers. Half only. NUM_WARPS divides D / 32 and F / 32.
#ifndef WIDTH
#define WIDTH 1280
#define HEAD_WIDTH 64
#define NUM_HEADS 20
#endif
#ifndef FFN_WIDTH
#define FFN_WIDTH 5120
#define NUM_WARPS 8
#define ROWS 1
#define SPLITS 6  // of the audio's positions
#define DEPTH 5
#endif

#include "whisper_hearing.cuh"

constexpr int PLACES = FFN_WIDTH / WIDTH;  // units of a group's rows of FC2
constexpr int SUM_STRIDE = SLICE + 8;      // floats, of a warp's sums of a row of the batch
constexpr int SUMS = NUM_WARPS * ROWS * SUM_STRIDE;
constexpr int MOMENTS = NUM_WARPS * ROWS;  // a sum and a sum of squares each

// Where things are in shared memory, behind the ring.
struct Shared {
    float* sums;       // 2 SUMS: one is read while the next is made
    float2* moments;   // 2 MOMENTS
    float* scratch;    // of attention
    __half* input;     // (NUM_WARPS, columns, B): a warp's columns 32 by 32
    StepLayer* layers;
    Share* shares;
    float2* residual;  // two rows each of this block's share of x, of each row of the batch
    StepRow* rows;

    __device__ __forceinline__ void lay_out(unsigned char* memory, int num_layers) {
        sums = reinterpret_cast<float*>(memory + DEPTH * UNIT_BYTES);
        moments = reinterpret_cast<float2*>(sums + 2 * SUMS);
        input = reinterpret_cast<__half*>(moments + 2 * MOMENTS);
        scratch = reinterpret_cast<float*>(input + ROWS * FFN_WIDTH);
        layers = reinterpret_cast<StepLayer*>(scratch + NUM_WARPS * PART_WORDS);
        shares = reinterpret_cast<Share*>(layers + num_layers + 1);
        residual = reinterpret_cast<float2*>(shares + HEAD + 1);
        const int most = (WIDTH / 2 + gridDim.x - 1) / gridDim.x;
        rows = reinterpret_cast<StepRow*>(residual + ROWS * most);
    }

    // What a launch begins with.
    __device__ __forceinline__ void fill(
        const StepLayer* all_layers, const X* x, const WhisperRow* all_rows,
        const WhisperProgress* progress, int num_layers, int vocabulary) const {
#pragma unroll 1
        for (int i = threadIdx.x; i <= HEAD; i += THREADS)
            shares[i] = share_of(i == HEAD ? vocabulary : rows_of(i));
#pragma unroll 1
        for (int i = threadIdx.x; i <= num_layers; i += THREADS) layers[i] = all_layers[i];
#pragma unroll 1
        for (int b = threadIdx.x; b < ROWS; b += THREADS) {
            const bool is_active = progress[b].state == ACTIVE;
            const int position = progress[b].position;
            rows[b] = {is_active ? position : -1, position + 1 - all_rows[b].prompt_length,
                       all_rows[b].watched};
        }
        const Share own_x = share_of(WIDTH);
#pragma unroll 1
        for (int i = threadIdx.x; i < own_x.count / 2 * ROWS; i += THREADS) {
            const X* from = x + i % ROWS * WIDTH + own_x.first + i / ROWS * 2;
            residual[i] = make_float2(to_float(from[0]), to_float(from[1]));
        }
    }
};

// ---- input --------------------------------------------------------------------------------------

// 4 of a warp's columns, into shared memory for its own lanes: of 8 columns the first and third two, then the
// others, as UnitInput reads them.
template <int CHUNKS>
__device__ __forceinline__ void store_input(__half* own, int i, unsigned low, unsigned high) {
    using Own = Gathered<CHUNKS>;
    const int two = Own::two_of(i);
    unsigned* to = reinterpret_cast<unsigned*>(own + (two / 8 * ROWS + i / Own::COUNT) * COLUMNS) +
                   two % 8 / 2 * 4 + two % 2;
    if (Own::is_there(i)) to[0] = low, to[2] = high;
}

// As it comes.
template <int CHUNKS>
__device__ __forceinline__ void take_input(const Word* from, unsigned flag, __half* own) {
    Gathered<CHUNKS> found;
    found.await(from, flag);  // all warps have multiplied the last input: behind their __syncthreads
#pragma unroll
    for (int i = 0; i < found.NUM; ++i)
        store_input<CHUNKS>(own, i, found.words[i].x, found.words[i].z);
    __syncwarp();
}

// x, as it comes or as the launch began with it, times the gain of a norm.
struct NormInput {
    using Found = Gathered<COPIES>;
    float sums[ROWS], squares[ROWS];  // of this lane's columns

    __device__ __forceinline__ void take(
        const X* start, const Word* from, const float* gains, unsigned flag, __half* own) {
        Found found;
        float4 gain[Found::COUNT];
#pragma unroll
        for (int i = 0; i < Found::COUNT; ++i)
            gain[i] = *reinterpret_cast<const float4*>(gains + Found::column_of(i));
        if (start == nullptr) {
            found.await(from, flag);
        } else {
#pragma unroll
            for (int i = 0; i < Found::NUM; ++i) {
                const X* x = start + i / Found::COUNT * WIDTH + Found::column_of(i);
                found.words[i].x = halves_of(to_float(x[0]), to_float(x[1]));
                found.words[i].z = halves_of(to_float(x[2]), to_float(x[3]));
            }
        }
#pragma unroll
        for (int i = 0; i < Found::NUM; ++i) {
            const float4 g = gain[i % Found::COUNT];
            const unsigned low = found.words[i].x, high = found.words[i].z;
            const float x[4] = {to_float(low_half(low)), to_float(high_half(low)),
                                to_float(low_half(high)), to_float(high_half(high))};
            store_input<COPIES>(
                own, i, halves_of(x[0] * g.x, x[1] * g.y), halves_of(x[2] * g.z, x[3] * g.w));
            const int row = i / Found::COUNT;
            if (i % Found::COUNT == 0) sums[row] = squares[row] = 0.0f;
            if (!Found::is_there(i)) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[row] += x[j], squares[row] = fmaf(x[j], x[j], squares[row]);
        }
        __syncwarp();
    }

    // Leaves the warp's sum and sum of squares, which half of the lanes add up each.
    __device__ __forceinline__ void leave(float2* moments) const {
        const bool is_upper = threadIdx.x & 16;
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            float sum = is_upper ? squares[row] : sums[row];
            sum += __shfl_xor_sync(ALL_LANES, is_upper ? sums[row] : squares[row], 16);
#pragma unroll
            for (int bits = 8; bits > 0; bits /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, bits);
            float* to = reinterpret_cast<float*>(moments + threadIdx.x / 32 * ROWS + row);
            if (threadIdx.x % 16 == 0) to[is_upper] = sum;
        }
    }
};

// ---- product ------------------------------------------------------------------------------------

// Tensor cores take 4 registers of a lane for two of 16 rows. Here all are of one row of weights, as they
// come out of the ring, because the columns of the batch differ: in an even one a row of the batch has the
// halves that meet the first and third register, in the next one the others. So of the product a lane's
// first and last number count, which are of one row of weights and one of the batch; their sum is it.
static_assert(2 * ROWS <= 8, "a tensor core takes 8 columns");

// What a lane gives of the batch with a unit.
struct UnitInput {
    uint2 columns[COPIES];

    // `own`: this warp's columns, from a unit's on. Columns of rows that the batch does not have are another's:
    // nobody reads what comes of them.
    __device__ __forceinline__ void load(const __half* own, const Stream& stream) {
        const int row = min(stream.first_row / 2, ROWS - 1), odd = stream.first_row % 2;
        const __half* from = own + row * COLUMNS + stream.first_column % COLUMNS + odd * 4;
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy)
            columns[copy] = *reinterpret_cast<const uint2*>(from + copy * ROWS * COLUMNS);
    }
};

// A group's sums, of this warp's columns: of the lower 8 rows and of the upper.
struct GroupSums {
    float low[2][4], high[2][4];  // products that do not wait for each other

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 8; ++i) low[i / 4][i % 4] = high[i / 4][i % 4] = 0.0f;
    }

    __device__ __forceinline__ void add(const Unit& unit, const UnitInput& input) {
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy) {
            const unsigned columns[2] = {input.columns[copy].x, input.columns[copy].y};
            multiply(low[copy % 2], unit.low[copy], columns);
            multiply(high[copy % 2], unit.high[copy], columns);
        }
    }

    static __device__ __forceinline__ void multiply(
        float (&sums)[4], const uint4& weights, const unsigned (&columns)[2]) {
        const unsigned rows[4] = {weights.x, weights.y, weights.z, weights.w};
        mma_m16n8k16(sums, rows, columns);
    }

    // `to`: this warp's of the group, for each row of the batch.
    __device__ __forceinline__ void leave(float* to, const Stream& stream) const {
        const int row = stream.first_column % COLUMNS / 8;  // of the batch
        if (row >= ROWS) return;
        to += row * SUM_STRIDE + stream.first_row;
        to[0] = (low[0][0] + low[1][0]) + (low[0][3] + low[1][3]);
        to[GROUP / 2] = (high[0][0] + high[1][0]) + (high[0][3] + high[1][3]);
    }
};

// Units AT ... MOST - 1 of a batch, as far as there are any; units AT and AT + 1 are out of the ring.
template <int AT, int EACH, int MOST>
__device__ __forceinline__ void multiply_units(
    Stream& stream, Unit (&units)[2], UnitInput& input, GroupSums& group, const __half* own,
    float* sums, int left) {
    if constexpr (AT < MOST) {
        if (AT >= left) return;
        if (AT % EACH == 0) group.clear();
        group.add(units[AT % 2], input);
        if constexpr (AT + 2 < MOST)
            if (AT + 2 < left) stream.template take<AT + 2>(units[AT % 2]);
        if constexpr (EACH > 1 && AT + 1 < MOST)
            input.load(own + (AT + 1) % EACH * COPIES * ROWS * COLUMNS, stream);
        if (AT % EACH == EACH - 1) group.leave(sums + AT / EACH * GROUP, stream);
        multiply_units<AT + 1, EACH, MOST>(stream, units, input, group, own, sums, left);
    }
}

// Products of a slice's groups, EACH units a group, with this warp's columns `own`; into its `sums`.
// While a unit is multiplied the next comes out of the ring: before the input is there, two do. arrive()
// waits for the input, settle() has what can wait until it was multiplied. Leaves places empty:
// returns how many.
template <int EACH, class Arrive, class Settle>
__device__ __forceinline__ int multiply_slice(
    Stream& stream, const __half* own, float* sums, int num_groups, Arrive arrive, Settle settle) {
    constexpr int MOST = EACH > 1 ? EACH : SLICE / GROUP;  // between two refills
    static_assert(MOST % EACH == 0 && MOST <= DEPTH, "the ring is filled behind whole groups");
    int left = num_groups * EACH;
#pragma unroll 1
    for (bool is_first = true;; is_first = false) {
        Unit units[2];
        UnitInput input;
        GroupSums group;
        stream.template take<0>(units[0]);
        if (left > 1) stream.template take<1>(units[1]);
        if (is_first) arrive();
        input.load(own, stream);
        multiply_units<0, EACH, MOST>(stream, units, input, group, own, sums, left);
        if (is_first) settle();
        if (left <= MOST) return left;
        left -= MOST;
        sums += MOST / EACH * GROUP;
        stream.refill(MOST);
    }
}

// Two rows of a product for a row of the batch: four lanes have it, and add up a quarter of warps each.
struct Sums {
    float first, second, sum, squares;

    __device__ __forceinline__ void add_up(
        const float* sums, const float2* moments, int pair, int b, bool is_normed) {
        first = second = sum = squares = 0.0f;
#pragma unroll
        for (int i = 0; i < (NUM_WARPS + 3) / 4; ++i) {
            const int warp = i * 4 + threadIdx.x % 4;
            if (warp >= NUM_WARPS) continue;
            const float* own = sums + (warp * ROWS + b) * SUM_STRIDE + 2 * pair;
            const float2 two = *reinterpret_cast<const float2*>(own);
            first += two.x, second += two.y;
            if (!is_normed) continue;
            const float2 moment = moments[warp * ROWS + b];
            sum += moment.x, squares += moment.y;
        }
#pragma unroll
        for (int bits = 1; bits < 4; bits *= 2) {
            first += __shfl_xor_sync(ALL_LANES, first, bits);
            second += __shfl_xor_sync(ALL_LANES, second, bits);
            sum += __shfl_xor_sync(ALL_LANES, sum, bits);
            squares += __shfl_xor_sync(ALL_LANES, squares, bits);
        }
    }

    // With the norm before the product, where there is one, and the bias. `folded`: of both rows.
    __device__ __forceinline__ float2 result(const float4& folded, bool is_normed) const {
        if (!is_normed) return make_float2(first + folded.x, second + folded.z);
        const float mean = sum * (1.0f / WIDTH), variance = squares * (1.0f / WIDTH) - mean * mean;
        const float scale = rsqrtf(fmaxf(variance, 0.0f) + 1e-5f);
        return make_float2(
            fmaf(scale, fmaf(-mean, folded.y, first), folded.x),
            fmaf(scale, fmaf(-mean, folded.w, second), folded.z));
    }
};

// ---- a step -------------------------------------------------------------------------------------

// Where results go, by four lanes that have the same. A row is the first of two.
struct Results {
    const StepRow* rows;
    Words words;    // this lane's copy
    float* logits;  // (B, stride)
    int vocabulary, logits_stride, max_positions;

    __device__ __forceinline__ void store(
        int matrix, int row, int b, float2 two, const StepLayer& layer, float2* residual,
        unsigned flag) const {
        const bool is_first = threadIdx.x % 4 == 0;
        if (matrix == HEAD) {
            float* to = logits + static_cast<long long>(b) * logits_stride + row;
            if (is_first) to[0] = two.x;
            if (is_first && row + 1 < vocabulary) to[1] = two.y;
        } else if (matrix == FC1) {
            const unsigned halves = halves_of(gelu_of(two.x), gelu_of(two.y));
            store_word(words.hidden() + (b * FFN_WIDTH + row) / 2, halves, flag);
        } else if (matrix == QKV || matrix == QUERY) {
            const unsigned halves = halves_of(two.x, two.y);
            store_word(words.queries() + b * QUERY_WORDS + row / 2, halves, flag);
            const int position = rows[b].position;
            if (row < WIDTH || position < 0 || !is_first) return;
            const long long at = static_cast<long long>(b) * max_positions + position;
            *reinterpret_cast<unsigned*>(layer.cache + at * 2 * WIDTH + row - WIDTH) = halves;
        } else {
            two.x += residual->x, two.y += residual->y;
            store_word(words.x(matrix) + (b * WIDTH + row) / 2, halves_of(two.x, two.y), flag);
            __syncwarp(15u << threadIdx.x % 32 / 4 * 4);  // the four have read it
            if (is_first) *residual = two;
        }
    }
};

// Brings this block's part of a layer's vectors into L2, or of the head's.
__device__ __forceinline__ void fetch_vectors(const StepLayer& layer, bool is_head, const Share* shares) {
    constexpr int LINE = 32;  // floats
    const int whole = (NUM_VECTORS / LINE + gridDim.x) / gridDim.x * LINE;
    const int first = is_head ? NORMS * WIDTH + 2 * shares[HEAD].first : blockIdx.x * whole;
    const int left = is_head ? (shares[HEAD].count + 1) / 2 * 4 : min(NUM_VECTORS - first, whole);
    if (threadIdx.x == 0 && left > 0)
        prefetch(layer.vectors + first, left * static_cast<int>(sizeof(float)));
}

// Whether a product's input is x behind a norm.
__device__ __forceinline__ bool is_normed(int matrix) {
    return matrix == QKV || matrix == QUERY || matrix == FC1 || matrix == HEAD;
}

extern "C" __global__ void __launch_bounds__(32 * NUM_WARPS, 1) whisper_step(
    const StepLayer* all_layers, const X* x, T* attention, float* logits, const WhisperRow* all_rows,
    const WhisperProgress* progress, unsigned long long* all_words, int num_layers, int vocabulary,
    int logits_stride, int num_positions, int num_aligned, int max_positions) {
    DYNAMIC_SHARED(unsigned char, memory);
    Shared shared;
    shared.lay_out(memory, num_layers);
    const int num_stages = num_layers * NUM_MATRICES + 1, warp = threadIdx.x / 32;
    shared.fill(all_layers, x, all_rows, progress, num_layers, vocabulary);
    __syncthreads();
    const Words words = {all_words};
    const Attention hearing = {shared.rows, words, attention, shared.scratch,
                               num_positions, num_aligned, max_positions};
    const Results results = {shared.rows, words.copy(threadIdx.x % 4), logits, vocabulary,
                             logits_stride, max_positions};
    Stream stream = {shared.layers, shared.shares, num_layers, memory + 16 * threadIdx.x};
    stream.begin();
    unsigned parity = 0;  // of sums
#pragma unroll 1
    for (int stage = 0; stage < num_stages; ++stage) {
        const unsigned flag = stage + 1;
        const int index = stage / NUM_MATRICES, kind = stage % NUM_MATRICES;
        const int matrix = index == num_layers ? static_cast<int>(HEAD) : kind;
        const StepLayer& layer = shared.layers[index];
        const Share share = shared.shares[matrix];
        const float* folded = layer.vectors + NORMS * WIDTH + 2 * (rows_before(kind) + share.first);
        const auto folded_of = [folded](int pair) {
            return *reinterpret_cast<const float4*>(folded + 4 * pair);
        };
        if (matrix == QKV) {
            hearing.fetch_text(layer);
#pragma unroll 1
            for (int next = stage == 0 ? 0 : index + 1; next <= index + 1; ++next)
                fetch_vectors(shared.layers[next], next == num_layers, shared.shares);
        }
        const int item = threadIdx.x / 4;  // the first of those of a slice
        float4 first_folded = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (item / ROWS * 2 < min(share.count, SLICE)) first_folded = folded_of(item / ROWS);
        __half* own = shared.input + warp * (kind == FC2 ? PLACES * COPIES : COPIES) * ROWS * COLUMNS;
        float2* moments = shared.moments + stage % 2 * MOMENTS;
#pragma unroll 1
        for (int begin = 0; begin < share.count; begin += SLICE) {
            const int end = min(share.count, begin + SLICE), num_items = (end - begin + 1) / 2 * ROWS;
            const int num_groups = (end - begin + GROUP - 1) / GROUP;
            float* sums = shared.sums + parity * SUMS;
            float* own_sums = sums + warp * ROWS * SUM_STRIDE;
            int num_taken;
            if (kind == FC2) {
                num_taken = multiply_slice<PLACES>(
                    stream, own, own_sums, num_groups,
                    [&] {
                        if (begin == 0) take_input<COPIES * PLACES>(words.own().hidden(), flag - 1, own);
                    },
                    [] {});
            } else {
                NormInput normed;
                num_taken = multiply_slice<1>(
                    stream, own, own_sums, num_groups,
                    [&] {
                        if (begin > 0) return;
                        if (is_normed(matrix))
                            normed.take(
                                stage == 0 ? x : nullptr,
                                words.own().x(kind == QKV ? static_cast<int>(FC2) : kind - 1),
                                layer.vectors + kind / 2 * WIDTH, flag - 1, own);
                        else
                            take_input<COPIES>(words.own().heard(), flag - 1, own);
                    },
                    [&] {
                        if (begin == 0 && is_normed(matrix)) normed.leave(moments);
                    });
            }
            __syncthreads();
#pragma unroll 1
            for (int base = warp * 8; base < num_items; base += THREADS / 4) {
                const int at = base + threadIdx.x % 32 / 4, pair = at / ROWS, b = at % ROWS;
                const bool is_there = at < num_items;
                Sums all_sums;
                all_sums.add_up(sums, moments, is_there ? pair : 0, b, is_normed(matrix));
                if (!is_there) continue;
                const int row = begin + 2 * pair;
                const float4 two = begin == 0 && at == item ? first_folded : folded_of(row / 2);
                results.store(
                    matrix, share.first + row, b, all_sums.result(two, is_normed(matrix)), layer,
                    shared.residual + row / 2 * ROWS + b, flag);
            }
            parity ^= 1;
            stream.refill(num_taken);
        }
        if (matrix == QKV || matrix == QUERY) hearing.hear(layer, matrix == QKV, flag);
    }
}
