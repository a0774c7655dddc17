// Products of the decoder's matrices with a few rows of the batch, by one block among many.
//
// Rows of the batch are columns here: a tile (16 rows of a matrix) times 8 columns is what a tensor
// core takes. Tile t belongs to block t % blocks, so that the blocks' shares differ by one tile at
// most in each matrix and over all of them, and a block finds its first tiles in its shared memory.
// With STORAGE_HALF each column is split into two halves that add up to 22 of a float's 24 bits;
// otherwise plain float multiply-adds do the same sums. A column's result depends on no other column.
#ifndef TDT_PRODUCT_CUH
#define TDT_PRODUCT_CUH

#include "tdt.cuh"
#include "tdt_stamps.cuh"

// ---- columns in shared memory -------------------------------------------------------------------
// In the order in which lanes load them. The tensor core is given 16 rows of a step in an order of our
// own, the same for both factors: lane 4 * column + quad has rows 4 quad .. 4 quad + 3. So it takes one
// 16-byte access to store and to load them: the higher halves of the four, then the lower ones.
// Half: (group, step, lane) of 16 bytes, in odd steps every two columns exchanged, so that quads that
// lie side by side in a column go to different banks. Float: (group, step, 16 rows, 8 columns).
// Pairs and quads are staged in the first group.

__device__ __forceinline__ int place_of(int step, int lane) { return lane ^ (step % 2 * 4); }

// Two neighbours of a column, elements 2 pair and 2 pair + 1.
__device__ __forceinline__ void stage_pair(unsigned char* staged, int column, int pair, float2 x) {
    const int step = pair / 8;
#if STORAGE_HALF
    const __half h0 = saturated_half(x.x), h1 = saturated_half(x.y);
    const int lane = place_of(step, column * 4 + pair % 8 / 2);
    unsigned* words = reinterpret_cast<unsigned*>(staged) + (step * LANES + lane) * 4 + pair % 2;
    words[0] = pack_halves(h0, h1);
    words[2] = pack_halves(saturated_half(x.x - to_float(h0)), saturated_half(x.y - to_float(h1)));
#else
    float* rows = reinterpret_cast<float*>(staged) + step * 16 * GROUP + column;
    rows[pair % 8 * 2 * GROUP] = x.x;
    rows[(pair % 8 * 2 + 1) * GROUP] = x.y;
#endif
}

// Four neighbours as they are staged: bits of eight halves, or the four floats.
__device__ __forceinline__ float4 split_quad(float4 x) {
#if STORAGE_HALF
    const __half h0 = saturated_half(x.x), h1 = saturated_half(x.y);
    const __half h2 = saturated_half(x.z), h3 = saturated_half(x.w);
    return make_float4(
        __uint_as_float(pack_halves(h0, h1)), __uint_as_float(pack_halves(h2, h3)),
        __uint_as_float(
            pack_halves(saturated_half(x.x - to_float(h0)), saturated_half(x.y - to_float(h1)))),
        __uint_as_float(
            pack_halves(saturated_half(x.z - to_float(h2)), saturated_half(x.w - to_float(h3))))
    );
#else
    return x;
#endif
}

// One element of a row of such quads.
__device__ __forceinline__ void split_one(float4* row, int element, float x) {
#if STORAGE_HALF
    __half* halves = reinterpret_cast<__half*>(row + element / 4) + element % 4;
    const __half high = saturated_half(x);
    halves[0] = high;
    halves[4] = saturated_half(x - to_float(high));
#else
    reinterpret_cast<float*>(row)[element] = x;
#endif
}

// Elements 4 quad .. 4 quad + 3 of a column, split.
__device__ __forceinline__ void stage_quad(unsigned char* staged, int column, int quad, float4 x) {
    const int step = quad / 4;
#if STORAGE_HALF
    const int lane = place_of(step, column * 4 + quad % 4);
    reinterpret_cast<float4*>(staged)[step * LANES + lane] = x;
#else
    float* rows = reinterpret_cast<float*>(staged) + step * 16 * GROUP + column;
    const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++) rows[(quad % 4 * 4 + i) * GROUP] = values[i];
#endif
}

constexpr int QUADS = WIDTH / 4;

// Begins to stage a column that is split already, by a whole warp: quads lane, lane + 32, ... So many
// steps further on, a quad's place among the lanes is the same.
template <int FIRST>
__device__ __forceinline__ void copy_quads(unsigned char* to, const float4* from) {
    if constexpr (FIRST < QUADS) {
        if (QUADS - FIRST >= LANES || threadIdx.x % LANES < QUADS - FIRST)
            copy_async<FIRST / 4 * LANES * 16, FIRST * 16>(to, from);
        copy_quads<FIRST + LANES>(to, from);
    }
}

__device__ __forceinline__ void copy_column(unsigned char* staged, int column, const float4* from) {
    staged += column / GROUP * GROUP_BYTES;
    const int lane = threadIdx.x % LANES, place = column % GROUP;
#if STORAGE_HALF
    static_assert(LANES / 4 % 2 == 0, "place_of() goes by whether a step is odd");
    const int at = lane / 4 * LANES + place_of(lane / 4, place * 4 + lane % 4);
    copy_quads<0>(staged + at * 16, from + lane);
#else
    for (int quad = lane; quad < QUADS; quad += LANES)
        stage_quad(staged, place, quad, __ldcg(from + quad));
#endif
}

// ---- one warp, one tile -------------------------------------------------------------------------
// Warp 4 * slot + split has every SPLITS-th step of a tile, from step `split` on.

constexpr int TURNS = (NUM_STEPS + SPLITS - 1) / SPLITS;

// A warp's part of a tile: in registers, so that it is read once for any number of columns; floats
// would not fit there.
struct TdtWeights {
#if STORAGE_HALF
    uint4 steps[TURNS];
#else
    const float* tile;
#endif
};

__device__ __forceinline__ void load_weights(const T* tile, int split, TdtWeights* weights) {
#if STORAGE_HALF
    const uint4* own = reinterpret_cast<const uint4*>(tile) + threadIdx.x % LANES;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
        const int step = turn * SPLITS + split;
        if (NUM_STEPS % SPLITS == 0 || step < NUM_STEPS) weights->steps[turn] = own[step * LANES];
    }
#else
    weights->tile = tile;
#endif
}

// A warp's part of a tile times a group of `count` staged columns, in the tensor core's order: with
// lane = 4 * g + pair, rows g and g + 8 (sums 0, 1 and 2, 3) of columns 2 pair and 2 pair + 1.
__device__ __forceinline__ void multiply(
    const TdtWeights& weights, const unsigned char* staged, int split, int count, float (&sums)[4]
) {
    const unsigned lane = threadIdx.x % LANES;
#if STORAGE_HALF
    // Of one warp all steps are odd, or none: SPLITS is even.
    const uint4* columns = reinterpret_cast<const uint4*>(staged) + split * LANES +
                           place_of(split, lane);
    constexpr int AT_ONCE = 5;  // loads: one after the other they would be what takes the time
    float chains[4][4] = {};    // of higher and lower halves, in turns
#pragma unroll
    for (int begin = 0; begin < TURNS; begin += AT_ONCE) {
        uint4 c[AT_ONCE] = {};
        // Lanes of a column that is not there read nothing: fewer columns take fewer banks.
        if (lane / 4 < static_cast<unsigned>(count)) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (begin + i < TURNS) c[i] = columns[(begin + i) * SPLITS * LANES];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int turn = begin + i;
            if (turn >= TURNS || turn * SPLITS + split >= NUM_STEPS) break;
            const uint4 w = weights.steps[turn];
            const unsigned a[4] = {w.x, w.y, w.z, w.w};
            const unsigned high[2] = {c[i].x, c[i].y}, low[2] = {c[i].z, c[i].w};
            mma_m16n8k16(chains[turn % 2 * 2], a, high);
            mma_m16n8k16(chains[turn % 2 * 2 + 1], a, low);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        sums[i] = (chains[0][i] + chains[1][i]) + (chains[2][i] + chains[3][i]);
#else
    const float* rows = weights.tile + lane / 4 * 16;
    const float2* columns = reinterpret_cast<const float2*>(staged) + lane % 4;
    sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
    for (int step = split; step < NUM_STEPS; step += SPLITS)
        for (int k = 0; k < 16; k++) {
            const float w0 = rows[step * 256 + k], w8 = rows[step * 256 + 128 + k];
            const float2 c = columns[(step * 16 + k) * (GROUP / 2)];
            sums[0] = fmaf(w0, c.x, sums[0]);
            sums[1] = fmaf(w0, c.y, sums[1]);
            sums[2] = fmaf(w8, c.x, sums[2]);
            sums[3] = fmaf(w8, c.y, sums[3]);
        }
#endif
}

// ---- sums of four warps -------------------------------------------------------------------------
// Behind the columns of a pass: (group, split, slot, element of a tile's product). Elements are so
// placed that 32 threads go to 32 banks: of store_partial(); of one column of two tiles that lie side by
// side; and of two columns of one tile.

constexpr int TILE_SUMS = TILE_ROWS * GROUP;
constexpr int SPLIT_SUMS = SLOTS * TILE_SUMS;
constexpr int GROUP_SUMS = SPLITS * SPLIT_SUMS;

__device__ __forceinline__ unsigned place_of_sum(unsigned slot, unsigned column, unsigned row) {
    const unsigned pair = column / 2;
    return pair * 32 + ((column ^ pair ^ slot) & 1) * 16 + (row ^ (pair / 2 * 8));
}

// Sums of a pass's first group, split and slot.
__device__ __forceinline__ float* sums_at(const TdtShared& shared, int first) {
    return reinterpret_cast<float*>(pass_at(shared, first) + (WIDTH * 4 << shared.shift));
}

__device__ __forceinline__ void store_partial(float* partial, int slot, const float (&sums)[4]) {
    const unsigned lane = threadIdx.x % LANES;
    const unsigned place = opaque(place_of_sum(slot, lane % 4 * 2, lane / 4));
    partial[place] = sums[0];
    partial[place ^ 16] = sums[1];  // of the next column
    partial[place ^ 8] = sums[2];   // of the eighth row from there
    partial[place ^ 24] = sums[3];
}

// An element of a product, in the same order for all; of its first split's.
__device__ __forceinline__ float sum_of(const float* partial) {
    float sum = partial[0];
#pragma unroll
    for (int split = 1; split < SPLITS; split++) sum += partial[split * SPLIT_SUMS];
    return sum;
}

// ---- one block, its share of a range of tiles ---------------------------------------------------

struct TdtShare {
    int first, last;  // of the tiles blockIdx, blockIdx + blocks, blockIdx + 2 blocks, ...
};

__device__ __forceinline__ int own_tile(int local) { return blockIdx.x + local * gridDim.x; }

__device__ __forceinline__ TdtShare share_of(int begin, int end) {
    const int block = blockIdx.x, blocks = gridDim.x;
    TdtShare share;
    share.first = begin > block ? (begin - block + blocks - 1) / blocks : 0;
    share.last = end > block ? (end - block + blocks - 1) / blocks : 0;
    return share;
}

// Where finished products are: the block's tiles from `local` on, one a slot, if they come before
// `last`, times the `count` columns behind column `first`.
struct TdtPlace {
    int local, last, first, count;
};

__device__ __forceinline__ bool has_tile(const TdtPlace& place, int slot) {
    return place.local + slot < place.last;
}

// The calling warp's part of one of the block's tiles, if it comes before the end of the share.
__device__ __forceinline__ void own_weights(
    const Tdt& tdt, const TdtShared& shared, TdtShare share, int round, TdtWeights* weights
) {
    const int warp = threadIdx.x / LANES, split = warp % SPLITS, local = round + warp / SPLITS;
    if (local < min(share.last, shared.num_resident))
        load_weights(shared.resident + local * TILE_SIZE, split, weights);
    else if (local < share.last)
        load_weights(tdt.tiles + static_cast<long long>(own_tile(local)) * TILE_SIZE, split, weights);
}

// Tiles [begin, end) times all of num_columns columns, in passes. source(column) is where a column lies,
// split. With is_staged the columns, GROUP at most, are in the first pass behind stage(), which has what
// it needs under way. fetch(place) loads what finish(place, fetched) will need beside the sums, early,
// so that its latency hides behind the product. All threads call all of these.
template <class Source, class Stage, class Fetch, class Finish>
__device__ __forceinline__ void product(
    const Tdt& tdt, const TdtShared& shared, int begin, int end, int num_columns, bool is_staged,
    Source source, Stage stage, Fetch fetch, Finish finish
) {
    const TdtShare share = share_of(begin, end);
    const int warp = threadIdx.x / LANES, slot = warp / SPLITS, split = warp % SPLITS;
    const int columns = 1 << shared.shift;
    auto copy = [&](int first) {
        if (warp < columns && first + warp < num_columns)
            copy_column(pass_at(shared, first), warp, source(first + warp));
    };
    for (int round = share.first; round < share.last; round += SLOTS) {
        if (!is_staged) copy(0);
        TdtWeights weights = {};
        own_weights(tdt, shared, share, round, &weights);
        if (is_staged && round == share.first) stage();
        wait_copies();
        __syncthreads();
        STAMP_IN_PRODUCT(STAMP_LOADED);
        // One barrier a pass: who has come past it may finish the pass or multiply the next one.
        for (int first = 0; first < num_columns; first += columns) {
            const TdtPlace place = {round, share.last, first, min(columns, num_columns - first)};
            copy(first + columns);
            const auto fetched = fetch(place);
            const unsigned char* staged = pass_at(shared, first);
            float* partial = sums_at(shared, first) + split * SPLIT_SUMS + slot * TILE_SUMS;
            if (round + slot < share.last) {
#pragma unroll 1
                for (int group = 0; group * GROUP < place.count; group++) {
                    float sums[4];
                    multiply(weights, staged + group * GROUP_BYTES, split,
                             place.count - group * GROUP, sums);
                    store_partial(partial + group * GROUP_SUMS, slot, sums);
                }
            }
            wait_copies();
            __syncthreads();
            STAMP_IN_PRODUCT(STAMP_MULTIPLIED);
            finish(place, fetched);
            STAMP_IN_PRODUCT(STAMP_FINISHED);
        }
    }
}

#endif
