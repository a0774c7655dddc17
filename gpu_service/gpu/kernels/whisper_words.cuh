// What the blocks of whisper_step.cu hand to each other: words with flags (common.cuh), in device memory
// that nothing else uses. A matrix in the order of their use is a stage; what a block makes at a stage,
// or by attention behind it, has the stage's flag, and is the next stage's input.
//
// A word is written in every layer, of rows that have ended too, so what is left over in it is of the
// layer before, or of the last layer of the launch before: with two layers or more it has another flag.
// In the last layer the flag is the same as that which the launch before left, but a thread has read the
// same word in an earlier layer of its launch by then: a word has the same readers in every layer.
// Memory begins as zeros, flags with 1. A number of rows has memory of its own, as words of rows that
// a launch does not have would be older.
//
// A word is written again when nobody reads it any more. A block stores what it makes at a stage behind
// that stage's __syncthreads, where all its warps have their input. So a block behind the one of stage
// s with an input that all blocks made together (QUERY, FC1, FC2, QKV, HEAD: each block has rows of each
// matrix) knows every block behind the one of s - 1; at OUT and CROSS_OUT, whose input some blocks
// made, behind that of s - 2. What is stored at s is read before the __syncthreads of s + 1, so whoever
// stores it again must know all behind that. Of x at s + 6, hidden at s + 6, parts at s + 6: they do.
// Of queries, and of heard, at s + 2 (QKV, QUERY) and s + 4: QUERY and QKV know s - 1. One x for all three
// would be stored again at CROSS_OUT, two stages later, which does not know: so there are three.
#pragma once
#include "whisper_stream.cuh"

constexpr int PART_WORDS = HEAD_WIDTH + 2;  // floats: an element each, the largest score, the total
constexpr int QUERY_WORDS = 3 * WIDTH / 2;  // of a row; keys and values behind queries
constexpr int COPY_WORDS =
    ROWS * ((7 * WIDTH + FFN_WIDTH) / 2 + NUM_HEADS * SPLITS * PART_WORDS);
// Of all words but parts: readers, of which each word has hundreds, take turns. Four lanes come to know a
// result together, and each stores a copy; of joined splits one stores all.
constexpr int NUM_WORD_COPIES = 4;

// Two halves a word, but for parts.
struct Words {
    Word* first;

    __device__ __forceinline__ Words copy(int which) const {
        return {first + which % NUM_WORD_COPIES * COPY_WORDS};
    }
    // The one that this warp reads.
    __device__ __forceinline__ Words own() const { return copy(blockIdx.x + threadIdx.x / 32); }

    // (B, D) the residual stream behind OUT, CROSS_OUT or FC2.
    __device__ __forceinline__ Word* x(int matrix) const {
        return first + matrix / 2 * ROWS * (WIDTH / 2);
    }
    __device__ __forceinline__ Word* queries() const { return x(NUM_MATRICES); }  // (B, 3 D)
    __device__ __forceinline__ Word* heard() const { return queries() + ROWS * QUERY_WORDS; }  // (B, D)
    __device__ __forceinline__ Word* hidden() const { return heard() + ROWS * (WIDTH / 2); }   // (B, F)
    // (B, H, S, PART_WORDS)
    __device__ __forceinline__ Word* parts() const { return hidden() + ROWS * (FFN_WIDTH / 2); }
};

constexpr int POLL_NS = 20;  // between two questions of all warps, which are in the way of the answers

// Asks for two words at each of at(0) ... at(NUM - 1) until all have this flag; for those of at(0) first,
// where ONE_FIRST.
template <bool ONE_FIRST, int NUM, class At>
__device__ __forceinline__ void await_words(unsigned flag, uint4 (&found)[NUM], At at) {
    const auto is_missing = [flag](const uint4& two) { return two.y != flag || two.w != flag; };
#pragma unroll
    for (int i = 0; i < NUM; ++i) found[i] = make_uint4(0, ~flag, 0, ~flag);
    if (ONE_FIRST)
        while (is_missing(found[0] = load_two_words(at(0)))) pause<POLL_NS>();
    for (;;) {
#pragma unroll
        for (int i = 0; i < NUM; ++i)
            if (is_missing(found[i])) found[i] = load_two_words(at(i));
        bool waits = false;
#pragma unroll
        for (int i = 0; i < NUM; ++i) waits = waits || is_missing(found[i]);
        if (!waits) return;
        pause<POLL_NS>();
    }
}

// The words of a warp's columns of an input: a lane's are CHUNKS / 4 of each row, rounded up.
template <int CHUNKS>
struct Gathered {
    static constexpr int COUNT = (8 * CHUNKS + 31) / 32;
    static constexpr int NUM = ROWS * COUNT;
    uint4 words[NUM];  // two each: 4 columns of a row

    // Which two of a warp's are this lane's i-th, or others where it has no more.
    static __device__ __forceinline__ int two_of(int i) {
        return min(static_cast<int>(threadIdx.x % 32) + i % COUNT * 32, 8 * CHUNKS - 1);
    }
    static __device__ __forceinline__ bool is_there(int i) {
        return COUNT * 32 == 8 * CHUNKS || threadIdx.x % 32 + i % COUNT * 32 < 8 * CHUNKS;
    }
    // The first of its columns.
    static __device__ __forceinline__ int column_of(int i) {
        const int two = two_of(i);
        return (two / 8 * NUM_WARPS + static_cast<int>(threadIdx.x / 32)) * COLUMNS + two % 8 * 4;
    }

    // Of (B, CHUNKS NUM_WARPS 32).
    __device__ __forceinline__ void await(const Word* from, unsigned flag) {
        constexpr bool ARE_MANY = NUM > 4;  // asked for in vain by all blocks, they would fill L2
        await_words<ARE_MANY>(flag, words, [from](int i) {
            return from + i / COUNT * (CHUNKS * NUM_WARPS * COLUMNS / 2) + column_of(i) / 2;
        });
    }
};
