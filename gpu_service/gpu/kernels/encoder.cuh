// What the encoder's kernels share. Sizes of the model are compile-time constants:
//
//   WIDTH D, NUM_HEADS H, HEAD_WIDTH E = D / H, CONV_KERNEL K, CHANNELS C of the subsampling.
//
// D, E and C are multiples of 8, so that rows are whole vectors of 8 elements. N frames of 80 ms a
// batch row, B batch rows. T is the storage type (common.cuh), X that of the residual stream: T, or
// float with RESIDUAL_HALF=0, as Whisper has it.
//
// Each batch row has a descriptor of 4 ints, {slot, first_row, begin_row, end_row}: its frame f is
// centred on mel row first_row + 8 f of the slot, and mel rows in [begin_row, end_row) are real.
#pragma once

#include "common.cuh"

#ifndef MEL_BANDS
#define MEL_BANDS 128
#endif
#define FRAME_ROWS 8  // mel rows of one frame

// Frames of N that begin before end_row.
__device__ __forceinline__ int real_frames(const int* row, int num_frames) {
    int rows = row[3] - row[1];
    int frames = (rows + FRAME_ROWS - 1) / FRAME_ROWS;
    return rows <= 0 ? 0 : (frames < num_frames ? frames : num_frames);
}

// Whether the row at `offset` mel rows from first_row is real.
__device__ __forceinline__ bool is_real(const int* row, int offset) {
    int at = row[1] + offset;
    return row[2] <= at && at < row[3];
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Two neighbours, as a thread with two channels reads and writes them.
__device__ __forceinline__ float2 load2(const float* from) { return *(const float2*)from; }

__device__ __forceinline__ float2 load2(const __half* from) {
    unsigned packed = *(const unsigned*)from;
    return make_float2(__half2float(low_half(packed)), __half2float(high_half(packed)));
}

__device__ __forceinline__ void store2(float* to, float2 x) { *(float2*)to = x; }

__device__ __forceinline__ void store2(__half* to, float2 x) {
    *(unsigned*)to = pack_halves(saturated_half(x.x), saturated_half(x.y));
}
