// Where the time of the persistent kernel goes, for measuring by hand: nothing without EARWIRE_STAMPS,
// which is the number of the block that is watched.
//
// STAMP(phase) adds the clocks since its thread 0 came past the stamp before to a phase; in a product,
// phases count from the one that STAMP_PRODUCT() named. They stay in shared memory until the kernel's
// end, where they are added to what lies behind the barrier.
#ifndef TDT_STAMPS_CUH
#define TDT_STAMPS_CUH

#include "common.cuh"

constexpr int STAMPS_BEHIND = 16;  // words from the barrier on; tdt_buffers.py has room for them

enum TdtPhase {
    STAMP_LOADED,      // columns of a product staged
    STAMP_MULTIPLIED,
    STAMP_FINISHED,
    STAMP_JOINT = 0,   // three of each product
    STAMP_LAYER = 4,   // of layer s at 4 s, s = 1 .. 4
    STAMP_ARRIVED = 23,  // at barriers behind layers, with the fence
    STAMP_BEGIN,
    STAMP_JOINT_BARRIER,
    STAMP_PICK,
    STAMP_LOWEST,      // and joined rows, and the barrier behind both
    STAMP_TOKENS,
    STAMP_LAYER_BARRIER,
    STAMP_END,
    NUM_STAMPS,
};

#ifdef EARWIRE_STAMPS
__device__ __forceinline__ unsigned* stamp_memory() {
    __shared__ unsigned memory[NUM_STAMPS + 2];  // clocks of each phase, the last clock, the product
    return memory;
}

__device__ __forceinline__ bool is_stamped() {
    return threadIdx.x == 0 && blockIdx.x == EARWIRE_STAMPS;
}

__device__ __forceinline__ void stamp(int phase) {
    if (!is_stamped()) return;
    unsigned* memory = stamp_memory();
    const unsigned now = clock();
    memory[phase] += now - memory[NUM_STAMPS];
    memory[NUM_STAMPS] = now;
}

__device__ __forceinline__ void begin_stamps() {
    if (!is_stamped()) return;
    for (int i = 0; i < NUM_STAMPS; i++) stamp_memory()[i] = 0;
    stamp_memory()[NUM_STAMPS] = clock();
}

__device__ __forceinline__ void end_stamps(GridBarrier* barrier) {
    if (!is_stamped()) return;
    for (int i = 0; i < NUM_STAMPS; i++)
        reinterpret_cast<unsigned*>(barrier)[STAMPS_BEHIND + i] += stamp_memory()[i];
}

#define STAMP(phase) stamp(phase)
#define STAMP_PRODUCT(phase) (stamp_memory()[NUM_STAMPS + 1] = (phase))
#define STAMP_IN_PRODUCT(phase) stamp(stamp_memory()[NUM_STAMPS + 1] + (phase))
#define BEGIN_STAMPS() begin_stamps()
#define END_STAMPS(barrier) end_stamps(barrier)
#else
#define STAMP(phase) ((void)0)
#define STAMP_PRODUCT(phase) ((void)0)
#define STAMP_IN_PRODUCT(phase) ((void)0)
#define BEGIN_STAMPS() ((void)0)
#define END_STAMPS(barrier) ((void)0)
#endif

#endif
