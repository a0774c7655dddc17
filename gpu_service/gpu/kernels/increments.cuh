// What the kernels of the streaming encoder share: who is in a batch, and what the two kernels for
// attention have in common.
//
// Every session of a batch has a row of `steps` (B, 4) int32, {slot, next_frame, num_frames,
// num_commit}: N frames of the bucket, of which num_frames are real and begin at next_frame of
// the utterance; the first num_commit of them are never encoded again. An unused row is zeros. T
// is the storage type (common.cuh), D = WIDTH, H = NUM_HEADS, E = HEAD_WIDTH, S slots, B
// sessions, L cached frames.
#ifndef INCREMENTS_CUH
#define INCREMENTS_CUH

#include "encoder.cuh"

constexpr int STEP_INTS = 4;
enum StepField { SLOT, NEXT_FRAME, NUM_FRAMES, NUM_COMMIT };

// ---- attention ----------------------------------------------------------------------------------
// The new frames of each session attend to themselves and to those that the session's slot
// remembers, by relative position. keys, values (S, layers, H, L, E) are rings: frame f of an
// utterance lies in row f % L, and the last min(L, next_frame) frames are there. A block owns one
// session's head, so the same block reads its ring and, when all queries are done, writes the
// committed frames over the oldest.
//
// qkv (B * N, 3 D), heard (B * N, D); positions (P, D): relative position max_frames - 1 - r in
// row r. The score of query i and key j is ((q_i + u) k_j + (q_i + v) p_(i-j)) / sqrt(E), u and v
// float32 (D,).
//
// increment_attention.cu and increment_attention_mma.cu have the same parameters and result, for
// grid (B, H) and 128 threads. Both take 16 queries at once, and first multiply them by the
// positions of all distances that these have to any key: column m of by_position is distance
// (first query + 15 + cached) - m, so that query i of the tile finds key j in column 15 - i + j.

constexpr int THREADS = 128;
constexpr int NUM_WARPS = THREADS / 32;
constexpr int TILE = 16;  // queries at once
constexpr int VECTOR = 16 / sizeof(T);
constexpr float LOG2_E = 1.4426950408889634f;

// One session's head.
struct Session {
    int next_frame, num_frames, num_commit;
    int num_cached, num_keys;  // keys are the cached frames, then the new ones
    int ring_start;            // row of the oldest cached frame
    int ring_rows;             // L
    const T* new_rows;         // qkv from this session's first row and this head's first column on
    T* ring_keys;
    T* ring_values;

    // Of key j < num_keys.
    __device__ __forceinline__ const T* row(const T* ring, int column, int j) const {
        if (j >= num_cached) return new_rows + (j - num_cached) * 3 * WIDTH + column;
        const int at = ring_start + j;
        return ring + (at < ring_rows ? at : at - ring_rows) * HEAD_WIDTH;
    }
    __device__ __forceinline__ const T* key(int j) const { return row(ring_keys, WIDTH, j); }
    __device__ __forceinline__ const T* value(int j) const {
        return row(ring_values, 2 * WIDTH, j);
    }
};

__device__ __forceinline__ Session session_of(
    const int* steps, const T* qkv, T* keys, T* values, int bucket_frames, int layer,
    int num_layers, int ring_rows
) {
    const int* step = steps + STEP_INTS * blockIdx.x;
    const int head = blockIdx.y;
    Session session;
    session.next_frame = step[NEXT_FRAME];
    session.num_frames = step[NUM_FRAMES];
    session.num_commit = step[NUM_COMMIT];
    session.ring_rows = ring_rows;
    session.num_cached = min(ring_rows, session.next_frame);
    session.num_keys = session.num_cached + session.num_frames;
    session.ring_start = (session.next_frame - session.num_cached) % ring_rows;
    session.new_rows =
        qkv + static_cast<long long>(blockIdx.x) * bucket_frames * 3 * WIDTH + head * HEAD_WIDTH;
    const long long slot_layer = static_cast<long long>(step[SLOT]) * num_layers + layer;
    const long long offset = (slot_layer * NUM_HEADS + head) * ring_rows * HEAD_WIDTH;
    session.ring_keys = keys + offset;
    session.ring_values = values + offset;
    return session;
}

// The row of `positions` behind column m, and one that is there where no query needs the column.
__device__ __forceinline__ const T* position_row(
    const T* positions, int first_query, int num_cached, int m, int max_frames
) {
    const int row = max_frames - 1 - (first_query + TILE - 1 + num_cached) + m;
    return positions + min(max(row, 0), 2 * max_frames - 2) * WIDTH;
}

// Zeros for frames that are not real: nobody reads them, but they go through what follows.
__device__ __forceinline__ void clear_padding(T* heard, int num_frames, int bucket_frames) {
    constexpr int ROW_VECTORS = HEAD_WIDTH / 8;
    const float zeros[8] = {};
    const int num_vectors = (bucket_frames - num_frames) * ROW_VECTORS;
    for (int i = threadIdx.x; i < num_vectors; i += THREADS) {
        store8(heard + (num_frames + i / ROW_VECTORS) * WIDTH + i % ROW_VECTORS * 8, zeros);
    }
}

// The keys and values of the first num_commit frames into their rows, of the last L where they are
// more. No thread reads the ring any more.
__device__ __forceinline__ void commit(const Session& session) {
    constexpr int ROW_VECTORS = HEAD_WIDTH / VECTOR;
    const int first = max(0, session.num_commit - session.ring_rows);
    const int num_vectors = (session.num_commit - first) * ROW_VECTORS;
    for (int i = threadIdx.x; i < num_vectors; i += THREADS) {
        const int frame = first + i / ROW_VECTORS, column = i % ROW_VECTORS * VECTOR;
        const T* from = session.new_rows + frame * 3 * WIDTH + column;
        const int to = (session.next_frame + frame) % session.ring_rows * HEAD_WIDTH + column;
        *reinterpret_cast<uint4*>(session.ring_keys + to) =
            *reinterpret_cast<const uint4*>(from + WIDTH);
        *reinterpret_cast<uint4*>(session.ring_values + to) =
            *reinterpret_cast<const uint4*>(from + 2 * WIDTH);
    }
}

#endif
