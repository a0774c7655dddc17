// The weights of whisper_step.cu on their way: what a block multiplies, in the order of its use, copied
// ahead into shared memory. Each thread copies into a ring of its own and reads nothing but that.
// B = ROWS, D width, F feed forward, V vocabulary, L layers.
#pragma once
#include "whisper_rows.cuh"

constexpr int THREADS = 32 * NUM_WARPS;
constexpr int COLUMNS = 32;  // of a copy: 16 bytes for each of 4 lanes
constexpr int GROUP = 16;    // rows of a tensor core's product: two for each lane
constexpr int COPIES = WIDTH / (NUM_WARPS * COLUMNS);  // of each of a thread's rows, begun at once
constexpr int COPY_BYTES = 16 * THREADS;               // of the block
constexpr int UNIT_BYTES = 2 * COPIES * COPY_BYTES;    // D columns of a group: a place of the ring
constexpr int SLICE = 3 * GROUP;                       // rows between two sums
constexpr int NUM_MATRICES = 6;                        // of a layer
enum Matrix { QKV, OUT, QUERY, CROSS_OUT, FC1, FC2, HEAD };

// A layer's weights and memory: their addresses, as whisper_few_rows.py lays them out. Behind the last
// layer comes the head, as if it were a layer's QKV.
struct StepLayer {
    const __half* weights[NUM_MATRICES];  // (n, k)
    const float* vectors;                 // NORMS gains (D), then what whisper_fold.cu made of each row
    const __half* cross;                  // (B, N, 2 D) keys and values of the audio
    __half* cache;                        // (B, P, 2 D) of the text
    const int* aligned;                   // (H)
};

constexpr int NORMS = 3;
constexpr int NUM_VECTORS = NORMS * WIDTH + 2 * (7 * WIDTH + FFN_WIDTH);  // floats of a layer

__device__ __forceinline__ int rows_of(int matrix) {
    return matrix == QKV ? 3 * WIDTH : matrix == FC1 ? FFN_WIDTH : WIDTH;
}

// Where a matrix's rows are among those of its layer.
__device__ __forceinline__ int rows_before(int matrix) {
    return matrix == QKV ? 0 : matrix == FC2 ? 6 * WIDTH + FFN_WIDTH : (2 + matrix) * WIDTH;
}

// This block's rows of a matrix: [first, first + count), two by two. Every block has some of each.
struct Share {
    int first, count;
};

__device__ __forceinline__ Share share_of(int num_rows) {
    const int num_pairs = (num_rows + 1) / 2, block = blockIdx.x, num_blocks = gridDim.x;
    const int first = 2 * (num_pairs * block / num_blocks);
    return {first, min(2 * (num_pairs * (block + 1) / num_blocks), num_rows) - first};
}

__device__ __forceinline__ uint4 load_words(const void* from) {
    CHECK_ALIGNED(from, 16);
    return *reinterpret_cast<const uint4*>(from);
}

// 8 columns of two rows of a group, COPIES times: what a lane gives to the tensor core at once.
struct Unit {
    uint4 low[COPIES], high[COPIES];
};

// Units in the order of their use: of a group D columns, the next D of them where rows are longer,
// then the next group.
struct Stream {
    const StepLayer* layers;
    const Share* shares;  // of each matrix, and of the head
    int num_layers;
    unsigned char* ring;  // this thread's first place
    int matrix, width, row, end, column;  // of the next copies: the lower row, of the block's share
    const __half* from;
    int put, get;  // bytes
    int first_row, first_column;  // of this thread's, in a group

    __device__ __forceinline__ void open() {
        const int layer = matrix / NUM_MATRICES, kind = matrix % NUM_MATRICES;
        const Share share = shares[layer == num_layers ? static_cast<int>(HEAD) : kind];
        width = kind == FC2 ? FFN_WIDTH : WIDTH;
        row = first_row;
        column = 0;
        end = share.count;
        from = layers[layer].weights[kind] + static_cast<long long>(share.first + row) * width +
               first_column;
    }

    template <int COPY, int HALF>
    __device__ __forceinline__ void copy(const __half* source) {
        copy_async<(2 * COPY + HALF) * COPY_BYTES, COPY * NUM_WARPS * COLUMNS * 2>(ring + put, source);
        if constexpr (COPY + 1 < COPIES) copy<COPY + 1, HALF>(source);
    }

    // Fills one place more, or leaves it where the group has no such rows: places are counted.
    __device__ __forceinline__ void advance() {
        if (row < end) copy<0, 0>(from);
        if (row + GROUP / 2 < end) copy<0, 1>(from + GROUP / 2 * width);
        end_copies();
        put = put + UNIT_BYTES == DEPTH * UNIT_BYTES ? 0 : put + UNIT_BYTES;
        column += WIDTH;
        from += WIDTH;
        if (column < width) return;
        column = 0;
        row += GROUP;
        from += (GROUP - 1) * width;
        if (row - first_row < end) return;
        end = 0;  // nothing is left behind the head
        if (matrix == num_layers * NUM_MATRICES) return;
        ++matrix;
        open();
    }

    // All is empty: fills every place. The thread's index is read once: the compiler would read it again at
    // every use, which takes longer than the use.
    __device__ __forceinline__ void begin() {
        const unsigned thread = opaque(threadIdx.x);
        first_row = static_cast<int>(thread % 32 / 4);
        first_column = static_cast<int>(thread / 32 * COLUMNS + thread % 4 * 8);
        matrix = put = get = 0;
        open();
        refill(DEPTH);
    }

    __device__ __forceinline__ void refill(int num_places) {
#pragma unroll 1
        for (; num_places > 0; --num_places) advance();
    }

    // The next unit, TAKEN places behind the last refill(). Its place stays empty until the next: what is
    // not urgent waits until there is time. Rows that the block does not have are whatever was there: a
    // product's rows are each for itself.
    template <int TAKEN>
    __device__ __forceinline__ void take(Unit& unit) {
        static_assert(TAKEN < DEPTH, "more than the ring holds");
        wait_copies_but<DEPTH - 1 - TAKEN>();
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy) {
            const unsigned char* place = ring + get + 2 * copy * COPY_BYTES;
            unit.low[copy] = load_words(place);
            unit.high[copy] = load_words(place + COPY_BYTES);
        }
        get = get + UNIT_BYTES == DEPTH * UNIT_BYTES ? 0 : get + UNIT_BYTES;
    }
};
