// Hotwords on the device: gpu_service/decoding/hotwords.py's automaton, walked by one warp a row.
//
// A trie takes TRIE_INTS ints of `tries`: five columns of MAX_NODES + 1. Children of node n are the
// entries first[n] .. first[n + 1] of token, child and bonus, in the order of their tokens; shorter[n]
// is the longest other end that begins a phrase. Bound by latency: few rows have hotwords, and most
// nodes have one child.
#ifndef TDT_HOTWORDS_CUH
#define TDT_HOTWORDS_CUH

#include "tdt.cuh"

constexpr int MAX_NODES = 8193;  // 256 phrases of 32 tokens, and the root
constexpr int TRIE_COLUMN = MAX_NODES + 1;
constexpr int TRIE_INTS = 5 * TRIE_COLUMN;
constexpr int ROOT = 0;

struct TdtTrie {
    const int *first, *token, *child, *bonus, *shorter;
};

__device__ __forceinline__ TdtTrie trie_of(const Tdt& tdt, int index) {
    const int* columns = tdt.tries + static_cast<long long>(index) * TRIE_INTS;
    return {columns, columns + TRIE_COLUMN, columns + 2 * TRIE_COLUMN, columns + 3 * TRIE_COLUMN,
            columns + 4 * TRIE_COLUMN};
}

// The entry of a node's child for a token, -1 if it has none.
__device__ __forceinline__ int entry_of(const TdtTrie& trie, int node, int token) {
    int low = __ldg(trie.first + node), high = __ldg(trie.first + node + 1);
    const int end = high;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (__ldg(trie.token + middle) < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && __ldg(trie.token + low) == token ? low : -1;
}

// The label that a row takes whose best one is a token, by a whole warp: the largest logit with the
// bonus of each token that goes on with a phrase or begins one, the longest end first.
__device__ __forceinline__ int boosted_label(
    const TdtTrie& trie, int node, const float* logits, unsigned long long best
) {
    const int lane = threadIdx.x % LANES;
    for (int end = node;; end = __ldg(trie.shorter + end)) {
        const int last = __ldg(trie.first + end + 1);
        for (int entry = __ldg(trie.first + end) + lane; entry < last; entry += LANES) {
            const int token = __ldg(trie.token + entry);
            bool is_new = true;  // no longer end goes on with this token
            for (int longer = node; is_new && longer != end; longer = __ldg(trie.shorter + longer))
                is_new = entry_of(trie, longer, token) < 0;
            const float bonus = __int_as_float(__ldg(trie.bonus + entry));
            if (is_new) {
                const float logit = __ldcg(logits + token) + bonus;
                best = larger(best, key_of(ordered_of(logit), token));
            }
        }
        if (end == ROOT) break;
    }
#pragma unroll
    for (int bits = LANES / 2; bits > 0; bits /= 2)
        best = larger(best, __shfl_xor_sync(ALL_LANES, best, bits));
    return label_of(best);
}

// The node behind a token. (Every lane does the same.)
__device__ __forceinline__ int next_node(const TdtTrie& trie, int node, int token) {
    for (;; node = __ldg(trie.shorter + node)) {
        const int entry = entry_of(trie, node, token);
        if (entry >= 0) return __ldg(trie.child + entry);
        if (node == ROOT) return ROOT;
    }
}

#endif
