// __syncthreads, __syncwarp, shuffles, votes and the tensor core's product, on fibers.h.
// A lane that reads from a lane outside of the operation gets an error here; on the device it
// gets anything.
#pragma once

namespace emulator {

// Does the lane at this place among the members of an operation take part in it?
inline bool takes_part(unsigned mask, int lane) { return mask >> lane & 1; }

template <class V>
struct ShuffleExchange {
    V value, result;
    int source;
};

template <class V>
inline void apply_shuffle(Fiber* lanes, int, const Operation* self, unsigned mask) {
    auto exchange = [&](int lane) { return static_cast<ShuffleExchange<V>*>(lanes[lane].exchange); };
    for (int lane = 0; lane < WARP; lane++) {
        if (!takes_part(mask, lane)) continue;
        const int source = exchange(lane)->source;
        if (!takes_part(mask, source))
            fail("%s: lane %d reads lane %d, which takes no part (mask %08x)", self->name, lane, source, mask);
        exchange(lane)->result = exchange(source)->value;
    }
}

template <class V, int KIND>  // a lane of one kind never meets one of another
inline V shuffle(const char* name, unsigned mask, V value, int source) {
    static const Operation operation = {name, apply_shuffle<V>};
    ShuffleExchange<V> exchange = {value, value, source};
    warp_collective(&operation, mask, &exchange);
    return exchange.result;
}

inline void check_width(int width) {
    if (width < 1 || width > WARP || (width & (width - 1))) fail("shuffle of width %d", width);
}

struct VoteExchange {
    long long value, result;
};
using Combine = long long (*)(long long, long long);

template <Combine COMBINE>
inline void apply_reduction(Fiber* lanes, int count, const Operation*, unsigned mask) {
    const bool is_block = count != WARP || !mask;
    long long total = 0;
    bool is_first = true;
    auto member = [&](int i) {
        const bool is_in = is_block ? !lanes[i].has_ended : takes_part(mask, i);
        return is_in ? static_cast<VoteExchange*>(lanes[i].exchange) : nullptr;
    };
    for (int i = 0; i < count; i++)
        if (VoteExchange* vote = member(i)) {
            total = is_first ? vote->value : COMBINE(total, vote->value);
            is_first = false;
        }
    for (int i = 0; i < count; i++)
        if (VoteExchange* vote = member(i)) vote->result = total;
}

inline long long add(long long a, long long b) { return a + b; }
inline long long bit_or(long long a, long long b) { return a | b; }
inline long long bit_and(long long a, long long b) { return a & b; }
inline long long bit_xor(long long a, long long b) { return a ^ b; }
inline long long lesser(long long a, long long b) { return a < b ? a : b; }
inline long long greater(long long a, long long b) { return a > b ? a : b; }

template <int KIND, Combine COMBINE>
inline long long warp_reduction(const char* name, unsigned mask, long long value) {
    static const Operation operation = {name, apply_reduction<COMBINE>};
    VoteExchange exchange = {value, 0};
    warp_collective(&operation, mask, &exchange);
    return exchange.result;
}

template <int KIND, Combine COMBINE>
inline long long block_reduction(const char* name, long long value) {
    static const Operation operation = {name, apply_reduction<COMBINE>};
    VoteExchange exchange = {value, 0};
    block_collective(&operation, &exchange);
    return exchange.result;
}

// mma.sync.m16n8k16.row.col.f32.f16.f16.f32 with the fragments of the PTX manual:
// lane = 4 * group + pair;  a: rows group and group + 8, columns 2 pair + {0, 1} and those + 8;
// b: rows (k) 2 pair + {0, 1} and those + 8, column group;  d: as a's first two, columns of 8.
struct MmaExchange {
    float* d;
    const unsigned *a, *b;
};

typedef float Row8 __attribute__((vector_size(32)));  // eight columns at once

inline float half_of(unsigned word, int high) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16 * high)));
}

inline void apply_mma(Fiber* lanes, int, const Operation* self, unsigned mask) {
    if (mask != ~0u) fail("%s: only lanes %08x are there", self->name, mask);
    float a[16][16];
    Row8 b[16], d[16];
    for (int lane = 0; lane < WARP; lane++) {
        const auto* x = static_cast<MmaExchange*>(lanes[lane].exchange);
        const int group = lane / 4, pair = lane % 4 * 2;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const int word = i / 2, high = i % 2;
            a[group + word % 2 * 8][pair + word / 2 * 8 + high] = half_of(x->a[word], high);
            if (i < 4) {
                b[pair + word * 8 + high][group] = half_of(x->b[word], high);
                d[group + word * 8][pair + high] = x->d[i];
            }
        }
    }
    for (int m = 0; m < 16; m++) {
        Row8 sum = d[m];
#pragma GCC unroll 16
        for (int k = 0; k < 16; k++) sum += a[m][k] * b[k];
        d[m] = sum;
    }
    for (int lane = 0; lane < WARP; lane++) {
        const auto* x = static_cast<MmaExchange*>(lanes[lane].exchange);
        for (int i = 0; i < 4; i++) x->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    static const Operation operation = {"mma_m16n8k16", apply_mma};
    MmaExchange exchange = {d, a, b};
    warp_collective(&operation, ~0u, &exchange);
}

inline const Operation SYNCTHREADS = {"__syncthreads", nullptr};
inline const Operation SYNCWARP = {"__syncwarp", nullptr};

}  // namespace emulator

inline void __syncthreads() { emulator::block_collective(&emulator::SYNCTHREADS, nullptr); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp_collective(&emulator::SYNCWARP, mask, nullptr); }
inline int __syncthreads_count(int x) { return emulator::block_reduction<0, emulator::add>(__func__, x != 0); }
inline int __syncthreads_or(int x) { return emulator::block_reduction<1, emulator::bit_or>(__func__, x != 0); }
inline int __syncthreads_and(int x) { return emulator::block_reduction<2, emulator::bit_and>(__func__, x != 0); }

template <class V>
inline V __shfl_sync(unsigned mask, V value, int source, int width = 32) {
    emulator::check_width(width);
    const int lane = emulator::current->lane;
    return emulator::shuffle<V, 0>("__shfl_sync", mask, value, (lane & -width) | (source & (width - 1)));
}
template <class V>
inline V __shfl_up_sync(unsigned mask, V value, unsigned delta, int width = 32) {
    emulator::check_width(width);
    const int lane = emulator::current->lane, source = lane - static_cast<int>(delta);
    return emulator::shuffle<V, 1>("__shfl_up_sync", mask, value, source < (lane & -width) ? lane : source);
}
template <class V>
inline V __shfl_down_sync(unsigned mask, V value, unsigned delta, int width = 32) {
    emulator::check_width(width);
    const int lane = emulator::current->lane, source = lane + static_cast<int>(delta);
    return emulator::shuffle<V, 2>("__shfl_down_sync", mask, value, source > (lane | (width - 1)) ? lane : source);
}
template <class V>
inline V __shfl_xor_sync(unsigned mask, V value, int bits, int width = 32) {
    emulator::check_width(width);
    const int lane = emulator::current->lane, source = lane ^ bits;
    return emulator::shuffle<V, 3>("__shfl_xor_sync", mask, value, source > (lane | (width - 1)) ? lane : source);
}

inline unsigned __activemask() { return emulator::current->warp->live; }
inline unsigned __ballot_sync(unsigned mask, int x) {
    const long long bit = x ? 1ll << emulator::current->lane : 0;
    return static_cast<unsigned>(emulator::warp_reduction<0, emulator::bit_or>(__func__, mask, bit));
}
inline int __any_sync(unsigned mask, int x) { return emulator::warp_reduction<1, emulator::bit_or>(__func__, mask, x != 0); }
inline int __all_sync(unsigned mask, int x) { return emulator::warp_reduction<2, emulator::bit_and>(__func__, mask, x != 0); }
#define EMULATOR_REDUCE(name, type, kind, combine) \
    inline type name(unsigned mask, type x) {      \
        return static_cast<type>(emulator::warp_reduction<kind, emulator::combine>(#name, mask, x)); \
    }
EMULATOR_REDUCE(__reduce_add_sync, int, 3, add)
EMULATOR_REDUCE(__reduce_add_sync, unsigned, 3, add)
EMULATOR_REDUCE(__reduce_min_sync, int, 4, lesser)
EMULATOR_REDUCE(__reduce_min_sync, unsigned, 4, lesser)
EMULATOR_REDUCE(__reduce_max_sync, int, 5, greater)
EMULATOR_REDUCE(__reduce_max_sync, unsigned, 5, greater)
EMULATOR_REDUCE(__reduce_or_sync, unsigned, 6, bit_or)
EMULATOR_REDUCE(__reduce_and_sync, unsigned, 7, bit_and)
EMULATOR_REDUCE(__reduce_xor_sync, unsigned, 8, bit_xor)
