// What kernels of features share: new audio as the host describes it, and where windows lie.
//
// Descriptors are rows of 5 int64: `segments` for pieces of new audio, `items` for the slots that
// they belong to: rows before FIRST_ROW are certain already, those before CERTAIN_ROWS from now on.
#pragma once

#include "common.cuh"

constexpr int HOP = 160;
constexpr int WINDOW = 400;
constexpr int BEFORE = WINDOW / 2;  // row i's window begins at sample HOP * i - BEFORE

constexpr int FIELDS = 5;
enum SegmentField { ADDRESS, TARGET, COUNT };
enum ItemField { SLOT, FIRST_ROW, CERTAIN_ROWS, NUM_ROWS, NUM_SAMPLES };

__device__ __forceinline__ float sample_at(const short* audio, int index, int count) {
    return index >= 0 && index < count ? audio[index] * (1.0f / 32768.0f) : 0.0f;
}
