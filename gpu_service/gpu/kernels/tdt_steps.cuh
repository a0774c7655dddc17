// The steps of the TDT search (tdt.cuh) as functions that all threads of a block call together.
//
// What one step writes and another reads lies in device memory, with all blocks' stores of the one
// seen by all of the other: behind a grid barrier or in a later kernel. A step may follow another
// without that where this says so. Steps of one block follow each other behind a __syncthreads.
#ifndef TDT_STEPS_CUH
#define TDT_STEPS_CUH

#include "tdt_hotwords.cuh"
#include "tdt_product.cuh"

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
    if (is_active) progress.active[before & 0xffff] = row;
    if (has_said) progress.said[before >> 16] = row;
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
        progress.rows[row] = {own.first_frame, own.count, own.state_out, own.hotwords,
                              own.first_token, marks.y, 0, marks.x, node, 0, 0};
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

// ---- joint --------------------------------------------------------------------------------------

// The larger of each pair of lanes that have the same columns, for both columns of a lane.
__device__ __forceinline__ void best_of_rows(unsigned long long (&keys)[2]) {
#pragma unroll
    for (int bits = 4; bits < LANES; bits *= 2)
#pragma unroll
        for (int i = 0; i < 2; i++)
            keys[i] = larger(keys[i], __shfl_xor_sync(ALL_LANES, keys[i], bits));
}

// One tile of the head: logits of 16 labels or durations, for 8 rows of the batch.
__device__ __forceinline__ void finish_head_tile(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, const TdtPlace& place,
    const float4& sum
) {
    const int lane = threadIdx.x % LANES, turn = progress.counts->num_turns;
    const int labels[2] = {place.tile * TILE_ROWS + lane / 4, place.tile * TILE_ROWS + lane / 4 + 8};
    const float logits[2][2] = {{sum.x, sum.z}, {sum.y, sum.w}};  // of two columns
    unsigned long long keys[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            if (labels[j] < NUM_LABELS) keys[i] = larger(keys[i], key_of(logits[i][j], labels[j]));
    best_of_rows(keys);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int column = place.group * GROUP + lane % 4 * 2 + i;
        const int row = column < place.count ? progress.active[place.first + column] : -1;
        const float largest = logit_of(keys[i]);
        float odds = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int duration = labels[j] - NUM_LABELS;
            if (duration < 0) odds += expf(logits[i][j] - largest);
            if (row < 0) continue;
            if (duration >= 0 && duration < NUM_DURATIONS)
                duration_logits_of(tdt, turn, row)[duration] = logits[i][j];
            if (duration < 0 && progress.counts->has_hotwords && progress.rows[row].hotwords >= 0)
                logits_of(tdt, turn, row)[labels[j]] = logits[i][j];
        }
#pragma unroll
        for (int bits = 4; bits < LANES; bits *= 2) odds += __shfl_xor_sync(ALL_LANES, odds, bits);
        if (lane < 4 && row >= 0 && place.tile < LABEL_TILES) {
            unsigned long long* best = shared.best + place.slot * COLUMNS + column;
            *best = larger(*best, keys[i]);
            tdt.sums[static_cast<long long>(row) * LABEL_TILES + place.tile] =
                make_float2(largest, odds);
        }
    }
}

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
// behind a barrier, and not by every block for itself, which would read twice as much.
__device__ __forceinline__ bool are_many(const TdtProgress& progress) {
    return progress.counts->num_active > COLUMNS;
}

// Joined rows of those that said nothing: of the others what is predicted is not there yet, and
// layer_step() makes them.
__device__ __forceinline__ void join_rows(const Tdt& tdt, const TdtProgress& progress) {
    for (int item = blockIdx.x * THREADS + threadIdx.x; item < progress.counts->num_active * QUADS;
         item += gridDim.x * THREADS) {
        const int index = progress.active[item / QUADS], quad = item % QUADS;
        const TdtRow& row = progress.rows[index];
        if (!row.has_said)
            tdt.joined[index * QUADS + quad] = split_quad(joined_quad(tdt, progress, row, quad));
    }
}

// Logits of all active rows at their frames, and each row's best label into this turn's keys. Behind
// pick() of the turn before without a barrier: what both touch is doubled, or tripled.
template <bool IS_JOINED>
__device__ __forceinline__ void joint(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress
) {
    const int turn = progress.counts->num_turns;
    if (blockIdx.x == 0 && threadIdx.x < tdt.max_rows) keys_of(tdt, turn + 1)[threadIdx.x] = 0;
    auto load = [&](int column, int quad) {
        const int row = progress.active[column];
        if (IS_JOINED) return __ldcg(tdt.joined + row * QUADS + quad);
        return joined_quad(tdt, progress, progress.rows[row], quad);
    };
    auto fetch = [](const TdtPlace&) { return TdtFetched{}; };
    auto finish = [&](const TdtPlace& place, const float4& sum, const TdtFetched&) {
        finish_head_tile(tdt, shared, progress, place, sum);
    };
    auto conclude = [&](int first, int count) {
        __syncthreads();
        if (threadIdx.x >= count) return;
        unsigned long long key = 0;
        for (int slot = 0; slot < SLOTS; slot++) {
            unsigned long long* best = shared.best + slot * COLUMNS + threadIdx.x;
            key = larger(key, *best);
            *best = 0;
        }
        atomicMax(keys_of(tdt, turn) + progress.active[first + threadIdx.x], key);
    };
    product<IS_JOINED>(tdt, shared, 0, HEAD_TILES, progress.counts->num_active, false, load, fetch,
                       finish, conclude);
}

// ---- pick ---------------------------------------------------------------------------------------

__device__ __forceinline__ int best_duration(const Tdt& tdt, int turn, int row) {
    const float* logits = duration_logits_of(tdt, turn, row);
    float best = __ldcg(logits);
    int duration = __ldg(tdt.durations);  // all at once: one after the other they would take longer
#pragma unroll
    for (int i = 1; i < NUM_DURATIONS; i++) {
        const float logit = __ldcg(logits + i);
        const int other = __ldg(tdt.durations + i);
        if (logit > best) best = logit, duration = other;
    }
    return duration;
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
    if (is_there) now = progress.rows[row];
    const bool is_searching = is_there && now.frame < now.count;
    int label = BLANK, duration = 0, node = ROOT;
    if (is_searching) {
        label = label_of(__ldcg(keys_of(tdt, turn) + row));
        duration = best_duration(tdt, turn, row);
    }
    if (progress.counts->has_hotwords) {
        int2* choices = reinterpret_cast<int2*>(shared.partial);
        if (is_there) choices[row] = make_int2(label, ROOT);
        choose_hotwords(tdt, progress, turn, choices);
        if (is_there) label = choices[row].x, node = choices[row].y;
    }
    const bool has_said = is_searching && label != BLANK;
    if (has_said) {
        if (row % gridDim.x == blockIdx.x)
            tdt.tokens[now.first_token + now.num_tokens] = make_int4(label, now.frame, duration, 0);
        now.symbols = duration == 0 ? now.symbols + 1 : 0;
        now.frame += duration;
        if (now.symbols >= tdt.max_symbols) now.frame += 1, now.symbols = 0;
        now.label = label, now.node = node, now.num_tokens += 1;
    } else if (is_searching) {
        now.frame += max(duration, 1);
        now.symbols = 0;
    }
    now.has_said = has_said;
    if (is_there) progress.rows[row] = now;
    const int turns = turn + (progress.counts->num_active > 0);
    list_rows(progress, shared.totals, is_searching && now.frame < now.count, has_said, turns);
}

// Confidences of the tokens that pick() took: the softmax of each among labels, without hotwords. Row
// r's by block r % blocks. No joint() of any block may begin before.
__device__ __forceinline__ void finish_tokens(const Tdt& tdt, const TdtProgress& progress) {
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int turn = progress.counts->num_turns - 1;
    for (int i = warp; i < progress.counts->num_said; i += WARPS) {
        const int row = progress.said[i];
        if (row % gridDim.x != blockIdx.x) continue;
        const TdtRow& now = progress.rows[row];
        const unsigned long long key = __ldcg(keys_of(tdt, turn) + row);
        const float largest = logit_of(key);
        const float2* sums = tdt.sums + static_cast<long long>(row) * LABEL_TILES;
        float all = 0.0f;
        for (int tile = lane; tile < LABEL_TILES; tile += LANES) {
            const float2 some = __ldcg(sums + tile);
            all += some.y * expf(some.x - largest);
        }
        all = warp_sum(all);
        const float logit = now.label == label_of(key)
                                ? largest
                                : __ldcg(logits_of(tdt, turn, row) + now.label);
        int4* token = tdt.tokens + now.first_token + now.num_tokens - 1;
        if (lane == 0) token->w = __float_as_int(expf(logit - largest) / all);
    }
}

// ---- LSTM ---------------------------------------------------------------------------------------

__device__ __forceinline__ float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }

// Gates are input, forget, candidate, output. Changes the cell, returns the hidden value.
__device__ __forceinline__ float lstm_unit(const float4& gates, float* cell) {
    *cell = sigmoid(gates.y) * *cell + sigmoid(gates.x) * tanhf(gates.z);
    return sigmoid(gates.w) * tanhf(*cell);
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
         item += gridDim.x * THREADS)
        lowest_unit(tdt, progress, progress.said[item / WIDTH], item % WIDTH, true);
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
        stage_pair(shared.staged, column, pair, make_float2(low, high));
    }
}

// Of a tile of gates, lane (unit, column) gets the four gates of one unit of one column.
struct TdtUnit {
    int unit, column;  // of the tile's 4 and 8
};

__device__ __forceinline__ TdtUnit own_unit() {
    const int lane = threadIdx.x % LANES;
    return {lane / 4 % 4, lane % 4 * 2 + lane / 16};
}

__device__ __forceinline__ float4 own_gates(const float4& sum) {
    const bool is_upper = threadIdx.x % LANES >= 16;  // has forget and output gates, of two columns
    const float first = __shfl_xor_sync(ALL_LANES, is_upper ? sum.x : sum.y, 16);
    const float second = __shfl_xor_sync(ALL_LANES, is_upper ? sum.z : sum.w, 16);
    return is_upper ? make_float4(first, sum.y, second, sum.w)
                    : make_float4(sum.x, first, sum.z, second);
}

// The hidden state of layer `layer` times tiles [begin, begin + num_upper) and GATE_TILES more: the
// weights into layer + 1 (or into the joint), and the layer's own recurrent ones.
template <bool IS_JOINED>
__device__ __forceinline__ void multiply_hidden(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, const int* rows,
    int num_rows, int layer, int begin, int num_upper, bool is_staged
) {
    const int above = layer + 1, lane = threadIdx.x % LANES;
    const bool is_joined = IS_JOINED && above == NUM_LAYERS && are_many(progress);
    auto load = [&](int column, int quad) {
        const int state = progress.rows[rows[column]].state;
        return __ldcg(reinterpret_cast<const float4*>(hidden_of(tdt, state, layer)) + quad);
    };
    // Of a projection tile a lane has two units, `unit` and `unit` + 8, of two columns.
    auto fetch_frames = [&](const TdtPlace& place, int unit) {
        const float* frames = reinterpret_cast<const float*>(progress.counts->frames);
        float4 heard = {};
        for (int i = 0; i < 2; i++) {
            const int column = place.group * GROUP + lane % 4 * 2 + i;
            if (column >= place.count) break;
            const TdtRow& row = progress.rows[rows[place.first + column]];
            if (row.frame >= row.count) continue;
            const float* frame = frames + static_cast<long long>(row.first_frame + row.frame) * WIDTH;
            (i ? heard.y : heard.x) = __ldg(frame + unit);
            (i ? heard.w : heard.z) = __ldg(frame + unit + 8);
        }
        return heard;
    };
    auto fetch = [&](const TdtPlace& place) {
        TdtFetched fetched = {};
        const int index = place.tile - begin;
        if (index >= num_upper) return fetched;
        if (above == NUM_LAYERS) {
            if (is_joined) fetched.gates = fetch_frames(place, index * TILE_ROWS + lane / 4);
            return fetched;
        }
        const TdtUnit own = own_unit();
        const int column = place.group * GROUP + own.column, unit = index * 4 + own.unit;
        if (column >= place.count) return fetched;
        const int row = rows[place.first + column];
        fetched.gates = __ldcg(reinterpret_cast<const float4*>(gates_of(tdt, above, row, 0)) + unit);
        fetched.cell = __ldcg(cell_of(tdt, progress.rows[row].state, above) + unit);
        return fetched;
    };
    auto finish_projection = [&](const TdtPlace& place, const float4& sum, const float4& heard) {
        const int unit = (place.tile - begin) * TILE_ROWS + lane / 4;
        for (int i = 0; i < 2; i++) {
            const int column = place.group * GROUP + lane % 4 * 2 + i;
            if (column >= place.count) break;
            const int row = rows[place.first + column];
            const float low = i ? sum.y : sum.x, high = i ? sum.w : sum.z;
            float* predicted = predicted_of(tdt, progress.rows[row].state) + unit;
            predicted[0] = low;
            predicted[8] = high;
            if (!is_joined) continue;
            float4* joined = tdt.joined + row * QUADS;
            split_one(joined, unit, fmaxf((i ? heard.y : heard.x) + low, 0.0f));
            split_one(joined, unit + 8, fmaxf((i ? heard.w : heard.z) + high, 0.0f));
        }
    };
    auto finish = [&](const TdtPlace& place, const float4& sum, const TdtFetched& fetched) {
        const int index = place.tile - begin;
        if (index < num_upper && above == NUM_LAYERS) {
            finish_projection(place, sum, fetched.gates);
            return;
        }
        const float4 gates = own_gates(sum);
        const TdtUnit own = own_unit();
        const int column = place.group * GROUP + own.column;
        if (column >= place.count) return;
        const int row = rows[place.first + column];
        if (index >= num_upper) {
            float* kept = gates_of(tdt, layer, row, progress.rows[row].num_tokens);
            reinterpret_cast<float4*>(kept)[(index - num_upper) * 4 + own.unit] = gates;
            return;
        }
        const int state = progress.rows[row].state, unit = index * 4 + own.unit;
        const float4 kept = fetched.gates;
        float cell = fetched.cell;
        const float hidden = lstm_unit(make_float4(gates.x + kept.x, gates.y + kept.y,
                                                   gates.z + kept.z, gates.w + kept.w), &cell);
        cell_of(tdt, state, above)[unit] = cell;
        hidden_of(tdt, state, above)[unit] = hidden;
    };
    const int end = begin + num_upper + GATE_TILES;
    product<false>(tdt, shared, begin, end, num_rows, is_staged, load, fetch, finish,
                   [](int, int) {});
}

// Step s = 1 .. L behind a token: layer s, or what is predicted for the joint, and with IS_JOINED the
// joined rows of many. is_beginning: only the recurrent products, of all rows, with the states that
// they begin with: the products are no part of a state.
template <bool IS_JOINED>
__device__ __forceinline__ void layer_step(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, int step,
    bool is_beginning, bool is_staged
) {
    const TdtCounts& counts = *progress.counts;
    const int skipped = is_beginning ? upper_tiles(step) : 0;
    multiply_hidden<IS_JOINED>(
        tdt, shared, progress, is_beginning ? progress.active : progress.said,
        is_beginning ? counts.num_active : counts.num_said, step - 1, layer_begin(step) + skipped,
        upper_tiles(step) - skipped, is_staged);
}

// Before the first step: a block's room for best labels. Behind a __syncthreads ready for all.
__device__ __forceinline__ void clear_best(const TdtShared& shared) {
    if (threadIdx.x < SLOTS * COLUMNS) shared.best[threadIdx.x] = 0;
}

#endif
