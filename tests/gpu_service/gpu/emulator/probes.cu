// Kernels that test the emulator itself.
#include "common.cuh"

// One warp: lane numbers moved about by each shuffle. to (9, 32).
extern "C" __global__ void shuffles(int* to, double* doubles, long long* wide) {
    const int lane = threadIdx.x;
    to[0 * 32 + lane] = __shfl_sync(ALL_LANES, lane, 5);
    to[1 * 32 + lane] = __shfl_sync(ALL_LANES, lane, lane + 1);  // modulo the width
    to[2 * 32 + lane] = __shfl_sync(ALL_LANES, lane, 3, 8);
    to[3 * 32 + lane] = __shfl_xor_sync(ALL_LANES, lane, 16);
    to[4 * 32 + lane] = __shfl_up_sync(ALL_LANES, lane, 2);
    to[5 * 32 + lane] = __shfl_up_sync(ALL_LANES, lane, 1, 4);
    to[6 * 32 + lane] = __shfl_down_sync(ALL_LANES, lane, 4);
    to[7 * 32 + lane] = __shfl_down_sync(ALL_LANES, lane, 1, 16);
    if (lane < 8) to[8 * 32 + lane] = __shfl_xor_sync(0xffu, lane, 1);
    doubles[lane] = __shfl_xor_sync(ALL_LANES, lane + 0.25, 1);
    wide[lane] = __shfl_xor_sync(ALL_LANES, (1ll << 40) + lane, 1);
}

extern "C" __global__ void votes(unsigned* to) {
    const unsigned lane = threadIdx.x;
    const unsigned results[8] = {
        __ballot_sync(ALL_LANES, lane % 3 == 0),
        static_cast<unsigned>(__any_sync(ALL_LANES, lane == 7)),
        static_cast<unsigned>(__all_sync(ALL_LANES, lane < 31)),
        __reduce_add_sync(ALL_LANES, lane),
        __reduce_max_sync(ALL_LANES, lane ^ 5u),
        __reduce_or_sync(ALL_LANES, 1u << lane / 2),
        static_cast<unsigned>(__syncthreads_count(lane % 2)),
        static_cast<unsigned>(__syncthreads_or(lane == 3)),
    };
    for (int i = 0; i < 8; i++) to[i * 32 + lane] = results[i];
}

// Lane 0 leaves; the others still meet.
extern "C" __global__ void early_exit(int* to) {
    if (threadIdx.x == 0) return;
    __syncthreads();
    to[threadIdx.x] = __popc(__ballot_sync(ALL_LANES, 1));
}

extern "C" __global__ void reads_absent_lane(int* to) {
    if (threadIdx.x == 0) return;
    to[threadIdx.x] = __shfl_sync(ALL_LANES, 1, 0);
}

// Half of the threads wait for a barrier, the others in a shuffle.
extern "C" __global__ void deadlock(int* to) {
    if (threadIdx.x % 2) __syncthreads();
    to[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1, 1);
}

extern "C" __global__ void spins(const volatile int* flag, int* to) {
    while (!*flag) EMULATOR_YIELD();
    *to = 1;
}

extern "C" __global__ void traps(int* to) {
    if (threadIdx.x == 3) __trap();
    to[threadIdx.x] = 1;
}

// Reverses each block's numbers through static shared memory.
extern "C" __global__ void reverse(const int* from, int* to) {
    __shared__ int numbers[64];
    const int start = blockIdx.x * blockDim.x;
    numbers[threadIdx.x] = from[start + threadIdx.x];
    __syncthreads();
    to[start + threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
}

// Lacks a barrier between the first thread's store and the others' loads.
extern "C" __global__ void lacks_barrier(int* to) {
    DYNAMIC_SHARED(int, number);
    if (threadIdx.x == 0) *number = 7;
    to[blockIdx.x * blockDim.x + threadIdx.x] = *number;
}

// Dynamic shared memory as it is at the start, and behind its end where `excess` is 1.
extern "C" __global__ void shared_bounds(float* to, int n, int excess) {
    DYNAMIC_SHARED(float, scratch);
    if (threadIdx.x == 0) *to = scratch[n - 1];
    scratch[n - 1 + excess] = 1.0f;
}

// to (2): sum and largest of x (n,), by one block.
extern "C" __global__ void reductions(const float* x, float* to, int n) {
    DYNAMIC_SHARED(float, scratch);
    float sum = 0.0f, largest = negative_infinity();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        sum += x[i];
        largest = fmaxf(largest, x[i]);
    }
    sum = block_sum(sum, scratch);
    largest = block_max(largest, scratch);
    if (threadIdx.x == 0) {
        to[0] = sum;
        to[1] = largest;
    }
}

// Every block adds what all blocks stored in the round before: numbers (rounds + 1, blocks).
extern "C" __global__ void rounds(GridBarrier* barrier, int* numbers, int num_rounds) {
    DYNAMIC_SHARED(unsigned, phase);
    SplitBarrier all_blocks = {barrier, phase};
    all_blocks.begin();
    for (int round = 0; round < num_rounds; round++) {
        all_blocks.pass();
        if (threadIdx.x == 0) {
            int sum = 0;
            for (int block = 0; block < gridDim.x; block++) sum += numbers[round * gridDim.x + block];
            numbers[(round + 1) * gridDim.x + blockIdx.x] = sum + blockIdx.x;
        }
    }
}

// d (16, 8) += a (16, 16) . b (16, 8), by one warp.
extern "C" __global__ void mma(const __half* a, const __half* b, float* d) {
    const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
    unsigned a_words[4], b_words[2];
    float sums[4];
    for (int i = 0; i < 4; i++) {
        const __half* from = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
        a_words[i] = pack_halves(from[0], from[1]);
        sums[i] = d[(group + i / 2 * 8) * 8 + pair + i % 2];
    }
    for (int i = 0; i < 2; i++) {
        const __half* from = b + (pair + i * 8) * 8 + group;
        b_words[i] = pack_halves(from[0], from[8]);
    }
    mma_m16n8k16(sums, a_words, b_words);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair + i % 2] = sums[i];
}

// Copies eight neighbours a thread, through float.
extern "C" __global__ void copy8(const T* from, T* to, int first) {
    float values[8];
    load8(from + first + threadIdx.x * 8, values);
    store8(to + threadIdx.x * 8, values);
}

extern "C" __global__ void round_to_storage(const float* from, T* to, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = to_storage(from[i]);
}

extern "C" __global__ void atomics(int* sum, unsigned* most, unsigned long long* bits) {
    atomicAdd(sum, static_cast<int>(threadIdx.x));
    atomicMax(most, threadIdx.x ^ 1u);
    atomicOr(bits, 1ull << threadIdx.x);
}

extern "C" __global__ void write_at(int* to, long long index, float value) {
    to[index] = static_cast<int>(value);
}

// A loop that counts down, and notes every second turn.
extern "C" __global__ void begin(const int* turns, int* left, cudaGraphConditionalHandle more) {
    *left = *turns;
    set_condition(more, *left > 0);
}

extern "C" __global__ void step(
    int* left, cudaGraphConditionalHandle more, cudaGraphConditionalHandle is_even
) {
    *left -= 1;
    set_condition(is_even, *left % 2 == 0);
    set_condition(more, *left > 0);
}

extern "C" __global__ void count(int* counter) { *counter += 1; }

extern "C" __global__ void sync_only(cudaGraphConditionalHandle more) { set_condition(more, true); }

#if STORAGE_HALF
extern "C" __global__ void only_with_half(int* to) { *to = 1; }
#endif

// A thread: one neighbour of what was copied to shared memory before and behind the wait. to (2,).
extern "C" __global__ void late_copies(const float4* from, int* to) {
    DYNAMIC_SHARED(unsigned char, memory);
    float4* copied = reinterpret_cast<float4*>(memory);
    copied[1] = make_float4(-1.0f, -1.0f, -1.0f, -1.0f);
    copy_async<16, 32>(memory, from);
    to[0] = static_cast<int>(copied[1].y);
    wait_copies();
    to[1] = static_cast<int>(copied[1].y);
}
