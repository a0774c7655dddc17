// One step of Whisper's decoder for few rows, from x to logits, in one cooperative kernel: what
// whisper_layers.py does by products and kernels of their own, which for few rows take longer to begin
// than to read their weights.
//
// Weights are read once and in an order that never changes. So each thread copies ahead, into a ring
// of its own in shared memory, and goes on copying through barriers and attention: what a phase
// multiplies is there when its input is. A block has the same share of neighbouring rows of every
// matrix. A warp multiplies 8 of them at once by tensor cores, 32 columns a copy: always the same
// columns, of which it keeps the input in registers. What the warps add up to is summed in a fixed
// order.
// Grid: as many as multiprocessors, one block on each. Bound by latency: of a number's way from block to
// block, eight times a layer (bench/README.md); not by reading, nor by the size of the code.
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
#define NUM_WARPS 20
#define ROWS 1
#define SPLITS 6  // of the audio's positions
#define DEPTH 10
#endif

#include "whisper_rows.cuh"

constexpr int THREADS = 32 * NUM_WARPS;
constexpr int COLUMNS = 32;  // of a copy: 16 bytes for each of 4 lanes
constexpr int GROUP = 8;     // rows of a copy
constexpr int COPIES = WIDTH / (NUM_WARPS * COLUMNS);  // that a thread begins at once: a place of its ring
constexpr int PLACE = COPIES * 16 * THREADS;           // bytes, of the block
constexpr int SLICE = ROWS < 8 ? 8 / ROWS : 1;         // groups between two sums
constexpr int GROUP_FLOATS = (NUM_WARPS + 1) * GROUP * ROWS;  // of sums, with room against conflicts
constexpr int NUM_MATRICES = 6;                               // of a layer
enum Matrix { QKV, OUT, QUERY, CROSS_OUT, FC1, FC2, HEAD };

// A layer's weights and memory: their addresses, as whisper_few_rows.py lays them out.
struct StepLayer {
    const T* weights[NUM_MATRICES];  // (n, k)
    const float* vectors;            // NORMS pairs of weight and bias (D), then each matrix's bias (n)
    const T* cross;                  // (B, N, 2 D) keys and values of the audio
    T* cache;                        // (B, P, 2 D) of the text
    const int* aligned;              // (H)
};

// Of one layer's vectors.
enum Norms { SELF, CROSS, FFN, NORMS };
constexpr int NUM_VECTORS = 2 * NORMS * WIDTH + 7 * WIDTH + FFN_WIDTH;

__device__ __forceinline__ int rows_of(int matrix) {
    return matrix == QKV ? 3 * WIDTH : matrix == FC1 ? FFN_WIDTH : WIDTH;
}

// Where a matrix's bias is among its layer's vectors.
__device__ __forceinline__ int bias_of(int matrix) {
    int at = 2 * NORMS * WIDTH;
    for (int i = 0; i < matrix; ++i) at += rows_of(i);
    return at;
}

// This block's rows of a matrix: [first, first + count).
struct Share {
    int first, count;
};

__device__ __forceinline__ Share share_of(int num_rows) {
    const int begin = static_cast<int>(static_cast<long long>(num_rows) * blockIdx.x / gridDim.x);
    const int end = static_cast<int>(static_cast<long long>(num_rows) * (blockIdx.x + 1) / gridDim.x);
    return {begin, end - begin};
}

__device__ __forceinline__ uint4 load_words(const void* from) {
    CHECK_ALIGNED(from, 16);
    return *reinterpret_cast<const uint4*>(from);
}

// ---- weights ahead ------------------------------------------------------------------------------

// What this thread reads of all matrices, in the order of their use: of one row of a group 8 columns
// COPIES times, further of its columns where the row has more than D, then the next group. DEPTH
// places are under way.
struct Stream {
    const StepLayer* layers;
    const Share* shares;  // of each matrix, and of the head
    const T* head;
    int num_layers;
    unsigned char* ring;  // this thread's first place
    int matrix, width, row, end, column;  // of the next copies: the row of the block's share
    const T* from;
    int put, get;  // bytes

    static __device__ __forceinline__ int first_row() { return threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int first_column() {
        return threadIdx.x / 32 * COLUMNS + threadIdx.x % 4 * 8;
    }

    __device__ __forceinline__ void open() {
        const int layer = matrix / NUM_MATRICES;
        const int kind = layer == num_layers ? HEAD : matrix % NUM_MATRICES;
        const T* weights = kind == HEAD ? head : layers[layer].weights[kind];
        width = kind == FC2 ? FFN_WIDTH : WIDTH;
        row = first_row();
        column = 0;
        end = shares[kind].count;
        from = weights + static_cast<long long>(shares[kind].first + row) * width + first_column();
    }

    template <int COPY>
    __device__ __forceinline__ void copy() {
        copy_async<COPY * 16 * THREADS, COPY * NUM_WARPS * COLUMNS * static_cast<int>(sizeof(T))>(
            ring + put, from);
        if constexpr (COPY + 1 < COPIES) copy<COPY + 1>();
    }

    // Fill one more place, or leave it where the group has no such row: places are counted.
    __device__ __forceinline__ void advance() {
        if (row < end) copy<0>();
        end_copies();
        put = put + PLACE == DEPTH * PLACE ? 0 : put + PLACE;
        column += WIDTH;
        from += WIDTH;
        if (column < width) return;
        column = 0;
        row += GROUP;
        from += (GROUP - 1) * width;
        if (row - first_row() >= end) open_next();
    }

    __device__ __forceinline__ void open_next() {
        while (row - first_row() >= end && matrix < num_layers * NUM_MATRICES) {
            ++matrix;
            open();
        }
    }

    __device__ __forceinline__ void begin() {
        matrix = put = get = 0;
        open();
        if (end == 0) open_next();  // few rows for many blocks
        for (int i = 0; i < DEPTH; ++i) advance();
    }

    // Copy `copy` of the oldest place, which is there: 8 columns of a row.
    __device__ __forceinline__ uint4 look(int copy) const {
        return load_words(ring + get + copy * 16 * THREADS);
    }

    __device__ __forceinline__ void leave() {
        get = get + PLACE == DEPTH * PLACE ? 0 : get + PLACE;
    }
};

// What a lane multiplies: 8 columns of row lane / 4 of the batch, beside those that it copies of weights.
// Which of them a tensor core takes for which does not matter, where both sides agree.
template <int K>
struct Input {
    static constexpr int PLACES = K / WIDTH;  // of a group
    uint4 columns[PLACES][COPIES];

    // From (B, K) of shared or device memory.
    __device__ __forceinline__ void load(const T* input) {
        const int row = Stream::first_row();
#pragma unroll
        for (int i = 0; i < PLACES; ++i) {
#pragma unroll
            for (int copy = 0; copy < COPIES; ++copy) {
                const T* from =
                    input + row * K + i * WIDTH + copy * NUM_WARPS * COLUMNS + Stream::first_column();
                columns[i][copy] = make_uint4(0, 0, 0, 0);
                if (row < ROWS) columns[i][copy] = load_words(from);
            }
        }
    }
};

// The product of this block's rows of a matrix with the input. before(row, b) is asked early for what
// is added, and after(row, b, sum) gets each row's sum with it. `sums`: SLICE GROUP_FLOATS of shared
// memory, free again behind a __syncthreads.
template <Matrix MATRIX, int K, class Before, class After>
__device__ __forceinline__ void multiply(
    Stream& stream, const Input<K>& input, float* sums, Before before, After after) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Share share = stream.shares[MATRIX];
    for (int slice = 0; slice * GROUP < share.count; slice += SLICE) {
        const int first = slice * GROUP, end = min(share.count, first + SLICE * GROUP);
        if (slice > 0) __syncthreads();  // the last one's sums are read
        const int num_sums = (end - first) * ROWS;
        float added = 0.0f;
        if (threadIdx.x < num_sums)
            added = before(share.first + first + threadIdx.x / ROWS, threadIdx.x % ROWS);
        for (int group = 0; first + group * GROUP < end; ++group) {
            float even[4] = {}, odd[4] = {};
#pragma unroll
            for (int i = 0; i < Input<K>::PLACES; ++i) {
                wait_copies_but<DEPTH - 1>();
#pragma unroll
                for (int copy = 0; copy < COPIES; ++copy) {
                    const uint4 weights = stream.look(copy), columns = input.columns[i][copy];
                    const unsigned first_columns[4] = {columns.x, 0, columns.y, 0};
                    const unsigned last_columns[4] = {columns.z, 0, columns.w, 0};
                    const unsigned first_weights[2] = {weights.x, weights.y};
                    const unsigned last_weights[2] = {weights.z, weights.w};
                    mma_m16n8k16(even, first_columns, first_weights);
                    mma_m16n8k16(odd, last_columns, last_weights);
                }
                stream.leave();
                stream.advance();
            }
            float* own = sums + group * GROUP_FLOATS + (warp * ROWS + lane / 4) * GROUP;
            if (lane / 4 < ROWS) {
                own[lane % 4 * 2] = even[0] + odd[0];
                own[lane % 4 * 2 + 1] = even[1] + odd[1];
            }
        }
        __syncthreads();
        for (int item = threadIdx.x; item < num_sums; item += THREADS) {
            const int row = item / ROWS, b = item % ROWS;
            const float* own = sums + row / GROUP * GROUP_FLOATS + b * GROUP + row % GROUP;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < NUM_WARPS; ++i) sum += own[i * ROWS * GROUP];
            sum += item < THREADS ? added : before(share.first + first + row, b);
            after(share.first + first + row, b, sum);
        }
    }
}

// ---- inputs -------------------------------------------------------------------------------------

constexpr int PAIRS = (WIDTH + 2 * THREADS - 1) / (2 * THREADS);  // columns of a thread, two by two

__device__ __forceinline__ int pair_at(int i) { return 2 * (i * THREADS + threadIdx.x); }

__device__ __forceinline__ void store_pair(T* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = pack_halves(saturated_half(first), saturated_half(second));
}

struct Norm {
    float2 weight[PAIRS], bias[PAIRS];
    // From a weight (D), with its bias (D) behind it.
    __device__ __forceinline__ void load(const float* norm) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            if (pair_at(i) >= WIDTH) continue;
            weight[i] = *reinterpret_cast<const float2*>(norm + pair_at(i));
            bias[i] = *reinterpret_cast<const float2*>(norm + WIDTH + pair_at(i));
        }
    }
};

// input (B, D) in shared memory = norm of x (B, D). `scratch`: 2 ROWS NUM_WARPS floats of shared memory.
__device__ __forceinline__ void normalise(const X* x, const Norm& norm, T* input, float* scratch) {
    const int warp = threadIdx.x / 32;
    float2 values[ROWS][PAIRS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            values[r][i] = make_float2(0.0f, 0.0f);
            if (pair_at(i) >= WIDTH) continue;
            const X* from = x + r * WIDTH + pair_at(i);
            values[r][i] = make_float2(to_float(from[0]), to_float(from[1]));
            sum += values[r][i].x + values[r][i].y;
            squares = fmaf(values[r][i].x, values[r][i].x, squares);
            squares = fmaf(values[r][i].y, values[r][i].y, squares);
        }
        sum = warp_sum(sum);
        squares = warp_sum(squares);
        if (threadIdx.x % 32 == 0) {
            scratch[2 * (r * NUM_WARPS + warp)] = sum;
            scratch[2 * (r * NUM_WARPS + warp) + 1] = squares;
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < NUM_WARPS; ++i) {
            sum += scratch[2 * (r * NUM_WARPS + i)];
            squares += scratch[2 * (r * NUM_WARPS + i) + 1];
        }
        const float mean = sum / WIDTH, variance = squares / WIDTH - mean * mean;
        const float scale = rsqrtf(fmaxf(variance, 0.0f) + 1e-5f);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            if (pair_at(i) >= WIDTH) continue;
            store_pair(
                input + r * WIDTH + pair_at(i),
                fmaf((values[r][i].x - mean) * scale, norm.weight[i].x, norm.bias[i].x),
                fmaf((values[r][i].y - mean) * scale, norm.weight[i].y, norm.bias[i].y));
        }
    }
    __syncthreads();
}

// ---- attention ----------------------------------------------------------------------------------

// Brings keys and values of [first, end) of a head into L2.
__device__ __forceinline__ void fetch_ahead(const T* keys, int first, int end) {
    for (int i = 2 * first + threadIdx.x; i < 2 * end; i += THREADS)
        prefetch(keys + (long long)i * WIDTH, HEAD_WIDTH * (int)sizeof(T));
}

// A row of the batch, in shared memory: a barrier of the grid empties L1.
struct StepRow {
    int position;  // of its token, or -1: it has ended, or there is nobody
    int step;      // behind its prompt
    int is_watched;
};

// What attention works on.
struct Step {
    const StepRow* rows;
    float* queries;  // (B, D)
    float* parts;    // (B, H, S, E + 2)
    T* heard;        // (B, D)
    T* attention;    // (B, POSITIONS, A, N)
    int num_positions, num_aligned, max_positions;

    // Keys of a split: [first, end).
    __device__ __forceinline__ int split_at(int split) const {
        return num_positions * split / SPLITS;
    }

    // All that layers read of attention, on its way while their weights are multiplied.
    __device__ __forceinline__ void fetch(const StepLayer& layer) const {
        for (int item = blockIdx.x; item < ROWS * NUM_HEADS; item += gridDim.x) {
            const int b = item / NUM_HEADS, column = item % NUM_HEADS * HEAD_WIDTH;
            if (rows[b].position < 0) continue;
            const T* keys = layer.cache + (long long)b * max_positions * 2 * WIDTH + column;
            fetch_ahead(keys, 0, rows[b].position);
        }
        for (int item = blockIdx.x; item < ROWS * NUM_HEADS * SPLITS; item += gridDim.x) {
            const int b = item / SPLITS / NUM_HEADS, split = item % SPLITS;
            if (rows[b].position < 0) continue;
            const T* keys = layer.cross + (long long)b * num_positions * 2 * WIDTH +
                                 item / SPLITS % NUM_HEADS * HEAD_WIDTH;
            fetch_ahead(keys, split_at(split), split_at(split + 1));
        }
    }

    __device__ __forceinline__ void hear_text(const StepLayer& layer, float* scratch) const {
        for (int item = blockIdx.x; item < ROWS * NUM_HEADS; item += gridDim.x) {
            const int b = item / NUM_HEADS, column = item % NUM_HEADS * HEAD_WIDTH;
            if (rows[b].position < 0) continue;
            float query[8], top, total;
            load_query(queries + b * WIDTH + column, query);
            const T* keys = layer.cache + (long long)b * max_positions * 2 * WIDTH + column;
            const Heard own = listen<2>(query, keys, rows[b].position + 1, nothing_kept);
            const float sum = join_heard<NUM_WARPS>(own, scratch, &top, &total);
            if (threadIdx.x < HEAD_WIDTH)
                heard[b * WIDTH + column + threadIdx.x] = to_storage(sum / total);
            __syncthreads();
        }
    }

    __device__ __forceinline__ void hear_audio(const StepLayer& layer, float* scratch) const {
        for (int item = blockIdx.x; item < ROWS * NUM_HEADS * SPLITS; item += gridDim.x) {
            const int head = item / SPLITS % NUM_HEADS, split = item % SPLITS;
            const int b = item / SPLITS / NUM_HEADS, first = split_at(split);
            if (rows[b].position < 0) continue;
            float query[8], top, total;
            load_query(queries + b * WIDTH + head * HEAD_WIDTH, query);
            const int place = rows[b].is_watched ? layer.aligned[head] : -1;
            T* scores =
                attention +
                (((long long)b * POSITIONS + rows[b].step) * num_aligned + place) * num_positions;
            const T* keys = layer.cross +
                                 ((long long)b * num_positions + first) * 2 * WIDTH +
                                 head * HEAD_WIDTH;
            const Heard own = listen<4>(
                query, keys, split_at(split + 1) - first, [=](int key, float score) {
                    if (place >= 0) scores[first + key] = to_storage(score);
                });
            const float sum = join_heard<NUM_WARPS>(own, scratch, &top, &total);
            float* part = parts + (long long)item * HEARD_FLOATS;
            if (threadIdx.x < HEAD_WIDTH) part[threadIdx.x] = sum;
            if (threadIdx.x == 0) {
                part[HEAD_WIDTH] = top;
                part[HEAD_WIDTH + 1] = total;
            }
            __syncthreads();
        }
    }

    // input (B, D) in shared memory = what was heard of the audio, of all splits.
    __device__ __forceinline__ void join(T* input) const {
#pragma unroll
        for (int b = 0; b < ROWS; ++b) {
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                const int column = pair_at(pair), head = column / HEAD_WIDTH;
                if (column >= WIDTH) continue;
                const float* own = parts + (long long)(b * NUM_HEADS + head) * SPLITS * HEARD_FLOATS;
                float2 ends[SPLITS], heard_of[SPLITS];  // top and total
#pragma unroll
                for (int i = 0; i < SPLITS; ++i) {  // all on their way before the first is used
                    const float2* pairs = reinterpret_cast<const float2*>(own + i * HEARD_FLOATS);
                    ends[i] = pairs[HEAD_WIDTH / 2];
                    heard_of[i] = pairs[column % HEAD_WIDTH / 2];
                }
                float top = -MAX_HALF, total = 0.0f, first = 0.0f, second = 0.0f;
#pragma unroll
                for (int i = 0; i < SPLITS; ++i) top = fmaxf(top, ends[i].x);
#pragma unroll
                for (int i = 0; i < SPLITS; ++i) {
                    const float factor = __expf(ends[i].x - top);
                    total = fmaf(factor, ends[i].y, total);
                    first = fmaf(factor, heard_of[i].x, first);
                    second = fmaf(factor, heard_of[i].y, second);
                }
                const float scale = rows[b].position < 0 ? 0.0f : 1.0f / total;
                store_pair(input + b * WIDTH + column, first * scale, second * scale);
            }
        }
        __syncthreads();
    }
};

// ---- a step -------------------------------------------------------------------------------------

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__half* to, float value) { *to = saturated_half(value); }

// Brings this block's share of a layer's vectors into L2.
__device__ __forceinline__ void fetch_vectors(const StepLayer& layer) {
    constexpr int LINE = 32;  // floats
    const int count = (NUM_VECTORS / LINE + gridDim.x) / gridDim.x * LINE;
    const int first = blockIdx.x * count, left = min(NUM_VECTORS - first, count);
    if (threadIdx.x == 0 && left > 0) prefetch(layer.vectors + first, left * (int)sizeof(float));
}

// Shared memory: the ring, sums of a slice, scratch of attention and norms, an input, the layers, the
// shares, the barrier's phase, the rows.
constexpr int SUMS = SLICE * GROUP_FLOATS;
constexpr int SCRATCH = (NUM_WARPS * HEARD_FLOATS + 3) / 4 * 4;  // 2 ROWS are fewer

extern "C" __global__ void __launch_bounds__(32 * NUM_WARPS, 1) whisper_step(
    const StepLayer* all_layers, const T* head, const float* last_norm, X* x, float* queries,
    float* parts, T* heard, T* hidden, T* attention, float* logits, const WhisperRow* all_rows,
    const WhisperProgress* progress, GridBarrier* barrier, int num_layers, int vocabulary,
    int logits_stride, int num_positions, int num_aligned, int max_positions) {
    DYNAMIC_SHARED(unsigned char, memory);
    float* sums = reinterpret_cast<float*>(memory + DEPTH * PLACE);
    float* scratch = sums + SUMS;
    T* input = reinterpret_cast<T*>(scratch + SCRATCH);
    StepLayer* layers = reinterpret_cast<StepLayer*>(input + ROWS * WIDTH);
    Share* shares = reinterpret_cast<Share*>(layers + num_layers);
    unsigned* phase = reinterpret_cast<unsigned*>(shares + NUM_MATRICES + 1);
    StepRow* rows = reinterpret_cast<StepRow*>(phase + 1);
    for (int i = threadIdx.x; i <= HEAD; i += THREADS)
        shares[i] = share_of(i == HEAD ? vocabulary : rows_of(i));
    for (int i = threadIdx.x; i < num_layers; i += THREADS) layers[i] = all_layers[i];
    for (int b = threadIdx.x; b < ROWS; b += THREADS) {
        const bool is_active = progress[b].state == ACTIVE;
        const int position = progress[b].position;
        rows[b] = {is_active ? position : -1, position + 1 - all_rows[b].prompt_length,
                   all_rows[b].watched};
    }
    SplitBarrier all_blocks = {barrier, phase};
    all_blocks.begin();
    __syncthreads();
    const Step step = {rows, queries, parts, heard, attention,
                       num_positions, num_aligned, max_positions};
    Stream stream = {layers, shares, head, num_layers, memory + 16 * threadIdx.x};
    stream.begin();
    fetch_vectors(layers[0]);
    Input<WIDTH> columns;
    Norm norm;
    for (int index = 0; index < num_layers; ++index) {
        const StepLayer& layer = layers[index];
        const float* vectors = layer.vectors;
        const auto bias = [vectors](Matrix matrix) {
            const float* own = vectors + bias_of(matrix);
            return [own](int row, int) { return own[row]; };
        };
        // The residual stream and a bias, and where it goes with a product added to both.
        const auto residual = [vectors, x](Matrix matrix) {
            const float* own = vectors + bias_of(matrix);
            return [own, x](int row, int b) { return own[row] + to_float(x[b * WIDTH + row]); };
        };
        const auto add = [x](int row, int b, float sum) { store(x + b * WIDTH + row, sum); };

        norm.load(vectors + 2 * SELF * WIDTH);
        if (index > 0) all_blocks.pass();
        step.fetch(layer);
        if (index + 1 < num_layers) fetch_vectors(layers[index + 1]);
        normalise(x, norm, input, scratch);
        columns.load(input);
        multiply<QKV>(
            stream, columns, sums, bias(QKV), [&](int row, int b, float sum) {
                if (row < WIDTH) {
                    queries[b * WIDTH + row] = sum;
                } else if (rows[b].position >= 0) {
                    const long long at = (long long)b * max_positions + rows[b].position;
                    layer.cache[at * 2 * WIDTH + row - WIDTH] = to_storage(sum);
                }
            });
        all_blocks.pass();
        step.hear_text(layer, scratch);
        all_blocks.pass();
        columns.load(heard);
        multiply<OUT>(stream, columns, sums, residual(OUT), add);
        norm.load(vectors + 2 * CROSS * WIDTH);
        all_blocks.pass();
        normalise(x, norm, input, scratch);
        columns.load(input);
        multiply<QUERY>(
            stream, columns, sums, bias(QUERY),
            [&](int row, int b, float sum) { queries[b * WIDTH + row] = sum; });
        all_blocks.pass();
        step.hear_audio(layer, scratch);
        all_blocks.pass();
        step.join(input);
        columns.load(input);
        multiply<CROSS_OUT>(stream, columns, sums, residual(CROSS_OUT), add);
        norm.load(vectors + 2 * FFN * WIDTH);
        all_blocks.pass();
        normalise(x, norm, input, scratch);
        columns.load(input);
        multiply<FC1>(
            stream, columns, sums, bias(FC1),
            [&](int row, int b, float sum) {
                hidden[b * FFN_WIDTH + row] = to_storage(gelu_of(sum));
            });
        all_blocks.pass();
        Input<FFN_WIDTH> wide;
        wide.load(hidden);
        multiply<FC2>(stream, wide, sums, residual(FC2), add);
    }
    norm.load(last_norm);
    all_blocks.pass();
    normalise(x, norm, input, scratch);
    columns.load(input);
    multiply<HEAD>(
        stream, columns, sums, [](int, int) { return 0.0f; },
        [&](int row, int b, float sum) { logits[(long long)b * logits_stride + row] = sum; });
}
