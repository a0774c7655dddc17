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

// ---- columns in shared memory -------------------------------------------------------------------
// In the order in which lanes load them. The tensor core is given 16 rows of a step in an order of our
// own, the same for both factors: lane 4 * column + quad has rows 4 quad .. 4 quad + 3. So it takes one
// 16-byte access to store and to load them: the higher halves of the four, then the lower ones.
// Half: (group, step, lane) of 16 bytes, in odd steps every two columns exchanged, so that quads that
// lie side by side in a column go to different banks. Float: (group, step, 16 rows, 8 columns).

__device__ __forceinline__ int place_of(int step, int lane) { return lane ^ (step % 2 * 4); }

// Two neighbours of a column, elements 2 pair and 2 pair + 1.
__device__ __forceinline__ void stage_pair(unsigned char* staged, int column, int pair, float2 x) {
    const int group = column / GROUP, place = column % GROUP, step = pair / 8;
#if STORAGE_HALF
    const __half h0 = saturated_half(x.x), h1 = saturated_half(x.y);
    const int lane = place_of(step, place * 4 + pair % 8 / 2);
    unsigned* words = reinterpret_cast<unsigned*>(staged) +
                      ((group * NUM_STEPS + step) * LANES + lane) * 4 + pair % 2;
    words[0] = pack_halves(h0, h1);
    words[2] = pack_halves(saturated_half(x.x - to_float(h0)), saturated_half(x.y - to_float(h1)));
#else
    float* rows = reinterpret_cast<float*>(staged) + (group * NUM_STEPS + step) * 16 * GROUP + place;
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
    const int group = column / GROUP, place = column % GROUP, step = quad / 4;
#if STORAGE_HALF
    const int lane = place_of(step, place * 4 + quad % 4);
    reinterpret_cast<float4*>(staged)[(group * NUM_STEPS + step) * LANES + lane] = x;
#else
    float* rows = reinterpret_cast<float*>(staged) + (group * NUM_STEPS + step) * 16 * GROUP + place;
    const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++) rows[(quad % 4 * 4 + i) * GROUP] = values[i];
#endif
}

// Which quads of `count` columns a thread takes: one column a warp, or of few columns several warps each.
constexpr int QUADS = WIDTH / 4;
constexpr int ITEMS = (QUADS + LANES - 1) / LANES;

struct TdtItems {
    int column, quad, stride;  // quads from `quad` on, if column < count
};

__device__ __forceinline__ TdtItems own_items(int count) {
    const int shift = count > 8 ? 0 : count > 4 ? 1 : count > 2 ? 2 : count > 1 ? 3 : 4;
    const int warp = threadIdx.x / LANES, part = warp & ((1 << shift) - 1);
    return {warp >> shift, part * LANES + static_cast<int>(threadIdx.x) % LANES, LANES << shift};
}

// ---- one warp, one tile -------------------------------------------------------------------------

// Every SPLITS-th step of a tile times N groups of columns, in the tensor core's order:
// with lane = 4 * g + pair, rows g and g + 8 (sums 0, 1 and 2, 3) of columns 2 pair and 2 pair + 1.
template <int N>
__device__ __forceinline__ void multiply(
    const T* tile, const unsigned char* staged, int split, float (&sums)[N][4]
) {
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int n = 0; n < N; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
#if STORAGE_HALF
    const uint4* weights = reinterpret_cast<const uint4*>(tile) + lane;
    // Of one warp all steps are odd, or none: SPLITS is even.
    const uint4* columns = reinterpret_cast<const uint4*>(staged) + place_of(split, lane);
    float lower[N][4] = {};  // a chain of its own: two products are under way at a time
#pragma unroll (N == 1 ? 5 : 2)  // as far as registers go
    for (int turn = 0; turn < (NUM_STEPS + SPLITS - 1) / SPLITS; turn++) {
        const int step = turn * SPLITS + split;
        if (NUM_STEPS % SPLITS != 0 && step >= NUM_STEPS) break;
        const uint4 w = weights[step * LANES];
        const unsigned a[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint4 c = columns[(n * NUM_STEPS + step) * LANES];
            const unsigned high[2] = {c.x, c.y}, low[2] = {c.z, c.w};
            mma_m16n8k16(sums[n], a, high);
            mma_m16n8k16(lower[n], a, low);
        }
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[n][i] += lower[n][i];
#else
    const float* rows = tile + lane / 4 * 16;
    const float2* columns = reinterpret_cast<const float2*>(staged) + lane % 4;
    for (int step = split; step < NUM_STEPS; step += SPLITS)
        for (int k = 0; k < 16; k++) {
            const float w0 = rows[step * 256 + k], w8 = rows[step * 256 + 128 + k];
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float2 c = columns[((n * NUM_STEPS + step) * 16 + k) * (GROUP / 2)];
                sums[n][0] = fmaf(w0, c.x, sums[n][0]);
                sums[n][1] = fmaf(w0, c.y, sums[n][1]);
                sums[n][2] = fmaf(w8, c.x, sums[n][2]);
                sums[n][3] = fmaf(w8, c.y, sums[n][3]);
            }
        }
#endif
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

// Where a finished product is: a tile, and 8 of the `count` columns behind column `first`.
struct TdtPlace {
    int tile, slot, group, first, count;
};

// What a product is finished with, beside its sums.
struct TdtFetched {
    float4 gates;
    float cell;
};

// The block's share times N groups of staged columns. fetch(place) loads what finish(place, sums,
// fetched) will need beside the sums, early, so that its latency hides behind the product. Of the four
// warps of a tile, two finish a group of columns each.
template <int N, class Fetch, class Finish>
__device__ __forceinline__ void multiply_share(
    const Tdt& tdt, const TdtShared& shared, TdtShare share, int first, int count, Fetch fetch,
    Finish finish
) {
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    // Warps that finish belong to different quarters of the multiprocessor, as do those of a tile.
    const int slot = warp / SPLITS, split = (warp + slot) % SPLITS;
    for (int round = share.first; round < share.last; round += SLOTS) {
        const int local = round + slot, tile = own_tile(local);
        const bool multiplies = local < share.last, finishes = multiplies && split < N;
        const TdtPlace place = {tile, slot, split, first, count};
        TdtFetched fetched = {};
        float bias = 0.0f, bias8 = 0.0f;
        if (finishes) {
            bias = __ldg(tdt.bias + tile * TILE_ROWS + lane / 4);
            bias8 = __ldg(tdt.bias + tile * TILE_ROWS + lane / 4 + 8);
            fetched = fetch(place);
        }
        float sums[N][4];
        float4* partial = shared.partial + slot * N * (SPLITS - 1) * LANES + lane;
        if (multiplies) {
            if (local < shared.num_resident)
                multiply(shared.resident + local * TILE_SIZE, shared.staged, split, sums);
            else
                multiply(tdt.tiles + static_cast<long long>(tile) * TILE_SIZE, shared.staged, split,
                         sums);
#pragma unroll
            for (int n = 0; n < N; n++)
                if (n != split)
                    partial[(n * (SPLITS - 1) + split - (split > n)) * LANES] =
                        make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
        }
        __syncthreads();
        if (finishes) {
            // Its own split first, then the others: (0 + 1) + 2 + 3 or (1 + 0) + 2 + 3, the same bits.
            static_assert(GROUPS <= 2, "the order of sums would depend on the group");
            float4 sum;
#pragma unroll
            for (int n = 0; n < N; n++)
                if (n == split) sum = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
#pragma unroll
            for (int other = 0; other < SPLITS - 1; other++) {
                const float4 more = partial[(split * (SPLITS - 1) + other) * LANES];
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            sum.x += bias, sum.y += bias, sum.z += bias8, sum.w += bias8;
            finish(place, sum, fetched);
        }
        if (round + SLOTS < share.last) __syncthreads();
    }
}

// Tiles [begin, end) times all of num_columns columns, COLUMNS at a time. load(column, quad) gives four
// neighbours of a column, split if IS_SPLIT, while the product of the columns before is under way;
// fetch and finish as above; conclude(first, count) comes behind them, without a barrier between.
// With is_staged the columns, COLUMNS at most, are there already.
template <bool IS_SPLIT, class Load, class Fetch, class Finish, class Conclude>
__device__ __forceinline__ void product(
    const Tdt& tdt, const TdtShared& shared, int begin, int end, int num_columns, bool is_staged,
    Load load, Fetch fetch, Finish finish, Conclude conclude
) {
    const TdtShare share = share_of(begin, end);
    if (share.first == share.last) return;
    float4 ahead[ITEMS];
    auto load_ahead = [&](int first) {
        const int count = min(COLUMNS, num_columns - first);
        const TdtItems own = own_items(count);
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int quad = own.quad + i * own.stride;
            if (own.column < count && quad < QUADS) ahead[i] = load(first + own.column, quad);
        }
    };
    if (!is_staged) load_ahead(0);
    for (int first = 0; first < num_columns; first += COLUMNS) {
        const int count = min(COLUMNS, num_columns - first);
        const TdtItems own = own_items(count);
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int quad = own.quad + i * own.stride;
            if (!is_staged && own.column < count && quad < QUADS)
                stage_quad(shared.staged, own.column, quad,
                           IS_SPLIT ? ahead[i] : split_quad(ahead[i]));
        }
        __syncthreads();
        if (first + COLUMNS < num_columns) load_ahead(first + COLUMNS);
        if (count <= GROUP)
            multiply_share<1>(tdt, shared, share, first, count, fetch, finish);
        else
            multiply_share<GROUPS>(tdt, shared, share, first, count, fetch, finish);
        conclude(first, count);
    }
}

#endif
