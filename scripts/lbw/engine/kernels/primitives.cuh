// What the kernels need of the GPU in instructions of its own: 16-bit numbers, memory, and products of matrices.
//
// Macros: BFLOAT16, numbers are bfloat16, else float16. ALIGNED, rows of weights begin at multiples of 16 bytes.
// TENSOR_CORES, the columns of one product: 16 (from compute capability 8.0), 8 (7.5, float16), or 0 for none.

typedef unsigned char Byte;
typedef unsigned short Bits;  // of one number
typedef unsigned int Pair;    // of two neighbours, the left one in the low half

#define INLINE __device__ __forceinline__

INLINE float widened(Bits bits) {
    float value;
#if BFLOAT16
    value = __uint_as_float(static_cast<unsigned>(bits) << 16);
#else
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
#endif
    return value;
}

INLINE Pair paired(Bits left, Bits right) {
    return left | static_cast<Pair>(right) << 16;
}

INLINE Pair rounded(float left, float right) {
#if __CUDA_ARCH__ >= 800
    Pair pair;
#if BFLOAT16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(right), "f"(left));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(right), "f"(left));
#endif
    return pair;
#else
    const float values[2] = {left, right};
    Bits bits[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
#if BFLOAT16
        const unsigned all = __float_as_uint(values[i]);
        bits[i] = values[i] != values[i] ? 0x7FFF : (all + 0x7FFF + (all >> 16 & 1)) >> 16;
#else
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits[i]) : "f"(values[i]));
#endif
    }
    return paired(bits[0], bits[1]);
#endif
}

// Weights are used once: they are not to drive the factors out of the cache.
INLINE uint4 load_once(const Bits *from) {
    uint4 value;
#if __CUDA_ARCH__ >= 700
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
#else
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
#endif
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(from) : "memory");
    return value;
}

INLINE void store_once(Bits *to, uint4 value) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "l"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
}

INLINE uint4 load_factor(const Bits *from) {
    return __ldg(reinterpret_cast<const uint4 *>(from));
}

INLINE void load_factors(float (&values)[8], const float *from) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const uint4 four = load_factor(reinterpret_cast<const Bits *>(from + i));
        values[i] = __uint_as_float(four.x);
        values[i + 1] = __uint_as_float(four.y);
        values[i + 2] = __uint_as_float(four.z);
        values[i + 3] = __uint_as_float(four.w);
    }
}

// What will be loaded soon, in lines of so many numbers: factors, which the multiprocessor needs again and again, come
// to its own cache, weights to the one that all share.
constexpr int LINE = 64;
#if __CUDA_ARCH__ >= 1200 && __CUDACC_VER_MAJOR__ < 13
// The compilers of CUDA 12.8 and 12.9 crash over these instructions here.
INLINE void prefetch_factor(const Bits *) {}
INLINE void prefetch_weight(const Bits *) {}
#else
INLINE void prefetch_factor(const Bits *from) { asm volatile("prefetch.global.L1 [%0];" :: "l"(from)); }
INLINE void prefetch_weight(const Bits *from) { asm volatile("prefetch.global.L2 [%0];" :: "l"(from)); }
#endif

// product += left @ right for 16 rows, 32 columns of `left`, and 8 columns of `right`, spread over a warp as `mma` has
// it (PTX ISA, "Matrix Fragments for mma.m16n8k16"), but that lane t of four has the columns 8t to 8t + 7 of `left`,
// those of each pair in the rows g and g + 8. `right` is of the column g, `product` of both rows and the columns 2t and
// 2t + 1.
INLINE void multiply(float (&product)[2][2], const Pair (&left)[4][2], const Pair (&right)[4]) {
#if TENSOR_CORES == 16
#pragma unroll
    for (int i = 0; i < 4; i += 2)
#if BFLOAT16
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(product[0][0]), "+f"(product[0][1]), "+f"(product[1][0]), "+f"(product[1][1])
            : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i + 1][0]), "r"(left[i + 1][1]), "r"(right[i]),
              "r"(right[i + 1]));
#elif TENSOR_CORES == 8
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(product[0][0]), "+f"(product[0][1]), "+f"(product[1][0]), "+f"(product[1][1])
            : "r"(left[i][0]), "r"(left[i][1]), "r"(right[i]));
#else
    const int lane = threadIdx.x % 32, group = lane / 4 * 4, column = lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll 1
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int next = 0; next < 2; next++) {
                    const Pair a = __shfl_sync(~0u, left[i][half], group + t);
                    const Pair b = __shfl_sync(~0u, right[i], column + 4 * next + t);
                    float &sum = product[half][next];
                    sum = fmaf(widened(a & 0xFFFF), widened(b & 0xFFFF), sum);
                    sum = fmaf(widened(a >> 16), widened(b >> 16), sum);
                }
#endif
}
