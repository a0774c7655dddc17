// What the TDT decoder's kernels share: sizes, what lies where in memory, and keys of logits.
//
// The search is that of gpu_service/decoding/tdt.py, for all rows of a launch side by side. One turn:
//
//   joint    relu(frame + predicted) . head^T of every row that is not done, each row's best label
//   pick     blank or token, how far to go on; rows with a token are the ones that `said` something
//   lowest   LSTM layer 0 of those: its products are known before (a table and `gates`)
//   layer s  for s = 1 .. L, one product of the hidden state of layer s - 1 with two matrices:
//            with the input weights of layer s (or the projection into the joint, for s = L), and
//            with the recurrent weights of layer s - 1, whose result waits in `gates` for the next
//            token. So the only products that a token waits for are L of width J.
//
// tdt_steps.cuh has these steps as device functions of one block among many; tdt_persistent.cu runs
// them in one kernel, tdt_graph.cu as a kernel each.
//
// Sizes are compile-time constants: WIDTH J, NUM_LAYERS L, NUM_LABELS V + 1 with the blank last,
// NUM_DURATIONS R. B rows at most. Sums run in an order that depends on nothing but these.
#ifndef TDT_CUH
#define TDT_CUH

#include "common.cuh"

#ifndef WIDTH  // Parakeet-TDT 0.6B v3
#define WIDTH 640
#define NUM_LAYERS 2
#define NUM_LABELS 8193
#define NUM_DURATIONS 5
#endif

constexpr int BLANK = NUM_LABELS - 1;
constexpr int PARTS = 2 * NUM_LAYERS + 1;  // vectors of width J in a state: hidden, cell, predicted
constexpr int TILE_ROWS = 16;              // of a matrix, as the tensor core takes them
constexpr int NUM_STEPS = WIDTH / 16;      // products of a tile, 16 columns each
constexpr int TILE_SIZE = TILE_ROWS * WIDTH;

// All matrices lie in one list of tiles: the head, then for s = 1 .. L those of layer s. A tile of
// gates has the four gates of four units: row 4 * gate + unit, gates in the order of tdt_weights.py.
constexpr int HEAD_TILES = (NUM_LABELS + NUM_DURATIONS + TILE_ROWS - 1) / TILE_ROWS;
constexpr int LABEL_TILES = (NUM_LABELS + TILE_ROWS - 1) / TILE_ROWS;
constexpr int GATE_TILES = 4 * WIDTH / TILE_ROWS;
constexpr int PROJECTION_TILES = WIDTH / TILE_ROWS;
constexpr int NUM_TILES = HEAD_TILES + (2 * NUM_LAYERS - 1) * GATE_TILES + PROJECTION_TILES;

// Blocks of 16 warps: four tiles at a time, the columns of each shared by four warps.
constexpr int LANES = 32;
constexpr int SLOTS = 4;
constexpr int SPLITS = 4;
constexpr int WARPS = SLOTS * SPLITS;
constexpr int THREADS = WARPS * LANES;
constexpr int GROUP = 8;                 // rows of the batch that the tensor core takes at once
constexpr int GROUPS = 2;                // and how often, for each load of weights
constexpr int COLUMNS = GROUP * GROUPS;  // rows of the batch in shared memory at a time

// Shared memory in front of rows and resident tiles, in bytes. tdt_buffers.py counts them too.
constexpr int STAGED_BYTES = WIDTH * COLUMNS * 4;
constexpr int PARTIAL_BYTES = SLOTS * GROUPS * (SPLITS - 1) * LANES * 16;
constexpr int BEST_BYTES = SLOTS * COLUMNS * 8;
constexpr int TOTALS_BYTES = WARPS * 4;

// A launch, as the host describes it.
struct TdtRowRequest {
    int first_token;  // where its tokens go in the launch's
    int first_frame;  // in frames of the batch: row * N + first
    int count;
    int state_in, state_out;
    int hotwords;  // which trie, -1 for none
    int unused[2];
};

struct TdtRequest {
    long long frames;   // address of (B, N, J) float
    long long tokens;   // of int4 {id, frame, duration, bits of the confidence}, host memory
    long long results;  // of int: turns of the loop, then tokens of each row, host memory
    int num_rows;
    int has_hotwords;  // whether any row has
    TdtRowRequest rows[1];
};

// One row while it is searched. Its count of tokens is also what its double buffers go by.
struct TdtRow {
    int first_frame, count, state, hotwords, first_token;  // as requested; `state` is state_out
    int frame;    // the next one to look at, counted from the first
    int symbols;  // tokens of duration 0 there so far
    int label;    // the last token
    int node;     // of the hotwords' trie
    int num_tokens;
    int has_said;  // in this turn
};

struct TdtCounts {
    long long frames;  // as requested, like the next two
    int num_rows, has_hotwords;
    int num_active, num_said, num_turns;
    unsigned phase;  // of the barrier of all blocks (tdt_persistent.cu)
};

// The rows and which of them are not done, and said something in this turn: in shared memory, a copy
// for each block, because a barrier of the grid empties L1; or in device memory (tdt_graph.cu). Laid
// out by progress_at().
struct TdtProgress {
    TdtCounts* counts;
    TdtRow* rows;
    int* active;
    int* said;
};

constexpr int ROW_BYTES = sizeof(TdtRow) + 2 * sizeof(int);  // with its places in the lists

// Everything in device memory. Where other blocks of a launch write, loads go past L1 (__ldcg).
struct Tdt {
    const T* tiles;
    const float* bias;     // (tiles, 16) for the rows of each tile
    const float* table;    // (V + 1, J, 4) what embedding, input weights and bias give layer 0
    const int* durations;  // (R,) in frames
    int max_symbols;
    float* values;           // (states, 2 L + 1, J): hidden, cell of each layer, predicted
    int* marks;              // (states, 4): label, overshoot, node of the hotwords' trie
    float* gates;            // (L + 1, B, J, 4) recurrent products: layer 0 twice, in turns of a row
    float* cells;            // (2, B, J) of layer 0, in turns of a row
    unsigned long long* keys;  // (3, B) the best label of each row; one of three, in turns of the loop
    float* duration_logits;  // (2, B, R), in turns of the loop
    float* logits;           // (2, B, V + 1) of rows with hotwords, in turns of the loop
    float2* sums;            // (B, label tiles): the largest logit, sum of exp(logit - largest)
    float4* joined;          // (B, J / 4) of many rows: what joint() multiplies, as it is staged
    int4* tokens;            // of all rows, as the host gets them in the end
    const int* tries;        // see tdt_hotwords.cuh
    const TdtRequest* request;
    int max_rows;  // B
};

// A block's shared memory. (Sizes that are not known to the compiler come last, so that most addresses
// need no register.)
struct TdtShared {
    unsigned char* staged;     // rows of the batch as the products take them, COLUMNS at a time
    float4* partial;           // sums of each warp
    unsigned long long* best;  // (SLOTS, COLUMNS) keys; zero between steps
    int* totals;               // (WARPS,)
    void* progress;            // room for it; only of the kernel that is all steps
    const T* resident;         // the block's first tiles
    int num_resident;
};

__device__ __forceinline__ TdtProgress progress_at(void* memory, int max_rows) {
    TdtProgress progress;
    progress.counts = reinterpret_cast<TdtCounts*>(memory);
    progress.rows = reinterpret_cast<TdtRow*>(progress.counts + 1);
    progress.active = reinterpret_cast<int*>(progress.rows + max_rows);
    progress.said = progress.active + max_rows;
    return progress;
}

__device__ __forceinline__ TdtShared shared_at(
    unsigned char* memory, int max_rows, int num_resident
) {
    TdtShared shared;
    shared.staged = memory;
    shared.partial = reinterpret_cast<float4*>(memory + STAGED_BYTES);
    unsigned char* rest = memory + STAGED_BYTES + PARTIAL_BYTES;
    shared.best = reinterpret_cast<unsigned long long*>(rest);
    shared.totals = reinterpret_cast<int*>(rest + BEST_BYTES);
    shared.progress = rest + BEST_BYTES + TOTALS_BYTES;
    const int progress_bytes = (sizeof(TdtCounts) + max_rows * ROW_BYTES + 15) / 16 * 16;
    shared.resident = reinterpret_cast<const T*>(rest + BEST_BYTES + TOTALS_BYTES + progress_bytes);
    shared.num_resident = num_resident;
    return shared;
}

// ---- where things lie ---------------------------------------------------------------------------

// The first tile of layer s = 1 .. L; tiles that its critical matrix has.
__device__ __forceinline__ int layer_begin(int layer) {
    return HEAD_TILES + (layer - 1) * 2 * GATE_TILES;
}

__device__ __forceinline__ int upper_tiles(int layer) {
    return layer < NUM_LAYERS ? GATE_TILES : PROJECTION_TILES;
}

__device__ __forceinline__ float* hidden_of(const Tdt& tdt, int state, int layer) {
    return tdt.values + (static_cast<long long>(state) * PARTS + layer) * WIDTH;
}

__device__ __forceinline__ float* cell_of(const Tdt& tdt, int state, int layer) {
    return hidden_of(tdt, state, NUM_LAYERS + layer);
}

__device__ __forceinline__ float* predicted_of(const Tdt& tdt, int state) {
    return hidden_of(tdt, state, 2 * NUM_LAYERS);
}

// Recurrent products of a row behind `num_tokens` tokens, (J, 4).
__device__ __forceinline__ float* gates_of(const Tdt& tdt, int layer, int row, int num_tokens) {
    const long long buffer = layer == 0 ? num_tokens & 1 : layer + 1;
    return tdt.gates + (buffer * tdt.max_rows + row) * 4 * WIDTH;
}

__device__ __forceinline__ float* lowest_cell_of(const Tdt& tdt, int row, int num_tokens) {
    return tdt.cells + (static_cast<long long>(num_tokens & 1) * tdt.max_rows + row) * WIDTH;
}

__device__ __forceinline__ unsigned long long* keys_of(const Tdt& tdt, int turn) {
    return tdt.keys + turn % 3 * tdt.max_rows;
}

__device__ __forceinline__ float* duration_logits_of(const Tdt& tdt, int turn, int row) {
    return tdt.duration_logits + ((turn & 1) * tdt.max_rows + row) * NUM_DURATIONS;
}

__device__ __forceinline__ float* logits_of(const Tdt& tdt, int turn, int row) {
    return tdt.logits + (static_cast<long long>(turn & 1) * tdt.max_rows + row) * NUM_LABELS;
}

// ---- keys: the larger, the higher the logit, and of equal logits the lower the label ------------

__device__ __forceinline__ unsigned long long key_of(float logit, int label) {
    const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 and 0 are equal
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(ordered) << 32 | static_cast<unsigned>(~label);
}

__device__ __forceinline__ int label_of(unsigned long long key) {
    return static_cast<int>(~static_cast<unsigned>(key));
}

__device__ __forceinline__ float logit_of(unsigned long long key) {
    const unsigned ordered = static_cast<unsigned>(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ unsigned long long larger(unsigned long long a, unsigned long long b) {
    return a > b ? a : b;
}

#endif
