// What the kernels share: the storage type, vector loads, sums over warps and blocks, the tensor
// core's product, how blocks wait for each other. The only file with inline PTX.
//
// Sources compile with NVRTC (no standard headers: no uint32_t, no INFINITY), nvcc, and g++ under
// the emulator of the tests, which defines EMULATED and has the same names on the CPU.
// STORAGE_HALF=1: weights and activations are stored as half, 0: as float. Sums are float always.
// RESIDUAL_HALF: the same of an encoder's or decoder's residual stream, where it is not said as storage.
#pragma once

#ifndef STORAGE_HALF
#define STORAGE_HALF 1
#endif
#ifndef RESIDUAL_HALF
#define RESIDUAL_HALF STORAGE_HALF
#endif

#ifndef EMULATED
#include <cuda_fp16.h>

#ifdef __CUDACC_RTC__  // nvcc declares it itself
extern "C" __device__ __cudart_builtin__ void cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value
);
#endif

#define EMULATOR_YIELD() ((void)0)  // what a spin loop calls, so that the emulator runs others
#define CHECK_ALIGNED(address, bytes) ((void)0)
// Dynamic shared memory as `type* name`, aligned to 128 bytes. Its size is the launch's.
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared_bytes)
#else
#define CHECK_ALIGNED(address, bytes) emulator::check_aligned(address, bytes)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::dynamic_shared())
#endif

#if STORAGE_HALF
using T = __half;
#else
using T = float;
#endif
#if RESIDUAL_HALF
using X = __half;
#else
using X = float;
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float MAX_HALF = 65504.0f;

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

// ---- storage ----------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

// To half saturating, so that a large activation does not become an infinity. NaN stays NaN.
__device__ __forceinline__ __half saturated_half(float x) {
    return __float2half_rn(x > MAX_HALF ? MAX_HALF : x < -MAX_HALF ? -MAX_HALF : x);
}

__device__ __forceinline__ T to_storage(float x) {
#if STORAGE_HALF
    return saturated_half(x);
#else
    return x;
#endif
}

// Two halves in a register, the first in the low bits: as fragments of mma_m16n8k16 lie.
__device__ __forceinline__ unsigned pack_halves(__half low, __half high) {
    return static_cast<unsigned>(__half_as_ushort(low)) |
           static_cast<unsigned>(__half_as_ushort(high)) << 16;
}

__device__ __forceinline__ __half low_half(unsigned packed) {
    return __ushort_as_half(static_cast<unsigned short>(packed & 0xffffu));
}

__device__ __forceinline__ __half high_half(unsigned packed) {
    return __ushort_as_half(static_cast<unsigned short>(packed >> 16));
}

// Eight neighbours in 16-byte accesses: one for half, two for float. Addresses are multiples of
// 16 bytes.
struct HalfEight {
    uint4 words;
};

struct FloatEight {
    float4 low, high;
};

// As they lie in memory: of half in four registers, until unpack() makes floats of them.
__device__ __forceinline__ HalfEight load_eight(const __half* from) {
    CHECK_ALIGNED(from, 16);
    return {*reinterpret_cast<const uint4*>(from)};
}

__device__ __forceinline__ FloatEight load_eight(const float* from) {
    CHECK_ALIGNED(from, 16);
    return {reinterpret_cast<const float4*>(from)[0], reinterpret_cast<const float4*>(from)[1]};
}

__device__ __forceinline__ void unpack(const HalfEight& from, float (&to)[8]) {
    const unsigned words[4] = {from.words.x, from.words.y, from.words.z, from.words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = __half2float(low_half(words[i]));
        to[2 * i + 1] = __half2float(high_half(words[i]));
    }
}

__device__ __forceinline__ void unpack(const FloatEight& from, float (&to)[8]) {
    to[0] = from.low.x, to[1] = from.low.y, to[2] = from.low.z, to[3] = from.low.w;
    to[4] = from.high.x, to[5] = from.high.y, to[6] = from.high.z, to[7] = from.high.w;
}

__device__ __forceinline__ void load8(const __half* from, float (&to)[8]) {
    unpack(load_eight(from), to);
}

__device__ __forceinline__ void load8(const float* from, float (&to)[8]) {
    unpack(load_eight(from), to);
}

__device__ __forceinline__ void store8(__half* to, const float (&from)[8]) {
    CHECK_ALIGNED(to, 16);
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = pack_halves(saturated_half(from[2 * i]), saturated_half(from[2 * i + 1]));
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void store8(float* to, const float (&from)[8]) {
    CHECK_ALIGNED(to, 16);
    reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

// ---- reductions -------------------------------------------------------------------------------
// Every lane or thread gets the result, bit for bit the same, in an order that depends on the
// number of threads alone. All threads of the warp or block call them.

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(ALL_LANES, x, bits);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bits));
    return x;
}

// `scratch`: one float of shared memory for each warp, free again on return. The block is
// one-dimensional, of whole warps.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    const int num_warps = blockDim.x / warpSize;
    x = warp_sum(x);
    if (threadIdx.x % warpSize == 0) scratch[threadIdx.x / warpSize] = x;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < num_warps; warp++) total += scratch[warp];
    __syncthreads();
    return total;
}

__device__ __forceinline__ float block_max(float x, float* scratch) {
    const int num_warps = blockDim.x / warpSize;
    x = warp_max(x);
    if (threadIdx.x % warpSize == 0) scratch[threadIdx.x / warpSize] = x;
    __syncthreads();
    float largest = scratch[0];
    for (int warp = 1; warp < num_warps; warp++) largest = fmaxf(largest, scratch[warp]);
    __syncthreads();
    return largest;
}

// 2^x within 2 units of the last place, 0 for what is too small for a float.
__device__ __forceinline__ float exp2_of(float x) {
#ifdef EMULATED
    return exp2f(x);
#else
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#endif
}

// GELU by erf, as Whisper was trained. A product that became -inf as half would end as NaN.
__device__ __forceinline__ float gelu_of(float x) {
    x = fmaxf(x, -MAX_HALF);
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
}

// ---- tensor core ------------------------------------------------------------------------------

// D (16, 8) float += A (16, 16) half . B (16, 8) half, by a whole warp. PTX ISA, mma.m16n8k16.
// With lane = 4 * group + pair, words of two halves, the lower column (of A) or row (of B) first:
//   a[0]: row group,     columns 2 pair, 2 pair + 1      a[2]: row group,     columns 2 pair + 8, + 9
//   a[1]: row group + 8, columns 2 pair, 2 pair + 1      a[3]: row group + 8, columns 2 pair + 8, + 9
//   b[0]: rows 2 pair, 2 pair + 1, column group          b[1]: rows 2 pair + 8, + 9, column group
//   d[0], d[1]: row group, columns 2 pair, 2 pair + 1    d[2], d[3]: row group + 8, same columns
__device__ __forceinline__ void mma_m16n8k16(
    float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]
) {
#ifdef EMULATED
    emulator::mma_m16n8k16(d, a, b);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])
    );
#endif
}

// The same number, but the compiler does not know that: what is computed from it inside a loop stays
// there, and takes no register of the whole loop.
__device__ __forceinline__ unsigned opaque(unsigned x) {
#ifndef EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// ---- copies behind the back -------------------------------------------------------------------

// Brings device memory into L2, where the device can (Hopper and newer): it changes nothing but time.
// Address and size are multiples of 16 bytes.
__device__ __forceinline__ void prefetch(const void* from, int num_bytes) {
    CHECK_ALIGNED(from, 16);
#if !defined(EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" : : "l"(from), "r"(num_bytes) : "memory");
#endif
}

// The same of 64 bytes, for each lane its own: a bulk prefetch takes lanes one behind the other.
__device__ __forceinline__ void prefetch_near(const void* from) {
#ifndef EMULATED
    asm volatile("prefetch.global.L2 [%0];" : : "l"(from) : "memory");
#endif
}

// Begins a copy of 16 bytes from device to shared memory, past L1, so many bytes behind the two addresses.
// wait_copies() returns when all that its thread began are there: for the block behind a __syncthreads.
// end_copies() makes a group of those that were begun since the last, or of none, and
// wait_copies_but<N>() returns when all groups but the last N are there.
template <int TO_OFFSET, int FROM_OFFSET>
__device__ __forceinline__ void copy_async(unsigned char* to, const void* from) {
    CHECK_ALIGNED(to, 16);
    CHECK_ALIGNED(from, 16);
#ifdef EMULATED
    emulator::copy_async(to + TO_OFFSET, static_cast<const char*>(from) + FROM_OFFSET);
#else
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0+%2], [%1+%3], 16;"
                 : : "r"(address), "l"(from), "n"(TO_OFFSET), "n"(FROM_OFFSET) : "memory");
#endif
}

__device__ __forceinline__ void wait_copies() {
#ifdef EMULATED
    emulator::wait_copies();
#else
    asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

__device__ __forceinline__ void end_copies() {
#ifdef EMULATED
    emulator::end_copies();
#else
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

template <int NUM_GROUPS>
__device__ __forceinline__ void wait_copies_but() {
#ifdef EMULATED
    emulator::wait_copies_but(NUM_GROUPS);
#else
    asm volatile("cp.async.wait_group %0;" : : "n"(NUM_GROUPS) : "memory");
#endif
}

// Between two looks of a spin loop at memory: so that looking is not in the way of what is looked for.
template <int NANOSECONDS>
__device__ __forceinline__ void pause() {
#ifdef EMULATED
    EMULATOR_YIELD();
#else
    __nanosleep(NANOSECONDS);
#endif
}

// ---- memory that other blocks write -----------------------------------------------------------

// What other blocks stored before they released `address` is seen behind this load.
__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
    unsigned value;
#ifdef EMULATED
    value = *const_cast<const volatile unsigned*>(address);
#else
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
#endif
    return value;
}

// Adds, and publishes what this thread (and its block, behind a __syncthreads) stored before.
// Returns what was there.
__device__ __forceinline__ unsigned add_release(unsigned* address, unsigned value) {
#ifdef EMULATED
    return atomicAdd(address, value);
#else
    unsigned old;
    asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(old) : "l"(address), "r"(value) : "memory");
    return old;
#endif
}

// add_release(), and load_acquire() of what was there: who counts itself last sees what all stored.
__device__ __forceinline__ unsigned add_acquire_release(unsigned* address, unsigned value) {
#ifdef EMULATED
    return atomicAdd(address, value);
#else
    unsigned old;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(old) : "l"(address), "r"(value) : "memory");
    return old;
#endif
}

// 8 bytes of device memory by which one block hands a payload to others, without fence or barrier: the
// payload and a flag are one store, so who finds the flag that it waits for has what belongs to it.
// (PTX's memory model: an aligned access of 8 bytes is one, a vector of two of them is two.)
using Word = unsigned long long;

__device__ __forceinline__ void store_word(Word* to, unsigned payload, unsigned flag) {
    const Word word = static_cast<Word>(flag) << 32 | payload;
#ifdef EMULATED
    *static_cast<volatile Word*>(to) = word;
#else
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(to), "l"(word) : "memory");
#endif
}

// Two words next to each other, past L1: payload, flag, payload, flag. What is loaded before is on its way
// before.
__device__ __forceinline__ uint4 load_two_words(const Word* from) {
    CHECK_ALIGNED(from, 16);
    Word first, second;
#ifdef EMULATED
    first = static_cast<const volatile Word*>(from)[0];
    second = static_cast<const volatile Word*>(from)[1];
#else
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(first), "=l"(second) : "l"(from) : "memory");
#endif
    return make_uint4(static_cast<unsigned>(first), static_cast<unsigned>(first >> 32),
                      static_cast<unsigned>(second), static_cast<unsigned>(second >> 32));
}

// The state of a SplitBarrier in device memory: zero before its first use, never touched by others.
struct GridBarrier {
    unsigned arrived;
};

// Waits for all threads of a cooperative launch of one dimension, in two halves with work between them;
// what any stored before it arrived is seen by all who have waited. Arrivals of a round add up to 2^31:
// the first block adds what is missing beside the ones of the others. So the last arrival flips the
// highest bit and leaves the others zero, for the next round or launch, and who waits needs no second
// store to see it. (As cooperative groups do it.) Which of its two phases comes next is known without
// asking: the bit can not flip before this block has arrived. Thread 0 keeps it in shared memory: a
// register that lives everywhere is one too many.
struct SplitBarrier {
    static constexpr unsigned PHASE = 0x80000000u;
    GridBarrier* barrier;
    unsigned* phase;

    __device__ __forceinline__ void begin() {
        if (threadIdx.x == 0) *phase = load_acquire(&barrier->arrived) & PHASE;
    }

    // What this block stored before is seen by whoever waited.
    __device__ __forceinline__ void arrive() {
        __syncthreads();
        if (threadIdx.x == 0)
            add_release(&barrier->arrived, blockIdx.x == 0 ? PHASE - (gridDim.x - 1) : 1u);
    }

    __device__ __forceinline__ void wait() {
        if (threadIdx.x == 0) {
            const unsigned now = *phase;
            while ((load_acquire(&barrier->arrived) & PHASE) == now) EMULATOR_YIELD();
            *phase = now ^ PHASE;
        }
        __syncthreads();
    }

    __device__ __forceinline__ void pass() {
        arrive();
        wait();
    }
};

// ---- graphs -----------------------------------------------------------------------------------

// What the graph's while_loop or if_then of this handle asks next. One thread of a launch calls it.
__device__ __forceinline__ void set_condition(cudaGraphConditionalHandle handle, bool value) {
    cudaGraphSetConditional(handle, value ? 1u : 0u);
}
