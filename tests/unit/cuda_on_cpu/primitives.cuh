// The same primitives as in scripts/lbw/engine/kernels/primitives.cuh, and what the kernels use of CUDA, on a CPU.
//
// The threads of a block take turns: each runs until it needs something of the others, which by then have come as far.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __launch_bounds__(...)
#define __shared__ static
#define INLINE static inline

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
INLINE uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

typedef unsigned char Byte;
typedef unsigned short Bits;
typedef unsigned int Pair;

struct Index {
    int x;
};
static Index threadIdx, blockIdx;

INLINE unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    return result;
}

constexpr size_t STACK = 1 << 17;

struct Thread {
    std::unique_ptr<char[]> stack{new char[STACK]};
    jmp_buf here;
    bool is_done = true;
    int turns = 0;
};
static jmp_buf scheduler;
static std::deque<Thread> threads;

// Leave the thread until it is its turn again. swapcontext would ask the operating system for its signals each time.
__attribute__((noinline)) static void take_a_rest() {
    if (!_setjmp(threads[threadIdx.x].here)) _longjmp(scheduler, 1);
}

// Let all other threads of the block come as far.
INLINE void wait_for_others() {
    threads[threadIdx.x].turns++;
    take_a_rest();
}

INLINE void __syncthreads() { wait_for_others(); }

// A thread runs alone until it waits.
INLINE int atomicAdd(int *sum, int value) {
    const int before = *sum;
    *sum += value;
    return before;
}

INLINE int atomicMax(int *most, int value) {
    const int before = *most;
    *most = max(before, value);
    return before;
}

template <typename To, typename From>
INLINE To same_bits(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
INLINE float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
INLINE unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }

constexpr int DIGITS = BFLOAT16 ? 7 : 10, OFFSET = BFLOAT16 ? 127 : 15;

INLINE float value_of(Bits bits) {
    const int exponent = bits >> DIGITS & (2 * OFFSET + 1), mantissa = bits & ((1 << DIGITS) - 1);
    const float sign = bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 2 * OFFSET + 1) return mantissa ? NAN : sign * INFINITY;
    const int whole = exponent ? mantissa | 1 << DIGITS : mantissa;
    return sign * std::ldexp(static_cast<float>(whole), std::max(exponent, 1) - OFFSET - DIGITS);
}

static const std::vector<float> values = [] {
    std::vector<float> all(1 << 16);
    for (unsigned bits = 0; bits < all.size(); bits++) all[bits] = value_of(bits);
    return all;
}();

INLINE float widened(Bits bits) { return values[bits]; }

INLINE Bits bits_of(float value) {
    const Bits sign = std::signbit(value) ? 0x8000 : 0, infinity = (2 * OFFSET + 1) << DIGITS;
    if (value != value) return 0x7FFF;
    if (value == 0.0f) return sign;
    if (std::isinf(value)) return sign | infinity;
    const int exponent = std::max(std::ilogb(value), 1 - OFFSET);
    const long units = std::lrint(std::ldexp(std::fabs(static_cast<double>(value)), DIGITS - exponent));
    // One unit more than a mantissa can hold is the next exponent's first number.
    const long bits = (static_cast<long>(exponent + OFFSET - 1) << DIGITS) + units;
    return sign | static_cast<Bits>(std::min(bits, static_cast<long>(infinity)));
}

INLINE Pair paired(Bits left, Bits right) { return left | static_cast<Pair>(right) << 16; }
INLINE Pair rounded(float left, float right) { return paired(bits_of(left), bits_of(right)); }

static int misaligned_accesses = 0;

INLINE uint4 load_once(const Bits *from) {
    uint4 value;
    misaligned_accesses += reinterpret_cast<uintptr_t>(from) % 16 != 0;
    std::memcpy(&value, from, 16);
    return value;
}
INLINE void store_once(Bits *to, uint4 value) {
    misaligned_accesses += reinterpret_cast<uintptr_t>(to) % 16 != 0;
    std::memcpy(to, &value, 16);
}
template <typename Value>
INLINE Value __ldg(const Value *from) { return *from; }
INLINE uint4 load_factor(const Bits *from) { return load_once(from); }

INLINE void load_factors(float (&values)[8], const float *from) {
    misaligned_accesses += reinterpret_cast<uintptr_t>(from) % 16 != 0;
    std::memcpy(values, from, sizeof values);
}

constexpr int LINE = 64;
INLINE void prefetch_factor(const Bits *from) { *static_cast<const volatile Bits *>(from); }
INLINE void prefetch_weight(const Bits *from) { *static_cast<const volatile Bits *>(from); }

// The fragments that the lanes hold out to each other; two sets, because a lane may already hold out its next.
struct Fragments {
    Pair left[4][2], right[4];
};
static Fragments held_out[2][1024];

INLINE void multiply(float (&product)[2][2], const Pair (&left)[4][2], const Pair (&right)[4]) {
    Fragments *set = held_out[threads[threadIdx.x].turns % 2];
    std::memcpy(set[threadIdx.x].left, left, sizeof left);
    std::memcpy(set[threadIdx.x].right, right, sizeof right);
    wait_for_others();
    const int lane = threadIdx.x % 32;
    const Fragments *warp = set + (threadIdx.x - lane), *row = warp + lane / 4 * 4;
    for (int half = 0; half < 2; half++)
        for (int next = 0; next < 2; next++) {
            const Fragments *column = warp + (lane % 4 * 2 + next) * 4;
            for (int t = 0; t < 4; t++)
                for (int i = 0; i < 4; i++) {
                    const Pair a = row[t].left[i][half], b = column[t].right[i];
                    product[half][next] += widened(a & 0xFFFF) * widened(b & 0xFFFF);
                    product[half][next] += widened(a >> 16) * widened(b >> 16);
                }
        }
}
