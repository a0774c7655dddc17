// __half and __half2 as the CUDA toolkit's cuda_fp16.h names them, on the compiler's _Float16.
// Arithmetic rounds to nearest even after every operation, as the hardware does.
#pragma once

#include <cstring>

#ifndef __FLT16_MANT_DIG__
#error "the emulator needs a compiler with _Float16: g++ 12 or later, clang++ 15 or later"
#endif

struct __half {
    _Float16 value;
    __half() = default;
    __half(float x) : value(static_cast<_Float16>(x)) {}
    explicit __half(int x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return static_cast<float>(value); }
};
struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half x, __half y) : x(x), y(y) {}
};
struct alignas(2) __half_raw {
    unsigned short x;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __int2half_rn(int x) { return __half(static_cast<float>(x)); }
inline unsigned short __half_as_ushort(__half x) {
    unsigned short bits;
    memcpy(&bits, &x, 2);
    return bits;
}
inline short __half_as_short(__half x) { return static_cast<short>(__half_as_ushort(x)); }
inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    memcpy(&x, &bits, 2);
    return x;
}
inline __half __short_as_half(short bits) { return __ushort_as_half(static_cast<unsigned short>(bits)); }

inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
inline __half __low2half(__half2 x) { return x.x; }
inline __half __high2half(__half2 x) { return x.y; }
inline float __low2float(__half2 x) { return __half2float(x.x); }
inline float __high2float(__half2 x) { return __half2float(x.y); }

#define EMULATOR_HALF_OPERATION(name, expression)                                          \
    inline __half __h##name(__half a, __half b) { return __half(expression); }             \
    inline __half2 __h##name##2(__half2 a, __half2 b) { return {__h##name(a.x, b.x), __h##name(a.y, b.y)}; }
EMULATOR_HALF_OPERATION(add, float(a) + float(b))
EMULATOR_HALF_OPERATION(sub, float(a) - float(b))
EMULATOR_HALF_OPERATION(mul, float(a) * float(b))
EMULATOR_HALF_OPERATION(div, float(a) / float(b))
EMULATOR_HALF_OPERATION(max, fmaxf(a, b))
EMULATOR_HALF_OPERATION(min, fminf(a, b))
inline __half __hfma(__half a, __half b, __half c) {
    // In double the product and all but absurd sums are exact, so this rounds twice as rarely as
    // matters to a test.
    return __half(static_cast<float>(double(float(a)) * double(float(b)) + double(float(c))));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline __half __hneg(__half x) { return __half(-float(x)); }
inline __half __habs(__half x) { return __half(fabsf(x)); }
inline bool __hisnan(__half x) { return float(x) != float(x); }
inline int __hisinf(__half x) { return fabsf(x) == INFINITY ? (float(x) > 0 ? 1 : -1) : 0; }
inline bool __hgt(__half a, __half b) { return float(a) > float(b); }
inline bool __hlt(__half a, __half b) { return float(a) < float(b); }
inline bool __hge(__half a, __half b) { return float(a) >= float(b); }
inline bool __hle(__half a, __half b) { return float(a) <= float(b); }
inline bool __heq(__half a, __half b) { return float(a) == float(b); }
