// The steps of the TDT search (tdt.cuh) as functions that all threads of a block call together.
//
// What one step writes and another reads lies in device memory, with all blocks' stores of the one
// seen by all of the other: behind a grid barrier or in a later kernel. A step may follow another
// without that where this says so. Steps of one block follow each other behind a __syncthreads.
#ifndef TDT_STEPS_CUH
#define TDT_STEPS_CUH

#include "tdt_hotwords.cuh"
#include "tdt_joint.cuh"

// ---- rows ---------------------------------------------------------------------------------------

// Lists of the rows, in their order, that are not done and that said something. Thread i speaks for
// row i.
__device__ __forceinline__ void list_rows(
    const TdtProgress& progress, int* totals, bool is_active, bool has_said, int turns
) {
    const int row = threadIdx.x, warp = row / LANES, lane = row % LANES;
    const unsigned active = __ballot_sync(ALL_LANES, is_active);
    const unsigned said = __ballot_sync(ALL_LANES, has_said);
    const unsigned lower_lanes = (1u << lane) - 1;
    // Two counts in one.
    int before = __popc(active & lower_lanes) | __popc(said & lower_lanes) << 16;
    if (lane == 0) totals[warp] = __popc(active) | __popc(said) << 16;
    __syncthreads();
    int all = 0;
#pragma unroll
    for (int other = 0; other < WARPS; other++) {
        const int total = totals[other];
        if (other < warp) before += total;
        all += total;
    }
    if (is_active) progress.active[before & 0xffff] = static_cast<unsigned short>(row);
    if (has_said) progress.said[before >> 16] = static_cast<unsigned short>(row);
    if (row == 0) {
        progress.counts->num_active = all & 0xffff;
        progress.counts->num_said = all >> 16;
        progress.counts->num_turns = turns;
    }
    __syncthreads();
}

// Rows as their states left them. For one block, or for each with progress of its own.
__device__ __forceinline__ void begin_rows(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress
) {
    const TdtRequest& request = *tdt.request;
    const int row = threadIdx.x;
    bool is_active = false;
    if (row < request.num_rows) {
        const TdtRowRequest& own = request.rows[row];
        const int4 marks = __ldcg(reinterpret_cast<const int4*>(tdt.marks) + own.state_in);
        const int node = own.hotwords < 0 || marks.z >= MAX_NODES ? ROOT : marks.z;
        progress.rows[row] = {own.first_frame, own.count, own.state_out, own.first_token,
                              marks.y, marks.x, node, 0, static_cast<short>(own.hotwords), 0, false};
        is_active = marks.y < own.count;
    }
    if (row == 0) {
        progress.counts->frames = request.frames;
        progress.counts->num_rows = request.num_rows;
        progress.counts->has_hotwords = request.has_hotwords;
    }
    list_rows(progress, shared.totals, is_active, false, 0);
}

// state_in to state_out, where the search goes on, and the buffers that a launch begins with. By all
// blocks.
__device__ __forceinline__ void begin_states(const Tdt& tdt) {
    const int thread = blockIdx.x * THREADS + threadIdx.x, threads = gridDim.x * THREADS;
    const int num_rows = tdt.request->num_rows;
    constexpr int STATE_QUADS = PARTS * QUADS;
    constexpr int CELL_BEGIN = NUM_LAYERS * QUADS, CELL_END = CELL_BEGIN + QUADS;
    for (int item = thread; item < num_rows * STATE_QUADS; item += threads) {
        const int row = item / STATE_QUADS, at = item % STATE_QUADS;
        const TdtRowRequest& own = tdt.request->rows[row];
        const float4 values =
            __ldcg(reinterpret_cast<const float4*>(hidden_of(tdt, own.state_in, 0)) + at);
        if (own.state_in != own.state_out)
            reinterpret_cast<float4*>(hidden_of(tdt, own.state_out, 0))[at] = values;
        if (at < CELL_BEGIN) columns_of(tdt, at / QUADS, row)[at % QUADS] = split_quad(values);
        if (CELL_BEGIN <= at && at < CELL_END)
            reinterpret_cast<float4*>(lowest_cell_of(tdt, row, 0))[at - CELL_BEGIN] = values;
    }
    for (int item = thread; item < 3 * tdt.max_rows; item += threads) tdt.keys[item] = 0;
}

// What the search leaves: state_out's marks and layer 0's cell; for the host, turns and tokens, which
// cross the bus only now, because the loop's barriers would wait for that.
__device__ __forceinline__ void end_rows(const Tdt& tdt, const TdtProgress& progress) {
    const int num_rows = progress.counts->num_rows;
    for (int row = blockIdx.x; row < num_rows; row += gridDim.x) {
        const TdtRow& last = progress.rows[row];
        const float* cells = lowest_cell_of(tdt, row, last.num_tokens);
        for (int unit = threadIdx.x; unit < WIDTH; unit += THREADS)
            cell_of(tdt, last.state, 0)[unit] = __ldcg(cells + unit);
        int4* tokens = reinterpret_cast<int4*>(tdt.request->tokens) + last.first_token;
        for (int i = threadIdx.x; i < last.num_tokens; i += THREADS)
            tokens[i] = __ldcg(tdt.tokens + last.first_token + i);
        if (threadIdx.x != 0) continue;
        reinterpret_cast<int*>(tdt.request->results)[1 + row] = last.num_tokens;
        reinterpret_cast<int4*>(tdt.marks)[last.state] =
            make_int4(last.label, last.frame - last.count, last.node, 0);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *reinterpret_cast<int*>(tdt.request->results) = progress.counts->num_turns;
}

// ---- pick ---------------------------------------------------------------------------------------

// What the joint said of a row. Loaded at once, also for a row that is done: one after the other they
// would take longer.
struct TdtSaid {
    unsigned long long key;
    float durations[NUM_DURATIONS];  // logits
    int frames[NUM_DURATIONS];
};

__device__ __forceinline__ TdtSaid load_said(const Tdt& tdt, int turn, int row) {
    TdtSaid said;
    said.key = __ldcg(keys_of(tdt, turn) + row);
#pragma unroll
    for (int i = 0; i < NUM_DURATIONS; i++) {
        said.durations[i] = __ldcg(duration_logits_of(tdt, turn, row) + i);
        said.frames[i] = __ldg(tdt.durations + i);
    }
    return said;
}

__device__ __forceinline__ int best_duration(const TdtSaid& said) {
    float best = said.durations[0];
    int duration = said.frames[0];
#pragma unroll
    for (int i = 1; i < NUM_DURATIONS; i++)
        if (said.durations[i] > best) best = said.durations[i], duration = said.frames[i];
    return duration;
}

// What the next steps will read of a row from device memory that no cache may have.
__device__ __forceinline__ void prefetch_row(
    const Tdt& tdt, const TdtCounts& counts, const TdtRow& row
) {
    constexpr int FLOATS = WIDTH * static_cast<int>(sizeof(float));
    const float* frames = reinterpret_cast<const float*>(counts.frames);
    if (row.frame < row.count)
        prefetch(frames + static_cast<long long>(row.first_frame + row.frame) * WIDTH, FLOATS);
    if (row.has_said && tdt.table != nullptr)  // not of the kernel that only picks
        prefetch(tdt.table + static_cast<long long>(row.label) * 4 * WIDTH, 4 * FLOATS);
}

// Labels of the rows with hotwords that said something, by a warp each. `choices`: (B,) int2 of
// shared memory, where x is each row's best label or BLANK; then its label, and y the trie's node.
__device__ __forceinline__ void choose_hotwords(
    const Tdt& tdt, const TdtProgress& progress, int turn, int2* choices
) {
    const int num_rows = progress.counts->num_rows;
    __syncthreads();
    for (int row = threadIdx.x / LANES; row < num_rows; row += WARPS) {
        const int index = progress.rows[row].hotwords;
        if (choices[row].x == BLANK || index < 0) continue;
        const TdtTrie trie = trie_of(tdt, index);
        const int node = progress.rows[row].node;
        const unsigned long long best = __ldcg(keys_of(tdt, turn) + row);
        const int label = boosted_label(trie, node, logits_of(tdt, turn, row), best);
        const int next = next_node(trie, node, label);
        __syncwarp();
        if (threadIdx.x % LANES == 0) choices[row] = make_int2(label, next);
    }
    __syncthreads();
}

// What the joint says of each row: on by a blank's duration, or a token. For one block, or for each
// with progress of its own; row r's token is written by block r % blocks, but for its confidence.
__device__ __forceinline__ void pick(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress
) {
    const int row = threadIdx.x, turn = progress.counts->num_turns;
    const bool is_there = row < progress.counts->num_rows;
    TdtRow now = {};
    TdtSaid said = {};
    if (is_there) said = load_said(tdt, turn, row), now = progress.rows[row];
    const bool is_searching = is_there && now.frame < now.count;
    const int duration = best_duration(said);
    int label = is_searching ? label_of(said.key) : BLANK, node = ROOT;
    if (progress.counts->has_hotwords) {
        int2* choices = reinterpret_cast<int2*>(pass_at(shared, 0));
        if (is_there) choices[row] = make_int2(label, ROOT);
        choose_hotwords(tdt, progress, turn, choices);
        if (is_there) label = choices[row].x, node = choices[row].y;
    }
    const bool has_said = is_searching && label != BLANK;
    if (has_said) {
        if (row % gridDim.x == blockIdx.x)
            tdt.tokens[now.first_token + now.num_tokens] = make_int4(label, now.frame, duration, 0);
        now.symbols = static_cast<unsigned char>(duration == 0 ? now.symbols + 1 : 0);
        now.frame += duration;
        if (now.symbols >= tdt.max_symbols) now.frame += 1, now.symbols = 0;
        now.label = label, now.node = node, now.num_tokens += 1;
    } else if (is_searching) {
        now.frame += max(duration, 1);
        now.symbols = 0;
    }
    now.has_said = has_said;
    if (is_there) progress.rows[row] = now;
    if (is_searching && row % gridDim.x == blockIdx.x) prefetch_row(tdt, *progress.counts, now);
    const int turns = turn + (progress.counts->num_active > 0);
    list_rows(progress, shared.totals, is_searching && now.frame < now.count, has_said, turns);
}

// ---- LSTM ---------------------------------------------------------------------------------------

// tanh within 2^-22 of 1, in few instructions.
__device__ __forceinline__ float tanh_of(float x) {
    return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
}

__device__ __forceinline__ float sigmoid(float x) { return 0.5f * tanh_of(0.5f * x) + 0.5f; }

// Gates are input, forget, candidate, output. Changes the cell, returns the hidden value.
__device__ __forceinline__ float lstm_unit(const float4& gates, float* cell) {
    *cell = sigmoid(gates.y) * *cell + sigmoid(gates.x) * tanh_of(gates.z);
    return sigmoid(gates.w) * tanh_of(*cell);
}

// One unit of layer 0 of a row that said something.
__device__ __forceinline__ float lowest_unit(
    const Tdt& tdt, const TdtProgress& progress, int row, int unit, bool is_stored
) {
    const TdtRow& now = progress.rows[row];
    const int before = now.num_tokens - 1;
    const float4* table = reinterpret_cast<const float4*>(tdt.table);
    const float4 below = __ldg(table + static_cast<long long>(now.label) * WIDTH + unit);
    const float4 kept =
        __ldcg(reinterpret_cast<const float4*>(gates_of(tdt, 0, row, before)) + unit);
    float cell = __ldcg(lowest_cell_of(tdt, row, before) + unit);
    const float4 gates =
        make_float4(below.x + kept.x, below.y + kept.y, below.z + kept.z, below.w + kept.w);
    const float hidden = lstm_unit(gates, &cell);
    if (is_stored) {
        lowest_cell_of(tdt, row, now.num_tokens)[unit] = cell;
        hidden_of(tdt, now.state, 0)[unit] = hidden;
    }
    return hidden;
}

// Layer 0 of the rows that said something, divided among the blocks.
__device__ __forceinline__ void lowest(const Tdt& tdt, const TdtProgress& progress) {
    for (int item = blockIdx.x * THREADS + threadIdx.x; item < progress.counts->num_said * WIDTH;
         item += gridDim.x * THREADS) {
        const int row = progress.said[item / WIDTH], unit = item % WIDTH;
        split_one(columns_of(tdt, 0, row), unit, lowest_unit(tdt, progress, row, unit, true));
    }
}

// The same by every block for itself, staged for layer 1 at once: of few rows that is cheaper than a
// barrier. Layer 1 comes behind it without one.
__device__ __forceinline__ void lowest_everywhere(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress
) {
    const bool is_stored = blockIdx.x == 0;
    for (int item = threadIdx.x; item < progress.counts->num_said * (WIDTH / 2); item += THREADS) {
        const int column = item / (WIDTH / 2), pair = item % (WIDTH / 2);
        const int row = progress.said[column];
        const float low = lowest_unit(tdt, progress, row, 2 * pair, is_stored);
        const float high = lowest_unit(tdt, progress, row, 2 * pair + 1, is_stored);
        stage_pair(pass_at(shared, 0), column, pair, make_float2(low, high));
    }
}

// One element of a slot's tile in each group of columns: lanes l and l + 16 have the same row of two
// neighbouring columns. So the gates of a unit are lanes 4 apart: tdt.cuh has the order of rows.
struct TdtElement {
    int slot, column, row;
};

__device__ __forceinline__ TdtElement own_element() {
    const unsigned warp = threadIdx.x / LANES, lane = opaque(threadIdx.x % LANES);
    return {static_cast<int>(warp / SPLITS), static_cast<int>(warp % SPLITS * 2 + lane / TILE_ROWS),
            static_cast<int>(lane % TILE_ROWS)};
}

// What the elements of both groups are finished with, beside their sums.
struct TdtFetched {
    float bias;
    float kept[2];  // the recurrent product of a gate, or the frame's element
    float cell[2];
};

// lstm_unit() by the four lanes of a unit; x: each one's gate. The first of them has the result.
__device__ __forceinline__ float lstm_lanes(float x, float* cell) {
    const bool is_candidate = threadIdx.x % TILE_ROWS / 4 == 2;
    const float curve = tanh_of(is_candidate ? x : 0.5f * x);
    const float gate = is_candidate ? curve : 0.5f * curve + 0.5f;
    const float forget = __shfl_down_sync(ALL_LANES, gate, 4);
    const float candidate = __shfl_down_sync(ALL_LANES, gate, 8);
    const float output = __shfl_down_sync(ALL_LANES, gate, 12);
    *cell = forget * *cell + gate * candidate;
    return output * tanh_of(*cell);
}

// The hidden state of layer `layer` times tiles [begin, begin + num_upper) and GATE_TILES more: the
// weights into layer + 1 (or into the joint), and the layer's own recurrent ones.
__device__ __forceinline__ void multiply_hidden(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, const unsigned short* rows,
    int num_rows, int layer, int begin, int num_upper, bool is_staged
) {
    const int above = layer + 1;
    const bool is_joined = above == NUM_LAYERS && are_many(progress);
    // Of the joint's row of a projection.
    auto fetch_frame = [&](const TdtRow& row, int unit) {
        const float* frames = reinterpret_cast<const float*>(progress.counts->frames);
        const long long frame = row.first_frame + row.frame;
        return row.frame < row.count ? __ldg(frames + frame * WIDTH + unit) : 0.0f;
    };
    auto fetch_element = [&](int row, int index, int at, float* kept, float* cell) {
        const TdtRow& now = progress.rows[row];
        if (above == NUM_LAYERS) {
            if (is_joined) *kept = fetch_frame(now, index * TILE_ROWS + at);
            return;
        }
        const int unit = index * 4 + at % 4;
        *kept = __ldcg(gates_of(tdt, above, row, 0) + unit * 4 + at / 4);
        *cell = __ldcg(cell_of(tdt, now.state, above) + unit);
    };
    auto fetch = [&](const TdtPlace& place) {
        TdtFetched fetched = {};
        const TdtElement own = own_element();
        if (!has_tile(place, own.slot)) return fetched;
        const int tile = own_tile(place.local + own.slot), index = tile - begin;
        fetched.bias = __ldg(tdt.bias + tile * TILE_ROWS + own.row);
#pragma unroll
        for (int group = 0; group < 2; group++) {
            const int column = group * GROUP + own.column;
            if (index < num_upper && column < place.count)
                fetch_element(rows[place.first + column], index, own.row, &fetched.kept[group],
                              &fetched.cell[group]);
        }
        return fetched;
    };
    auto finish_projection = [&](int row, int unit, float sum, float heard) {
        predicted_of(tdt, progress.rows[row].state)[unit] = sum;
        if (is_joined) split_one(columns_of(tdt, above, row), unit, fmaxf(heard + sum, 0.0f));
    };
    // All lanes of a warp come here together, also for a column that is not there.
    auto finish_element = [&](int row, bool is_there, int index, int at, float sum, float kept,
                              float cell) {
        if (index >= num_upper) {
            float* products = gates_of(tdt, layer, row, progress.rows[row].num_tokens);
            if (is_there) products[((index - num_upper) * 4 + at % 4) * 4 + at / 4] = sum;
        } else if (above == NUM_LAYERS) {
            if (is_there) finish_projection(row, index * TILE_ROWS + at, sum, kept);
        } else {
            const float hidden = lstm_lanes(sum + kept, &cell);
            if (!is_there || at >= 4) return;
            const int state = progress.rows[row].state, unit = index * 4 + at;
            cell_of(tdt, state, above)[unit] = cell;
            hidden_of(tdt, state, above)[unit] = hidden;
            split_one(columns_of(tdt, above, row), unit, hidden);
        }
    };
    auto finish = [&](const TdtPlace& place, const TdtFetched& fetched) {
        const TdtElement own = own_element();
        if (!has_tile(place, own.slot)) return;  // the whole warp
        const int index = own_tile(place.local + own.slot) - begin;
        const float* partial = sums_at(shared, place.first) + own.slot * TILE_SUMS +
                               place_of_sum(own.slot, own.column, own.row);
#pragma unroll 1  // code that is not in the instruction cache costs more than the loop
        for (int group = 0; group * GROUP < place.count; group++) {
            const bool is_there = group * GROUP + own.column < place.count;
            const int row = is_there ? rows[place.first + group * GROUP + own.column] : 0;
            const float sum = sum_of(partial + group * GROUP_SUMS) + fetched.bias;
            finish_element(row, is_there, index, own.row, sum,
                           group ? fetched.kept[1] : fetched.kept[0],
                           group ? fetched.cell[1] : fetched.cell[0]);
        }
    };
    auto source = [&](int column) { return columns_of(tdt, layer, rows[column]); };
    const int end = begin + num_upper + GATE_TILES;
    product(tdt, shared, begin, end, num_rows, is_staged, source, [] {}, fetch, finish);
}

// Step s = 1 .. L behind a token: layer s, or what is predicted for the joint, and the joined rows of
// many. is_beginning: only the recurrent products, of all rows, with the states that they begin with:
// the products are no part of a state.
__device__ __forceinline__ void layer_step(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, int step,
    bool is_beginning, bool is_staged
) {
    STAMP_PRODUCT(STAMP_LAYER * step);
    const TdtCounts& counts = *progress.counts;
    const int skipped = is_beginning ? upper_tiles(step) : 0;
    multiply_hidden(
        tdt, shared, progress, is_beginning ? progress.active : progress.said,
        is_beginning ? counts.num_active : counts.num_said, step - 1, layer_begin(step) + skipped,
        upper_tiles(step) - skipped, is_staged);
}

#endif
