// The joint of the TDT search (tdt.cuh): logits, each row's best label, and its confidence.
//
// A block multiplies SLOTS tiles of labels at once: a chunk, of which each row gets the best label and
// the sum of odds. Chunk c is that of block c % blocks.
#ifndef TDT_JOINT_CUH
#define TDT_JOINT_CUH

#include "tdt_product.cuh"

// What a row brings to the joint: elements 4 quad .. 4 quad + 3 of relu(frame + predicted).
__device__ __forceinline__ float4 joined_quad(
    const Tdt& tdt, const TdtProgress& progress, const TdtRow& row, int quad
) {
    const float4* frames = reinterpret_cast<const float4*>(progress.counts->frames);
    const long long frame = row.first_frame + row.frame;
    const float4 heard = __ldg(frames + frame * QUADS + quad);
    const float4 said = __ldcg(reinterpret_cast<const float4*>(predicted_of(tdt, row.state)) + quad);
    return make_float4(fmaxf(heard.x + said.x, 0.0f), fmaxf(heard.y + said.y, 0.0f),
                       fmaxf(heard.z + said.z, 0.0f), fmaxf(heard.w + said.w, 0.0f));
}

// Whether many rows are active: then each one's joined row is made once, by the blocks together and
// behind a barrier (which only a turn without any token would not need anyway), and not by every block
// for itself, which would read twice as much.
__device__ __forceinline__ bool are_many(const TdtProgress& progress) {
    return progress.counts->num_active > FEW_ROWS;
}

// Joined rows of those that said nothing: of the others what is predicted is not there yet, and
// layer_step() makes them.
__device__ __forceinline__ void join_rows(const Tdt& tdt, const TdtProgress& progress) {
    for (int item = blockIdx.x * THREADS + threadIdx.x; item < progress.counts->num_active * QUADS;
         item += gridDim.x * THREADS) {
        const int index = progress.active[item / QUADS], quad = item % QUADS;
        const TdtRow& row = progress.rows[index];
        if (!row.has_said)
            columns_of(tdt, NUM_LAYERS, index)[quad] =
                split_quad(joined_quad(tdt, progress, row, quad));
    }
}

// Chunks of a launch's grid, and the first tile of each.
__device__ __forceinline__ int num_chunks() {
    const int blocks = gridDim.x, tiles = (HEAD_TILES + blocks - 1) / blocks;
    return (tiles + SLOTS - 1) / SLOTS * blocks;
}

__device__ __forceinline__ int first_tile(int chunk) {
    const int blocks = gridDim.x;
    return chunk % blocks + chunk / blocks * SLOTS * blocks;
}

// What a warp finishes a column's chunk with. A lane has two labels, two tiles apart.
struct TdtChunk {
    int row;
    float bias[2];
};

// A warp a column.
__device__ __forceinline__ TdtChunk fetch_chunk(
    const Tdt& tdt, const TdtProgress& progress, const TdtPlace& place
) {
    const unsigned lane = threadIdx.x % LANES;
    const int column = threadIdx.x / LANES;
    TdtChunk chunk = {0, {0.0f, 0.0f}};
    if (column >= place.count) return chunk;
    chunk.row = progress.active[place.first + column];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int slot = 2 * i + lane / TILE_ROWS;
        const unsigned at = own_tile(place.local + slot) * TILE_ROWS + lane % TILE_ROWS;
        if (has_tile(place, slot)) chunk.bias[i] = __ldg(tdt.bias + at);
    }
    return chunk;
}

__device__ __forceinline__ void finish_chunk(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, const TdtPlace& place,
    const TdtChunk& chunk
) {
    constexpr float LOG2_E = 1.4426950408889634f;
    const unsigned lane = opaque(threadIdx.x % LANES), slot = lane / TILE_ROWS;
    const int column = threadIdx.x / LANES, row = chunk.row, turn = progress.counts->num_turns;
    if (column >= place.count) return;
    const float* partial = sums_at(shared, place.first) + column / GROUP * GROUP_SUMS +
                           slot * TILE_SUMS + place_of_sum(slot, column % GROUP, lane % TILE_ROWS);
    const int label = own_tile(place.local + slot) * TILE_ROWS + lane % TILE_ROWS;
    const int apart = 2 * gridDim.x * TILE_ROWS;  // of a lane's labels
    float logits[2];
    unsigned ordered[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        logits[i] = sum_of(partial + i * 2 * TILE_SUMS) + chunk.bias[i];
        const bool is_label = has_tile(place, slot + 2 * i) && label + i * apart < NUM_LABELS;
        ordered[i] = is_label ? ordered_of(logits[i]) : 0;
    }
    // The few logits that others need.
    if (own_tile(place.last - 1) == HEAD_TILES - 1)
        for (int i = 0; i < 2; i++) {
            const unsigned duration = label + i * apart - NUM_LABELS;
            if (has_tile(place, slot + 2 * i) && duration < NUM_DURATIONS)
                duration_logits_of(tdt, turn, row)[duration] = logits[i];
        }
    if (progress.counts->has_hotwords && progress.rows[row].hotwords >= 0)
        for (int i = 0; i < 2; i++)
            if (ordered[i] != 0) logits_of(tdt, turn, row)[label + i * apart] = logits[i];
    const unsigned top = __reduce_max_sync(ALL_LANES, max(ordered[0], ordered[1]));
    if (top == 0) return;  // no label is there
    // Of equal logits the lowest label: labels go up with the lane, and the second ones are higher.
    const unsigned best = __ballot_sync(ALL_LANES, ordered[0] == top);
    const unsigned best_above = __ballot_sync(ALL_LANES, ordered[1] == top);
    const bool is_winner = lane + 1 == static_cast<unsigned>(__ffs(best ? best : best_above));
    if (is_winner)
        atomicMax(keys_of(tdt, turn) + row, key_of(top, best ? label : label + apart));
    const float largest = float_of(top);
    float odds = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (ordered[i] != 0) odds += exp2_of((logits[i] - largest) * LOG2_E);
    odds = warp_sum(odds);
    const unsigned number = place.local / SLOTS * gridDim.x + blockIdx.x;
    if (lane == 0)
        tdt.sums[row * static_cast<unsigned>(NUM_TILES) + number] = make_float2(largest, odds);
}

// Logits of all active rows at their frames, and each row's best label into this turn's keys. Behind
// pick() of the turn before without a barrier: what both touch is doubled, or tripled. Many rows were
// joined before; of few every block does that by itself.
__device__ __forceinline__ void joint(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress
) {
    STAMP_PRODUCT(STAMP_JOINT);
    constexpr int SHARERS = THREADS / FEW_ROWS;  // threads of a column that is joined here
    constexpr int ITEMS = (QUADS + SHARERS - 1) / SHARERS;
    const int turn = progress.counts->num_turns, num_active = progress.counts->num_active;
    if (blockIdx.x == 0 && threadIdx.x < tdt.max_rows) keys_of(tdt, turn + 1)[threadIdx.x] = 0;
    const int column = threadIdx.x / SHARERS, first_quad = threadIdx.x % SHARERS;
    const bool is_joined = are_many(progress), is_own = !is_joined && column < num_active;
    float4 own[ITEMS];
    if (is_own) {
        const TdtRow& row = progress.rows[progress.active[column]];
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int quad = first_quad + i * SHARERS;
            if (quad < QUADS) own[i] = joined_quad(tdt, progress, row, quad);
        }
    }
    auto stage = [&] {
        if (!is_own) return;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int quad = first_quad + i * SHARERS;
            if (quad < QUADS) stage_quad(pass_at(shared, 0), column, quad, split_quad(own[i]));
        }
    };
    auto source = [&](int column) { return columns_of(tdt, NUM_LAYERS, progress.active[column]); };
    auto fetch = [&](const TdtPlace& place) { return fetch_chunk(tdt, progress, place); };
    auto finish = [&](const TdtPlace& place, const TdtChunk& chunk) {
        finish_chunk(tdt, shared, progress, place, chunk);
    };
    product(tdt, shared, 0, HEAD_TILES, num_active, !is_joined, source, stage, fetch, finish);
}

// Confidences of the tokens that pick() took: the softmax of each among labels, without hotwords. Row
// r's by block r % blocks. No joint() of any block may begin before.
__device__ __forceinline__ void finish_tokens(const Tdt& tdt, const TdtProgress& progress) {
    constexpr int AT_ONCE = 5;  // loads of a lane: all chunks of 132 blocks
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int turn = progress.counts->num_turns - 1, chunks = num_chunks();
    // The last warps first: the first one is busy with the barrier that stands here.
    for (int i = WARPS - 1 - warp; i < progress.counts->num_said; i += WARPS) {
        const int row = progress.said[i];
        if (row % gridDim.x != blockIdx.x) continue;
        const TdtRow& now = progress.rows[row];
        const unsigned long long key = __ldcg(keys_of(tdt, turn) + row);
        const float2* sums = tdt.sums + static_cast<long long>(row) * NUM_TILES;
        float all = 0.0f;
        for (int begin = lane; begin < chunks; begin += AT_ONCE * LANES) {
            float2 some[AT_ONCE];
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) {
                const int chunk = begin + j * LANES;
                const bool is_there = chunk < chunks && first_tile(chunk) < LABEL_TILES;
                some[j] = is_there ? __ldcg(sums + chunk) : make_float2(-MAX_HALF, 0.0f);
            }
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) all += some[j].y * __expf(some[j].x - logit_of(key));
        }
        all = warp_sum(all);
        const float largest = logit_of(key);
        const float logit = now.label == label_of(key)
                                ? largest
                                : __ldcg(logits_of(tdt, turn, row) + now.label);
        int4* token = tdt.tokens + now.first_token + now.num_tokens - 1;
        if (lane == 0) token->w = __float_as_int(__expf(logit - largest) / all);
    }
}

#endif
