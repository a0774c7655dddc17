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
constexpr int COLUMNS = 2 * GROUP;       // rows that a block takes at once: a pass
constexpr int SOME_ROWS = 48;            // of which a pass takes GROUP only
constexpr int FEW_ROWS = 2;              // that each block takes to a product by itself

// Shared memory, in bytes; tdt_buffers.py counts them too. A pass has its columns, and the sums of each
// warp. Launches of more rows have room for two passes: while some warps finish one, others multiply
// the next. Two halves of a pass are that, up to SOME_ROWS; for more, some resident tiles go.
constexpr int GROUP_BYTES = WIDTH * GROUP * 4;
constexpr int STAGED_BYTES = 2 * GROUP_BYTES;
constexpr int PARTIAL_BYTES = SPLITS * SLOTS * TILE_ROWS * COLUMNS * 4;
constexpr int PASS_BYTES = STAGED_BYTES + PARTIAL_BYTES;
constexpr int TOTALS_BYTES = WARPS * 4;
constexpr int TILE_BYTES = TILE_SIZE * static_cast<int>(sizeof(T));

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

// One row while it is searched. Its count of tokens is also what its double buffers go by. Every byte
// counts: shared memory has room for 256 rows beside all weights, and little more. (Nine words, so that
// threads with a row each go to different banks.)
struct TdtRow {
    int first_frame, count, state, first_token;  // as requested; `state` is state_out
    int frame;  // the next one to look at, counted from the first
    int label;  // the last token
    int node;   // of the hotwords' trie
    int num_tokens;
    short hotwords;         // as requested
    unsigned char symbols;  // tokens of duration 0 at `frame` so far
    bool has_said;          // in this turn
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
    unsigned short* active;
    unsigned short* said;
};

constexpr int ROW_BYTES = sizeof(TdtRow) + 2 * sizeof(short);  // with its places in the lists

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
    float2* sums;            // (B, tiles): of each chunk of labels the largest logit, and the sum of
                             // exp(logit - largest); a chunk is what a block multiplies at once
    float4* columns;         // (L + 1, B, J / 4): what products multiply, split_quad(): the hidden
                             // state of each layer, then what many rows bring to the joint
    int4* tokens;            // of all rows, as the host gets them in the end
    const int* tries;        // see tdt_hotwords.cuh
    const TdtRequest* request;
    int max_rows;  // B
};

// A block's shared memory. (Sizes that are not known to the compiler come last, so that most addresses
// need no register.)
struct TdtShared {
    int* totals;            // (WARPS,)
    void* progress;         // room for it; only of the kernel that is all steps
    const T* resident;      // the block's first tiles
    int num_resident;
    unsigned char* passes;  // of even passes
    int odd_pass;           // how far behind them the odd ones are
    int shift;              // 1 << shift columns a pass
};

__device__ __forceinline__ TdtProgress progress_at(void* memory, int max_rows) {
    TdtProgress progress;
    progress.counts = reinterpret_cast<TdtCounts*>(memory);
    progress.rows = reinterpret_cast<TdtRow*>(progress.counts + 1);
    progress.active = reinterpret_cast<unsigned short*>(progress.rows + max_rows);
    progress.said = progress.active + max_rows;
    return progress;
}

// For a launch of num_rows, with room for `num_resident` tiles, of which many rows leave some.
__device__ __forceinline__ TdtShared shared_at(
    unsigned char* memory, int max_rows, int num_resident, int num_rows
) {
    const bool has_halves = COLUMNS < num_rows && num_rows <= SOME_ROWS;
    const bool has_room = num_rows > SOME_ROWS;
    const int progress_bytes =
        max_rows > 0 ? (sizeof(TdtCounts) + max_rows * ROW_BYTES + 15) / 16 * 16 : 0;
    const int room = max(num_resident * TILE_BYTES, PASS_BYTES);
    TdtShared shared;
    shared.totals = reinterpret_cast<int*>(memory);
    shared.progress = memory + TOTALS_BYTES;
    shared.resident = reinterpret_cast<const T*>(memory + TOTALS_BYTES + progress_bytes);
    shared.num_resident = has_room ? (room - PASS_BYTES) / TILE_BYTES : num_resident;
    shared.passes = memory + TOTALS_BYTES + progress_bytes + room;
    shared.odd_pass = has_halves ? PASS_BYTES / 2 : -PASS_BYTES;
    shared.shift = has_halves ? 3 : 4;
    return shared;
}

__device__ __forceinline__ unsigned char* pass_at(const TdtShared& shared, int first) {
    return shared.passes + (first >> shared.shift & 1) * shared.odd_pass;
}

// ---- where things lie ---------------------------------------------------------------------------

// The first tile of layer s = 1 .. L; tiles that its critical matrix has.
__device__ __forceinline__ int layer_begin(int layer) {
    return HEAD_TILES + (layer - 1) * 2 * GATE_TILES;
}

__device__ __forceinline__ int upper_tiles(int layer) {
    return layer < NUM_LAYERS ? GATE_TILES : PROJECTION_TILES;
}

// Offsets are unsigned: of fewer than 2^32 elements, and so one multiply-add behind each address.
__device__ __forceinline__ float* hidden_of(const Tdt& tdt, unsigned state, unsigned layer) {
    return tdt.values + (state * PARTS + layer) * WIDTH;
}

__device__ __forceinline__ float* cell_of(const Tdt& tdt, int state, int layer) {
    return hidden_of(tdt, state, NUM_LAYERS + layer);
}

__device__ __forceinline__ float* predicted_of(const Tdt& tdt, int state) {
    return hidden_of(tdt, state, 2 * NUM_LAYERS);
}

// Recurrent products of a row behind `num_tokens` tokens, (J, 4).
__device__ __forceinline__ float* gates_of(const Tdt& tdt, int layer, int row, int num_tokens) {
    const unsigned buffer = layer == 0 ? num_tokens & 1 : layer + 1;
    return tdt.gates + (buffer * tdt.max_rows + row) * 4 * WIDTH;
}

__device__ __forceinline__ float* lowest_cell_of(const Tdt& tdt, int row, int num_tokens) {
    const unsigned buffer = num_tokens & 1;
    return tdt.cells + (buffer * tdt.max_rows + row) * WIDTH;
}

// What products take of a row: its hidden state in a layer, or for layer L what the joint takes.
__device__ __forceinline__ float4* columns_of(const Tdt& tdt, int layer, int row) {
    return tdt.columns + static_cast<unsigned>(layer * tdt.max_rows + row) * (WIDTH / 4);
}

__device__ __forceinline__ unsigned long long* keys_of(const Tdt& tdt, int turn) {
    return tdt.keys + static_cast<unsigned>(turn) % 3 * tdt.max_rows;
}

__device__ __forceinline__ float* duration_logits_of(const Tdt& tdt, int turn, int row) {
    const unsigned buffer = turn & 1;
    return tdt.duration_logits + (buffer * tdt.max_rows + row) * NUM_DURATIONS;
}

__device__ __forceinline__ float* logits_of(const Tdt& tdt, int turn, int row) {
    return tdt.logits + (static_cast<long long>(turn & 1) * tdt.max_rows + row) * NUM_LABELS;
}

// ---- keys: the larger, the higher the logit, and of equal logits the lower the label ------------

// Bits in the order of the numbers; never 0, but of a NaN.
__device__ __forceinline__ unsigned ordered_of(float logit) {
    const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 and 0 are equal
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float float_of(unsigned ordered) {
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ unsigned long long key_of(unsigned ordered, int label) {
    return static_cast<unsigned long long>(ordered) << 32 | static_cast<unsigned>(~label);
}

__device__ __forceinline__ int label_of(unsigned long long key) {
    return static_cast<int>(~static_cast<unsigned>(key));
}

__device__ __forceinline__ float logit_of(unsigned long long key) {
    return float_of(static_cast<unsigned>(key >> 32));
}

__device__ __forceinline__ unsigned long long larger(unsigned long long a, unsigned long long b) {
    return a > b ? a : b;
}

#endif
