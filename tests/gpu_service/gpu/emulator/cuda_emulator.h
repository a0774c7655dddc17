// CUDA C++ for a host compiler: included before a kernel source, which then runs on fibers.h.
// The macros come behind the standard headers, whose own attributes they would break.
#pragma once

#define EMULATED 1

#include "fibers.h"
#include "intrinsics.h"
#include "half.h"
#include "collectives.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __shared__ static  // of the one block that runs: not for cooperative launches
#define __constant__ static
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block->index)
#define blockDim (emulator::state.block)
#define gridDim (emulator::state.grid)
#define warpSize 32

#define EMULATOR_YIELD() emulator::yield()
#define __nanosleep(nanoseconds) emulator::yield()
#define __trap() emulator::fail("__trap()")
#define clock() (++emulator::ticks)  // how often it was asked

typedef unsigned long long cudaGraphConditionalHandle;  // the address of an int of the host
inline void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value) {
    *reinterpret_cast<int*>(handle) = static_cast<int>(value);
}

namespace emulator {

EMULATOR_HIDDEN int ticks;

inline char* dynamic_shared() { return current->block->shared; }

inline void check_aligned(const void* address, unsigned bytes) {
    if (reinterpret_cast<unsigned long long>(address) % bytes) fail("misaligned address %p", address);
}

}  // namespace emulator
