// The whole TDT search of a launch in one cooperative kernel (steps: tdt.cuh).
//
// Every block keeps its share of all matrices in shared memory for the whole launch, where it fits: in
// half, the 0.6 B model's 21 MB are 8 tiles of 20 KB for each of 132 blocks. (For more than SOME_ROWS,
// 3 of them come from L2 in each turn.) Every block does pick() for all rows, so that no barrier is
// between it and what follows. A turn without a token costs one barrier, or two if many rows are
// active; one with a token 1 + L, and one more if many said something.
// Grid: up to the number of multiprocessors, 512 threads, one block on each. Bound by latency: of the
// barriers, and of what each step first reads from L2; of many rows, by what the blocks read of them.

#include "tdt_steps.cuh"

__device__ __forceinline__ void load_resident(const Tdt& tdt, T* resident, int num_resident) {
    constexpr int VECTORS = TILE_SIZE * static_cast<int>(sizeof(T)) / 16;
    const uint4* tiles = reinterpret_cast<const uint4*>(tdt.tiles);
    uint4* target = reinterpret_cast<uint4*>(resident);
#pragma unroll 5
    for (int item = threadIdx.x; item < num_resident * VECTORS; item += THREADS) {
        const long long tile = own_tile(item / VECTORS);
        target[item] = __ldg(tiles + tile * VECTORS + item % VECTORS);
    }
}

// All LSTM layers of the rows that said something; of a launch's states, in the beginning, only the
// recurrent products. (One function, because two copies of its products need too many registers.)
__device__ __forceinline__ void advance(
    const Tdt& tdt, const TdtShared& shared, const TdtProgress& progress, SplitBarrier all_blocks,
    bool is_beginning
) {
    const bool are_few = !is_beginning && progress.counts->num_said <= FEW_ROWS;
    if (are_few) {
        lowest_everywhere(tdt, shared, progress);
    } else if (!is_beginning) {
        lowest(tdt, progress);
        all_blocks.pass();
    }
    STAMP(STAMP_LOWEST);
    if (NUM_LAYERS == 1) finish_tokens(tdt, progress);
    for (int step = 1; step <= NUM_LAYERS; step++) {
        layer_step(tdt, shared, progress, step, is_beginning, are_few && step == 1);
        // joint() reads joined rows, but no recurrent product.
        if (is_beginning && (step < NUM_LAYERS || !are_many(progress))) continue;
        all_blocks.arrive();
        STAMP(STAMP_ARRIVED);
        // Nobody waits for confidences, and one more barrier stands before the next joint().
        if (NUM_LAYERS > 1 && step == 1) finish_tokens(tdt, progress);
        STAMP(STAMP_TOKENS);
        all_blocks.wait();
        STAMP(STAMP_LAYER_BARRIER);
    }
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_persistent(
    const T* tiles, const float* bias, const float* table, const int* durations, float* values,
    int* marks, float* gates, float* cells, unsigned long long* keys, float* duration_logits,
    float* logits, float2* sums, float4* columns, int4* tokens, const int* tries,
    const TdtRequest* request, GridBarrier* barrier, int max_symbols, int max_rows, int num_resident
) {
    DYNAMIC_SHARED(unsigned char, memory);
    const Tdt tdt = {tiles, bias, table, durations, max_symbols, values, marks, gates, cells,
                     keys, duration_logits, logits, sums, columns, tokens, tries, request, max_rows};
    const TdtShared shared = shared_at(memory, max_rows, num_resident, request->num_rows);
    const TdtProgress progress = progress_at(shared.progress, max_rows);

    SplitBarrier all_blocks = {barrier, &progress.counts->phase};
    BEGIN_STAMPS();
    all_blocks.begin();
    // A block at the end of the grid may have one tile less than the others.
    const int num_own = min(shared.num_resident, share_of(0, NUM_TILES).last);
    load_resident(tdt, const_cast<T*>(shared.resident), num_own);
    begin_rows(tdt, shared, progress);
    begin_states(tdt);
    all_blocks.pass();
    STAMP(STAMP_BEGIN);
    bool is_beginning = true;
    do {
        if (!is_beginning) {
            joint(tdt, shared, progress);
            all_blocks.pass();
            STAMP(STAMP_JOINT_BARRIER);
            pick(tdt, shared, progress);
            STAMP(STAMP_PICK);
        }
        if (are_many(progress)) join_rows(tdt, progress);
        if (is_beginning || progress.counts->num_said > 0)
            advance(tdt, shared, progress, all_blocks, is_beginning);
        else if (are_many(progress))
            all_blocks.pass();
        is_beginning = false;
    } while (progress.counts->num_active > 0);
    end_rows(tdt, progress);
    STAMP(STAMP_END);
    END_STAMPS(barrier);
}
